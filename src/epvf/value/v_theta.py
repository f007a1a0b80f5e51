"""V(θ) and V(s, θ): a representation of the policy, then an MLP that predicts its return.

Source: Bohlinger & Peters 2025, equation 2: ∇J(θ) = E_s[∇V(s, θ)] = ∇V(θ), s the start state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.errors import UserError, unknown
from epvf.policies.mlp import ACTIVATIONS, Activation, Policy
from epvf.policies.noise import PerturbationConfig, noise_deviation
from epvf.types import Array, Mask, Population, PRNGKey, Starts
from epvf.value.representations import (
    Representation,
    RepresentationConfig,
    make_representation,
    project,
)

Inputs: TypeAlias = Literal["raw", "standardised"]
Condition: TypeAlias = Literal["policy", "policy+state"]
Precision: TypeAlias = Literal["float32", "tensorfloat32", "bfloat16"]
Params: TypeAlias = Any

MAX_STARTS = 256
"""Start states that J(θ) averages over. Their mean is then within 1/16 of the deviation of V(s, θ)
over starts, and a centre costs no more than this many rows of V's MLP, its features only once."""


@dataclass(frozen=True)
class ValueConfig:
    """The value network.

    Attributes:
        condition: what V reads. `policy`: V(θ). `policy+state`: V(s, θ), with s the state in which
            the episode started; for tasks that reset at random, whose luck is then told from θ.
        hidden_sizes: widths of the MLP behind the representation; empty for a linear V.
        activation: after every hidden layer.
        layer_norm: LayerNorm (no learned gain) before each activation.
        residual: adds a hidden layer's input to its output where their widths agree.
        inputs: what the raw weights look like to V. `raw`: θ / input_scale. `standardised`:
            (θ' - θ) / noise deviation, around the current centre θ (the centres' mean for several).
        input_scale: divisor of `raw`, and of the standardised offsets.
        zero_init: start the output layer at zero, so that an untrained V has no gradient.
        precision: of V's matrix products and their gradients, where a device has less than float32:
            `tensorfloat32` is what an NVIDIA GPU does unless told otherwise, ten bits of mantissa.
            A CPU computes in float32 whatever is said. Physics and policies are always float32.
    """

    condition: Condition = "policy"
    hidden_sizes: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    layer_norm: bool = False
    residual: bool = False
    inputs: Inputs = "raw"
    input_scale: float = 1.0
    zero_init: bool = False
    precision: Precision = "tensorfloat32"


class StartFrame(NamedTuple):
    """How V(s, θ) sees start states, and the sample of them that J(θ) averages over.

    Attributes:
        centre, scale: `[observation]`, of the affine map (s - centre) / scale.
        states: `[M, observation]` the sample.
        weight: `[M]`, of sum 1, or 0 as long as no start state is known.
    """

    centre: Float[Array, "observation"]
    scale: Float[Array, "observation"]
    states: Float[Array, "M observation"]
    weight: Float[Array, "M"]


class Frame(NamedTuple):
    """The affine map under which V sees raw weights: (θ' - centre) / scale, both `[P]`.

    `starts` is the `StartFrame` of V(s, θ); None for V(θ).
    """

    centre: Float[Array, "P"]
    scale: Float[Array, "P"]
    starts: Any = None


@dataclass(frozen=True)
class ValueFunction:
    """V(θ) as pure functions over its parameters φ; it reads no start states, `starts` are None.

    Attributes:
        config: the network.
        representation: θ to features.
        perturbation: whose noise deviation standardises the inputs.
    """

    config: ValueConfig
    representation: Representation
    perturbation: PerturbationConfig

    @property
    def num_inputs(self) -> int:
        """Width of what the MLP reads."""
        return self.representation.size

    def init(self, key: PRNGKey) -> Params:
        """Draws φ: He-scaled kernels, zero biases."""
        representation_key, *keys = jax.random.split(key, len(self.config.hidden_sizes) + 2)
        sizes = (self.num_inputs, *self.config.hidden_sizes, 1)
        layers = [
            {
                "kernel": jax.random.normal(k, (i, o)) * jnp.sqrt(2.0 / i),
                "bias": jnp.zeros(o),
            }
            for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]
        gain = 0.0 if self.config.zero_init else 0.5**0.5
        layers[-1]["kernel"] = layers[-1]["kernel"] * gain
        return {"representation": self.representation.init(representation_key), "mlp": layers}

    def empty_starts(self, num: int) -> Starts:
        """Room for `num` start states."""
        return None

    def read_starts(self, starts: Starts) -> Starts:
        """What V reads of the start states that a task tells."""
        return None

    def frame(
        self, centres: Float[Array, "C P"], starts: Starts = None, valid: Mask | None = None
    ) -> Frame:
        """The inputs' affine map around the current centres; a constant to every gradient.

        Args:
            centres: the policies θ that are improved.
            starts: `[S, observation]` start states seen so far, for V(s, θ).
            valid: `[S]` which of them are.
        """
        if self.config.inputs == "raw":
            zero = jnp.zeros(centres.shape[1])
            return Frame(zero, jnp.full_like(zero, self.config.input_scale))
        centre = jax.lax.stop_gradient(centres.mean(axis=0))
        deviation = noise_deviation(self.perturbation, centre)
        # A weight without noise never differs from its centre: any finite scale will do.
        scale = jnp.where(deviation > 0.0, deviation, 1.0) * self.config.input_scale
        return Frame(centre, jax.lax.stop_gradient(scale))

    def __call__(
        self, params: Params, thetas: Population, frame: Frame, starts: Starts = None
    ) -> jax.Array:
        """Predicted target `[N]` of each policy of `thetas [N, P]`, started in its own state."""
        with jax.default_matmul_precision(self.config.precision):
            return self._mlp(params, self._inputs(params, thetas, frame, starts))

    def expected(self, params: Params, thetas: Float[Array, "C P"], frame: Frame) -> jax.Array:
        """J(θ) `[C]` of each policy: V averaged over start states, which V(θ) has learned to do."""
        return self(params, thetas, frame)

    def features(
        self, params: Params, thetas: Population, frame: Frame, starts: Starts = None
    ) -> jax.Array:
        """What the MLP reads of each policy of `thetas [N, P]`: `[N, num_inputs]`."""
        return jnp.concatenate(self._inputs(params, thetas, frame, starts), axis=-1)

    def with_line(
        self, params: Params, slope: Float[Array, "F"], intercept: Float[Array, ""]
    ) -> Params:
        """φ of a linear V with this slope over its features, and this intercept.

        Raises:
            UserError: if V is not linear in its features.
        """
        if self.config.hidden_sizes:
            raise UserError(
                "a closed-form fit (value_update.fit) needs a linear V: value.hidden_sizes none"
            )
        return params | {"mlp": [{"kernel": slope[:, None], "bias": intercept[None]}]}

    def _inputs(
        self, params: Params, thetas: Population, frame: Frame, starts: Starts
    ) -> list[Array]:
        normalised = (thetas - frame.centre[None, :]) / frame.scale[None, :]
        return self.representation.features(params["representation"], thetas, normalised)

    def _mlp(self, params: Params, x: list[Array]) -> jax.Array:
        activate = ACTIVATIONS[self.config.activation]
        for layer in params["mlp"][:-1]:
            y = project(x, layer["kernel"]) + layer["bias"][None, :]
            y = activate(_layer_norm(y) if self.config.layer_norm else y)
            fits = self.config.residual and len(x) == 1 and x[0].shape == y.shape
            x = [x[0] + y] if fits else [y]
        last = params["mlp"][-1]
        return (project(x, last["kernel"]) + last["bias"][None, :])[:, 0]


@dataclass(frozen=True)
class StartValueFunction(ValueFunction):
    """V(s, θ): the start state s beside the policy's features (equation 2).

    A linear V has no product of s and θ: it only takes away from a return what the start explains.

    Attributes:
        start_size: length of an observation.
    """

    start_size: int

    @property
    def num_inputs(self) -> int:
        """The features' width and the observation's."""
        return self.representation.size + self.start_size

    def empty_starts(self, num: int) -> Starts:
        """Zeros `[num, observation]`."""
        return jnp.zeros((num, self.start_size))

    def read_starts(self, starts: Starts) -> Starts:
        """All of them.

        Raises:
            UserError: if the task tells no start states, or not observations of this policy.
        """
        shape = None if starts is None else tuple(starts.shape)
        if shape is None or shape[1:] != (self.start_size,):
            raise UserError(
                f"value.condition 'policy+state' needs the task's Evaluation.starts to be [N, "
                f"{self.start_size}], but it is {shape and list(shape)}; return the first "
                "observations there, or use value.condition 'policy'"
            )
        return starts

    def frame(
        self, centres: Float[Array, "C P"], starts: Starts = None, valid: Mask | None = None
    ) -> Frame:
        """As for V(θ), and around the first `MAX_STARTS` rows of `starts [S, observation]`.

        Any rows of the buffer do as a sample of the start states, since these do not depend on θ.
        Rows at one place change no faster than the buffer does: what V was fitted on still holds.
        """
        sample = starts[:MAX_STARTS]
        weight = jnp.asarray(valid)[:MAX_STARTS].astype(jnp.float32)
        weight = weight / jnp.maximum(weight.sum(), 1.0)
        centre = _mean(sample, weight)
        deviation = jnp.sqrt(_mean((sample - centre[None, :]) ** 2, weight))
        # An entry that is always the same tells nothing: any finite scale will do.
        scale = jnp.where(deviation > 0.0, deviation, 1.0)
        return super().frame(centres)._replace(starts=StartFrame(centre, scale, sample, weight))

    def expected(self, params: Params, thetas: Float[Array, "C P"], frame: Frame) -> jax.Array:
        """J(θ) `[C]`: V averaged over the frame's start states, the same for all policies.

        The features of each θ are computed once, since they do not depend on the start.
        """
        sample: StartFrame = frame.starts

        def at(state: Float[Array, "observation"]) -> jax.Array:
            starts = jnp.broadcast_to(state[None, :], (thetas.shape[0], self.start_size))
            return self(params, thetas, frame, starts)

        return _mean(jax.vmap(at)(sample.states), sample.weight)

    def _inputs(
        self, params: Params, thetas: Population, frame: Frame, starts: Starts
    ) -> list[Array]:
        seen: StartFrame = frame.starts
        standardised = (starts - seen.centre[None, :]) / seen.scale[None, :]
        return [*super()._inputs(params, thetas, frame, starts), standardised]


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
            policy, or V(s, θ) is asked for where there is only one s.
    """
    if config.condition not in _CONDITIONS:
        raise unknown("value.condition", config.condition, _CONDITIONS)
    features = make_representation(representation.name, policy, representation)
    value = ValueFunction(config, features, perturbation)
    return _CONDITIONS[config.condition](value, policy, deterministic_reset)


def _mean(rows: Float[Array, "M X"], weight: Float[Array, "M"]) -> jax.Array:
    return (weight[:, None] * rows).sum(axis=0)


def _layer_norm(x: Float[Array, "B H"]) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
