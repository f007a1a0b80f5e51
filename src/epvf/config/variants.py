"""The ablations of the paper's Figure 2 (top right) as named changes of any configuration."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from epvf.config.schema import Config, replace
from epvf.errors import UserError, unknown

Delta: TypeAlias = dict[str, Any]


class Variant(NamedTuple):
    """One ablation.

    Attributes:
        reading: how the paper's sentence about it was understood.
        delta: dotted fields to change, given the configuration that it starts from.
    """

    reading: str
    delta: Callable[[Config], Delta]


VARIANTS: dict[str, Variant] = {
    "multiple-policies": Variant(
        "as many differently initialised policies as environments; each is perturbed once an "
        "iteration, and each climbs the one V",
        lambda config: {"policy.num_centres": config.num_envs},
    ),
    "buffer-100x": Variant(
        "the buffer keeps 100 times as many pairs, and batches are drawn from all of it",
        lambda config: {"buffer.size": 100 * config.method.buffer.size},
    ),
    "fixed-policy-lr": Variant(
        "the policy's learning rate is 1e-5 from the first step to the last",
        lambda config: {
            "policy_update.learning_rate": 1e-5,
            "policy_update.final_learning_rate": None,
        },
    ),
    "noise-1.0": Variant(
        "noise ±1.0ω instead of ±0.3ω, so that a weight may vanish or double",
        lambda config: {"perturbation.scale": 1.0},
    ),
    "no-weight-clip": Variant(
        "no weight is ever clipped",
        lambda config: {"policy_update.weight_clip": None},
    ),
    "clip-perturbations": Variant(
        "the perturbed weights, too, are clipped to the weight clip's range; the paper's figure "
        "of ±0.3 cannot bind, since ±0.1 with noise ±0.3ω stays within ±0.13",
        lambda config: {"perturbation.clip": _weight_clip(config)},
    ),
    "gaussian-noise": Variant(
        "N(0, 1) on every weight, whatever its size",
        lambda config: {"perturbation.noise": "gaussian", "perturbation.scale": 1.0},
    ),
    "weight-decay": Variant(
        "decoupled weight decay of 10 in place of the clip: under Adam it, too, holds weights "
        "within about ±0.1, since a step moves a weight by at most about the learning rate",
        lambda config: {"policy_update.weight_clip": None, "policy_update.weight_decay": 10.0},
    ),
}


def vary(config: Config, name: str) -> Config:
    """The configuration with one named ablation.

    Raises:
        UserError: if there is no such variant, or it does not fit the configuration.
    """
    if name not in VARIANTS:
        raise unknown("variant", name, VARIANTS)
    return replace(config, VARIANTS[name].delta(config))


def _weight_clip(config: Config) -> float:
    bound = config.method.policy_update.weight_clip
    if bound is None:
        raise UserError(
            "variant 'clip-perturbations' clips to policy_update.weight_clip, but that is none"
        )
    return bound
