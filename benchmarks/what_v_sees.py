"""How well V(θ) ranks policies that it has not seen, by what it sees of them.

    python benchmarks/what_v_sees.py RUN [--num 4096] [--populations 1 2] [--seed 0]

Around the newest policy of RUN, of the Ant, populations are drawn with the paper's noise and rolled
out whole. V is fitted to one of them, or to several, in closed form; the rank correlation of what
it predicts with the returns of a further population is printed, a row for each way to see a policy.
Of six penalties and the evolution-strategies estimate each cell has what is best there.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from epvf.methods.epvf import MOST_SCOUTS
from epvf.policies.formats.registry import load_policy
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import perturb
from epvf.tasks import make
from epvf.tasks.base import explorer_of
from epvf.training.prepare import scout_steps
from epvf.training.steps import visited_by
from epvf.value.factory import make_value
from epvf.value.linear_fit import es_line, ridge_line
from epvf.value.representations import RepresentationConfig
from epvf.value.targets import TargetConfig, spearman, transform
from epvf.value.v_theta import ValueConfig, ValueFunction

NOISE = PerturbationConfig()
TARGETS = TargetConfig("centred_ranks")
LINEAR = ValueConfig(hidden_sizes=(), inputs="standardised", zero_init=True)
LANDMARKS = RepresentationConfig().num_landmarks
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def rows(states: tuple[int, ...]) -> dict[str, RepresentationConfig]:
    """What V sees, by what the row is called."""
    found = {"weights": RepresentationConfig("raw")}
    found["actions, linear, 64 visited"] = RepresentationConfig(
        "probing", num_probing_states=64, probing_init="visited"
    )
    for init, num in [*(("visited", n) for n in states), ("normal", 64), ("uniform", 64)]:
        found[f"actions, kernel, {num} {init}"] = RepresentationConfig(
            "kernel", num_probing_states=num, probing_init=init
        )
    return found


class Population(NamedTuple):
    """Policies `[N, P]` and their returns `[N]`."""

    thetas: jax.Array
    returns: jax.Array

    @property
    def valid(self) -> jax.Array:
        """Which returns count."""
        return jnp.isfinite(self.returns)


def ranking(value: ValueFunction, params: Any, known: Population, fresh: Population) -> float:
    """Rank correlation on `fresh` of V fitted to `known`, with the best of the penalties."""
    centre = known.thetas.mean(axis=0)[None]
    see = jax.jit(lambda thetas: value.features(params, thetas, value.frame(centre)))
    features, others = see(known.thetas), see(fresh.thetas)
    targets = transform(TARGETS, known.returns, known.valid)
    lines = [ridge_line(features, targets, known.valid, penalty) for penalty in PENALTIES]
    lines.append(es_line(features, targets, known.valid))
    found = [spearman(others @ s + i, fresh.returns, fresh.valid) for s, i in lines]
    return max(map(float, found))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=4096)
    parser.add_argument("--populations", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--states", type=int, nargs="*", default=[16, 64, 200])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    saved, task = load_policy(asked.run / "policies" / "last.safetensors"), make("ant")
    policy, evaluate = saved.policy, task.evaluator(saved.policy)
    noise_key, other_key = jax.random.split(jax.random.key(asked.seed))
    rollout_key, states_key, init_key = jax.random.split(other_key, 3)

    def population(key: jax.Array) -> Population:
        thetas = perturb(NOISE, key, jnp.asarray(saved.theta)[None], asked.num)
        return Population(thetas, jnp.asarray(evaluate(rollout_key, np.asarray(thetas)).returns))

    *known, fresh = map(population, jax.random.split(noise_key, max(asked.populations) + 1))
    print(f"return {fresh.returns.mean():.1f}, deviation {fresh.returns.std():.1f}")
    scout = explorer_of(task, policy, scout_steps(task.spec))
    scouts = np.asarray(known[0].thetas[:MOST_SCOUTS])
    visited = jnp.asarray(visited_by(scout, rollout_key, scouts))
    for name, config in rows(tuple(asked.states)).items():
        value = make_value(policy, LINEAR, config, NOISE)
        cells = []
        for count in asked.populations:
            pooled = Population(*map(jnp.concatenate, zip(*known[:count], strict=True)))
            landmarks = pooled.thetas[:: max(1, len(pooled.thetas) // LANDMARKS)][:LANDMARKS]
            params = value.refresh(value.init(init_key), states_key, landmarks, visited)
            cells.append(ranking(value, params, pooled, fresh))
        print(f"{name:32}", *(f"{cell:.3f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
