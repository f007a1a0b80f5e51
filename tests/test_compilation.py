"""Options of the compiler: used where it knows them, left out where it does not."""

import jax
import jax.numpy as jnp
import pytest

from epvf import compilation


@pytest.fixture(autouse=True)
def _forgets():
    compilation.learning_options.cache_clear()
    yield
    compilation.learning_options.cache_clear()


def test_what_is_compiled_with_them_computes_the_same():
    options = compilation.learning_options()
    x = jax.random.normal(jax.random.key(0), (64, 64))
    product = jax.jit(lambda x: x @ x).lower(x).compile(compiler_options=options)
    assert jnp.abs(product(x) - jnp.dot(x, x, precision="highest")).max() < 1e-4


@pytest.mark.parametrize(
    ("platform", "known"), [("cpu", {"xla_no_such_option": True}), ("gpu", {}), ("tpu", {})]
)
def test_they_are_left_out_elsewhere_and_where_unknown(platform, known, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(compilation, "_ON_CPU", known)
    assert compilation.learning_options() is None
