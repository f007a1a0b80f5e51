"""The Ant's native `Evaluate` against Gymnasium's `AsyncVectorEnv`, both with every core.

    python benchmarks/async_vector_env.py [--policies 64] [--turns 5] [--workers 2 16] [--json]

Both run the same policies, one a θ, to the end of their episodes on the same physics (MuJoCo's C
engine, one Ant, `epvf.tasks.adapters.to_gymnasium`). `AsyncVectorEnv` is driven as one would write
it: the policies of all environments at once as batched matrix products in numpy, and whenever an
episode ends, the environment goes on with the next policy that waits, so that none idles while
there is one. It resets in the step that ends an episode (`SAME_STEP`) and talks through shared
memory, its fastest settings; the best number of worker processes of those tried counts. A wall
clock decides: env steps of the episodes by the seconds from the first reset to the last return.
Starting processes and compiling are not counted, for either. The two take turns, so that they see
the same machine, and the median of the turns' ratios is reported."""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores belong to the workers

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import perturb
from epvf.tasks import make
from epvf.tasks.adapters.to_gymnasium import AntEnv

POLICY = Policy((34, 64, 64, 8))
SECONDS = 1.0
"""How long `Evaluate`, which is done sooner, is repeated in each turn at least."""


def num_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def population(num: int) -> np.ndarray:
    """Perturbed policies `[num, P]`, as in a run's first iteration."""
    centre = POLICY.init(jax.random.key(0), "lecun_normal", 1.0)
    return np.asarray(perturb(PerturbationConfig(), jax.random.key(1), centre[None], num))


def act(layers: Any, observations: np.ndarray) -> np.ndarray:
    """Actions `[n, 8]` of `n` policies, each for its observation: as `Policy.apply`, in numpy."""
    x = observations[:, None, :]
    for i, layer in enumerate(layers):
        x = x @ layer.kernel + layer.bias[:, None, :]
        x = np.clip(x, -1.0, 1.0) if i == len(layers) - 1 else np.tanh(x)
    return x[:, 0, :]


def run_async(envs: AsyncVectorEnv, thetas: np.ndarray) -> tuple[np.ndarray, float]:
    """Rolls every policy out once; its return, and env steps per second."""
    num, returns = len(thetas), np.zeros(len(thetas))
    running = np.arange(envs.num_envs) % num  # which policy each environment runs
    waiting, counted = envs.num_envs, np.arange(envs.num_envs) < num
    layers = [
        jax.tree.map(np.ascontiguousarray, layer) for layer in POLICY.unravel(thetas[running])
    ]
    steps = 0
    start = time.perf_counter()
    observations, _ = envs.reset()
    while counted.any():
        observations, rewards, terminated, truncated, _ = envs.step(act(layers, observations))
        returns[running[counted]] += rewards[counted]
        steps += int(counted.sum())
        for i in np.flatnonzero((terminated | truncated) & counted):
            counted[i] = waiting < num
            if counted[i]:
                running[i], waiting = waiting, waiting + 1
                for layer, fresh in zip(layers, POLICY.unravel(thetas[running[i]]), strict=True):
                    layer.kernel[i], layer.bias[i] = fresh.kernel, fresh.bias
    return returns, steps / (time.perf_counter() - start)


def run_native(evaluate: Callable[..., Any], thetas: np.ndarray) -> float:
    """Env steps per second of `Evaluate`, over at least `SECONDS`."""
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        steps += int(evaluate(None, thetas).lengths.sum())
    return steps / (time.perf_counter() - start)


def measure(num_policies: int, turns: int, workers: list[int], episode_length: int) -> Any:
    """Env steps per second of both, and how many times as many `Evaluate` does."""
    thetas = population(num_policies)
    evaluate = make("ant", "native", episode_length=episode_length).evaluator(POLICY)
    evaluate(None, thetas)  # compiles
    create = partial(AntEnv, episode_length)
    vectors = {
        # spawned, because JAX's threads do not survive a fork
        n: AsyncVectorEnv([create] * n, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
        for n in workers
    }
    native: list[float] = []
    others: dict[int, list[float]] = {n: [] for n in workers}
    try:
        for _ in range(turns):
            native.append(run_native(evaluate, thetas))
            for n, envs in vectors.items():
                others[n].append(run_async(envs, thetas)[1])
    finally:
        for envs in vectors.values():
            envs.close()
    medians = {n: float(np.median(rates)) for n, rates in others.items()}
    best = max(medians, key=lambda n: medians[n])
    return {
        "cores": num_cores(),
        "gymnasium": gymnasium.__version__,
        "policies": num_policies,
        "episode_length": episode_length,
        "turns": turns,
        "native_steps_per_second": float(np.median(native)),
        "async_steps_per_second": {str(n): median for n, median in medians.items()},
        "async_workers": best,
        "ratio": float(np.median(np.divide(native, others[best]))),
        "ratio_range": [float(f(np.divide(native, others[best]))) for f in (np.min, np.max)],
    }


def main() -> None:
    """Prints lines, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({num_cores(), 16}))
    parser.add_argument("--episode-length", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    result = measure(asked.policies, asked.turns, asked.workers, asked.episode_length)
    if asked.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
