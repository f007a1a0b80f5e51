"""V(θ): a representation of the policy, then an MLP that predicts its return."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.perturbation import PerturbationConfig, noise_deviation
from epvf.policy import ACTIVATIONS, Activation, Policy
from epvf.representations import (
    Representation,
    RepresentationConfig,
    make_representation,
    project,
)
from epvf.types import Array, Population, PRNGKey

Inputs: TypeAlias = Literal["raw", "standardised"]
Params: TypeAlias = Any


@dataclass(frozen=True)
class ValueConfig:
    """The value network.

    Attributes:
        hidden_sizes: widths of the MLP behind the representation; empty for a linear V.
        activation: after every hidden layer.
        layer_norm: LayerNorm (no learned gain) before each activation.
        residual: adds a hidden layer's input to its output where their widths agree.
        inputs: what the raw weights look like to V. `raw`: θ / input_scale. `standardised`:
            (θ' - θ) / noise deviation, around the current centre θ (the centres' mean for several).
        input_scale: divisor of `raw`, and of the standardised offsets.
        zero_init: start the output layer at zero, so that an untrained V has no gradient.
    """

    hidden_sizes: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    layer_norm: bool = False
    residual: bool = False
    inputs: Inputs = "raw"
    input_scale: float = 1.0
    zero_init: bool = False


class Frame(NamedTuple):
    """The affine map under which V sees raw weights: (θ' - centre) / scale, both `[P]`."""

    centre: Float[Array, "P"]
    scale: Float[Array, "P"]


@dataclass(frozen=True)
class ValueFunction:
    """V(θ) as pure functions over its parameters φ.

    Attributes:
        config: the network.
        representation: θ to features.
        perturbation: whose noise deviation standardises the inputs.
    """

    config: ValueConfig
    representation: Representation
    perturbation: PerturbationConfig

    def init(self, key: PRNGKey) -> Params:
        """Draws φ: He-scaled kernels, zero biases."""
        representation_key, *keys = jax.random.split(key, len(self.config.hidden_sizes) + 2)
        sizes = (self.representation.size, *self.config.hidden_sizes, 1)
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

    def frame(self, centres: Float[Array, "C P"]) -> Frame:
        """The inputs' affine map around the current centres; a constant to every gradient."""
        if self.config.inputs == "raw":
            zero = jnp.zeros(centres.shape[1])
            return Frame(zero, jnp.full_like(zero, self.config.input_scale))
        centre = jax.lax.stop_gradient(centres.mean(axis=0))
        deviation = noise_deviation(self.perturbation, centre)
        # A weight without noise never differs from its centre: any finite scale will do.
        scale = jnp.where(deviation > 0.0, deviation, 1.0) * self.config.input_scale
        return Frame(centre, jax.lax.stop_gradient(scale))

    def __call__(self, params: Params, thetas: Population, frame: Frame) -> jax.Array:
        """Predicted target `[N]` of each policy of `thetas [N, P]`."""
        normalised = (thetas - frame.centre[None, :]) / frame.scale[None, :]
        x = self.representation.features(params["representation"], thetas, normalised)
        activate = ACTIVATIONS[self.config.activation]
        for layer in params["mlp"][:-1]:
            y = project(x, layer["kernel"]) + layer["bias"][None, :]
            y = activate(_layer_norm(y) if self.config.layer_norm else y)
            fits = self.config.residual and len(x) == 1 and x[0].shape == y.shape
            x = [x[0] + y] if fits else [y]
        last = params["mlp"][-1]
        return (project(x, last["kernel"]) + last["bias"][None, :])[:, 0]


def make_value(
    policy: Policy,
    config: ValueConfig,
    representation: RepresentationConfig,
    perturbation: PerturbationConfig,
) -> ValueFunction:
    """The one factory of value functions.

    Raises:
        UserError: if the representation is unknown or does not fit the policy.
    """
    features = make_representation(representation.name, policy, representation)
    return ValueFunction(config, features, perturbation)


def _layer_norm(x: Float[Array, "B H"]) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
