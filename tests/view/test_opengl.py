"""How pictures can be drawn, found out without harm."""

import subprocess
import sys

import pytest

from epvf.errors import UserError
from epvf.view import opengl


@pytest.fixture
def chosen(monkeypatch):
    """The choice, made afresh, with `MUJOCO_GL` as the test sets it."""
    monkeypatch.delenv(opengl.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return opengl.chosen.__wrapped__


def test_the_first_way_that_works_is_taken(chosen, monkeypatch):
    monkeypatch.setattr(opengl, "trial", lambda way: None if way == "osmesa" else "not here")
    assert chosen() == "osmesa"


def test_without_any_one_line_says_what_to_install(chosen, monkeypatch):
    monkeypatch.setattr(opengl, "trial", lambda way: f"no {way}")
    monkeypatch.setenv("DISPLAY", ":7")
    with pytest.raises(UserError, match="apt install libegl1 libgl1") as caught:
        chosen()
    told = str(caught.value)
    assert "egl: no egl; osmesa: no osmesa; glfw: no glfw" in told and "\n" not in told


def test_what_is_asked_for_is_the_only_one_tried(chosen, monkeypatch):
    monkeypatch.setenv(opengl.VARIABLE, "osmesa")
    monkeypatch.setattr(opengl, "trial", lambda way: f"no {way}")
    with pytest.raises(UserError, match=r"MUJOCO_GL=osmesa does not work \(osmesa: no osmesa\)"):
        chosen()
    monkeypatch.setenv(opengl.VARIABLE, "off")
    with pytest.raises(UserError, match="forbids drawing"):
        chosen()


def test_a_way_that_does_not_exist_says_why():
    reason = opengl.trial("nothing")
    assert reason is not None and "nothing" in reason and "\n" not in reason


def test_a_driver_that_crashes_or_hangs_is_survived(monkeypatch):
    monkeypatch.setattr(opengl, "_TRIAL", "import os; os.abort()  # {way}")
    assert opengl.trial("egl") == "its driver crashed with signal 6"
    monkeypatch.setattr(opengl, "_TRIAL", "import time; time.sleep(60)  # {way}")
    monkeypatch.setattr(opengl, "TRIAL_SECONDS", 0.2)
    assert opengl.trial("egl") == "no picture after 0.2 s"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["egl", "osmesa"])
def test_each_way_that_is_here_draws(way):
    if (reason := opengl.trial(way)) is not None:
        pytest.skip(f"{way}: {reason}")
    script = (
        "import numpy as np; from epvf.tasks.ant import model;"
        "from epvf.view.scene import Camera, Pose, Stage;"
        "stage = Stage(model(), 64, 64, 1, Camera());"
        "print(stage.draw([Pose(model().qpos0)]).std() > 20); stage.close()"
    )
    import os

    environment = os.environ | {opengl.VARIABLE: way}
    environment.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr


def test_a_way_that_mujoco_does_not_know_is_refused(chosen, monkeypatch):
    monkeypatch.setenv(opengl.VARIABLE, "bogus")
    with pytest.raises(UserError, match="MUJOCO_GL=bogus is no way to draw; unset it, or make it"):
        chosen()
