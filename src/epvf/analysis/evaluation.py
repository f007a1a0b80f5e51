"""How well a saved policy does: in Gymnasium's own environment, or over a cloud on an engine."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import jax
import numpy as np

from epvf.config.schema import EvalConfig, check_seed
from epvf.errors import UserError
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.reference import act
from epvf.tasks import make
from epvf.tasks.base import Task, check_policy
from epvf.tasks.body import Body
from epvf.tasks.registry import body_behind
from epvf.tasks.starts import commanded
from epvf.training.measure import evaluate_theta

GYMNASIUM = {
    "cartpole": "CartPole-v1",
    "hopper": "Hopper-v5",
    "halfcheetah": "HalfCheetah-v5",
    "walker2d": "Walker2d-v5",
    "swimmer": "Swimmer-v5",
    "reacher": "Reacher-v5",
    "inverted-double-pendulum": "InvertedDoublePendulum-v5",
    "humanoid": "Humanoid-v5",
    "ant-v5": "Ant-v5",
    "pendulum": "Pendulum-v1",
    "acrobot": "Acrobot-v1",
}
"""Tasks that are somebody else's, under the names of the originals."""


@dataclass(frozen=True)
class Result:
    """Returns of one policy.

    Attributes:
        task: name of the task.
        engine: what stepped it.
        returns: `[episodes]` undiscounted returns.
        lengths: `[episodes]` in env steps.
    """

    task: str
    engine: str
    returns: np.ndarray
    lengths: np.ndarray

    def summary(self) -> dict[str, Any]:
        """The numbers that are printed, as plain values."""
        returns = self.returns.astype(np.float64)
        return {
            "task": self.task,
            "engine": self.engine,
            "episodes": len(returns),
            "episode_return": float(returns.mean()),
            "episode_return_std": float(returns.std()),
            "episode_return_min": float(returns.min()),
            "episode_return_max": float(returns.max()),
            "episode_length": float(self.lengths.mean()),
        }


def evaluate(
    saved: SavedPolicy,
    episodes: int = 100,
    backend: str = "auto",
    seed: int = 0,
    jitter: float = EvalConfig().jitter,
    command: tuple[float, ...] = (),
) -> Result:
    """Rolls a policy out many times.

    With `gymnasium`, and for CartPole with `auto`, these are Gymnasium's own environments;
    otherwise episodes are as long as in training. Where a task resets deterministically, every
    episode runs a copy of the policy with its weights jittered.

    Example:
        >>> import epvf, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> config = epvf.preset("cartpole", "debug").replace({"iterations": 2})
        >>> run = epvf.train(config, out=f"{folder}/run").run
        >>> saved = epvf.load_policy(run / "policies" / "best.safetensors")
        >>> epvf.evaluate(saved, episodes=3).returns.shape
        (3,)

    Args:
        saved: the policy.
        episodes: rollouts.
        backend: the engine.
        seed: of resets and jitter.
        jitter: relative jitter of the weights, for deterministic resets.
        command: that episodes are asked for, of tasks that have one; empty: as they have it.

    Raises:
        UserError: if a number is out of range, the task takes no such command, the policy does not
            fit its task, there is no such task or backend, or Gymnasium lacks what it needs.
    """
    if episodes < 1:
        raise UserError(f"episodes is {episodes}, but must be at least 1")
    check_seed(seed)
    original = backend == "gymnasium" and saved.task in GYMNASIUM
    if not command and (original or (backend == "auto" and saved.task == "cartpole")):
        return _in_gymnasium(saved, episodes, seed)
    task = make(_asked(saved.task, command), backend, episode_length=_episode_length(saved))
    return _on_engine(saved, task, episodes, seed, jitter)


def _asked(name: str, command: tuple[float, ...]) -> str | Body:
    """The task, or the body that is asked for a command in every episode."""
    if not command:
        return name
    body = body_behind(name)
    if body is None:
        raise UserError(f"task {name!r} takes no command")
    return commanded(body, command)


def _on_engine(saved: SavedPolicy, task: Task, episodes: int, seed: int, jitter: float) -> Result:
    relative = jitter if task.spec.deterministic_reset else 0.0
    rollout = task.evaluator(saved.policy)
    result = evaluate_theta(rollout, jax.random.key(seed), saved.theta, episodes, relative)
    returns, lengths = np.asarray(result.returns), np.asarray(result.lengths)
    return Result(saved.task, task.spec.backend, returns, lengths)


def _episode_length(saved: SavedPolicy) -> int | None:
    """As in training, where the file tells."""
    text = saved.metadata.get("episode_length", "")
    return int(text) if text.isdigit() else None


def _in_gymnasium(saved: SavedPolicy, episodes: int, seed: int) -> Result:
    check_policy(make(saved.task).spec, saved.policy)
    name = GYMNASIUM[saved.task]
    try:
        environment = gymnasium.make(name)
    except ImportError as error:
        raise UserError(f"Gymnasium's {name} needs more: {error}; pip install imageio") from None
    layers = saved.policy.unravel(saved.theta)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    for episode in range(episodes):
        observation, _ = environment.reset(seed=seed if episode == 0 else None)
        over = False
        while not over:
            action = scaled(environment, act(saved.policy, layers, observation))
            observation, reward, terminated, truncated, _ = environment.step(action)
            returns[episode] += float(reward)
            lengths[episode] += 1
            over = terminated or truncated
    environment.close()
    return Result(saved.task, f"Gymnasium {name}", returns, lengths)


def scaled(environment: Any, action: Any) -> Any:
    """An action in [-1, 1] over the bounds of an environment of Gymnasium; others as they are."""
    space = environment.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        return action
    middle, half = (space.low + space.high) / 2.0, (space.high - space.low) / 2.0
    return (middle + half * action).astype(space.dtype)
