"""PPO and SAC: Brax's training functions, called with our configuration, tasks and callbacks.

Import this within `brax_compat.tolerated()`.
"""

import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env
from brax.envs.wrappers import training
from brax.training import networks
from brax.training.agents.ppo import networks as ppo_networks
from brax.training.agents.ppo import train as ppo_train
from brax.training.agents.sac import checkpoint as sac_checkpoint
from brax.training.agents.sac import networks as sac_networks
from brax.training.agents.sac import train as sac_train

from epvf.methods.agents.brax_env import BraxEnv, IdleEnv
from epvf.methods.agents.categorical import Categorical
from epvf.methods.agents.tally import Counted, Tally
from epvf.methods.base import Plan
from epvf.policies.activations import ACTIVATIONS
from epvf.tasks.engines.rollout import JaxTask


@jax.custom_jvp
def _elu(x: jax.Array) -> jax.Array:
    """`jax.nn.elu` whose derivative reuses its value: half the time of an update on a CPU."""
    return jnp.where(x > 0.0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


@_elu.defjvp
def _elu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    value = _elu(*primals)
    return value, jnp.where(value > 0.0, 1.0, value + 1.0) * tangents[0]


_ACTIVATIONS = ACTIVATIONS | {"elu": _elu}


class Progress(NamedTuple):
    """News after an iteration.

    Attributes:
        env_steps: taken so far.
        normalizer: running mean and std of observations; None where they are not normalised.
        parameters: of the policy network.
        metrics: Brax's, by its own names.
    """

    env_steps: int
    normalizer: Any
    parameters: Any
    metrics: dict[str, float]


Listener: TypeAlias = Callable[[Progress], None]


def ppo(config: Plan, task: JaxTask, iterations: int, tally: Tally, listener: Listener) -> None:
    """Trains with Brax's PPO; whatever `listener` raises ends it.

    Args:
        config: the run.
        task: the environment.
        iterations: how many, one unroll of all environments each.
        tally: is told of the episodes that end.
        listener: called after every iteration.
    """
    own = config.method.ppo
    newest: list[Any] = []

    def keep(step: int, make_policy: Any, parameters: Any) -> None:
        newest[:] = parameters[:2]

    def tell(step: int, metrics: dict[str, Any]) -> None:
        normalizer, parameters = newest
        used = normalizer if own.normalize_observations else None
        listener(Progress(step, used, parameters, _plain(metrics)))

    updates = iterations * own.epochs * own.num_minibatches
    rate: Any = Annealed(own.learning_rate, updates) if own.anneal else own.learning_rate
    ppo_train.train(
        environment=BraxEnv(task),
        num_timesteps=iterations * config.num_envs * own.unroll_length,
        # one iteration an evaluation, and the evaluation is ours
        num_evals=iterations + 1,
        run_evals=False,
        num_envs=config.num_envs,
        episode_length=task.spec.episode_length,
        wrap_env_fn=partial(_wrap, tally, own.unroll_length),
        learning_rate=rate,
        entropy_cost=own.entropy_cost,
        discounting=own.discount,
        unroll_length=own.unroll_length,
        batch_size=config.num_envs // own.num_minibatches,
        num_minibatches=own.num_minibatches,
        num_updates_per_batch=own.epochs,
        normalize_observations=own.normalize_observations,
        clipping_epsilon=own.clip,
        gae_lambda=own.gae_lambda,
        max_grad_norm=own.max_grad_norm,
        vf_loss_coefficient=own.value_cost,
        network_factory=partial(_ppo_networks, config, task.spec.discrete),
        seed=config.seed,
        policy_params_fn=keep,
        progress_fn=tell,
    )


def sac(config: Plan, task: JaxTask, iterations: int, tally: Tally, listener: Listener) -> None:
    """Trains with Brax's SAC; see `ppo`. Actions are continuous."""
    own = config.method.sac
    environment, idle = BraxEnv(task), IdleEnv(task)
    prefill = math.ceil(own.min_replay_size / config.num_envs) * config.num_envs
    # Brax hands SAC's parameters over in files only
    with tempfile.TemporaryDirectory() as folder:

        def tell(step: int, metrics: dict[str, Any]) -> None:
            if not step:
                return
            normalizer, parameters = _read(Path(folder))
            used = normalizer if own.normalize_observations else None
            listener(Progress(step, used, parameters, _plain(metrics)))

        sac_train.train(
            environment=environment,
            num_timesteps=prefill + iterations * config.num_envs * own.unroll_length,
            # SAC cannot do without evaluations: they cost next to nothing here
            num_evals=iterations + 1,
            eval_env=idle,
            num_eval_envs=1,
            deterministic_eval=True,
            num_envs=config.num_envs,
            episode_length=task.spec.episode_length,
            wrap_env_fn=partial(_wrap, tally, own.unroll_length),
            learning_rate=own.learning_rate,
            discounting=own.discount,
            tau=own.tau,
            batch_size=own.batch_size,
            grad_updates_per_step=own.updates,
            min_replay_size=prefill,
            max_replay_size=own.replay_size,
            normalize_observations=own.normalize_observations,
            network_factory=partial(_sac_networks, config),
            seed=config.seed,
            progress_fn=tell,
            checkpoint_logdir=folder,
        )


@dataclass(frozen=True)
class Annealed:
    """A learning rate that falls linearly from `start` to 0 over `updates` updates."""

    start: float
    updates: int

    def __call__(self, count: Any) -> Any:
        """The learning rate after `count` updates."""
        return self.start * (1.0 - count / self.updates)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The first learning rate: Brax's PPO also reports what it was given as a number."""
        return np.asarray(self.start, np.float32 if dtype is None else dtype)


def _wrap(tally: Tally, period: int, env: Env, episode_length: int, **options: Any) -> Env:
    """Brax's batching, episode ends and restarts; in training also counted."""
    wrapped = training.wrap(env, episode_length, options["action_repeat"])
    return wrapped if isinstance(env, IdleEnv) else Counted(wrapped, tally, period)


def _ppo_networks(
    config: Plan, discrete: bool, observation_size: Any, action_size: int, **options: Any
) -> ppo_networks.PPONetworks:
    hidden, activation = config.policy.hidden_sizes, _ACTIVATIONS[config.policy.activation]
    both = ppo_networks.make_ppo_networks(
        observation_size,
        action_size,
        policy_hidden_layer_sizes=hidden,
        value_hidden_layer_sizes=config.method.ppo.value_hidden_sizes,
        activation=activation,
        **options,
    )
    if not discrete:
        return both
    logits = networks.make_policy_network(
        action_size,
        observation_size,
        hidden_layer_sizes=hidden,
        activation=activation,
        **options,
    )
    actions = Categorical(action_size)
    return both.replace(policy_network=logits, parametric_action_distribution=actions)


def _sac_networks(
    config: Plan, observation_size: Any, action_size: int, **options: Any
) -> sac_networks.SACNetworks:
    return sac_networks.make_sac_networks(
        observation_size,
        action_size,
        hidden_layer_sizes=config.policy.hidden_sizes,
        activation=_ACTIVATIONS[config.policy.activation],
        **options,
    )


def _read(folder: Path) -> tuple[Any, Any]:
    """The normaliser and the policy's parameters of the newest checkpoint; the files go."""
    newest = max(folder.iterdir())
    normalizer, parameters, *_ = sac_checkpoint.load(newest)
    for old in folder.iterdir():
        shutil.rmtree(old)
    return normalizer, parameters


def _plain(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(np.asarray(value)) for name, value in metrics.items()}
