"""Hyperparameters of the agents that learn from single env steps: PPO and SAC."""

from dataclasses import dataclass

AGENTS = ("ppo", "sac")
"""Methods that Brax trains."""


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
    discount: float = 0.99
    gae_lambda: float = 0.9
    clip: float = 0.2
    unroll_length: int = 32
    num_minibatches: int = 8
    epochs: int = 4
    entropy_cost: float = 0.0
    value_cost: float = 0.5
    max_grad_norm: float | None = None
    normalize_observations: bool = True
    value_hidden_sizes: tuple[int, ...] = (256, 128)


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
    discount: float = 0.99
    tau: float = 0.005
    batch_size: int = 256
    updates: int = 8
    replay_size: int = 1_000_000
    min_replay_size: int = 8192
    unroll_length: int = 32
    normalize_observations: bool = True
