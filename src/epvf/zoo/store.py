"""Many policies on disk, with what each of them returned.

    zoo.json        what the folder is
    index.jsonl     one line a shard: what is in it
    shards/         safetensors: returns, lengths, episodes; and weights, or how to draw them

A shard is written whole under a name of its own before its line is appended, so that several
writers need nothing of each other, and one that is killed loses what it was writing and no more.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from safetensors.numpy import load, save

from epvf.errors import UserError
from epvf.files import from_json, known, one_line, read_json, write_json
from epvf.policies.activations import Activation
from epvf.policies.formats.safetensors import UNREADABLE
from epvf.policies.host_noise import draw_rows, reproducible
from epvf.policies.mlp import Output, Policy
from epvf.policies.noise import Noise, PerturbationConfig
from epvf.policies.population import Perturbed
from epvf.runtime.processors import num_processors

FORMAT = "epvf-zoo/1"
INDEX, SHARDS = "index.jsonl", "shards"
CHUNK = 4096
"""Policies that are drawn or read at a time."""

_NAME = re.compile(r"[0-9a-f]{16}\.safetensors")
_MOST = 1 << 31
_BEGINNING = b'{"shard": "'
"""Of every line of the index."""


class Origin(NamedTuple):
    """Where policies come from.

    Attributes:
        task: its name.
        engine: what stepped it.
        fingerprint: of the task's formulas; empty where nobody knows.
        episode_length: longest episode in env steps; 0 where nobody knows.
        source: run or file, for people.
        method, seed, update: what made them; empty or -1 where nobody knows.
    """

    task: str
    engine: str = ""
    fingerprint: str = ""
    episode_length: int = 0
    source: str = ""
    method: str = ""
    seed: int = -1
    update: int = -1


class Outcomes(NamedTuple):
    """How policies did.

    Attributes:
        returns: `[n]` undiscounted, the mean over `episodes`; NaN where not finite or unknown.
        lengths: `[n]` env steps of an episode, the mean.
        episodes: `[n]` that the return is the mean of; 0 where nobody knows.
    """

    returns: Float[np.ndarray, "n"]
    lengths: Float[np.ndarray, "n"]
    episodes: Int[np.ndarray, "n"]


class Rows(NamedTuple):
    """Policies and how they did; see `Outcomes`.

    Attributes:
        thetas: `[n, P]`.
        returns, lengths, episodes: `[n]`.
    """

    thetas: Float[np.ndarray, "n P"]
    returns: Float[np.ndarray, "n"]
    lengths: Float[np.ndarray, "n"]
    episodes: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Entry:
    """A line of the index.

    Attributes:
        shard: file in `shards/`.
        sha256: of its content.
        num: N, policies in it.
        policy: their architecture.
        origin: where they come from.
        noise: how they are drawn around their centres; None: their weights are stored.
        mean_return, best_return: over those that are known; None where none is.
    """

    shard: str
    sha256: str
    num: int
    policy: Policy
    origin: Origin
    noise: PerturbationConfig | None
    mean_return: float | None
    best_return: float | None

    def line(self) -> str:
        """As JSON in a line."""
        return json.dumps(known(asdict(self) | {"origin": self.origin._asdict()}), allow_nan=False)


class Zoo:
    """A folder of policies; see `create` and `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> "Zoo":
        """A zoo to add to: the one at the path, or a new one.

        Raises:
            UserError: if something else is there, or nothing can be written.
        """
        if (path / "zoo.json").exists():
            return cls.open(path)
        try:
            if path.exists() and any(path.iterdir()):
                raise UserError(f"{path} is no zoo and not empty; choose another folder")
            (path / SHARDS).mkdir(parents=True, exist_ok=True)
            write_json(path / "zoo.json", {"format": FORMAT})
        except OSError as error:
            raise UserError(f"cannot write zoo {path}: {one_line(error)}") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Zoo":
        """A zoo that is there.

        Raises:
            UserError: if it is none.
        """
        if not (path / "zoo.json").is_file():
            raise UserError(f"{path} is no zoo: it has no zoo.json; epvf zoo add {path} RUN")
        found = read_json(path / "zoo.json").get("format")
        if found != FORMAT:
            raise UserError(f"{path} has format {found!r:.40}, but a zoo has {FORMAT!r}")
        return cls(path)

    def entries(self) -> list[Entry]:
        """What the index says, oldest first; a last line that was never finished is left out.

        Raises:
            UserError: if a line is none of a zoo's.
        """
        try:
            text = (self.path / INDEX).read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read {self.path / INDEX}: {one_line(error)}") from error
        lines = text.split(b"\n")[:-1]  # whole ones end
        # a line that another writer was killed in is ended by the next one, and is no JSON
        return [entry for n, line in enumerate(lines, 1) if (entry := self._entry(n, line))]

    def add(self, policy: Policy, rows: Rows, origin: Origin) -> Entry:
        """Adds policies by their weights.

        Raises:
            UserError: if it cannot be written.
        """
        thetas = np.ascontiguousarray(rows.thetas, np.float32)
        return self._add(policy, {"thetas": thetas}, Outcomes(*rows[1:]), origin, None)

    def add_drawn(
        self, policy: Policy, population: Perturbed, told: Outcomes, origin: Origin
    ) -> Entry:
        """Adds populations by centres and keys.

        Raises:
            UserError: if it cannot be written.
        """
        tensors = {
            "centres": np.ascontiguousarray(population.centres, np.float32),
            "keys": np.ascontiguousarray(population.keys, np.uint32),
        }
        return self._add(policy, tensors, told, origin, population.config)

    def read(self, entries: Sequence[Entry] | None = None) -> Iterator[tuple[Entry, Rows]]:
        """The policies of entries, in parts of at most `CHUNK`.

        Raises:
            UserError: if a shard is missing or is not what the index says.
        """
        for entry in self.entries() if entries is None else entries:
            yield from ((entry, rows) for rows in self._parts(entry, self._tensors(entry)))

    def rows(self, entries: Sequence[Entry] | None = None, most: int | None = None) -> Rows:
        """The policies of entries together: all, or about `most` of them, evenly spaced.

        Raises:
            UserError: as `read`, or if there are none, or of several architectures.
        """
        found = self.entries() if entries is None else list(entries)
        check_alike(self.path, found)
        total = sum(entry.num for entry in found)
        step = 1 if most is None else max(1, -(-total // most))
        parts, passed = [], 0
        for _, rows in self.read(found):
            begin = -passed % step
            parts.append(Rows(*(np.array(column[begin::step]) for column in rows)))
            passed += len(rows.returns)
        return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def check(self) -> None:
        """Checks that every shard is what the index says.

        Raises:
            UserError: if one is not.
        """
        for entry in self.entries():
            self._content(entry)

    def merge(self, other: "Zoo") -> int:
        """Takes over what another zoo has and this one has not; gives how many shards.

        See `check`: what turns out to be wrong halfway has been taken over up to there.

        Raises:
            UserError: if one of its shards is not what its index says.
        """
        there, count = {entry.sha256 for entry in self.entries()}, 0
        for entry in other.entries():
            if entry.sha256 in there:
                continue
            content = other._content(entry)
            self._append(replace(entry, shard=self._write(content)))
            there.add(entry.sha256)
            count += 1
        return count

    def _add(
        self,
        policy: Policy,
        tensors: dict[str, np.ndarray],
        told: Outcomes,
        origin: Origin,
        noise: PerturbationConfig | None,
    ) -> Entry:
        tensors = tensors | {
            "returns": np.ascontiguousarray(told.returns, np.float32),
            "lengths": np.ascontiguousarray(told.lengths, np.float32),
            "episodes": np.ascontiguousarray(told.episodes, np.int32),
        }
        returns = np.asarray(told.returns, np.float64)
        finite = returns[np.isfinite(returns)]
        content = save(tensors)
        entry = Entry(
            self._write(content),
            hashlib.sha256(content).hexdigest(),
            len(returns),
            policy,
            origin,
            noise,
            float(finite.mean()) if len(finite) else None,
            float(finite.max()) if len(finite) else None,
        )
        self._append(entry)
        return entry

    def _write(self, content: bytes) -> str:
        """Writes a shard under a name that nobody has; gives the name."""
        name = f"{secrets.token_hex(8)}.safetensors"
        folder = self.path / SHARDS
        temporary = folder / f".{name}.tmp"
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, folder / name)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise UserError(f"cannot write to zoo {self.path}: {one_line(error)}") from error
        return name

    def _append(self, entry: Entry) -> None:
        line = (entry.line() + "\n").encode()
        try:
            handle = os.open(self.path / INDEX, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                with _locked(handle):
                    size = os.fstat(handle).st_size
                    torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                    os.write(handle, b"\n" + line if torn else line)
                    os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise UserError(f"cannot write to zoo {self.path}: {one_line(error)}") from error

    def _entry(self, number: int, line: bytes) -> Entry | None:
        torn = line[: len(_BEGINNING)] == _BEGINNING[: len(line)]
        try:
            found = from_json(line)
        except ValueError:
            found = None
            if torn:  # by a writer that was killed
                return None
        try:
            return _checked(found)
        except (KeyError, TypeError, ValueError, UserError, AttributeError) as error:
            told = one_line(error)
            raise UserError(
                f"line {number} of {self.path / INDEX} is no entry: {told:.80}"
            ) from error

    def _content(self, entry: Entry) -> bytes:
        path = self.path / SHARDS / entry.shard
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read shard {path}: {one_line(error)}") from error
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise UserError(f"shard {path} is not what the index says: it has changed")
        return content

    def _tensors(self, entry: Entry) -> dict[str, np.ndarray]:
        name = f"shard {self.path / SHARDS / entry.shard}"
        try:
            tensors = load(self._content(entry))
        except (*UNREADABLE, KeyError) as error:
            raise UserError(f"cannot read {name}: {one_line(error)}") from error
        size = entry.policy.num_parameters
        wanted: dict[str, Any] = dict.fromkeys(("returns", "lengths", "episodes"), (entry.num,))
        if entry.noise is None:
            wanted["thetas"] = (entry.num, size)
        else:
            shape = tensors["centres"].shape if "centres" in tensors else ()
            good = len(shape) == 3 and shape[2] == size and entry.num % (shape[0] * shape[1]) == 0
            wanted |= {"centres": shape if good else None, "keys": (shape[0] if shape else 0, 2)}
        for key, expected in wanted.items():
            if key not in tensors or tensors[key].shape != expected:
                found = list(tensors[key].shape) if key in tensors else "missing"
                raise UserError(f"{name} is not what the index says: {key} is {found}")
        return tensors

    def _parts(self, entry: Entry, tensors: dict[str, np.ndarray]) -> Iterator[Rows]:
        for begin in range(0, entry.num, CHUNK):
            part = slice(begin, min(begin + CHUNK, entry.num))
            if entry.noise is None:
                thetas = tensors["thetas"][part]
            else:
                thetas = _drawn(entry, tensors, np.arange(part.start, part.stop))
            rest = (tensors[name][part] for name in ("returns", "lengths", "episodes"))
            yield Rows(thetas, *rest)


def check_alike(path: Path, entries: Sequence[Entry]) -> None:
    """Checks that policies can be looked at together.

    Raises:
        UserError: if there are none, or of several tasks or architectures.
    """
    if not entries:
        raise UserError(f"zoo {path} has no such policies; see epvf zoo list {path}")
    kinds = sorted({f"{entry.origin.task}: {entry.policy.describe()}" for entry in entries})
    if len(kinds) > 1:
        raise UserError(
            f"zoo {path} has policies of several kinds, choose by --task and --architecture: "
            f"{', '.join(kinds)}"[:200]
        )


def select(
    entries: Iterable[Entry],
    task: str | None = None,
    architecture: str | None = None,
    source: str | None = None,
) -> list[Entry]:
    """Entries of a task, an architecture (as `Policy.describe` says it), and a source.

    Of a source it is enough that it contains the text.
    """
    return [
        entry
        for entry in entries
        if task in (None, entry.origin.task)
        and architecture in (None, entry.policy.describe())
        and (source is None or source in entry.origin.source)
    ]


def _drawn(entry: Entry, tensors: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Policies `[k, P]` of these rows."""
    assert entry.noise is not None
    num = entry.num // len(tensors["keys"])
    if reproducible():
        population = Perturbed(tensors["centres"], tensors["keys"], num, entry.noise)
        return draw_rows(population, rows, num_processors())
    # by the generator that they were drawn with, whatever JAX is told to take
    with jax.threefry_partitionable(True), jax.enable_x64(False):
        centres, keys = jnp.asarray(tensors["centres"]), jnp.asarray(tensors["keys"])
        return np.asarray(Perturbed(centres, keys, num, entry.noise)[jnp.asarray(rows)])


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    """Alone with the index, as far as the file system can lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        yield  # what is appended in one piece stays in one piece
        return
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


def _checked(found: Any) -> Entry:
    """An entry of what a line says. Raises ValueError, KeyError or TypeError."""
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    shard, num = found["shard"], found["num"]
    if not isinstance(shard, str) or not _NAME.fullmatch(shard):
        raise ValueError(f"shard {shard!r:.60} is no name of a shard")
    if not isinstance(num, int) or not 0 < num < _MOST:
        raise ValueError(f"num is {num!r:.20}")
    asked = found["policy"]
    sizes = tuple(asked["layer_sizes"])
    if not all(isinstance(size, int) for size in sizes) or math.prod(sizes) > _MOST:
        raise ValueError("layer sizes are none")
    for name, kind in (("activation", Activation), ("output", Output)):
        if asked[name] not in get_args(kind):
            raise ValueError(f"{name} is {asked[name]!r:.20}")
    policy = Policy(sizes, asked["activation"], asked["output"])
    noise = None if found["noise"] is None else PerturbationConfig(**found["noise"])
    values = {name: found["origin"][name] for name in Origin._fields}
    for name, value in values.items():
        if not isinstance(value, int if name in ("episode_length", "seed", "update") else str):
            raise ValueError(f"{name} is {value!r:.20}")
    ends = (found["mean_return"], found["best_return"])
    if not all(end is None or isinstance(end, int | float) for end in ends):
        raise ValueError("returns are no numbers")
    if noise is not None and not _is_noise(noise):
        raise ValueError("noise is none")
    return Entry(shard, str(found["sha256"]), num, policy, Origin(**values), noise, *ends)


def _is_noise(noise: PerturbationConfig) -> bool:
    numbers = [noise.scale, noise.floor, *([] if noise.clip is None else [noise.clip])]
    finite = all(isinstance(x, int | float) and math.isfinite(x) for x in numbers)
    return finite and noise.noise in get_args(Noise) and isinstance(noise.antithetic, bool)
