"""From a configuration to all that training needs: what fits together, and what fits the memory."""

import pytest

from epvf.cli.main import main
from epvf.config.presets import PRESETS, preset
from epvf.errors import UserError
from epvf.methods.registry import METHODS
from epvf.policies.mlp import Policy
from epvf.runtime.memory import Needs
from epvf.tasks import make
from epvf.training import prepare as preparation
from epvf.training.prepare import make_policy, prepare, run_needs
from probes import FormulaTask, config_of

MEGABYTE = 1_000_000
SUM = FormulaTask(lambda t: t.sum(-1), traceable=False)


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes are free on the host, and on the device."""

    def pretend(host, device=None):
        monkeypatch.setattr(preparation, "free_host_bytes", lambda: host)
        monkeypatch.setattr(preparation, "free_device_bytes", lambda: device)

    return pretend


# --- what a setup is


def test_a_setup_holds_what_the_method_asks_for() -> None:
    epvf, psvf = (prepare(preset("cartpole", "debug", name)) for name in ("epvf", "psvf"))
    assert epvf.method is not None and epvf.explore is None
    assert psvf.explore is not None and psvf.search.horizon == 8
    assert epvf.policy == psvf.policy == Policy((4, 8, 2), "tanh", "argmax")
    assert epvf.config.task.backend == epvf.task.spec.backend == "jax"
    ppo = prepare(preset("cartpole", "debug", "ppo"))
    assert ppo.method is None and ppo.explore is None


def test_a_task_that_is_given_gives_its_name_and_engine() -> None:
    setup = prepare(config_of(), SUM)
    assert setup.task is SUM
    assert (setup.config.task.name, setup.config.task.backend) == ("formula", "jax")
    assert setup.policy == make_policy(setup.config, SUM.spec)


def test_an_agent_gets_an_engine_in_jax_unless_told_otherwise() -> None:
    config = preset("ant", "debug", "sac")
    assert prepare(config).config.task.backend == "mjx"
    with pytest.raises(UserError, match=r"'sac' cannot learn task 'ant': it needs an engine in"):
        prepare(config.replace({"task.backend": "native"}))


def test_an_engine_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    config = preset("ant", "debug").replace({"task.backend": "cuda"})
    with pytest.raises(UserError, match=r"unknown backend of task 'ant' 'cuda'.*native.*mjx"):
        prepare(config)


@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("task", ["cartpole", "ant", "hopper", "halfcheetah"])
def test_a_preset_fits_its_task_or_the_method_says_why_not(task, name, method) -> None:
    spec = make(task, "mjx" if task == "ant" else "auto").spec
    config = preset(task, name, method)
    reason = METHODS[method].unfit(spec, config)
    if reason is None:
        make_policy(config, spec)
        assert (config.policy.output == "argmax") == spec.discrete
    else:
        assert (method == "sac" and spec.discrete) or (
            method in ("ppo", "sac") and not spec.traceable
        )


# --- what fits the memory


DELTA = {
    "policy.hidden_sizes": [64, 64],
    "num_envs": 512,
    "buffer.size": 1024,
    "value_update.batch_size": 64,
    "num_seeds": 3,
}


def _needs(store: str, traceable: bool, copies: int) -> tuple[Needs, int]:
    """Needs of an Ant's run, and the bytes of one θ."""
    setup = prepare(preset("ant", "paper").replace(DELTA | {"buffer.store": store}))
    needs = run_needs(setup.search, 3, traceable, copies)
    return needs, 4 * setup.policy.num_parameters


@pytest.mark.parametrize("traceable", [False, True])
def test_needs_are_those_of_the_arrays(traceable: bool) -> None:
    needs, theta = _needs("weights", traceable, 2)
    assert needs.per_policy == 3 * 2 * theta
    # the buffer, V's first layer with Adam's two moments, and little else
    known = 3 * (1024 + 3 * 256) * theta
    assert known < needs.fixed < 1.1 * known


def test_populations_that_lanes_draw_take_next_to_nothing() -> None:
    setup = prepare(preset("ant", "tuned", "psvf"))
    theta = 4 * setup.policy.num_parameters
    assert run_needs(setup.search, 1, False, 2).per_policy == 2 * theta
    assert run_needs(setup.search, 1, False, 2, late=True).per_policy < 0.01 * theta
    weights = prepare(preset("ant", "paper").replace(DELTA | {"buffer.store": "weights"}))
    theta = 4 * weights.policy.num_parameters
    assert run_needs(weights.search, 1, False, 2, late=True).per_policy == 2 * theta


def test_populations_that_are_drawn_again_are_stored_nowhere_but_on_the_host() -> None:
    needs, theta = _needs("seeds", True, 1)
    assert needs.per_policy < 0.1 * theta
    assert needs.fixed < 1.1 * 3 * 3 * 256 * theta
    assert _needs("seeds", False, 2)[0].per_policy == 3 * 2 * theta


def test_training_is_refused_before_it_starts(free, workplace, capsys) -> None:
    free(10 * MEGABYTE)
    assert main(["train", "ant", "--backend", "native", "--num-envs", "2048"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "but 0.01 GB are free" in err
    assert list(workplace.iterdir()) == []


def test_on_an_accelerator_its_memory_counts(free) -> None:
    config = preset("cartpole", "debug")
    free(0, device=10**9)
    prepare(config)
    free(10**12, device=1000)
    with pytest.raises(UserError, match="of the device's memory"):
        prepare(config)


def test_where_nothing_is_known_nothing_is_refused(free) -> None:
    free(None)
    prepare(preset("cartpole", "debug"))
