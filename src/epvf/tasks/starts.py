"""Where episodes start: what several bodies share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mujoco

from epvf.errors import UserError, unknown
from epvf.tasks.body import Body, Draws


@dataclass(frozen=True)
class Around:
    """Starts around a model's own state: positions off uniformly, velocities off as `velocities`.

    Attributes:
        model: of the physics.
        width: of the uniform offsets (m, rad, m/s, rad/s), and the deviation of normal ones.
        velocities: `uniform` or `normal`.
    """

    model: Callable[[], mujoco.MjModel]
    width: float
    velocities: str = "uniform"

    def __call__(self, random: Draws, num: int) -> tuple[Any, Any]:
        """Offsets of `num` starts: positions `[num, nq]` and velocities `[num, nv]`."""
        nq, nv = self.model().nq, self.model().nv
        if self.velocities == "normal":
            positions = random.uniform(-self.width, self.width, (num, nq))
            return positions, self.width * random.standard_normal((num, nv))
        offsets = random.uniform(-self.width, self.width, (num, nq + nv))
        return offsets[:, :nq], offsets[:, nq:]


@dataclass(frozen=True)
class Commanded:
    """Starts of another kind, each with one of several commands, all as likely.

    Attributes:
        starts: to positions and velocities.
        commands: `[K, c]` to be drawn from.
    """

    starts: Callable[[Draws, int], tuple[Any, ...]]
    commands: tuple[tuple[float, ...], ...]

    def __call__(self, random: Draws, num: int) -> tuple[Any, Any, Any]:
        """Offsets of `num` starts and their commands `[num, c]`."""
        positions, velocities, *_ = self.starts(random, num)
        drawn = random.uniform(0.0, len(self.commands), (num,))
        xp: Any = drawn.__array_namespace__()
        table = xp.asarray(self.commands, dtype=drawn.dtype)
        # in float32 a number just below K may be rounded to it
        which = xp.clip(drawn.astype(int), 0, len(self.commands) - 1)
        return positions, velocities, table[which]


def commanded(body: Body, command: tuple[float, ...]) -> Body:
    """The body that is asked for one command in every episode; otherwise it starts as before.

    Raises:
        UserError: if the command has another length, which is 0 where episodes have none, or is
            not finite.
    """
    if len(command) != body.command_size:
        takes = f"{body.command_size} numbers" if body.command_size else "no command"
        raise UserError(f"task {body.name!r} takes {takes}, but the command has {len(command)}")
    if not all(map(math.isfinite, command)):
        raise UserError(f"the command must be finite numbers, not {command}")
    assert body.starts is not None
    return replace(body, starts=Commanded(body.starts, (command,)))


def commands_of(
    task: str, objectives: Mapping[str, tuple[float, ...]], names: tuple[str, ...]
) -> tuple[tuple[float, ...], ...]:
    """The commands of objectives by their names.

    Raises:
        UserError: if there is none of a name, or one is named twice.
    """
    for name in names:
        if name not in objectives:
            raise unknown(f"objective of task {task!r}", name, objectives)
    if len(set(names)) < len(names):
        raise UserError(f"an objective of task {task!r} is named twice: {', '.join(names)}")
    return tuple(objectives[name] for name in names)
