"""Where episodes start: what several bodies share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco

from epvf.tasks.body import Draws


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
