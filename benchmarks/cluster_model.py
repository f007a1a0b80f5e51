"""What a cluster costs beyond its rollouts, and what a lost worker does, beside a model of both.

    python benchmarks/cluster_model.py [--workers 1 2 4 8] [--seconds 0.004] [--losses 10]

Policies that do nothing but wait, so that a machine with few cores can play many workers. Of each
number of workers: the median seconds of a population, undisturbed; with one part that takes ten
times as long; and with a worker that is killed at a random moment, and how long that one's place
stays empty. Beside them what the model says: N t / W + 4 W m, and of a loss

    f T + min(r / (W - 1), (r + s) / W)      r = (1 - f) W T + half a part

for one at fraction f of a population that takes T: half a part is computed again, and what is left
is done by the others, until after s seconds another worker is there. Prints a line of JSON a number
of workers.
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
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple


def wait(common: Any, part: tuple[int, float]) -> int:
    """A part's rows, on a worker."""
    time.sleep(part[1])
    return os.getpid()


class Loss(NamedTuple):
    """Of a worker.

    Attributes:
        fraction: of the population that was done.
        seconds: that this took in all.
        replaced: seconds until another worker was there.
    """

    fraction: float
    seconds: float
    replaced: float


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

    def disturbed(self, fraction: float) -> "Loss":
        """What happens to a population of which a worker is killed meanwhile."""
        lost = random.choice(self.gather())
        delay = fraction * sum(self._parts) / self.workers
        killing = threading.Timer(delay, partial(os.kill, lost, signal.SIGKILL))
        killing.start()
        begin = time.perf_counter()
        seconds = self.population()
        killing.join()
        self.gather()
        return Loss(fraction, seconds, time.perf_counter() - begin - delay)

    def model(self, message: float, loss: "Loss | None" = None) -> float:
        """Seconds that a population should take, `message` of them for each part."""
        work, workers = sum(self._parts), self.workers
        messages = len(self._parts) * message
        if loss is None:
            return work / workers + messages
        left = (1.0 - loss.fraction) * work + self._parts[0] / 2.0
        others = left / (workers - 1) if workers > 1 else float("inf")
        until = min(others, (left + loss.replaced) / workers)
        return loss.fraction * work / workers + until + messages

    def _done(self, parts: Sequence[float]) -> list[int]:
        pids: list[int] = self.cluster.share_out(wait, self._common, list(enumerate(parts)))
        return pids


def median(taken: Iterable[float]) -> float | None:
    """Rounded; none of nothing."""
    seconds = list(taken)
    return round(statistics.median(seconds), 3) if seconds else None


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
        calm = [crew.population() for _ in range(asked.repeats)]
        slow = [crew.population(slow=True) for _ in range(asked.repeats)]
        lost = [crew.disturbed(chance.uniform(0.1, 0.9)) for _ in range(asked.losses)]
        told = {
            "workers": workers,
            "model_s": round(crew.model(asked.message), 3),
            "measured_s": median(calm),
            "with_a_slow_part_s": median(slow),
            "model_with_a_loss_s": median(crew.model(asked.message, loss) for loss in lost),
            "with_a_loss_s": median(loss.seconds for loss in lost),
            "replaced_after_s": median(loss.replaced for loss in lost),
        }
        print(json.dumps(told), flush=True)
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
