"""From names to tasks."""

import importlib.util

import jax
import pytest

from epvf.errors import UserError
from epvf.tasks import entry, make, registry


def test_sizes() -> None:
    pole, ant = make("cartpole").spec, make("ant", "native").spec
    assert (pole.observation_size, pole.action_size, pole.episode_length) == (4, 2, 500)
    assert (ant.observation_size, ant.action_size, ant.episode_length) == (34, 8, 1000)
    assert (pole.discrete, pole.deterministic_reset, pole.traceable) == (True, False, True)
    assert (ant.discrete, ant.deterministic_reset, ant.traceable) == (False, True, False)
    assert make("ant", "native", episode_length=7).spec.episode_length == 7


@pytest.mark.parametrize(
    ("platform", "backend"), [("cpu", "native"), ("gpu", "mjx"), ("tpu", "mjx")]
)
def test_auto_backend(platform: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert make("ant").spec.backend == backend
    assert make("cartpole").spec.backend == "jax"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "antt"},
            "unknown task 'antt'.*'ant'.*cartpole, ant, hopper, halfcheetah, walker2d",
        ),
        ({"name": "ant", "backend": "nativ"}, "did you mean 'native'.*auto, native, mjx, warp"),
        ({"name": "cartpole", "backend": "native"}, "'native'; valid: auto, jax"),
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
