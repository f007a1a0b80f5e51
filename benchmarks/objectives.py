"""What one V(s, θ) of several objectives gains against one for each: the Ant, the same env steps.

    python benchmarks/objectives.py OUT.csv [--objectives forward backward left right] [--seeds 3]

`shared`: one policy that is told the objective of each episode, trained on all of them. `apart`: a
policy for each objective, with its share of the env steps. `alone`: the same with all of them, so
with as many times more in total as there are objectives. Preset `tuned`; schedules end with the env
steps. A row an arm, objective and seed: the mean return of the unperturbed policy over episodes of
that objective, as training goes on.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.config.presets import preset
from epvf.tasks import ant, make
from epvf.tasks.starts import commanded
from epvf.training.loop import iterate
from epvf.training.prepare import prepare

COLUMNS = ("arm", "objective", "seed", "env_steps", "episode_return")
EPISODES = 20


def measured(names: tuple[str, ...], policy: Any, thetas: np.ndarray, backend: str) -> np.ndarray:
    """Returns `[objectives, seeds]` of unperturbed policies."""
    means = []
    for name in names:
        body = commanded(ant.towards((name,)), ant.OBJECTIVES[name])
        evaluate = make(body, backend).evaluator(policy)
        returns = evaluate(jax.random.key(1), np.repeat(thetas, EPISODES, axis=0)).returns
        means.append(np.asarray(returns).reshape(len(thetas), EPISODES).mean(axis=1))
    return np.asarray(means)


def train(arm: str, names: tuple[str, ...], env_steps: float, asked: Any) -> list[dict[str, Any]]:
    """One arm's run of all seeds, measured some ten times."""
    config = preset("ant+" + "+".join(names), "tuned", "psvf")
    each = config.num_envs * config.method.psvf.horizon
    iterations = round(env_steps / each)
    changes = {
        "task.backend": asked.backend,
        "num_seeds": asked.seeds,
        "iterations": iterations,
        "schedule_iterations": iterations,
        "eval.interval": iterations,
    }
    setup = prepare(config.replace(changes))
    search, rows, due = setup.search, [], 0.0
    centres = jax.jit(jax.vmap(search.centre))
    for report in iterate(setup, donate=True):
        done = report.state.iteration / iterations
        if done < min(due, 1.0):
            continue
        due = done + 0.1
        thetas = np.asarray(centres(report.state.learner), np.float32)
        for name, returns in zip(
            names, measured(names, setup.policy, thetas, asked.backend), strict=True
        ):
            for seed, value in enumerate(returns):
                steps = int(report.state.env_steps[seed])
                rows.append(dict(zip(COLUMNS, (arm, name, seed, steps, value), strict=True)))
    last = [row["episode_return"] for row in rows[-len(names) * asked.seeds :]]
    print(f"{arm} {' '.join(names)}: {jnp.asarray(last).round(0).tolist()}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--objectives", nargs="+", default=["forward", "backward", "left", "right"])
    parser.add_argument("--env-steps", type=float, default=12.5e6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backend", default="lanes")
    parser.add_argument("--arms", nargs="+", default=["shared", "apart", "alone"])
    asked = parser.parse_args()
    names = tuple(asked.objectives)
    share = asked.env_steps / len(names)
    runs = {
        "shared": [(names, asked.env_steps)],
        "apart": [((name,), share) for name in names],
        "alone": [((name,), asked.env_steps) for name in names],
    }
    with asked.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for arm in asked.arms:
            for among, env_steps in runs[arm]:
                for row in train(arm, among, env_steps, asked):
                    row["episode_return"] = round(float(row["episode_return"]), 2)
                    writer.writerow(row)
                file.flush()


if __name__ == "__main__":
    main()
