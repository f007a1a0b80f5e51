"""From names to tasks."""

import importlib.util
import sys
from importlib import metadata

import jax
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import describe, entry, make, register
from epvf.tasks.ant import BODY
from epvf.tasks.registry import TASKS, engines


def test_sizes() -> None:
    pole, ant = make("cartpole").spec, make("ant", "native").spec
    assert (pole.observation_size, pole.action_size, pole.episode_length) == (4, 2, 500)
    assert (ant.observation_size, ant.action_size, ant.episode_length) == (34, 8, 1000)
    assert (pole.discrete, pole.deterministic_reset, pole.traceable) == (True, False, True)
    assert (ant.discrete, ant.deterministic_reset, ant.traceable) == (False, True, False)
    assert make("ant", "native", episode_length=7).spec.episode_length == 7


@pytest.mark.parametrize(
    ("platform", "nvidia", "ant", "hopper"),
    [
        ("cpu", False, "lanes", "lanes"),
        ("gpu", True, "lanes", "mjx"),
        ("gpu", False, "mjx", "mjx"),
        ("tpu", False, "mjx", "mjx"),
    ],
)
def test_auto_backend(platform, nvidia, ant, hopper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(entry, "_on_nvidia", lambda: nvidia)
    assert make("ant").spec.backend == ant
    assert make("hopper").spec.backend == hopper
    assert make("cartpole").spec.backend == "jax"


def test_auto_says_what_it_falls_back_to(monkeypatch, caplog) -> None:
    monkeypatch.setattr(entry, "find_spec", lambda name: None)
    assert make("ant").spec.backend == "native"
    (record,) = caplog.records
    assert record.getMessage() == (
        "backend 'lanes', the quickest here, needs pip install 'epvf[mjx]'; 'native' is used"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "antt"},
            "unknown task 'antt'.*'ant'.*cartpole, ant, hopper, halfcheetah, walker2d",
        ),
        (
            {"name": "ant", "backend": "nativ"},
            "did you mean 'native'.*auto, native, mjx, lanes, warp",
        ),
        ({"name": "cartpole", "backend": "native"}, "'native'; valid: auto, jax, lanes"),
        ({"name": "ant", "episode_length": 0}, "episode_length is 0"),
        ({"name": "ant", "backend": "native", "num_threads": 0}, "num_threads is 0"),
        ({"name": "cartpole", "num_threads": 2}, "num_threads.*'native'.*'jax'"),
        ({"name": "cartpole", "num_slots": 0}, "num_slots is 0"),
        (
            {"name": "ant", "backend": "native", "num_slots": 2},
            "num_slots.*'jax' and 'mjx'.*'native'",
        ),
    ],
)
def test_errors_in_words(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backend", ["mjx", "warp"])
def test_engine_that_is_not_installed(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'epvf\[{backend}\]'.*'native'"):
        make("ant", backend)


def test_warp_without_a_device() -> None:
    if importlib.util.find_spec("warp") is None or jax.default_backend() == "gpu":
        pytest.skip("needs warp installed, and no GPU")
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        make("ant", "warp")


OWN = """
from dataclasses import replace
from epvf.tasks import make as epvf_make
from probes import FormulaTask

def make(episode_length=None, num_threads=None):
    task = epvf_make("hopper", "native", episode_length=episode_length, num_threads=num_threads)
    return task

def any_option(**options):
    return epvf_make("hopper", **options)

def formula():
    return FormulaTask(lambda thetas: thetas[:, 0])

task = formula()
number = 7

class Steady:
    spec = formula().spec

    def evaluator(self, policy):
        return task.evaluator(policy)

def nothing():
    return 7

def body():
    from epvf.tasks.walker2d import BODY
    return BODY

def fails():
    from epvf.errors import UserError
    raise UserError("the robot has no legs")
"""


@pytest.fixture
def own(workplace, monkeypatch):
    """A module of one's own where one works, `my_robot.py`."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(workplace)])
    (workplace / "my_robot.py").write_text(OWN)
    yield workplace
    sys.modules.pop("my_robot", None)


@pytest.mark.parametrize("place", ["my_robot", "my_robot.py"])
def test_a_task_of_one_s_own_is_recorded_under_the_name_that_finds_it(own, place) -> None:
    task = make(f"{place}:make", episode_length=7, num_threads=1)
    assert (task.spec.name, task.spec.episode_length) == (f"{place}:make", 7)
    assert make(task.spec.name).spec.name == f"{place}:make"
    assert make(f"{place}:any_option", "native", num_threads=1).spec.backend == "native"
    assert engines(f"{place}:make") == ("native",)
    policy = Policy((11, 3))
    thetas = np.zeros((2, policy.num_parameters), np.float32)
    returns = [
        made.evaluator(policy)(jax.random.key(0), thetas).returns
        for made in (task, make("hopper", "native", episode_length=7))
    ]
    np.testing.assert_array_equal(*returns)


def test_a_body_of_one_s_own_runs_on_mujoco_s_engines(own) -> None:
    assert engines("my_robot:body") == ("native", "mjx", "lanes", "warp")
    task = make("my_robot:body", "native", num_threads=1, episode_length=5)
    assert (task.spec.name, task.spec.backend) == ("my_robot:body", "native")
    assert make("my_robot:body", "mjx").spec.traceable
    with pytest.raises(UserError, match="unknown backend of task 'my_robot:body' 'jax'"):
        make("my_robot:body", "jax")


@pytest.mark.parametrize("what", ["formula", "task", "Steady"])
def test_a_task_whose_name_cannot_be_set_is_wrapped(own, what) -> None:
    task = make(f"my_robot:{what}")
    assert task.spec.name == f"my_robot:{what}" and task.spec.observation_size == 3
    thetas = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(task.evaluator(Policy((3, 1)))(None, thetas).returns, 1.0)  # type: ignore[arg-type]
    assert not hasattr(task, "explorer")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("my_robot:mak", {}, "module 'my_robot' has no attribute 'mak'"),
        ("my_robot.py:mak", {}, "my_robot.py has no 'mak'"),
        ("my_robt:make", {}, "cannot import 'my_robt': ModuleNotFoundError"),
        ("my_robt.py:make", {}, "no file my_robt.py"),
        ("broken.py:make", {}, "cannot import .*broken.py: SyntaxError"),
        ("my_robot:number", {}, "'my_robot:number' is int, no task and no function"),
        ("my_robot:nothing", {}, "'my_robot:nothing' returns int, but a task has `spec`"),
        ("my_robot:fails", {}, "the robot has no legs"),
        ("my_robot:make", {"num_slots": 3}, "no option num_slots"),
        ("my_robot:formula", {"backend": "mjx"}, "no option backend.*'jax'"),
        ("my_robot:", {}, "must be `package.module:factory`"),
        (":make", {}, "must be `package.module:factory`"),
    ],
)
def test_what_is_wrong_with_one_s_own_task_is_told_in_a_line(own, name, options, message) -> None:
    (own / "broken.py").write_text("def make(:")
    with pytest.raises(UserError, match=message) as error:
        make(name, **options)
    assert "\n" not in str(error.value)


@pytest.fixture
def forgetful(monkeypatch):
    """Forgets what a test registers."""
    monkeypatch.setattr(TASKS, "_registered", {})
    monkeypatch.setattr(TASKS, "_loaded", {})


def test_registered_tasks(own, forgetful) -> None:
    register("walker-of-mine", lambda episode_length=None: make("walker2d", "native"))
    register("lazy", "my_robot:task")
    register("an-ant", BODY)
    sys.path.insert(0, str(own))
    assert make("walker-of-mine").spec.name == "walker-of-mine"
    assert make("lazy").spec.name == "lazy"
    assert engines("an-ant") == ("native", "mjx", "lanes", "warp")
    for name in ("ant", "lazy"):
        with pytest.raises(UserError, match=f"already is a task '{name}'"):
            register(name, BODY)
    with pytest.raises(UserError, match="no colon"):
        register("a:b", BODY)


def test_describes_every_task_and_what_it_needs(workplace, forgetful, monkeypatch) -> None:
    info = workplace / "robots-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robots\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[epvf.tasks]\nrobot = robots_module:make\nwreck = robots_module:nothing\nant = math:pi\n"
    )
    (workplace / "robots_module.py").write_text("from epvf.tasks.ant import BODY as make")
    monkeypatch.syspath_prepend(str(workplace))
    assert metadata.distribution("robots").version == "1.0"
    TASKS.__dict__.pop("_found", None)
    try:
        infos = {info.name: info for info in describe()}
        made = make("robot", "native")
    finally:
        TASKS.__dict__.pop("_found", None)
    assert list(infos)[:5] == ["cartpole", "ant", "hopper", "halfcheetah", "walker2d"]
    assert infos["cartpole"] == ("cartpole", ("jax", "lanes"), "epvf", {}, None)
    ant = (
        "ant",
        ("native", "mjx", "lanes", "warp"),
        "epvf",
        {"mjx": "mjx", "lanes": "mjx", "warp": "warp"},
        None,
    )
    assert infos["ant"] == ant
    assert (infos["robot"].origin, infos["robot"].engines) == ("robots", ant[1])
    assert "has no attribute 'nothing'" in str(infos["wreck"].problem)
    assert made.spec.name == "robot"
