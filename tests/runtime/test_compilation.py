"""Options of the compiler: used where it knows them, left out where it does not."""

import jax
import jax.numpy as jnp
import pytest

from epvf.runtime import compilation


@pytest.fixture(autouse=True)
def _forgets():
    compilation.compiler_options.cache_clear()
    yield
    compilation.compiler_options.cache_clear()


def test_what_is_compiled_with_them_computes_the_same():
    options = compilation.compiler_options()
    x = jax.random.normal(jax.random.key(0), (64, 64))
    product = jax.jit(lambda x: x @ x).lower(x).compile(compiler_options=options)
    assert jnp.abs(product(x) - jnp.dot(x, x, precision="highest")).max() < 1e-4


@pytest.mark.parametrize(
    ("platform", "known"), [("cpu", {"xla_no_such_option": True}), ("gpu", {}), ("tpu", {})]
)
def test_they_are_left_out_elsewhere_and_where_unknown(platform, known, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(compilation, "_ON_CPU", known)
    assert compilation.compiler_options() is None


@pytest.mark.parametrize("within", [False, True])
def test_a_function_is_compiled_once_alone_and_within_another_program(within):
    traces = 0

    @compilation.compiled(static_argnums=0)
    def scaled(factor, x):
        nonlocal traces
        traces += 1
        return factor * x

    x = jnp.arange(3.0)
    call = jax.jit(lambda x: scaled(2, x)) if within else lambda x: scaled(2, x)
    assert (call(x) == 2 * x).all()
    assert (call(x + 1) == 2 * x + 2).all()
    assert traces == 1


def test_a_function_without_traced_arguments_can_be_part_of_a_program():
    double = compilation.compiled()(lambda x: 2 * x)
    assert jax.jit(lambda: double(jnp.ones(2)) + double(1.0))().tolist() == [4.0, 4.0]
