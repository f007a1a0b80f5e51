"""Soft actor-critic: Brax's, on the same tasks, into the same runs."""

from dataclasses import dataclass, field

from epvf.methods.agents.base import UNREAD, train, unfit
from epvf.methods.base import Method, Plan
from epvf.tasks.base import TaskSpec
from epvf.types import Fraction


@dataclass(frozen=True)
class SACConfig:
    """How SAC learns (method sac); continuous actions only.

    Attributes:
        learning_rate: Adam's, of policy and Q functions.
        discount: γ.
        tau: how far the target Q functions move to the Q functions in each update.
        batch_size: transitions per update.
        updates: gradient updates after each step of all environments.
        replay_size: newest transitions that are kept.
        min_replay_size: transitions that are collected before the first update.
        unroll_length: env steps of each environment per iteration.
        normalize_observations: to zero mean and unit variance over all that was seen.
    """

    learning_rate: float = 3e-4
    discount: Fraction = 0.99
    tau: Fraction = 0.005
    batch_size: int = 256
    updates: int = 8
    replay_size: int = 1_000_000
    min_replay_size: int = 8192
    unroll_length: int = 32
    normalize_observations: bool = True


@dataclass(frozen=True)
class SACSettings:
    """What SAC reads.

    Attributes:
        name: of the method.
        sac: its hyperparameters.
    """

    name: str = "sac"
    sac: SACConfig = field(default_factory=SACConfig)


def continuous(spec: TaskSpec, config: Plan) -> str | None:
    """Why SAC cannot learn a task."""
    if spec.discrete:
        return "it has no discrete actions, which the task needs; use 'ppo'"
    return unfit(spec, config)


METHOD = Method(
    settings=SACSettings,
    summary="SAC (Haarnoja et al. 2018), Brax's; continuous actions only",
    train=train,
    unread=UNREAD,
    unfit=continuous,
    segment=lambda settings: settings.sac.unroll_length,
    resumable=False,
    needs="baselines",
)
