"""What V learned from a zoo is good for: ranking what it has not seen, and improving policies.

    python benchmarks/zoo.py ZOO --held-out TEXT ... --out FILE [--policies 5] [--budget 1024]

V is learned from all sources but those that contain one of the texts. Policies of these are ranked,
beside the nearest neighbour and ridge regression, by the returns that the zoo has of them; a few of
middling return are then improved by V and, with the same episodes, by evolution strategies.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from epvf.files import write_json
from epvf.runtime import startup
from epvf.training.offline import OfflineConfig
from epvf.zoo import fit, improve, rank
from epvf.zoo.predictors import load_predictor
from epvf.zoo.rollouts import Roller
from epvf.zoo.store import Zoo, select


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--held-out", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--policies", type=int, default=5)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--most", type=int, default=fit.MOST)
    parser.add_argument("--members", type=int, default=OfflineConfig().members)
    parser.add_argument("--epochs", type=int, default=OfflineConfig().epochs)
    parser.add_argument("--representation", default=OfflineConfig().representation)
    parser.add_argument("--truth", type=int, default=256, help="episodes of the final comparison")
    asked = parser.parse_args()
    startup.use_compilation_cache()
    zoo = Zoo.open(asked.zoo)
    entries = [entry for entry in zoo.entries() if entry.num > 5 or entry.noise is None]
    kinds = [entry.policy for entry in entries]
    policy = max(set(kinds), key=kinds.count)
    entries = select(entries, architecture=policy.describe())
    config = OfflineConfig(
        members=asked.members, representation=asked.representation, epochs=asked.epochs
    )
    tested = {text: select(entries, source=text) for text in asked.held_out}
    others = [one for one in entries if not any(one in some for some in tested.values())]
    value = asked.out.with_suffix(".safetensors")
    result = fit.fit(zoo, others, config, asked.most, None, value)
    predictor = load_predictor(value)
    result["representation"] = asked.representation
    result["sources"] = {
        text: rank.agreement(ranked, ranked.returns)
        for text, some in tested.items()
        for ranked in [rank.rank(zoo, some, predictor)]
    }
    print(json.dumps(result, indent=1), file=sys.stderr, flush=True)
    write_json(asked.out, result)
    result["improved"] = []
    rows = zoo.rows([one for some in tested.values() for one in some])
    known = np.flatnonzero(np.isfinite(rows.returns))
    best = rows.returns[known].max()
    levels = np.linspace(0.1, 0.6, asked.policies) if asked.policies else []
    origin = entries[0].origin
    for number, level in enumerate(levels):
        theta = rows.thetas[known[np.argmin(np.abs(rows.returns[known] - level * best))]]
        judge = Roller(
            origin.task, policy, episode_length=origin.episode_length, seed=1000 + number
        )
        before = judge(theta[None], asked.truth)[0]
        one = {"policy": number, "before": float(before.mean())}
        for method in ("value", "es"):
            roll = Roller(
                origin.task,
                policy,
                episode_length=origin.episode_length,
                seed=number,
                made=judge.task,
            )
            if method == "value":
                found = improve.climb(predictor, theta, roll, asked.budget)
            else:
                scale = improve.noise_scale(predictor, theta)
                found = improve.evolve(scale, theta, roll, asked.budget, number)
            after = judge(found.theta[None], asked.truth)[0] if found.better else before
            one[method] = {
                "better": bool(found.better),
                "gain": float(after.mean() - before.mean()),
                "episodes": roll.episodes,
            }
        print(json.dumps(one), file=sys.stderr, flush=True)
        result["improved"].append(one)
        result["value_less_es"] = interval(result["improved"])
        write_json(asked.out, result)
    write_json(asked.out, result)


def interval(improved: list[dict[str, Any]]) -> dict[str, float]:
    """How much more V gains than evolution strategies: the mean, and its 95 % interval by t."""
    more = np.array([one["value"]["gain"] - one["es"]["gain"] for one in improved])
    half = np.nan
    if len(more) > 1:
        half = stats.t.ppf(0.975, len(more) - 1) * more.std(ddof=1) / np.sqrt(len(more))
    return {"mean": more.mean(), "low": more.mean() - half, "high": more.mean() + half}


if __name__ == "__main__":
    main()
