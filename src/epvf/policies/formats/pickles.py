"""Reading pickles without running them.

A pickle is a program that names functions of any module and calls them. Here its instructions are
followed by hand: what it calls becomes a record of the name and the arguments, `Made`. Nothing is
imported and nothing is called; and a name that is not on the list is refused.

Source: Python's `pickletools`, which documents every instruction.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

from epvf.errors import UserError

MOST_INSTRUCTIONS = 2_000_000
MOST_VALUES = 1_000_000
MOST_DEPTH = 64

Allowed: TypeAlias = Callable[[str], bool]
"""Whether a dotted name may occur."""


@dataclass(frozen=True)
class Name:
    """What would be imported: `torch.FloatStorage`."""

    dotted: str


@dataclass(eq=False)
class Made:
    """What calling something would have made.

    Attributes:
        name: of what would be called; empty where that is itself something made.
        args: of the call.
        state: what would be set on it.
        items: what would be added to it, a list or pairs.
    """

    name: str
    args: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Persistent:
    """What lies outside of the pickle, by what the pickle says of it."""

    told: Any


class _Mark:
    pass


_MARK = _Mark()


def read_pickle(file: IO[bytes], allowed: Allowed, source: str) -> Any:
    """What one pickle describes; the file is then at its end.

    Args:
        file: at its beginning.
        allowed: which names may occur.
        source: of the file, for errors.

    Returns:
        Plain values, lists, tuples, dicts and sets of such, `Made`, `Name` and `Persistent`.

    Raises:
        UserError: if another name occurs, or it is no pickle.
    """
    machine = _Machine(allowed, source)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MOST_INSTRUCTIONS:
                raise UserError(f"{source} is refused: its pickle never ends")
            machine.do(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise UserError(f"cannot read {source}: it is no whole pickle") from error
    return machine.result


def check_tree(value: Any, source: str) -> None:
    """Refuses what cannot be gone through: values that hold each other, or too many of them.

    A value that is named again counts again: a list of ten times a list of ten times ... is as
    short in the pickle as it is long to go through.

    Raises:
        UserError: in words.
    """
    if _count(value, {}, 0) > MOST_VALUES:
        raise UserError(f"{source} is refused: its values lie in each other too deep or too often")


def _count(value: Any, known: dict[int, float], depth: int) -> float:
    """How many values there are in a value, itself included; infinity for one that holds itself."""
    if isinstance(value, Made):
        inner: Any = (value.args, value.state, value.items)
    elif isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    else:
        return 1.0
    if depth > MOST_DEPTH:
        return float("inf")
    if id(value) not in known:
        known[id(value)] = float("inf")  # met again before it is counted: it holds itself
        known[id(value)] = 1.0 + sum(_count(item, known, depth + 1) for item in inner)
    return known[id(value)]


class _Machine:
    """A stack and a memory, as `pickle` has them."""

    def __init__(self, allowed: Allowed, source: str) -> None:
        self._allowed, self._source = allowed, source
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}
        self.result: Any = None

    def do(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self._stack.append(argument)
        elif name in _GETS:
            self._stack.append(self._memory[int(argument)])
        elif name in _PUTS:
            self._memory[int(argument)] = self._stack[-1]
        elif name not in ("PROTO", "FRAME"):
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise UserError(f"{self._source} is refused: its pickle has the instruction {name}")
            step(argument)

    def _taken(self) -> Any:
        return self._stack.pop()

    def _popped(self) -> list[Any]:
        """What lies above the last mark, which goes, too."""
        place = next(i for i in reversed(range(len(self._stack))) if self._stack[i] is _MARK)
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _named(self, dotted: str) -> Name:
        if not self._allowed(dotted):
            raise UserError(
                f"{self._source} is refused: its pickle names {dotted[:80]!r}, which is no tensor "
                "of a policy; nothing was run"
            )
        return Name(dotted)

    def _stop(self, _: Any) -> None:
        self.result = self._taken()

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self._taken()

    def _pop_mark(self, _: Any) -> None:
        self._popped()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _memoize(self, _: Any) -> None:
        self._memory[len(self._memory)] = self._stack[-1]

    def _global(self, argument: str) -> None:
        self._stack.append(self._named(argument.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        attribute, module = self._taken(), self._taken()
        self._stack.append(self._named(f"{module}.{attribute}"))

    def _reduce(self, _: Any) -> None:
        args, called = self._taken(), self._taken()
        self._stack.append(_made(called, args))

    def _newobj(self, _: Any) -> None:
        self._reduce(None)

    def _newobj_ex(self, _: Any) -> None:
        keywords, args, called = self._taken(), self._taken(), self._taken()
        self._stack.append(_made(called, (*args, keywords)))

    def _build(self, _: Any) -> None:
        state, target = self._taken(), self._stack[-1]
        if isinstance(target, Made):
            target.state = state

    def _binpersid(self, _: Any) -> None:
        self._stack.append(Persistent(self._taken()))

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _empty_set(self, _: Any) -> None:
        self._stack.append([])  # of what may have no hash

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._popped()))

    def _tuple1(self, _: Any) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _tuple2(self, _: Any) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self, _: Any) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _list(self, _: Any) -> None:
        self._stack.append(self._popped())

    def _frozenset(self, _: Any) -> None:
        self._stack.append(tuple(self._popped()))

    def _dict(self, _: Any) -> None:
        items = self._popped()
        self._stack.append({})
        self._set(items)

    def _append(self, _: Any) -> None:
        self._add([self._taken()])

    def _appends(self, _: Any) -> None:
        self._add(self._popped())

    def _additems(self, _: Any) -> None:
        self._add(self._popped())

    def _setitem(self, _: Any) -> None:
        value, key = self._taken(), self._taken()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._popped())

    def _add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        (target.items if isinstance(target, Made) else target).extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Made):
            target.items.extend(pairs)
            return
        for key, value in pairs:
            # what is made has no equal, so that a key that is made is never looked up
            target[key if isinstance(key, str | int | float | tuple | bool) else id(key)] = value


def _made(called: Any, args: Any) -> Any:
    if isinstance(called, Name) and called.dotted == "collections.OrderedDict":
        return dict(args[0]) if args else {}
    return Made(called.dotted if isinstance(called, Name) else "", args)


_CONSTANTS: dict[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
