"""The whole configuration of a run: frozen, typed, checked, the same in JSON, YAML and Python.

In Python a method's groups are fields of `Config.method`; in files and on the command line they
stand beside the others, as in `psvf.noise`, and `method` is the method's name.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epvf.config import convert, reading
from epvf.config.convert import LARGEST, check_number
from epvf.errors import UserError, brief, unknown
from epvf.methods.base import PolicyConfig
from epvf.methods.registry import METHODS, default_settings
from epvf.types import NonNegative, NonNegativeInt

FORMAT = "epvf-config/2"
"""Before it there was none: such files (of 0.1.0) held the fields of all methods."""


@dataclass(frozen=True)
class TaskConfig:
    """What is to be solved.

    Attributes:
        name: of the task; `package.module:factory` or `file.py:factory` for one of your own.
        backend: the engine; `auto` picks what suits the machine.
        episode_length: longest episode in env steps; None: the task's own.
        num_threads: CPU threads of the native engine; None: all.
        num_slots: policies that a JAX engine runs side by side while others wait for their turn;
            None: what suits the device.
    """

    name: str = "cartpole"
    backend: str = "auto"
    episode_length: int | None = None
    num_threads: int | None = None
    num_slots: int | None = None


@dataclass(frozen=True)
class EvalConfig:
    """How the unperturbed policy is measured; these rollouts are not counted as env steps.

    Attributes:
        interval: every so many iterations.
        episodes: rollouts per measurement.
        jitter: relative jitter of the weights where the task resets deterministically.
    """

    interval: int = 1
    episodes: int = 64
    jitter: NonNegative = 1e-3


@dataclass(frozen=True)
class CheckpointConfig:
    """When the whole state is saved; the end, Ctrl-C and SIGTERM always save.

    Attributes:
        every_iterations: after so many iterations; None: not by count.
        every_minutes: after so many minutes; None: not by time.
        keep: newest checkpoints that stay on disk.
    """

    every_iterations: int | None = None
    every_minutes: float | None = 5.0
    keep: int = 2


@dataclass(frozen=True)
class Config:
    """Everything that a run is made from.

    Example:
        >>> config = Config().replace({"num_envs": 512, "policy_update.learning_rate": 1e-2})
        >>> config.num_envs, config.method.name, config.method.policy_update.learning_rate
        (512, 'epvf', 0.01)

    Attributes:
        task, policy, eval, checkpoint: the parts, each described in its own class.
        method: settings of the method, and of no other; `method.name` says which it is.
        num_envs: N, policies (of ppo and sac: environments of the one policy) per iteration.
        iterations: of Algorithm 1, or of the method.
        env_steps: the run ends after the first iteration that reaches so many; None: never. On the
            command line without iterations: not before it, either.
        schedule_iterations: over which learning rates and deviations fall to their final values,
            where they stay; None: over all.
        seed: of everything random.
        num_seeds: seeds `seed ... seed + num_seeds - 1` trained side by side in one program.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    method: Any = field(default_factory=lambda: default_settings("epvf"))
    num_envs: int = 4096
    iterations: int = 488
    env_steps: int | None = None
    schedule_iterations: int | None = None
    seed: NonNegativeInt = 0
    num_seeds: int = 1

    def __post_init__(self) -> None:
        for item in leaves(self):
            check_number(item.name, item.value, item.hint)
        if self.seed + self.num_seeds - 1 > LARGEST:
            raise UserError(f"seed {self.seed} is too large; the largest is {LARGEST}")
        method = METHODS[self.method.name]
        for item in leaves(self):
            if item.value != item.default and not reads(self.method.name, item.name):
                raise _unread(self.method.name, item.name)
        method.check(self)

    def replace(self, delta: Mapping[str, Any]) -> "Config":
        """The configuration with dotted fields changed, e.g. `{"psvf.noise": 0.3}`.

        Raises:
            UserError: as `from_dict`.
        """
        return replace(self, delta)


@dataclass(frozen=True)
class Leaf:
    """A field of a configuration that is no group of fields.

    Attributes:
        name: dotted, as in files and on the command line.
        value: what it holds.
        default: what it holds where nothing is asked for.
        hint: its annotation.
    """

    name: str
    value: Any
    default: Any
    hint: Any


def groups(config: Config) -> dict[str, Any]:
    """The parts of a configuration by the names that they have in files, in order.

    Plain fields of a method's settings form a group of the method's name.
    """
    found = {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(config)
        if item.name != "method" and dataclasses.is_dataclass(getattr(config, item.name))
    }
    own = config.method
    for item in _own_fields(own):
        value = getattr(own, item.name)
        found[item.name if dataclasses.is_dataclass(value) else own.name] = (
            value if dataclasses.is_dataclass(value) else own
        )
    return found


def leaves(config: Config) -> Iterator[Leaf]:
    """Every field but the method's name."""
    for name, group in groups(config).items():
        defaults = _defaults(group)
        for item in _own_fields(group):
            value = getattr(group, item.name)
            if not dataclasses.is_dataclass(value):
                kind: Any = type(group)
                hint = convert.hints(kind)[item.name]
                yield Leaf(f"{name}.{item.name}", value, getattr(defaults, item.name), hint)
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name != "method" and not dataclasses.is_dataclass(value):
            yield Leaf(item.name, value, item.default, convert.hints(Config)[item.name])


def flatten(config: Config) -> dict[str, Any]:
    """Dotted field names to values, and the method's name under `method`."""
    return {"method": config.method.name} | {leaf.name: leaf.value for leaf in leaves(config)}


def readable(config: Config) -> dict[str, Leaf]:
    """The fields that a run of this configuration reads, by dotted name."""
    return {leaf.name: leaf for leaf in leaves(config) if reads(config.method.name, leaf.name)}


def reads(method: str, name: str) -> bool:
    """Whether a method reads a dotted field, which may be one that it does not have."""
    unread = METHODS[method].unread
    group, _, rest = name.partition(".")
    if name in unread or group in unread:
        return False
    general = {item.name for item in dataclasses.fields(Config)} - {"method"}
    own = default_settings(method)
    return group in general or (bool(rest) and group in _own_groups(own))


def readers(name: str) -> list[str]:
    """The methods that read a dotted field."""
    return [method for method in METHODS.usable() if reads(method, name) and _has(method, name)]


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values; tuples become lists."""
    nested: dict[str, Any] = {"format": FORMAT}
    for name, value in flatten(config).items():
        *above, last = name.split(".")
        inner = nested
        for group in above:
            inner = inner.setdefault(group, {})
        inner[last] = list(value) if isinstance(value, tuple) else value
    return nested


def from_dict(values: Mapping[str, Any], base: Config | None = None) -> Config:
    """A configuration from nested plain values; fields left out are those of `base`.

    Raises:
        UserError: for an unknown field, one that the method does not read, a value of the wrong
            type, or a contradiction.
    """
    base = Config() if base is None else base
    values = dict(values)
    if (told := values.pop("format", FORMAT)) != FORMAT:
        raise UserError(f"a configuration has format {FORMAT!r}, not {brief(told)}")
    method = values.pop("method", base.method.name)
    if method not in METHODS:
        raise unknown("method", method, METHODS.names())
    if method != base.method.name:
        base = dataclasses.replace(_without_method(base), method=default_settings(method))
    changed: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in values.items():
        place = _place(base, str(name))
        if place is base:
            changed[name] = convert.field(Config, str(name), value, "")
        elif place is base.method:
            own |= _fields(type(place), place, value, str(name))
        elif name in _own_groups(base.method):
            own[name] = _group(place, value, str(name))
        else:
            changed[name] = _group(place, value, str(name))
    settings = dataclasses.replace(base.method, **own)
    _refuse_unread(method, values)
    return dataclasses.replace(base, **changed, method=settings)


def load(path: Path, base: Config | None = None) -> Config:
    """Reads a `.json` or `.yaml` file; see `from_dict`."""
    return from_dict(load_fields(path), base)


def load_fields(path: Path) -> dict[str, Any]:
    """The fields that a `.json` or `.yaml` file names, nested and unchecked.

    Of a whole configuration of 0.1.0, which held the fields of all methods, those that its method
    reads.

    Raises:
        UserError: if it cannot be read or is no mapping.
    """
    values = reading.read(path)
    if values.keys() >= _IN_ALL_OLD_FILES:
        return _of_method(values)
    return values


def replace(config: Config, delta: Mapping[str, Any]) -> Config:
    """The configuration with dotted fields changed, e.g. `{"perturbation.scale": 1.0}`."""
    nested: dict[str, Any] = {}
    for name, value in delta.items():
        *above, last = name.split(".")
        inner = nested
        for group in above:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return from_dict(nested, config)


def check_seed(seed: int) -> None:
    """Raises a `UserError` if a seed is not one that JAX and Gymnasium take."""
    if not 0 <= seed <= LARGEST:
        raise UserError(f"seed is {seed}; it must be at least 0 and at most {LARGEST}")


_IN_ALL_OLD_FILES = {"method", "task", "psvf", "evolution", "ppo", "sac", "value_update"}


def _of_method(values: dict[str, Any]) -> dict[str, Any]:
    method = values["method"]
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            inner = {key: x for key, x in value.items() if _known_to(method, f"{name}.{key}")}
            kept |= {name: inner} if inner else {}
        elif name == "method" or reads(method, name):
            kept[name] = value
    return kept


def _known_to(method: str, name: str) -> bool:
    return reads(method, name) and _has(method, name)


def _has(method: str, name: str) -> bool:
    """Whether a field is there at all, for a method."""
    group, _, rest = name.partition(".")
    if not rest:
        return any(item.name == group for item in dataclasses.fields(Config))
    own = default_settings(method)
    holder = getattr(own, group, own if group == method else None)
    if group in ("task", "policy", "eval", "checkpoint"):
        holder = getattr(Config(), group)
    return dataclasses.is_dataclass(holder) and hasattr(holder, rest)


def _own_fields(group: Any) -> list[Any]:
    """Fields of a group; of a method's settings all but the name."""
    return [item for item in dataclasses.fields(group) if item.name != "name" or not _is_own(group)]


def _is_own(group: Any) -> bool:
    return getattr(group, "name", None) in METHODS and type(group) is METHODS[group.name].settings


def _own_groups(own: Any) -> set[str]:
    """Names of the groups of a method's settings."""
    values = {item.name: getattr(own, item.name) for item in _own_fields(own)}
    return {name if dataclasses.is_dataclass(value) else own.name for name, value in values.items()}


def _defaults(group: Any) -> Any:
    return default_settings(group.name) if _is_own(group) else type(group)()


def _place(base: Config, name: str) -> Any:
    """What holds a name of the top level: the configuration itself, or the group of this name.

    Raises:
        UserError: if there is no such name, or it is a group of other methods.
    """
    found = groups(base)
    if name in found:
        return found[name]
    plain = [item.name for item in dataclasses.fields(base)]
    if name in plain and name != "method":
        return base
    others = [other for other in METHODS.usable() if name in _own_groups(default_settings(other))]
    if others:
        raise _unread(base.method.name, name, others)
    raise unknown("field of the config", name, dict.fromkeys(["method", *found, *plain]))


def _group(group: Any, values: Any, name: str) -> Any:
    return dataclasses.replace(group, **_fields(type(group), group, values, name))


def _fields(kind: type, group: Any, values: Any, path: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise UserError(f"{path} must be a mapping of fields to values, not {brief(values)}")
    names = [item.name for item in _own_fields(group)]
    for name in values:
        if name not in names:
            raise unknown(f"field of {path}", name, names)
    return {name: convert.field(kind, name, value, path) for name, value in values.items()}


def _refuse_unread(method: str, values: Mapping[str, Any]) -> None:
    """Raises a `UserError` for a value, other than the default, that nothing would read."""
    for name, value in values.items():
        inner = value if isinstance(value, Mapping) else {"": value}
        for last, given in inner.items():
            full = f"{name}.{last}".rstrip(".")
            if not reads(method, full) and not _is_default(method, full, given):
                raise _unread(method, full)


def _is_default(method: str, name: str, value: Any) -> bool:
    default = {leaf.name: leaf.default for leaf in leaves(_of(method))}[name]
    return value == (list(default) if isinstance(default, tuple) else default)


def _of(method: str) -> Config:
    return Config(method=default_settings(method))


def _unread(method: str, name: str, others: list[str] | None = None) -> UserError:
    others = readers(name) if others is None else others
    told = f"; {_listed(others)}: --method {others[0]}" if others else ""
    return UserError(f"method {method!r} does not read {name}{told}")


def _listed(methods: list[str]) -> str:
    return f"{', '.join(map(repr, methods))} {'does' if len(methods) == 1 else 'do'}"


def _without_method(base: Config) -> Config:
    """The general part of a configuration, where the defaults of all methods fit."""
    return Config(task=base.task, seed=base.seed)
