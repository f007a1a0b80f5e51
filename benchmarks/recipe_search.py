"""The recipe of V(s, θ), searched: changes of preset `tuned`, several seeds side by side.

    python benchmarks/recipe_search.py OUT.csv [--task ant] [--seconds 540] [--seeds 5]
    python benchmarks/recipe_search.py OUT.csv --only '{"num_envs": 128, "psvf.minibatches": 4}'

Trials of `CHANGES`, or those of `--only`. One row a trial and seed: env steps after which an
unperturbed policy first had `--solved`, unperturbed returns at each rung and at the end, seconds.
Trials that OUT.csv already has are not run again.
"""

import argparse
import csv
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from paper_search import named, shown

RUNGS = {f"at_{m}M": m * 1_000_000 for m in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)}
COLUMNS = ("task", "options", "seed", "solved_at", *RUNGS, "last", "env_steps", "seconds", "ended")

Options = dict[str, Any]

BEFORE: Options = {
    "num_envs": 1024,
    "psvf.hidden_sizes": (32, 32),
    "psvf.epochs": 1,
    "psvf.fraction": 0.75,
    "psvf.minibatches": 12,
    "psvf.noise": 0.4,
    "psvf.final_discount": None,
    "policy.last_layer_scale": 1.0,
    "iterations": 1526,
    "schedule_iterations": 1526,
}
"""The preset until November 2026."""

CHANGES: tuple[Options, ...] = (
    {},
    BEFORE,
    {"num_envs": 128, "psvf.minibatches": 4},
    {"num_envs": 512, "psvf.minibatches": 16},
    {"num_envs": 1024, "psvf.minibatches": 32},
    *({"psvf.epochs": epochs} for epochs in (1, 3)),
    *({"psvf.hidden_sizes": sizes} for sizes in ((32, 32), (128, 128))),
    *({"psvf.noise": noise} for noise in (0.3, 0.4, 0.6)),
    *({"psvf.final_noise": noise} for noise in (0.05, 0.2)),
    *({"psvf.divergence": most} for most in (0.01, 0.03, 0.04)),
    *({"psvf.gae_lambda": share} for share in (0.8, 0.95)),
    *({"psvf.discount": discount} for discount in (0.98, 0.995)),
    *({"psvf.final_discount": discount} for discount in (None, 0.998)),
    *({"policy.last_layer_scale": scale} for scale in (0.01, 0.3, 1.0)),
    *({"psvf.horizon": horizon} for horizon in (16, 64)),
    *({"psvf.minibatches": parts} for parts in (4, 16)),
    *({"psvf.learning_rate": rate} for rate in (5e-4, 2e-3)),
    *({"psvf.trust": trust} for trust in (0.1, 0.3)),
    *({"policy.hidden_sizes": sizes} for sizes in ((32, 32), (128, 128), (64,))),
    {"policy.activation": "elu"},
)
"""Trials, the preset as it is first."""


def run(options: Options, asked: argparse.Namespace) -> list[Options]:
    """One trial, a row a seed."""
    from epvf.config.presets import preset
    from epvf.training.loop import iterate
    from epvf.training.prepare import prepare

    general: Options = {
        "num_seeds": asked.seeds,
        "seed": asked.seed,
        "eval.interval": asked.eval_interval,
        "env_steps": asked.env_steps,
        "task.backend": asked.backend,
    }
    begin, ended = time.perf_counter(), "budget"
    curves: dict[int, list[tuple[int, float]]] = {
        seed: [] for seed in range(asked.seed, asked.seed + asked.seeds)
    }
    try:
        config = preset(asked.task, "tuned", "psvf").replace(general | options)
        for report in iterate(prepare(config)):
            for record in report.records:
                # not a number where nothing was measured
                if (value := record["eval/episode_return"]) == value:
                    curves[int(record.get("seed", asked.seed))].append(
                        (int(record["steps/env"]), float(value))
                    )
            if time.time() > asked.deadline:
                ended = "time"
                break
    except Exception as error:
        ended = f"{type(error).__name__}: {str(error)[:120]}"
    seconds = round(time.perf_counter() - begin, 1)
    return [
        {
            "task": asked.task,
            "options": named(options),
            "seed": seed,
            "solved_at": next((done for done, value in curve if value >= asked.solved), ""),
            **{name: shown(after(curve, rung)) for name, rung in RUNGS.items()},
            "last": shown(curve[-1][1] if curve else None),
            "env_steps": curve[-1][0] if curve else 0,
            "seconds": seconds,
            "ended": ended,
        }
        for seed, curve in curves.items()
    ]


def after(curve: list[tuple[int, float]], steps: int) -> float | None:
    """The first return that was measured after so many env steps; None: none was."""
    return next((value for done, value in curve if done >= steps), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="ant")
    parser.add_argument("--solved", type=float, default=850.0, help="return that is asked for")
    parser.add_argument("--seconds", type=float, default=540.0, help="when to stop")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env-steps", type=int, default=30_000_000)
    parser.add_argument("--eval-interval", type=int, default=80)
    parser.add_argument("--backend", default="lanes")
    parser.add_argument("--only", action="append", help="JSON of a trial's options, no others")
    asked = parser.parse_args()
    asked.deadline = time.time() + asked.seconds
    there = list(csv.DictReader(asked.out.open())) if asked.out.exists() else []
    known = {row["options"] for row in there if row["task"] == asked.task}
    trials = [json.loads(words) for words in asked.only] if asked.only else list(CHANGES)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.workers, mp_context=context) as pool:
        waiting = [pool.submit(run, one, asked) for one in trials if named(one) not in known]
        for future in as_completed(waiting):
            rows = future.result()
            if all(row["env_steps"] == 0 and row["ended"] == "time" for row in rows):
                continue  # its turn came when time was over
            add(asked.out, rows)
            solved = [row["solved_at"] and round(row["solved_at"] / 1e6, 1) for row in rows]
            print(solved, [row["last"] for row in rows], rows[0]["seconds"], rows[0]["ended"],
                  rows[0]["options"], flush=True)  # fmt: skip


def add(out: Path, rows: list[Options]) -> None:
    """Appends rows, with a header where there is none."""
    made = out.exists()
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not made:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
