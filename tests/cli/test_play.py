"""`epvf play`: videos on the command line."""

import json
import shutil
import sys

import numpy as np
import pytest

from epvf.cli.main import main
from epvf.policies.formats.safetensors import save_policy
from epvf.policies.mlp import Policy
from epvf.view import opengl

SMALL = ["--seconds", "0.4", "--width", "128", "--height", "96"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which policies? epvf play RUN|POLICY_FILE ..."),
        (["nowhere"], "there is no policy file nowhere"),
        (["."], ". is no run"),
        ([__file__], "cannot read policy"),
        (["x", "--seconds", "-1"], "seconds is -1.0, but must be finite and greater than 0"),
        (["x", "--width", "wide"], "width must be of type int, not 'wide'"),
        (["x", "--policy", "worst"], "unknown value for policy: 'worst'; valid: best, last"),
    ],
)
def test_bad_input(words, message, refused):
    refused(["play", *words], message)


def _policy(task, sizes=(11, 3)):
    policy = Policy(sizes)
    save_policy("p.safetensors", policy, np.zeros(policy.num_parameters), task, 1.0)
    return "p.safetensors"


def test_an_unknown_task_is_refused(workplace, refused):
    refused(["play", _policy("moon")], "unknown task 'moon'")


def test_a_policy_that_does_not_fit_is_refused(workplace, refused):
    refused(["play", _policy("ant")], "does not fit task 'ant'")


def test_out_must_be_a_video_in_a_folder(workplace, refused):
    refused(["play", _policy("hopper"), "--out", "x.txt"], "ends in .mp4 or .gif")
    refused(["play", _policy("hopper"), "--out", "a/x.mp4"], "there is no folder a")


def test_without_a_renderer_one_line_says_what_to_install(workplace, refused, monkeypatch):
    monkeypatch.setattr(opengl, "chosen", opengl.chosen.__wrapped__)
    monkeypatch.setattr(opengl, "trial", lambda way: "not here")
    monkeypatch.delenv(opengl.VARIABLE, raising=False)
    refused(["play", _policy("hopper")], "nothing here can draw MuJoCo's scenes")


def test_a_runs_video_lies_in_the_run(finished, capsys):
    assert main(["play", str(finished), *SMALL, "--policy", "last", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["video"] == str(finished / "videos" / "last.mp4")
    assert (finished / "videos" / "last.mp4").stat().st_size > 1000
    (played,) = result["policies"]
    assert (played["name"], played["task"]) == (finished.name, "cartpole")
    assert played["episode_return"] == played["length"] <= 18


def test_several_policies_make_one_video(finished, workplace, capsys):
    files = [str(finished / "policies" / f"{which}.safetensors") for which in ("best", "last")]
    assert main(["play", *files, "--out", "both.gif", *SMALL]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["best", "last", "video"]
    assert (workplace / "both.gif").read_bytes().startswith(b"GIF89a")
    assert [path.name for path in workplace.iterdir()] == ["both.gif"]


def test_a_policy_files_video_lies_beside_it(workplace, capsys):
    try:
        opengl.chosen()
    except Exception as error:
        pytest.skip(str(error))
    assert main(["play", _policy("hopper"), *SMALL, "--perturbed", "2"]) == 0
    assert "2 perturbed (the default noise: scaled_uniform 0.3)" in capsys.readouterr().out
    assert (workplace / "p.mp4").stat().st_size > 1000


def test_what_fails_leaves_no_folder_in_a_run(finished, workplace, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    run = workplace / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("videos"))
    refused(["play", str(run)], "pip install pygame")
