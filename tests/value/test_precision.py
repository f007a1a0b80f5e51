"""Which precision each product of matrices asks of a device; a CPU gives float32 to all."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.lax import DotAlgorithmPreset, Precision

from epvf.config.presets import preset
from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.training.loop import init_state
from epvf.training.prepare import prepare
from probes import FormulaTask, config_of, search_of

FULL = {Precision.HIGHEST, DotAlgorithmPreset.F32_F32_F32}


def precisions(function, *args) -> set:
    """What the products in a traced function ask for, those of inner functions included."""
    found: set[Any] = set()

    def look(jaxpr) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                asked = equation.params["precision"]
                found.update(asked if isinstance(asked, tuple) else (asked,))
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(inner):
                    look(getattr(inner, "jaxpr", inner))

    look(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def _is_jaxpr(value) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


@pytest.mark.parametrize(("name", "backend"), [("cartpole", "jax"), ("ant", "mjx")])
def test_physics_and_policies_are_float32_whatever_the_caller_allows(name, backend):
    spec = make(name, backend).spec
    sizes = (spec.observation_size, 8, spec.action_size)
    policy = Policy(sizes, output="argmax" if spec.discrete else "clip")
    evaluate = make(name, backend).evaluator(policy)
    thetas = jnp.zeros((3, policy.num_parameters))
    with jax.default_matmul_precision("bfloat16"):
        found = precisions(evaluate, jax.random.key(0), thetas)
    assert found
    assert found <= FULL


@pytest.mark.slow
def test_what_policies_did_is_computed_again_in_float32():
    setup = prepare(preset("cartpole", "debug", "psvf"), make("cartpole", "jax"))
    learner = setup.search
    state = jax.tree.map(lambda x: x[0], init_state(setup).learner)
    thetas = learner.propose(state, 0)
    assert setup.explore is not None
    segment = setup.explore(jax.random.key(0), thetas, state.envs)
    with jax.default_matmul_precision("bfloat16"):
        found = precisions(learner.learn, state, 0, thetas, segment)
    assert found
    assert found <= FULL


@pytest.mark.parametrize(
    ("precision", "asked"),
    [
        ("float32", FULL),
        ("tensorfloat32", {Precision.HIGH, DotAlgorithmPreset.TF32_TF32_F32}),
        ("bfloat16", {Precision.DEFAULT, DotAlgorithmPreset.BF16_BF16_F32}),
    ],
)
def test_v_asks_for_the_precision_of_its_configuration(precision, asked):
    config = config_of(value__precision=precision)
    learner = search_of(config, FormulaTask(lambda t: t.sum(-1)).spec)
    value, thetas = learner.value, jnp.zeros((4, learner.policy.num_parameters))
    params, frame = value.init(jax.random.key(0)), value.frame(thetas[:1])
    gradient = jax.grad(lambda p, t: value(p, t, frame).sum(), argnums=(0, 1))
    found = precisions(gradient, params, thetas)
    assert found
    assert found <= asked
