"""`epvf experiment` and `epvf compare`: what they refuse; what they do is tested by their rooms."""

import pytest

from epvf.cli import plans
from epvf.cli.main import main
from epvf.experiments.launch import launcher


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment"], "missing: NAME"),
        (["experiment", "fig3"], "unknown experiment 'fig3' (did you mean 'fig1'?); valid: fig1"),
        (["experiment", "fig1", "--scale", "huge"], "unknown scale 'huge'; valid: full, small"),
        (["experiment", "fig1", "--seeds", "x"], "seeds must be of type int, not 'x'"),
        (["experiment", "fig1", "--seeds", "0"], "seeds is 0, but must be at least 1"),
        (["experiment", "fig1", "--seeds-per-run", "0"], "seeds_per_run is 0, but must be at"),
        (["experiment", "fig1", "--env-steps", "-1"], "env_steps is -1, but must be at least 1"),
        (["experiment", "fig1", "--backend", "native"], "valid: auto, jax"),
        (["experiment", "fig1", "--preset", "mine"], "unknown preset 'mine'"),
        (["compare", "cartpole", "--methods", "epvf"], "how many env steps? epvf compare TASK"),
        (["compare", "cartpole", "--env-steps", "1e4"], "which methods? epvf compare TASK"),
        (["compare", "--methods", "epvf", "--env-steps", "1e4"], "missing: TASK"),
    ],
)
def test_bad_input(words, message, refused):
    refused(words, message)


@pytest.mark.parametrize(
    ("where", "scale", "timed"),
    [("local", "full", True), ("local", "small", False), ("slurm", "full", False)],
)
def test_only_what_is_long_and_runs_here_is_timed_before(
    where, scale, timed, workplace, monkeypatch
):
    told: list[str] = []
    monkeypatch.setattr(launcher, "understood", lambda *asked: None)
    monkeypatch.setattr(plans, "tell_time", lambda folder, plan: told.append(plan.scale))
    monkeypatch.setattr(plans, "complete", lambda *asked: 130)
    assert main(["experiment", "fig1", "--scale", scale, "--launcher", where]) == 130
    assert told == ["full"] * timed
