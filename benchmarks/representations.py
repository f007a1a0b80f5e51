"""What each representation of a policy costs the learner.

    python benchmarks/representations.py [--batch-size 1024] [--repeats 7] [--json]

A cost is one step of V (loss, gradient, Adam) on the paper's Ant policy, 34-64-64-8, with V an MLP
of 256-256, as `train` runs it. All candidates take turns, so that each sees the same machine; the
medians over the turns and their ratios to `raw` are printed. `epvf bench ant --representation NAME`
tells where the time of one of them goes.
"""

import argparse
import json
from typing import Any

import jax
import numpy as np

from epvf.bench.learning import take_turns, update_calls, with_num_envs
from epvf.config.presets import preset
from epvf.config.schema import replace
from epvf.methods.base import Parts
from epvf.methods.epvf import Learner, build
from epvf.tasks.base import TaskSpec
from epvf.training.prepare import make_policy

STEPS = 3
"""Steps of V in one call, as K in training: the first alone pays for fresh memory."""

CANDIDATES: dict[str, dict[str, Any]] = {
    "raw": {"name": "raw"},
    "probing": {"name": "probing"},
    "probing+raw": {"name": "probing+raw"},
    "unf": {"name": "unf"},
    "unf+raw": {"name": "unf+raw"},
    "unf+raw, all axes": {"name": "unf+raw", "unf_permutable": "all"},
    "unf+raw, signs": {"name": "unf+raw", "unf_sign_symmetry": True},
    "unf+raw, not in chunks": {"name": "unf+raw", "unf_chunk": 0},
}


def learner(representation: dict[str, Any], batch_size: int) -> Learner:
    """The learner of the paper's Ant with a representation."""
    delta = {f"representation.{name}": value for name, value in representation.items()}
    config = replace(preset("ant", "paper", "epvf"), delta | {"value_update.steps": STEPS})
    spec = TaskSpec("ant-sized", "jax", 34, 8, False, 1, True, True)
    config = with_num_envs(config, batch_size)
    return build(Parts(config, spec, make_policy(config, spec)))


def measure(batch_size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds a step, and ratios to `raw`."""
    calls = {
        name: update_calls(learner(delta, batch_size))[0] for name, delta in CANDIDATES.items()
    }
    seconds = take_turns(calls, repeats)
    raw = np.array(seconds["raw"])
    return {
        "device": jax.devices()[0].device_kind,
        "batch_size": batch_size,
        "repeats": repeats,
        "step_ms": {n: 1e3 * float(np.median(s)) / STEPS for n, s in seconds.items()},
        "ratio": {n: float(np.median(np.array(s) / raw)) for n, s in seconds.items()},
    }


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    result = measure(asked.batch_size, asked.repeats)
    if asked.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['device']}, batch {asked.batch_size}, one step of V:")
    for name, milliseconds in result["step_ms"].items():
        print(f"  {name:24} {milliseconds:8.1f} ms  {result['ratio'][name]:5.2f} x raw")


if __name__ == "__main__":
    main()
