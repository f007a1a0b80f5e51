"""A robot of one's own on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from conftest import SOURCE
from epvf.cli.main import main
from probes import needs_brax

ROBOT = """
import epvf
MODEL = {model!r}

def make():
    return epvf.MujocoTask(
        MODEL, observe=lambda s: (s.qpos, s.qvel), reward={reward}, starts={starts}
    )
"""
POLE = """<mujoco><worldbody><body><joint name="hinge" axis="0 1 0"/>
<geom type="capsule" fromto="0 0 0 0 0 .5" size=".02"/></body></worldbody>
<actuator><motor joint="hinge"/></actuator></mujoco>"""


def written(model=POLE, reward="lambda s: 1.0", starts="0.1") -> str:
    Path("robot.py").write_text(ROBOT.format(model=model, reward=reward, starts=starts))
    return "robot.py:make"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "<mujoco><worldbody><x/></worldbody></mujoco>"}, "the model does not compile"),
        ({"model": POLE.replace("hinge", "other", 1)}, "the model does not compile"),
        ({"model": "<mujoco/>"}, "no actuators"),
        ({"model": "gone.xml"}, "there is no file gone.xml"),
        ({"reward": "lambda s: s.qvel"}, "'reward' (robot.py:7)"),
        ({"reward": "lambda s: float(__import__('os').getpid())"}, "numba cannot compile it"),
        ({"starts": "float('inf')"}, "starts is inf"),
        ({"starts": "lambda r, n: (r.uniform(0, 1, (n, 1)), r.uniform(0, 1, n))"}, "velocities"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_two(changes, message, refused):
    refused(["train", written(**changes), "--preset", "debug"], message)


@pytest.mark.slow
def test_the_example_trains_by_v_of_states_and_is_found_again(epvf, tmp_path):
    name = f"{SOURCE.parent / 'examples' / 'own_robot.py'}:make"
    options = ("--method", "psvf", "--preset", "debug", "--iterations", "2", "--out", "run")
    done = epvf("train", name, *options, "--no-report")
    assert done.returncode == 0, done.stderr
    records = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert records[-1]["steps/update"] == 2
    told = json.loads(epvf("eval", "run", "--episodes", "3", "--json").stdout)
    assert np.isfinite(told["episode_return"]) and told["engine"] == "native"


@needs_brax
@pytest.mark.slow
def test_ppo_takes_the_example(workplace, capsys):
    name = f"{SOURCE.parent / 'examples' / 'own_robot.py'}:make"
    words = ["train", name, "--method", "ppo", "--preset", "debug", "--iterations", "2"]
    assert main([*words, "--out", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["env_steps"] > 0
