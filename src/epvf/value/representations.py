"""How a value function sees a policy: V(θ) reads a representation of θ, not θ itself.

`raw` weights; actions at learnable `probing` states (Harb et al. 2020, Faccio et al. 2022);
permutation-invariant features of the weights, `unf` (Zhou et al. 2024); two of these together; or
by a `kernel`, how much the actions are like those of policies whose returns are known.
A representation is a frozen dataclass without parameters; those are a pytree that `init` draws
and that the value function's loss trains along with its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.errors import UserError, unknown
from epvf.policies.mlp import Policy
from epvf.types import Array, NonNegativeInt, PRNGKey
from epvf.value.kernel import gaussian, whitening
from epvf.value.permutations import Permutable, policy_spec
from epvf.value.sign_lift import SignInvariantLift
from epvf.value.unf import EquivariantLinear, InvariantNetwork, Params, rectify

RepresentationName: TypeAlias = Literal["raw", "probing", "probing+raw", "unf", "unf+raw", "kernel"]
ProbingInit: TypeAlias = Literal["uniform", "normal", "visited"]
UnfInput: TypeAlias = Literal["natural", "normalised"]

CPU_CHUNK = 16
"""Policies at a time on CPU: their features stay in the cache."""

ACTING_CHUNK = 64
"""Policies at a time that act in probing states for the kernel; their neurons stay in the cache."""


class Stage(NamedTuple):
    """A piece of a representation that can be timed alone.

    Attributes:
        name: of the piece.
        function: `(params, inputs) -> features`, arrays or lists of them.
        params: that the piece learns.
        inputs: of as many policies as it takes at a time.
        chunk: how many that are.
        learned_inputs: whether gradients flow on to its inputs.
    """

    name: str
    function: Callable[[Any, Any], Any]
    params: Params
    inputs: Any
    chunk: int
    learned_inputs: bool


@runtime_checkable
class Part(Protocol):
    """One way to turn policies into features."""

    @property
    def size(self) -> int:
        """`F`, the length of the feature vector."""
        ...

    def init(self, key: PRNGKey) -> Params:
        """Draws the trainable parameters; an empty dict where there are none."""
        ...

    def __call__(
        self,
        params: Params,
        thetas: Float[Array, "B P"],
        normalised_thetas: Float[Array, "B P"],
    ) -> Float[Array, "B F"]:
        """Features `[B, F]`.

        Args:
            params: of `init`.
            thetas: the policies' parameters as the policy uses them.
            normalised_thetas: the same, scaled elementwise as the value function likes its input.
        """
        ...

    def stages(self, params: Params, thetas: Float[Array, "B P"]) -> list[Stage]:
        """What the part's work consists of, in order; empty where there is none."""
        ...


@runtime_checkable
class Refreshed(Protocol):
    """A part some of whose parameters follow from what the newest policies did."""

    def refresh(
        self,
        params: Params,
        key: PRNGKey,
        thetas: Float[Array, "M P"],
        visited: Float[Array, "V observation"] | None,
    ) -> Params:
        """The parameters of an iteration, before V is fitted.

        Args:
            params: of `init`, or of the iteration before.
            key: of what is drawn.
            thetas: `num_landmarks` stored policies.
            visited: observations that policies met lately; None unless the part asks for them.
        """
        ...


@dataclass(frozen=True)
class RepresentationConfig:
    """Which representation, and the settings of all; each reads its own.

    Attributes:
        name: what V sees of a policy: the weights, actions at probing states, invariant features
            of the weights, or one of the latter two beside the weights; `kernel`: how much its
            actions at probing states are like those of stored policies (not in the paper).
        num_probing_states: states at which `probing` and `kernel` ask for actions.
        probing_init: their first values, in the units of an observation. `uniform`: U[0, 1], as
            Faccio et al. 2022. `normal`: N(0, 1), for observations of either sign. `visited`: what
            policies of the newest population met, other states each iteration, never learned.
        num_landmarks: of `kernel`, stored policies that a policy is compared to.
        length_scale: of `kernel`, at which distance policies are alike; a typical distance of a
            stored policy from their mean is 1.
        unf_channels: features per hidden neuron (and per bias) in every equivariant layer.
        unf_matrix_channels: features per weight between two permutable axes. With thousands of
            such weights much of the cost is here.
        unf_layers: equivariant layers, each with a ReLU after it.
        unf_permutable: `hidden`: hidden neurons may be renumbered, observations and actions not.
            `all`: these too, as the UNF authors' example, which a policy does not allow.
        unf_sign_symmetry: also invariant to flipping the sign of a tanh neuron. Not in the paper.
        unf_input: `natural`: θ times `unf_scale`. `normalised`: the value function's normalised
            θ; when that subtracts the current θ weight by weight, renumbering θ' alone changes
            the features (only renumbering θ along with it would not), so the symmetry is lost.
        unf_scale: brings θ to about ±1; 10 fits the paper's weights in ±0.1. One number for all
            weights keeps the invariance exact.
        unf_chunk: policies that the UNF takes at a time, to save memory, features being computed
            again for the gradient. 0: all at once. None: 16 on CPU, where the cache makes that
            faster, all at once elsewhere.
    """

    name: RepresentationName = "raw"
    num_probing_states: int = 200
    probing_init: ProbingInit = "uniform"
    num_landmarks: int = 512
    length_scale: float = 1.0
    unf_channels: int = 8
    unf_matrix_channels: int = 4
    unf_layers: int = 2
    unf_permutable: Permutable = "hidden"
    unf_sign_symmetry: bool = False
    unf_input: UnfInput = "natural"
    unf_scale: float = 10.0
    unf_chunk: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        counts = ("num_probing_states", "num_landmarks")
        for name in (*counts, "unf_channels", "unf_matrix_channels", "unf_layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.length_scale <= 0:
            raise UserError(f"length_scale is {self.length_scale}; it must be positive")
        if self.unf_chunk is not None and self.unf_chunk < 0:
            raise UserError(f"unf_chunk is {self.unf_chunk}; it must be 0 or more, or null")
        if self.unf_scale <= 0:
            raise UserError(f"unf_scale is {self.unf_scale}; it must be positive")
        for name, choices in (
            ("probing_init", ProbingInit),
            ("unf_permutable", Permutable),
            ("unf_input", UnfInput),
        ):
            if getattr(self, name) not in get_args(choices):
                raise unknown(name, getattr(self, name), get_args(choices))


@dataclass(frozen=True)
class Raw:
    """The normalised weights themselves.

    Attributes:
        policy: whose parameters are represented.
    """

    policy: Policy

    @property
    def size(self) -> int:
        """`P`."""
        return self.policy.num_parameters

    def init(self, key: PRNGKey) -> Params:
        """No parameters."""
        return {}

    def __call__(
        self,
        params: Params,
        thetas: Float[Array, "B P"],
        normalised_thetas: Float[Array, "B P"],
    ) -> Float[Array, "B F"]:
        """Passes `normalised_thetas` on."""
        return normalised_thetas

    def stages(self, params: Params, thetas: Float[Array, "B P"]) -> list[Stage]:
        """None: nothing is computed."""
        return []


@dataclass(frozen=True)
class Probing:
    """The actions that a policy takes in learnable, or visited, states (Faccio et al. 2022).

    Actions are differentiable and bounded whatever the policy's output: softmax of the logits
    for `argmax`, tanh of them for `clip` and `tanh`. A clipped action would have no gradient
    beyond ±1 and a chosen index none at all.

    Attributes:
        policy: whose parameters are represented.
        num_states: S, probing states.
        init_states: `uniform` on [0, 1], standard `normal`, or `visited`, which are not learned.
    """

    policy: Policy
    num_states: int = 200
    init_states: ProbingInit = "uniform"

    @property
    def reads_visited(self) -> bool:
        """Whether the states are those that policies met."""
        return self.init_states == "visited"

    @property
    def size(self) -> int:
        """S actions, concatenated."""
        return self.num_states * self.policy.layer_sizes[-1]

    def init(self, key: PRNGKey) -> Params:
        """Draws `states` `[S, observation]`."""
        draw = jax.random.uniform if self.init_states == "uniform" else jax.random.normal
        return {"states": draw(key, (self.num_states, self.policy.layer_sizes[0]))}

    def refresh(
        self,
        params: Params,
        key: PRNGKey,
        thetas: Float[Array, "M P"],
        visited: Float[Array, "V observation"] | None,
    ) -> Params:
        """Draws visited states anew, those that are not finite left out; others stay."""
        if not self.reads_visited:
            return params
        assert visited is not None
        rows = jax.random.randint(key, (self.num_states,), 0, visited.shape[0])
        drawn = jnp.asarray(visited)[rows]
        return {"states": jnp.where(jnp.isfinite(drawn).all(axis=1)[:, None], drawn, 0.0)}

    def __call__(
        self,
        params: Params,
        thetas: Float[Array, "B P"],
        normalised_thetas: Float[Array, "B P"],
    ) -> Float[Array, "B F"]:
        """Actions at all states, `[B, S * action]`.

        Raises:
            UserError: if the states are not observations of this policy.
        """
        states = params["states"]
        if self.reads_visited:
            states = jax.lax.stop_gradient(states)
        expected = (self.num_states, self.policy.layer_sizes[0])
        if states.shape != expected:
            raise UserError(
                f"probing states have shape {states.shape}, but {expected[0]} states of a policy "
                f"with {expected[1]} observations have {expected}"
            )
        at_states = jax.vmap(self.policy.logits, in_axes=(None, 0))
        logits = jax.vmap(at_states, in_axes=(0, None))(self.policy.unravel(thetas), states)
        actions = jax.nn.softmax(logits) if self.policy.output == "argmax" else jnp.tanh(logits)
        return actions.reshape(thetas.shape[0], self.size)

    def stages(self, params: Params, thetas: Float[Array, "B P"]) -> list[Stage]:
        """Running the policies at all states."""
        run = lambda p, x: self(p, x, x)  # noqa: E731
        return [Stage("probing", run, params, thetas, thetas.shape[0], learned_inputs=False)]


@dataclass(frozen=True)
class Kernel:
    """How much a policy's actions at probing states are like those of stored policies, landmarks.

    Nyström features of a Gaussian kernel (see `kernel`). A linear V of them with a penalty on its
    slope is kernel ridge regression: V is high near stored policies of high returns, and knows
    nothing far from all of them. Nothing is learned here; landmarks are drawn anew each iteration.

    Attributes:
        acting: the actions, at which states.
        num_landmarks: M.
        length_scale: of the kernel, in units of the landmarks' distance from their mean.
    """

    acting: Probing
    num_landmarks: int = 512
    length_scale: float = 1.0

    @property
    def size(self) -> int:
        """`M`."""
        return self.num_landmarks

    @property
    def reads_visited(self) -> bool:
        """Whether the states are those that policies met."""
        return self.acting.reads_visited

    def init(self, key: PRNGKey) -> Params:
        """Draws states; landmarks are all alike until `refresh`."""
        landmarks = jnp.zeros((self.num_landmarks, self.acting.size))
        return {
            "states": self.acting.init(key)["states"],
            "mean": jnp.zeros(self.acting.size),
            "scale": jnp.ones(()),
            "landmarks": landmarks,
            "whitening": whitening(landmarks, self.length_scale),
        }

    def refresh(
        self,
        params: Params,
        key: PRNGKey,
        thetas: Float[Array, "M P"],
        visited: Float[Array, "V observation"] | None,
    ) -> Params:
        """Makes landmarks of the stored policies, at states that are drawn anew where visited."""
        states = self.acting.refresh({"states": params["states"]}, key, thetas, visited)
        actions = self._actions(states, jnp.asarray(thetas))
        mean = actions.mean(axis=0)
        scale = jnp.sqrt(((actions - mean[None, :]) ** 2).sum(axis=1).mean())
        # policies that all do the same have no distances to measure by
        scale = jnp.where(scale > 0.0, scale, 1.0)
        landmarks = (actions - mean[None, :]) / scale
        factor = whitening(landmarks, self.length_scale)
        return states | {
            "mean": mean,
            "scale": scale,
            "landmarks": landmarks,
            "whitening": factor,
        }

    def __call__(
        self,
        params: Params,
        thetas: Float[Array, "B P"],
        normalised_thetas: Float[Array, "B P"],
    ) -> Float[Array, "B F"]:
        """Features `[B, M]`, of which the product of two rows is about the policies' kernel."""

        def features(thetas: Float[Array, "b P"]) -> jax.Array:
            actions = (self._actions(params, thetas) - params["mean"][None, :]) / params["scale"]
            alike = gaussian(actions, params["landmarks"], self.length_scale)
            return jnp.matmul(alike, params["whitening"], precision="highest")

        return _in_chunks(features, thetas, ACTING_CHUNK)

    def stages(self, params: Params, thetas: Float[Array, "B P"]) -> list[Stage]:
        """Acting and comparing, in one."""
        run = lambda p, x: self(p, x, x)  # noqa: E731
        return [Stage("kernel", run, params, thetas, thetas.shape[0], learned_inputs=False)]

    def _actions(self, params: Params, thetas: Float[Array, "B P"]) -> jax.Array:
        act = lambda thetas: self.acting(params, thetas, thetas)  # noqa: E731
        return _in_chunks(act, thetas, ACTING_CHUNK)


@dataclass(frozen=True)
class Unf:
    """Features of the weights that renumbering hidden neurons does not change (Zhou et al. 2024).

    The body of the value function follows as the head's MLP. With `unf_sign_symmetry` flipping
    the sign of hidden neurons does not change them either.

    Attributes:
        policy: whose parameters are represented.
        config: its `unf_` fields.

    Raises:
        UserError: for a policy that is not dense layers, or whose activation is not odd although
            sign symmetry is asked for.
    """

    policy: Policy
    config: RepresentationConfig = RepresentationConfig()

    def __post_init__(self) -> None:
        policy_spec(self.policy, self.config.unf_permutable)
        if not self.config.unf_sign_symmetry:
            return
        if self.policy.activation != "tanh" or len(self.policy.layer_sizes) < 3:
            raise UserError(
                "unf_sign_symmetry needs a policy with hidden tanh layers, not "
                f"{'-'.join(map(str, self.policy.layer_sizes))} {self.policy.activation}"
            )
        if self.config.unf_permutable != "hidden":
            raise UserError("unf_sign_symmetry needs unf_permutable 'hidden', not 'all'")

    @property
    def size(self) -> int:
        """Channels of all tensors after the last equivariant layer."""
        return self.network.size

    @cached_property
    def lift(self) -> SignInvariantLift | None:
        """What makes features invariant to signs before the network; None without that."""
        if not self.config.unf_sign_symmetry:
            return None
        return SignInvariantLift(self.policy.layer_sizes, self.config.unf_channels)

    @cached_property
    def network(self) -> InvariantNetwork:
        """The equivariant layers and the head."""
        config = self.config
        widths = config.unf_channels, config.unf_matrix_channels, config.unf_layers
        if self.lift is not None:
            return InvariantNetwork(
                self.lift.groups, self.lift.sizes, self.lift.out_channels, *widths
            )
        spec = policy_spec(self.policy, config.unf_permutable)
        return InvariantNetwork(spec.groups, tuple(spec.sizes.items()), spec.channels, *widths)

    def init(self, key: PRNGKey) -> Params:
        """Draws the lift (where there is one), the layers and the head."""
        lift_key, network_key = jax.random.split(key)
        params = {"network": self.network.init(network_key)}
        return params if self.lift is None else params | {"lift": self.lift.init(lift_key)}

    def __call__(
        self,
        params: Params,
        thetas: Float[Array, "B P"],
        normalised_thetas: Float[Array, "B P"],
    ) -> Float[Array, "B F"]:
        """Invariant features `[B, F]`."""
        if self.config.unf_input == "natural":
            inputs, scale = thetas, self.config.unf_scale
        else:
            inputs, scale = normalised_thetas, 1.0
        return _in_chunks(lambda x: self._features(params, scale * x), inputs, self.chunk)

    @property
    def chunk(self) -> int:
        """Policies at a time; 0: all."""
        if self.config.unf_chunk is not None:
            return self.config.unf_chunk
        return CPU_CHUNK if jax.default_backend() == "cpu" else 0

    def stages(self, params: Params, thetas: Float[Array, "B P"]) -> list[Stage]:
        """Folding the weights (with the lift), each equivariant layer with its ReLU, pooling."""
        chunk = min(self.chunk or thetas.shape[0], thetas.shape[0])
        some, network = jnp.asarray(thetas[:chunk]), params["network"]
        stages = [Stage("unf read", self.tensors, params, some, chunk, learned_inputs=False)]
        tensors = self.tensors(params, some)
        for i, layer in enumerate(self.network.layers):
            apply, own = partial(_rectified, layer), network[f"layer{i}"]
            # without a lift the first layer's inputs are the weights, which are given
            learned = i > 0 or self.lift is not None
            stages.append(Stage(f"unf layer {i + 1}", apply, own, tensors, chunk, learned))
            tensors = apply(own, tensors)
        pool = lambda p, x: self.network.pool(x)  # noqa: E731
        return [*stages, Stage("unf pool", pool, {}, tensors, chunk, learned_inputs=True)]

    def _features(self, params: Params, inputs: Float[Array, "B P"]) -> jax.Array:
        return self.network(params["network"], self.tensors(params, inputs))

    def tensors(self, params: Params, inputs: Float[Array, "B P"]) -> list[jax.Array]:
        """The network's input tensors `[C, B, *axes]` of scaled or normalised parameters."""
        layers = self.policy.unravel(inputs)
        if self.lift is not None:
            return self.lift(params["lift"], layers)
        spec = policy_spec(self.policy, self.config.unf_permutable)
        return spec.fold([tensor for layer in layers for tensor in layer])


def _rectified(layer: EquivariantLinear, params: Params, tensors: list[Array]) -> list[jax.Array]:
    return [rectify(y) for y in layer(params, tensors)]


def _in_chunks(
    function: Callable[[Array], jax.Array], x: Float[Array, "B P"], chunk: int
) -> Float[jax.Array, "B F"]:
    """`function(x)` for a function of the rows, a chunk of rows at a time."""
    if chunk == 0 or x.shape[0] <= chunk:
        return function(x)
    count, rest = divmod(x.shape[0], chunk)
    full = jnp.asarray(x[: count * chunk]).reshape(count, chunk, -1)
    _, features = jax.lax.scan(lambda carry, y: (carry, jax.checkpoint(function)(y)), None, full)
    features = features.reshape(count * chunk, -1)
    return features if rest == 0 else jnp.concatenate([features, function(x[-rest:])])


PARTS: dict[str, Callable[[Policy, RepresentationConfig], Part]] = {
    "raw": lambda policy, _: Raw(policy),
    "probing": lambda policy, c: Probing(policy, c.num_probing_states, c.probing_init),
    "kernel": lambda policy, c: Kernel(
        Probing(policy, c.num_probing_states, c.probing_init), c.num_landmarks, c.length_scale
    ),
    "unf": Unf,
}


@dataclass(frozen=True)
class Representation:
    """One part or several side by side, in the order of their names.

    Attributes:
        parts: pairs (name, part).
    """

    parts: tuple[tuple[str, Part], ...]

    @property
    def size(self) -> int:
        """`F`, the sum of the parts' sizes."""
        return sum(part.size for _, part in self.parts)

    def init(self, key: PRNGKey) -> Params:
        """Draws each part's parameters, under its name."""
        keys = jax.random.split(key, len(self.parts))
        return {name: part.init(k) for (name, part), k in zip(self.parts, keys, strict=True)}

    @property
    def reads_visited(self) -> bool:
        """Whether `refresh` needs observations that policies met."""
        return any(getattr(part, "reads_visited", False) for _, part in self.parts)

    @property
    def num_landmarks(self) -> int:
        """Stored policies that `refresh` needs."""
        return max(getattr(part, "num_landmarks", 0) for _, part in self.parts)

    def refresh(
        self,
        params: Params,
        key: PRNGKey,
        thetas: Float[Array, "M P"],
        visited: Float[Array, "V observation"] | None,
    ) -> Params:
        """The parameters of an iteration; see `Refreshed`."""
        keys = jax.random.split(key, len(self.parts))
        return {
            name: part.refresh(params[name], k, thetas, visited)
            if isinstance(part, Refreshed)
            else params[name]
            for (name, part), k in zip(self.parts, keys, strict=True)
        }

    def features(
        self,
        params: Params,
        thetas: Float[Array, "B P"],
        normalised_thetas: Float[Array, "B P"],
    ) -> list[Array]:
        """Features `[B, F_i]` of each part; see `networks.project`."""
        return [part(params[name], thetas, normalised_thetas) for name, part in self.parts]

    def stages(self, params: Params, thetas: Float[Array, "B P"]) -> list[Stage]:
        """The stages of all parts."""
        return [s for name, part in self.parts for s in part.stages(params[name], thetas)]

    def __call__(
        self,
        params: Params,
        thetas: Float[Array, "B P"],
        normalised_thetas: Float[Array, "B P"],
    ) -> Float[Array, "B F"]:
        """Features `[B, F]` of all parts.

        Args:
            params: of `init`.
            thetas: the policies' parameters as the policy uses them.
            normalised_thetas: the same, scaled elementwise as the value function likes its input.
        """
        return jnp.concatenate(self.features(params, thetas, normalised_thetas), axis=-1)


def make_representation(
    name: str, policy: Policy, config: RepresentationConfig | None = None
) -> Representation:
    """The representation of that name for a policy; the one factory of them.

    Args:
        name: one of `RepresentationName`.
        policy: whose parameters are represented.
        config: settings of the parts, its `name` unread; None: the defaults.

    Raises:
        UserError: for an unknown name, or a representation that does not fit the policy.
    """
    if name not in get_args(RepresentationName):
        raise unknown("representation", name, get_args(RepresentationName))
    config = config or RepresentationConfig()
    return Representation(tuple((part, PARTS[part](policy, config)) for part in name.split("+")))
