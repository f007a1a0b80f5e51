"""`epvf bench`: what an iteration costs."""

import json

import pytest

from epvf.cli.main import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing: TASK"),
        (["chess"], "unknown task 'chess'"),
        (["cartpole", "--num-envs", "0"], "num_envs is 0"),
        (["cartpole", "--repeats", "0"], "repeats is 0"),
        (["cartpole", "--out", "here"], "option --out goes with --sweep"),
        (["cartpole", "--representation", "fourier"], "representation.name: 'fourier'; valid: raw"),
        (["ant", "--representation", "raw"], "method 'psvf' does not read representation"),
        (["ant", "--preset", "fast"], "unknown preset 'fast'"),
        (["ant", "--method", "pgpe"], "V(θ) and V(s, θ), which method 'pgpe' does not have"),
        (["ant", "--method", "psf"], "unknown method 'psf'"),
    ],
)
def test_bad_input(words, message, refused):
    refused(["bench", *words], message)


def test_a_file_for_another_task_is_refused(workplace, refused):
    (workplace / "ant.yaml").write_text("{task: {name: ant}}")
    refused(["bench", "cartpole", "--config", "ant.yaml"], "is for task 'ant', not 'cartpole'")


@pytest.mark.slow
def test_a_population_that_is_not_stored(capsys, tmp_path):
    file = tmp_path / "large.yaml"
    file.write_text("{policy: {hidden_sizes: [64]}, buffer: {store: seeds}}")
    common = ["bench", "cartpole", "--num-envs", "128", "--repeats", "1", "--json"]
    assert main([*common, "--config", str(file)]) == 0
    lazy = json.loads(capsys.readouterr().out)
    # a centre and a key in place of 128 policies
    assert lazy["theta_bytes"] == 4 * (4 * 64 + 64 + 64 * 2 + 2) + 8
    assert lazy["env_steps"] > 128


@pytest.mark.slow
def test_the_closed_loop_is_compared_with_bare_stepping(capsys):
    assert main(["bench", "cartpole", "--num-envs", "16", "--repeats", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_envs"] == 16
    assert result["ratio"] == pytest.approx(
        result["steps_per_second"] / result["bare_steps_per_second"]
    )
