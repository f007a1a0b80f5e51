"""A cluster of two workers with a thread each against the engine's two threads, on this machine.

    python benchmarks/cluster.py [--engine lanes] [--num-envs 1024] [--repeats 5]

Whole episodes of 1024 policies of the Ant, and segments of 32 steps as V(s, θ) takes them, turn by
turn: the engine, the cluster. Prints both medians and their ratio (above 1: the cluster is faster),
whether the numbers are the same to the bit, and the bytes that went there and back, as JSON.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np


def main() -> int:
    """Measures; returns the exit code: 1 if any number differs."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--engine", default="lanes")
    options.add_argument("--num-envs", type=int, default=1024)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--episode-length", type=int, default=1000)
    asked = options.parse_args()
    from epvf.config.presets import preset
    from epvf.policies import host_noise
    from epvf.policies.noise import PerturbationConfig
    from epvf.policies.population import Recipe, perturbed
    from epvf.tasks import make
    from epvf.tasks.adapters.cluster import connect, spread
    from epvf.training.prepare import make_policy

    how: dict[str, Any] = {"episode_length": asked.episode_length}
    task = make("ant", asked.engine, num_threads=2, **how)
    policy = make_policy(preset("ant", "tuned", "psvf"), task.spec)
    centre = np.asarray(policy.init(jax.random.key(1), "lecun_normal", 1.0))[None]
    nobody = np.zeros((0, policy.num_parameters), np.float32)
    cluster = connect(f"local:{asked.workers}", 1)
    spread_out = spread(make("ant", asked.engine, num_threads=1, **how), cluster)

    def population(turn: int) -> Any:
        noise = PerturbationConfig(floor=0.1)
        lazy = perturbed(noise, jax.random.key(turn), centre, asked.num_envs)
        return jax.tree.map(np.asarray, lazy)

    horizon = 32
    here, there = task.explorer(policy, horizon), spread_out.explorer(policy, horizon)
    envs = here.reset(jax.random.key(0), asked.num_envs)

    def episodes_here(turn: int) -> Any:
        thetas = host_noise.draw(population(turn), 2)
        return task.evaluator(policy)(jax.random.key(turn), thetas)

    def episodes_there(turn: int) -> Any:
        recipe = Recipe((population(turn),), nobody)
        return spread_out.evaluator(policy)(jax.random.key(turn), recipe)

    def segments_here(turn: int) -> Any:
        thetas = host_noise.draw(population(turn), 2)
        return here(jax.random.key(turn), thetas, envs)

    def segments_there(turn: int) -> Any:
        return there(jax.random.key(turn), Recipe((population(turn),), nobody), envs)

    same = True
    for name, ours, theirs, repeats in (
        ("episodes", episodes_here, episodes_there, asked.repeats),
        ("segments", segments_here, segments_there, 4 * asked.repeats),
    ):
        seconds: dict[str, list[float]] = {"here": [], "cluster": []}
        before = cluster.sent, cluster.received
        for turn in range(repeats + 1):
            found = []
            for kind, measured in (("here", ours), ("cluster", theirs)):
                begin = time.perf_counter()
                found.append(measured(turn))
                if turn:  # the first compiles, and workers start
                    seconds[kind].append(time.perf_counter() - begin)
            same &= equal(*found)
        own, spread_time = (statistics.median(taken) for taken in seconds.values())
        told = {
            "what": name,
            "engine": asked.engine,
            "policies": asked.num_envs,
            "engine_2_threads_s": round(own, 4),
            f"cluster_{asked.workers}_workers_s": round(spread_time, 4),
            "ratio": round(own / spread_time, 3),
            "same": same,
            "kB_there": round((cluster.sent - before[0]) / (repeats + 1) / 1e3, 1),
            "kB_back": round((cluster.received - before[1]) / (repeats + 1) / 1e3, 1),
        }
        print(json.dumps(told), flush=True)
    return 0 if same else 1


def equal(ours: Any, theirs: Any) -> bool:
    """Whether two trees of arrays are the same to the bit."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
        for a, b in pairs
    )


if __name__ == "__main__":
    sys.exit(main())
