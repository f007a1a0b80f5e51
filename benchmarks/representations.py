"""What each representation of a policy costs the learner, and where the UNF spends its time.

    python benchmarks/representations.py [--batch-size 1024] [--repeats 7] [--json]

A learner's cost is one step of V (loss, gradient, Adam) on the paper's Ant policy, 34-64-64-8,
with V an MLP of 256-256, as `train` runs it. All candidates take turns, so that each sees the
same machine; the medians over the turns and their ratios to `raw` are printed.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.config import Config, replace
from epvf.learner import Learner, LearnerState
from epvf.policy import Policy
from epvf.representations import RepresentationConfig, Unf
from epvf.tasks.base import TaskSpec
from epvf.train import make_learner
from epvf.types import Evaluation
from epvf.weight_space import EquivariantLinear, rectify

LAYER_SIZES = (34, 64, 64, 8)
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
    delta: dict[str, Any] = {
        "policy.hidden_sizes": list(LAYER_SIZES[1:-1]),
        "value.hidden_sizes": [256, 256],
        "num_envs": batch_size,
        "buffer.size": batch_size,
        "value_update.batch_size": batch_size,
        "value_update.steps": STEPS,
    }
    delta |= {f"representation.{name}": value for name, value in representation.items()}
    spec = TaskSpec("ant-sized", "jax", LAYER_SIZES[0], LAYER_SIZES[-1], False, 1, True, True)
    return make_learner(replace(Config(), delta), spec)


def value_step(representation: dict[str, Any], batch_size: int) -> Callable[[], Any]:
    """A compiled call of `STEPS` steps of V on a full buffer, batched over one seed."""
    algorithm = learner(representation, batch_size)

    def fill(key: jax.Array) -> LearnerState:
        state = algorithm.init_state(key)
        thetas = algorithm.propose(state, jnp.zeros((), jnp.int32))
        returns = jax.random.normal(key, (batch_size,))
        evaluation = Evaluation(returns, jnp.ones(batch_size, jnp.int32))
        rows = state.buffer._replace(
            thetas=thetas, returns=evaluation.returns, valid=jnp.ones(batch_size, jnp.bool_)
        )
        return state._replace(buffer=rows)

    def update(state: LearnerState, key: jax.Array) -> tuple[Any, jax.Array]:
        frame = algorithm.value.frame(state.centres)
        after, loss = algorithm.update_value(state, key, jnp.asarray(batch_size), frame)
        return after.value, loss

    keys = jax.random.split(jax.random.key(0), 1)
    states = jax.jit(jax.vmap(fill))(keys)
    compiled = jax.jit(jax.vmap(update))
    return lambda: compiled(states, keys)


def stages(config: RepresentationConfig, batch_size: int) -> dict[str, Callable[[], Any]]:
    """Compiled calls of the UNF's stages, forward and backward, in the chunks it works in."""
    policy = Policy(LAYER_SIZES)
    unf = Unf(policy, config)
    params = unf.init(jax.random.key(0))
    chunk = min(unf.chunk, batch_size) or batch_size
    count = batch_size // chunk
    thetas = 0.1 * jax.random.normal(jax.random.key(1), (count, chunk, policy.num_parameters))
    calls: dict[str, Callable[[], Any]] = {
        "read": _timed(lambda p, x: unf.tensors(p, config.unf_scale * x), params, thetas)
    }
    for i, layer in enumerate(unf.network.layers):
        inputs = [
            jax.random.normal(jax.random.key(i), (count, shape[0], chunk, *shape[1:]))
            for shape in layer.in_shapes
        ]
        own = params["network"][f"layer{i}"]
        calls[f"layer {i + 1}"] = _timed(partial(_rectified, layer), own, inputs, i > 0)
    return calls


def _rectified(layer: EquivariantLinear, params: Any, tensors: Any) -> list[jax.Array]:
    return [rectify(y) for y in layer(params, tensors)]


def _timed(
    function: Callable[[Any, Any], Any], params: Any, inputs: Any, to_inputs: bool = False
) -> Callable[[], Any]:
    """Value and gradient of a function of chunks, with respect to inputs too where they learn."""

    def loss(params: Any, chunk: Any) -> jax.Array:
        means = [y.mean(axis=tuple(range(2, y.ndim))).sum() for y in function(params, chunk)]
        return jnp.stack(means).sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1) if to_inputs else 0)

    def step(total: Any, chunk: Any) -> tuple[Any, None]:
        results = gradient(params, chunk)
        return jax.tree.map(jnp.add, total, results), None

    def run(inputs: Any) -> Any:
        first = jax.tree.map(lambda x: x[0], inputs)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape), jax.eval_shape(gradient, params, first))
        return jax.lax.scan(step, zero, inputs)[0]

    compiled = jax.jit(run)
    return lambda: compiled(inputs)


def take_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, every call once a turn, after one turn that compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(batch_size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds a step, ratios to `raw`, and milliseconds of the UNF's stages."""
    calls = {name: value_step(delta, batch_size) for name, delta in CANDIDATES.items()}
    seconds = take_turns(calls, repeats)
    config = RepresentationConfig()
    parts = take_turns(stages(config, batch_size), repeats)
    raw = np.array(seconds["raw"])
    return {
        "device": jax.devices()[0].device_kind,
        "policy": LAYER_SIZES,
        "batch_size": batch_size,
        "repeats": repeats,
        "step_ms": {n: 1e3 * float(np.median(s)) / STEPS for n, s in seconds.items()},
        "ratio": {n: float(np.median(np.array(s) / raw)) for n, s in seconds.items()},
        "unf_stage_ms": {n: 1e3 * float(np.median(s)) for n, s in parts.items()},
        "unf_terms": Unf(Policy(LAYER_SIZES), config).network.layers[0].num_terms,
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
    print(f"stages of the UNF ({result['unf_terms']} basis terms a layer):")
    for name, milliseconds in result["unf_stage_ms"].items():
        print(f"  {name:24} {milliseconds:8.1f} ms")


if __name__ == "__main__":
    main()
