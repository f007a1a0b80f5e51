"""What a cluster costs beyond its rollouts, and what a lost worker does, beside a model of both.

    python benchmarks/cluster_model.py [--workers 1 2 4 8] [--seconds 0.004] [--losses 10]

Policies that do nothing but wait, so that a machine with few cores can play many workers. Of each
number of workers: the median seconds of a population, undisturbed; with one part in 32 that takes
ten times as long; and with a worker that is killed at a random moment. Beside them what the model
says, N t / W + 4 W m. Prints a line of JSON a number of workers.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any


def wait(common: Any, part: tuple[int, float]) -> int:
    """A part's rows, on a worker."""
    time.sleep(part[1])
    return os.getpid()


class Crew:
    """Workers that wait, and how long populations take them."""

    def __init__(self, workers: int, num: int, seconds: float) -> None:
        from epvf.tasks.adapters.cluster import PARTS, Engine, connect

        self.workers, self._common = workers, (Engine("ant", "native", 1, 1),)
        self.cluster = connect(f"local:{workers}", 1)
        self._parts = [num * seconds / (PARTS * workers)] * (PARTS * workers)

    def gather(self) -> list[int]:
        """Waits until all workers are there; their process ids."""
        while True:
            there = set(self._done([0.05] * (4 * self.workers)))
            if len(there) >= self.workers:
                return sorted(there)

    def population(self, slow: bool = False) -> float:
        """Seconds that one takes."""
        parts = list(self._parts)
        if slow:
            parts[0] *= 10
        begin = time.perf_counter()
        self._done(parts)
        return time.perf_counter() - begin

    def disturbed(self, chance: random.Random) -> float:
        """Seconds that a population takes of which a worker is killed meanwhile."""
        lost = chance.choice(self.gather())
        delay = chance.uniform(0.1, 0.9) * sum(self._parts) / self.workers
        killing = threading.Timer(delay, partial(os.kill, lost, signal.SIGKILL))
        killing.start()
        seconds = self.population()
        killing.join()
        return seconds

    def _done(self, parts: Sequence[float]) -> list[int]:
        pids: list[int] = self.cluster.share_out(wait, self._common, list(enumerate(parts)))
        return pids


def median(measure: Callable[[], float], repeats: int) -> float:
    """Of so many measurements, rounded; not a number if there are none."""
    taken = [measure() for _ in range(repeats)]
    return round(statistics.median(taken), 3) if taken else float("nan")


def main() -> int:
    """Measures; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--num-envs", type=int, default=1024)
    options.add_argument("--seconds", type=float, default=0.004, help="of a policy")
    options.add_argument("--message", type=float, default=0.002, help="m, seconds")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--losses", type=int, default=10)
    asked = options.parse_args()
    import ray

    chance = random.Random(0)
    for workers in asked.workers:
        crew = Crew(workers, asked.num_envs, asked.seconds)
        crew.gather()
        model = asked.num_envs * asked.seconds / workers + 4 * workers * asked.message
        told = {"workers": workers, "model_s": round(model, 3)}
        told["measured_s"] = median(crew.population, asked.repeats)
        told["with_a_slow_part_s"] = median(partial(crew.population, slow=True), asked.repeats)
        told["with_a_loss_s"] = median(partial(crew.disturbed, chance), asked.losses)
        print(json.dumps(told), flush=True)
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
