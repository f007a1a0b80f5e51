"""V(θ): a representation of the policy, then an MLP that predicts its return.

Source: Bohlinger & Peters 2025, equation 2: ∇J(θ) = E[∇V(s₀, θ)] = ∇V(θ), s₀ the start state.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.errors import UserError
from epvf.policies.activations import Activation
from epvf.policies.noise import PerturbationConfig, noise_deviation
from epvf.types import Array, Mask, Population, PRNGKey, Starts
from epvf.value.networks import init_mlp, mlp
from epvf.value.representations import Representation

Inputs: TypeAlias = Literal["raw", "standardised"]
Condition: TypeAlias = Literal["policy", "policy+state"]
Precision: TypeAlias = Literal["float32", "tensorfloat32", "bfloat16"]
Params: TypeAlias = Any


@dataclass(frozen=True)
class ValueConfig:
    """The value network.

    Attributes:
        condition: what V reads. `policy`: V(θ). `policy+state`: V(s₀, θ), with s₀ the state in
            which the episode started; for tasks that reset at random, whose luck is then told
            from θ.
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


class Frame(NamedTuple):
    """The affine map under which V sees raw weights: (θ' - centre) / scale, both `[P]`.

    `starts` is the `StartFrame` of V(s₀, θ); None for V(θ).
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
        gain = 0.0 if self.config.zero_init else 0.5**0.5
        layers = init_mlp(keys, sizes, "he", gain)
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
            starts: `[S, observation]` start states seen so far, for V(s₀, θ).
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
            return mlp(
                params["mlp"],
                self._inputs(params, thetas, frame, starts),
                self.config.activation,
                self.config.layer_norm,
                self.config.residual,
            )[:, 0]

    def expected(self, params: Params, thetas: Float[Array, "C P"], frame: Frame) -> jax.Array:
        """J(θ) `[C]` of each policy: V averaged over start states, which V(θ) has learned to do."""
        return self(params, thetas, frame)

    def features(
        self, params: Params, thetas: Population, frame: Frame, starts: Starts = None
    ) -> jax.Array:
        """What the MLP reads of each policy of `thetas [N, P]`: `[N, num_inputs]`."""
        return jnp.concatenate(self._inputs(params, thetas, frame, starts), axis=-1)

    def refresh(
        self,
        params: Params,
        key: PRNGKey,
        thetas: Float[Array, "M P"],
        visited: Float[Array, "V observation"] | None,
    ) -> Params:
        """φ whose representation follows the newest policies; see `Representation.refresh`."""
        own = self.representation.refresh(params["representation"], key, thetas, visited)
        return params | {"representation": own}

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
