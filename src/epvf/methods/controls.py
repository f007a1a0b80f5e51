"""EPVF's controls: a linear V in closed form on EPVF's own population, and one Adam step along it.

Population, weight clip and learning-rate schedule are those of the configuration; V sees offsets in
units of the noise, and returns as centred ranks. What these methods prescribe is no option of
theirs.
"""

from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from epvf.methods.base import Method, Parts, Plan, check_decay
from epvf.methods.epvf import (
    EPVFSettings,
    Fit,
    Learner,
    PolicyUpdateConfig,
    ValueUpdateConfig,
    check_pairs,
    learner,
)
from epvf.methods.replay import BufferConfig
from epvf.policies.noise import PerturbationConfig
from epvf.value.targets import TargetConfig
from epvf.value.v_theta import ValueConfig

REPLAYED = 4
"""Populations that `ridge-replay` keeps where the buffer is not already larger than one."""

_PENALTY = "ridge"
_UNREAD = frozenset(
    {
        "policy.num_centres",
        "policy_update.steps",
        "policy_update.optimizer",
        "policy_update.gradient_at",
        "policy_update.max_change",
        "buffer.store",
        *(
            f"value_update.{item.name}"
            for item in fields(ValueUpdateConfig)
            if item.name != _PENALTY
        ),
    }
)


@dataclass(frozen=True)
class ControlSettings:
    """What evolution strategies on EPVF's population read.

    Attributes:
        name: of the method.
        perturbation, policy_update: as of EPVF.
    """

    name: str = "matched-openes"
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    policy_update: PolicyUpdateConfig = field(default_factory=PolicyUpdateConfig)


@dataclass(frozen=True)
class RidgeSettings(ControlSettings):
    """What a ridge regression on EPVF's population reads.

    Attributes:
        name: of the method.
        perturbation, policy_update: as of EPVF.
        value_update: the penalty.
    """

    value_update: ValueUpdateConfig = field(default_factory=ValueUpdateConfig)


@dataclass(frozen=True)
class ReplaySettings(RidgeSettings):
    """What a ridge regression on several populations reads.

    Attributes:
        name: of the method.
        perturbation, policy_update: as of EPVF.
        value_update: the penalty.
        buffer: how many pairs are kept; if they are no more than one population, four of these.
    """

    buffer: BufferConfig = field(default_factory=BufferConfig)


def build(fit: Fit, parts: Parts) -> Learner:
    """EPVF's learner with what the control prescribes."""
    own: Any = parts.config.method
    size = _rows(own, parts.config.num_envs)
    ridge = own.value_update.ridge if isinstance(own, RidgeSettings) else ValueUpdateConfig().ridge
    settings = EPVFSettings(
        perturbation=own.perturbation,
        buffer=BufferConfig(size),
        value=ValueConfig(hidden_sizes=(), inputs="standardised", zero_init=True),
        target=TargetConfig("centred_ranks"),
        value_update=ValueUpdateConfig(fit=fit, ridge=ridge, batch_size=size),
        policy_update=replace(own.policy_update, steps=1, optimizer="adam", gradient_at="theta"),
    )
    return learner(parts, settings, num_centres=1)


def check(config: Plan) -> None:
    """Raises a `UserError` where settings contradict each other or the rest."""
    check_pairs(config.method.perturbation, config.num_envs)
    check_decay("policy_update", "learning_rate", config.method.policy_update)


def _rows(own: Any, num_envs: int) -> int:
    """Pairs that are kept."""
    if not isinstance(own, ReplaySettings):
        return num_envs
    return own.buffer.size if own.buffer.size > num_envs else REPLAYED * num_envs


def _control(settings: type, fit: Fit, summary: str) -> Method:
    return Method(
        settings=settings, summary=summary, build=partial(build, fit), check=check, unread=_UNREAD
    )


MATCHED_OPENES = _control(
    ControlSettings, "es", "OpenES's gradient estimate on EPVF's population: its control"
)
RIDGE = _control(RidgeSettings, "ridge", "a ridge regression on EPVF's population: a surrogate")
RIDGE_REPLAY = _control(ReplaySettings, "ridge", "a ridge regression on the newest populations")
