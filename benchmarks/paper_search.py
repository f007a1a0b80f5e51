"""What the paper leaves open, searched: trials of V(θ) at its full size.

    python benchmarks/paper_search.py OUT.csv [--seconds 540] [--workers 5] [--seeds 4]
    python benchmarks/paper_search.py OUT.csv --task cartpole --num-envs 8 --workers 1 --seconds 900

Every trial is the Ant's preset `paper` (4,096 environments; noise, clipping, buffer, batch and the
policy's schedule are the paper's words) with other values for what the paper does not say: V's
size, rate, optimiser and decay, K, L, the scaling of V's inputs and targets, the policies' size,
activation, output and start. It ends at `--env-steps` of its seeds, which run side by side, or at
`--prune-at` if the mean perturbed return is below `--prune-below` there.

CartPole's is likewise, with N(0, 1) noise and batches of 16 from a buffer of 1e5, for 3,000
iterations; nothing is pruned, and rungs are iterations.

First the trials of `FIRST`, one change each from one of two bases, then changes of the best trial
so far, one or two values at a time, until the time is over. One row a trial and seed: perturbed
return at each rung, unperturbed return at the end, rank correlation of V and returns, seconds.
Trials that OUT.csv already has are not run again.
"""

import argparse
import csv
import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUNGS = {
    "ant": {f"at_{m}M": m * 1_000_000 for m in (25, 50, 100, 150, 300, 500, 1000, 1600)},
    "cartpole": {f"at_{i}": i for i in (300, 1000, 2000, 3000)},
}
"""Where returns are noted, by the task: env steps, or iterations."""
COUNTED = {"ant": "steps/env", "cartpole": "steps/update"}
COLUMNS = (
    "trial", "options", "seed", "env_steps", "perturbed", "unperturbed",
    "episode_length", "spearman", "seconds", "ended",
)  # fmt: skip
"""And the rungs."""

Options = dict[str, Any]

BEFORE: dict[str, Options] = {
    "ant": {
        "policy.hidden_sizes": (64, 64),
        "value.activation": "relu",
        "value.inputs": "raw",
        "target.transform": "raw",
    },
    "cartpole": {
        "policy.init_scale": 1.0,
        "policy_update.learning_rate": 1e-3,
        "policy_update.final_learning_rate": None,
    },
}
"""The preset as it was before it became the best trial."""

RAW: Options = {}
SCALED: Options = {"value.inputs": "standardised", "target.transform": "standardised"}

CHOICES: dict[str, tuple[Any, ...]] = {
    "value.inputs": ("raw", "standardised"),
    "value.input_scale": (0.03, 1.0, 30.0),
    "value.hidden_sizes": ((), (64, 64), (256, 256), (512, 512), (256, 256, 256)),
    "value.activation": ("relu", "tanh", "elu"),
    "value.layer_norm": (False, True),
    "value.zero_init": (False, True),
    "target.transform": ("raw", "standardised", "centred_ranks"),
    "value_update.steps": (1, 3, 10, 30, 100),
    "value_update.learning_rate": (1e-4, 3e-4, 1e-3, 3e-3),
    "value_update.optimizer": ("adam", "sgd"),
    "value_update.weight_decay": (0.0, 0.1, 1.0),
    "policy_update.steps": (1, 3, 10, 30, 100),
    "policy_update.optimizer": ("adam", "sgd"),
    "policy.hidden_sizes": ((), (32,), (32, 32), (64, 64), (128, 128)),
    "policy.activation": ("tanh", "relu", "elu"),
    "policy.output": ("clip", "tanh"),
    "policy.init_scale": (0.1, 0.3, 1.0),
    "schedule_iterations": (120, 488, 2000),
}
"""What the paper does not say."""

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
POLE: tuple[Options, ...] = (
    *(RAW | {"policy_update.learning_rate": rate} for rate in RATES),
    *(SCALED | {"policy_update.learning_rate": rate} for rate in RATES),
    *(
        {"value.activation": "tanh", "policy_update.learning_rate": 1e-2} | change
        for change in (
            RAW,
            {"target.transform": "standardised"},
            {"value_update.learning_rate": 1e-2},
            {"value_update.steps": 30},
            {"policy_update.steps": 1},
            {"policy.activation": "relu"},
            {"value.hidden_sizes": (256, 256)},
            {"target.transform": "scaled", "target.scale": 500.0},
            {"policy.hidden_sizes": ()},
        )
    ),
)
"""Trials of CartPole to begin with."""

FIRST: tuple[Options, ...] = (
    RAW,
    SCALED,
    *(
        SCALED | change
        for change in (
            {"policy_update.steps": 1},
            {"policy_update.steps": 3},
            {"policy_update.steps": 30},
            {"policy_update.steps": 100},
            {"value_update.steps": 1},
            {"value_update.steps": 3},
            {"value_update.steps": 30},
            {"value_update.learning_rate": 1e-4},
            {"value_update.learning_rate": 3e-4},
            {"value_update.learning_rate": 3e-3},
            {"value_update.weight_decay": 1.0},
            {"value.hidden_sizes": ()},
            {"value.hidden_sizes": (64, 64)},
            {"value.hidden_sizes": (512, 512)},
            {"value.activation": "tanh"},
            {"value.layer_norm": True},
            {"target.transform": "centred_ranks"},
            {"policy.hidden_sizes": ()},
            {"policy.hidden_sizes": (32,)},
            {"policy.hidden_sizes": (32, 32)},
            {"policy.hidden_sizes": (128, 128)},
            {"policy.activation": "relu"},
            {"policy.output": "tanh"},
            {"policy.init_scale": 0.3},
            {"schedule_iterations": 2000},
        )
    ),
    *(
        RAW | change
        for change in (
            {"target.transform": "standardised"},
            {"value.inputs": "standardised"},
            {"value.input_scale": 0.03},
            {"value_update.steps": 30},
            {"policy_update.steps": 30},
            {"value_update.learning_rate": 3e-3},
        )
    ),
)
"""Trials to begin with."""


@dataclass
class Search:
    """What was found so far, and what is to be tried next."""

    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    task: str = "ant"
    draws: random.Random = field(default_factory=lambda: random.Random(0))
    asked: set[str] = field(default_factory=set)

    def load(self) -> None:
        if self.out.exists():
            with self.out.open() as file:
                self.rows = list(csv.DictReader(file))
            self.asked = {row["options"] for row in self.rows}

    def trials(self) -> Iterator[Options]:
        """Options of trials that nobody ran, for ever."""
        waiting = list(FIRST if self.task == "ant" else POLE)
        while True:
            options = waiting.pop(0) if waiting else self.changed(self.best())
            if named(options) not in self.asked:
                self.asked.add(named(options))
                yield options

    def best(self) -> Options:
        """One of the three best trials so far."""
        means: dict[str, list[float]] = {}
        for row in self.rows:
            means.setdefault(row["options"], []).append(float(row["perturbed"]))
        ordered = sorted(means, key=lambda name: -sum(means[name]) / len(means[name]))
        chosen = self.draws.choice(ordered[:3]) if ordered else "{}"
        return {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(chosen).items()}

    def changed(self, options: Options) -> Options:
        """The same with one or two other values."""
        new = dict(options)
        for name in self.draws.sample(sorted(CHOICES), self.draws.choice((1, 2))):
            new[name] = self.draws.choice(CHOICES[name])
        return new

    def add(self, rows: list[dict[str, Any]]) -> None:
        made = self.out.exists()
        self.rows += rows
        with self.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, (*COLUMNS, *RUNGS[self.task]))
            if not made:
                writer.writeheader()
            writer.writerows(rows)


def named(options: Options) -> str:
    """Options as they stand in the file."""
    return json.dumps(options, sort_keys=True)


def run(options: Options, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One trial, a row a seed."""
    from epvf.config.presets import preset
    from epvf.training.loop import iterate
    from epvf.training.prepare import prepare

    begin = time.perf_counter()
    general = {
        "num_seeds": asked.seeds,
        "seed": asked.seed,
        "eval.interval": asked.eval_interval,
        "num_envs": asked.num_envs,
    }
    if asked.task == "ant":
        general |= {
            "env_steps": asked.env_steps,
            "task.backend": asked.backend,
            "buffer.size": asked.num_envs,
            "value_update.batch_size": asked.num_envs,
        }
    config = preset(asked.task, "paper", "epvf").replace(BEFORE[asked.task] | general | options)
    seeds = range(asked.seed, asked.seed + asked.seeds)
    curves: dict[int, list[tuple[int, float]]] = {seed: [] for seed in seeds}
    last: dict[int, dict[str, Any]] = {seed: {} for seed in seeds}
    ended = "budget"
    try:
        for report in iterate(prepare(config)):
            for record in report.records:
                seed = record.get("seed", asked.seed)
                done = record[COUNTED[asked.task]]
                curves[seed].append((done, record["rollout/episode_return"]))
                kept = {k: v for k, v in record.items() if v is not None}
                last[seed] |= kept
            steps = min(curve[-1][0] for curve in curves.values())
            mean = sum(curve[-1][1] for curve in curves.values()) / len(curves)
            pruned = asked.task == "ant"
            if pruned and asked.prune_at <= steps < asked.env_steps and mean < asked.prune_below:
                ended = "pruned"
                break
            if time.time() > asked.deadline:
                ended = "time"
                break
    except Exception as error:
        ended = f"{type(error).__name__}: {str(error)[:120]}"
    return [
        {
            "trial": "",
            "options": named(options),
            "seed": seed,
            "env_steps": last[seed].get("steps/env", 0),
            **{name: at(curves[seed], rung) for name, rung in RUNGS[asked.task].items()},
            "perturbed": round(recent(curves[seed]), 2),
            "unperturbed": shown(last[seed].get("eval/episode_return")),
            "episode_length": shown(last[seed].get("rollout/episode_length")),
            "spearman": shown(last[seed].get("value/spearman")),
            "seconds": round(time.perf_counter() - begin, 1),
            "ended": ended,
        }
        for seed in seeds
    ]


def at(curve: list[tuple[int, float]], steps: int) -> Any:
    """The return when so much was done; empty if it was not."""
    return next((round(value, 2) for done, value in curve if done >= steps), "")


def recent(curve: list[tuple[int, float]]) -> float:
    """The mean return of the last three populations."""
    values = [value for _, value in curve[-3:]]
    return sum(values) / len(values) if values else 0.0


def shown(value: Any) -> Any:
    return "" if value is None else round(float(value), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", choices=sorted(RUNGS), default="ant")
    parser.add_argument("--seconds", type=float, default=540.0, help="when to stop")
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env-steps", type=int, default=150_000_000)
    parser.add_argument("--num-envs", type=int, default=4096)
    parser.add_argument("--eval-interval", type=int, default=12)
    parser.add_argument("--prune-at", type=int, default=75_000_000)
    parser.add_argument("--prune-below", type=float, default=8.0)
    parser.add_argument("--backend", default="lanes")
    parser.add_argument("--only", action="append", help="JSON of a trial's options, no others")
    asked = parser.parse_args()
    asked.deadline = time.time() + asked.seconds
    search = Search(asked.out, task=asked.task)
    search.load()
    trials = map(json.loads, asked.only) if asked.only else search.trials()
    number = len({row["options"] for row in search.rows})
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.workers, mp_context=context) as pool:
        running: set[Future[Any]] = set()
        while time.time() < asked.deadline or running:
            while len(running) < asked.workers and time.time() < asked.deadline - 15:
                if (options := next(trials, None)) is None:
                    break
                running.add(pool.submit(run, options, asked))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                number += 1
                rows = future.result()
                search.add([row | {"trial": number} for row in rows])
                mean = sum(row["perturbed"] for row in rows) / len(rows)
                told = rows[0]
                print(
                    f"{number:3d} {mean:7.1f} {[row['perturbed'] for row in rows]} "
                    f"unperturbed {[row['unperturbed'] for row in rows]} "
                    f"{told['env_steps'] / 1e6:.0f}M {told['seconds']} s {told['ended']} "
                    f"{told['options']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
