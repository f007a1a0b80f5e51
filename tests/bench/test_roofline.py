"""The roofline: costs that can be counted by hand, and rates of this machine."""

import jax
import jax.numpy as jnp
import pytest

from epvf.bench import roofline as module
from epvf.bench.roofline import Cost, Rates, device_rates, program_cost, roofline, step_cost
from epvf.policies.mlp import Policy
from epvf.tasks import cartpole, make

POLICY = Policy((4, 8, 2), output="argmax")


@pytest.fixture
def rates(monkeypatch):
    """A device that takes long for bytes."""
    monkeypatch.setattr(module, "device_rates", lambda: Rates(bytes=100.0, flops=1e9))


def test_the_cost_of_a_product() -> None:
    size = 64
    square = jnp.ones((size, size))
    cost = program_cost(jax.jit(lambda x, y: x @ y).lower(square, square).compile())
    assert cost is not None
    assert cost.flops == pytest.approx(2 * size**3, rel=0.02)
    assert cost.bytes == pytest.approx(3 * square.nbytes)


def test_what_xla_does_not_tell_is_not_known() -> None:
    class Silent:
        def cost_analysis(self):
            return None

    assert program_cost(Silent()) is None


def test_a_step_reads_every_weight_and_a_rollout_has_one_cost_whatever_its_length() -> None:
    costs = [step_cost(cartpole.make(t), POLICY, 16) for t in (5, 500)]
    assert costs[0] == costs[1]
    assert costs[0] is not None
    assert costs[0].bytes > 16 * 4 * POLICY.num_parameters
    # the policies' products
    assert costs[0].flops > 16 * 2 * (4 * 8 + 8 * 2)


def test_the_bound_is_what_takes_longest(rates) -> None:
    task = cartpole.make()
    cost = step_cost(task, POLICY, 16)
    assert cost is not None
    result = roofline(task, POLICY, 16, steps_per_second=1.0)
    assert result is not None
    bound = 16 * 100.0 / cost.bytes
    assert result["bound_by"] == "bytes"
    assert result["bound_steps_per_second"] == pytest.approx(bound)
    assert result["fraction"] == pytest.approx(1.0 / bound)
    assert Cost(16 * result["step_bytes"], 16 * result["step_flops"]) == pytest.approx(cost)


def test_policies_that_wait_for_a_slot_are_not_stepped(rates) -> None:
    slots = roofline(cartpole.make(num_slots=16), POLICY, 64, 1.0)
    assert slots == roofline(cartpole.make(), POLICY, 16, 1.0)


def test_an_engine_of_others_has_no_known_cost() -> None:
    assert roofline(make("ant", "native"), Policy((34, 8)), 4, 1.0) is None


def test_rates_of_this_machine(monkeypatch) -> None:
    monkeypatch.setattr(module, "COPY_BYTES", 1 << 22)
    device_rates.cache_clear()
    measured = device_rates()
    device_rates.cache_clear()
    assert 1e7 < measured.bytes < 1e14 and 1e7 < measured.flops < 1e15
