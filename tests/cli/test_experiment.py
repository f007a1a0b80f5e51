"""`epvf experiment` and `epvf compare`: what they refuse; what they do is tested by their rooms."""

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment"], "missing: NAME"),
        (["experiment", "fig3"], "unknown experiment 'fig3' (did you mean 'fig1'?); valid: fig1"),
        (["experiment", "fig1", "--scale", "huge"], "unknown scale 'huge'; valid: full, small"),
        (["experiment", "fig1", "--seeds", "x"], "seeds must be of type int, not 'x'"),
        (["experiment", "fig1", "--seeds", "0"], "seeds is 0, but must be at least 1"),
        (["experiment", "fig1", "--backend", "native"], "valid: auto, jax"),
        (["experiment", "fig1", "--preset", "mine"], "unknown preset 'mine'"),
        (["compare", "cartpole", "--methods", "epvf"], "how many env steps? epvf compare TASK"),
        (["compare", "cartpole", "--env-steps", "1e4"], "which methods? epvf compare TASK"),
        (["compare", "--methods", "epvf", "--env-steps", "1e4"], "missing: TASK"),
    ],
)
def test_bad_input(words, message, refused):
    refused(words, message)
