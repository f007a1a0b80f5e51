"""Proximal policy optimisation: Brax's, on the same tasks, into the same runs."""

from dataclasses import dataclass, field

from epvf.errors import UserError
from epvf.methods.agents.base import UNREAD, train, unfit
from epvf.methods.base import Method, Plan
from epvf.types import Fraction, NonNegative


@dataclass(frozen=True)
class PPOConfig:
    """How PPO learns (method ppo); an iteration is one unroll of every environment.

    Attributes:
        learning_rate: Adam's, of policy and value function.
        anneal: whether the learning rate falls linearly to 0 over the run.
        discount: γ.
        gae_lambda: λ of generalised advantage estimation.
        clip: of the probability ratio, to 1 ± clip.
        unroll_length: env steps of each environment per iteration.
        num_minibatches: per epoch; num_envs is a multiple of it.
        epochs: passes over an iteration's data.
        entropy_cost: weight of the policy's entropy.
        value_cost: weight of the value function's loss.
        max_grad_norm: the gradient is scaled down to this norm; None: never.
        normalize_observations: to zero mean and unit variance over all that was seen.
        value_hidden_sizes: of the value function; the policy's are policy.hidden_sizes.
    """

    learning_rate: float = 4e-4
    anneal: bool = False
    discount: Fraction = 0.99
    gae_lambda: Fraction = 0.9
    clip: float = 0.2
    unroll_length: int = 32
    num_minibatches: int = 8
    epochs: int = 4
    entropy_cost: NonNegative = 0.0
    value_cost: float = 0.5
    max_grad_norm: float | None = None
    normalize_observations: bool = True
    value_hidden_sizes: tuple[int, ...] = (256, 128)


@dataclass(frozen=True)
class PPOSettings:
    """What PPO reads.

    Attributes:
        name: of the method.
        ppo: its hyperparameters.
    """

    name: str = "ppo"
    ppo: PPOConfig = field(default_factory=PPOConfig)


def check(config: Plan) -> None:
    """Raises a `UserError` where the environments do not make whole minibatches."""
    parts = config.method.ppo.num_minibatches
    if config.num_envs % parts:
        raise UserError(
            f"num_envs {config.num_envs} is not a multiple of ppo.num_minibatches {parts}"
        )


METHOD = Method(
    settings=PPOSettings,
    summary="PPO (Schulman et al. 2017), Brax's",
    train=train,
    unread=UNREAD,
    unfit=unfit,
    check=check,
    segment=lambda settings: settings.ppo.unroll_length,
    resumable=False,
    needs="baselines",
)
