"""How well V(θ) ranks policies that it has not seen, by what it sees of them.

    python benchmarks/what_v_sees.py RUN [--num 4096] [--populations 1 2] [--seed 0]

Around the newest policy of RUN, of the Ant, populations are drawn with the paper's noise and rolled
out whole. V is fitted to one of them, or to several, in closed form; the rank correlation of what
it predicts with the returns of a further population is printed, a row for each way to see a policy.
Of six penalties each cell has the one that is best there.
"""

import argparse
from pathlib import Path

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
from epvf.value.v_theta import ValueConfig

NOISE = PerturbationConfig()
TARGETS = TargetConfig("centred_ranks")
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=4096)
    parser.add_argument("--populations", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--states", type=int, nargs="*", default=[16, 64, 200])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    loaded = load_policy(asked.run / "policies" / "last.safetensors")
    policy, theta = loaded.policy, jnp.asarray(loaded.theta)
    task = make("ant")
    evaluate = task.evaluator(policy)
    keys = jax.random.split(jax.random.key(asked.seed), max(asked.populations) + 4)
    drawn = [perturb(NOISE, key, theta[None], asked.num) for key in keys[:-3]]
    told = [evaluate(key, np.asarray(thetas)) for key, thetas in zip(keys, drawn, strict=False)]
    returns = [jnp.asarray(evaluation.returns) for evaluation in told]
    print(f"return {np.mean(returns[0]):.1f}, deviation {np.std(returns[0]):.1f}")
    scout = explorer_of(task, policy, scout_steps(task.spec))
    visited = jnp.asarray(visited_by(scout, keys[-1], np.asarray(drawn[0][:MOST_SCOUTS])))
    fresh, known = drawn[-1], returns[-1]
    for name, config in rows(tuple(asked.states)).items():
        own = ValueConfig(hidden_sizes=(), inputs="standardised", zero_init=True)
        value = make_value(policy, own, config, NOISE)
        frame = value.frame(theta[None])
        cells = []
        for count in asked.populations:
            thetas = jnp.concatenate(drawn[:count])
            landmarks = thetas[:: max(1, len(thetas) // 512)][:512]
            params = value.refresh(value.init(keys[-2]), keys[-3], landmarks, visited)
            seen = jax.jit(lambda x, p=params, v=value, f=frame: v.features(p, x, f))
            features, others = seen(thetas), seen(fresh)
            targets = transform(
                TARGETS, jnp.concatenate(returns[:count]), jnp.ones(len(thetas), bool)
            )
            valid = jnp.ones(len(thetas), bool)
            lines = [ridge_line(features, targets, valid, penalty) for penalty in PENALTIES]
            if config.name == "raw":
                lines.append(es_line(features, targets, valid))
            every = jnp.ones(len(fresh), bool)
            cells.append(max(float(spearman(others @ s + i, known, every)) for s, i in lines))
        print(f"{name:32}", *(f"{cell:.3f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
