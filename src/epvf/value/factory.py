"""Which value function a configuration asks for."""

from collections.abc import Callable

from epvf.errors import UserError, unknown
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.value.representations import RepresentationConfig, make_representation
from epvf.value.v_start import StartValueFunction
from epvf.value.v_theta import ValueConfig, ValueFunction


def _with_starts(value: ValueFunction, policy: Policy, deterministic_reset: bool) -> ValueFunction:
    if deterministic_reset:
        raise UserError(
            "value.condition 'policy+state' needs a task that starts in random states, and this "
            "one always starts in the same; use value.condition 'policy'"
        )
    parts = (value.config, value.representation, value.perturbation)
    return StartValueFunction(*parts, policy.layer_sizes[0])


_CONDITIONS: dict[str, Callable[[ValueFunction, Policy, bool], ValueFunction]] = {
    "policy": lambda value, policy, deterministic_reset: value,
    "policy+state": _with_starts,
}


def make_value(
    policy: Policy,
    config: ValueConfig,
    representation: RepresentationConfig,
    perturbation: PerturbationConfig,
    deterministic_reset: bool = False,
) -> ValueFunction:
    """The one factory of value functions.

    Args:
        policy: whose parameters are valued.
        config: the network.
        representation: what it sees of a policy.
        perturbation: whose noise deviation standardises the inputs.
        deterministic_reset: whether the task always starts in the same state.

    Raises:
        UserError: if condition or representation are unknown, the representation does not fit the
            policy, or V(s₀, θ) is asked for where there is only one s₀.
    """
    if config.condition not in _CONDITIONS:
        raise unknown("value.condition", config.condition, _CONDITIONS)
    features = make_representation(representation.name, policy, representation)
    value = ValueFunction(config, features, perturbation)
    return _CONDITIONS[config.condition](value, policy, deterministic_reset)
