"""From a configuration to everything that training needs, built once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from epvf.config.schema import Config, replace
from epvf.errors import UserError
from epvf.methods.base import Method, Parts, PolicySearch
from epvf.methods.registry import METHODS
from epvf.policies import host_noise
from epvf.policies.mlp import Policy
from epvf.policies.population import drawn
from epvf.runtime import hosts
from epvf.runtime.devices import mesh_of
from epvf.runtime.memory import (
    DEVICE,
    HOST,
    Needs,
    check_fits,
    free_device_bytes,
    free_host_bytes,
    num_bytes,
)
from epvf.tasks import make
from epvf.tasks.adapters.cluster import Cluster, spread
from epvf.tasks.base import (
    Task,
    TaskSpec,
    check_policy,
    checked,
    checked_explore,
    explorer_of,
)
from epvf.tasks.body import Body
from epvf.tasks.registry import engines
from epvf.types import Array, Evaluate, Explore

MOST_SCOUTED = 1000
"""Env steps of a scout."""


class Setup(NamedTuple):
    """What a run is made of; the loop, the recorder, benchmarks and diagnoses take it.

    Attributes:
        config: with the engine that it came to.
        task: what turns policies into returns.
        policy: architecture of the policies.
        method: of a population search; None for agents that step environments themselves.
        evaluate: policies to returns of whole episodes.
        explore: policies to segments, where the method asks for them.
        initial: `[P]` where the run starts; None: where the method draws it.
        mesh: devices that share the run; None: one does it all.
        scout: policies to what they see, for `scout_steps` steps; None: nobody asks.
    """

    config: Config
    task: Task
    policy: Policy
    method: PolicySearch | None
    evaluate: Evaluate
    explore: Explore | None
    initial: Array | None = None
    mesh: Mesh | None = None
    scout: Explore | None = None

    @property
    def search(self) -> PolicySearch:
        """The method, of which it is known that it searches by populations."""
        assert self.method is not None
        return self.method


def prepare(
    config: Config,
    task: Task | Body | None = None,
    initial: Array | None = None,
    devices: str = "1",
    cluster: Cluster | None = None,
) -> Setup:
    """Builds task, method and engine functions of a configuration, and checks that they fit.

    Args:
        config: the run.
        task: what to train on, or a body, on the configuration's engine; None: the task that the
            configuration names.
        initial: `[P]` where the run starts; None: where the method draws it.
        devices: of each process that share the run: a number, or `all`.
        cluster: whose workers roll out; None: this machine does.

    Raises:
        UserError: if task, method and configuration do not fit, something is not installed, the
            run does not fit the memory, or the devices cannot share it.
    """
    method = METHODS[config.method.name]
    if task is None or isinstance(task, Body):
        task = make_task(config, method, task)
    if cluster is not None:
        task = spread(task, cluster)
    spec = task.spec
    if (reason := method.unfit(spec, config)) is not None:
        raise UserError(f"method {config.method.name!r} cannot learn task {spec.name!r}: {reason}")
    policy = make_policy(config, spec)
    check_policy(spec, policy)
    evaluate = checked(spec, task.evaluator(policy))
    changed = {"task.backend": spec.backend, "task.name": spec.name}
    config = replace(config, changed)
    if initial is not None and method.build is None:
        raise UserError(
            f"method {config.method.name!r} does not start from a given policy; leave out --init"
        )
    mesh = _mesh(config, spec, devices)
    if method.build is None:
        return Setup(config, task, policy, None, evaluate, None)
    search = method.build(Parts(config, spec, policy, initial is not None, mesh))
    explore = None
    if search.horizon is not None:
        explore = explorer_of(task, policy, search.horizon)
        explore = checked_explore(spec, explore, policy, search.horizon)
    scout = None
    if search.num_scouts:
        steps = scout_steps(spec)
        scout = checked_explore(spec, explorer_of(task, policy, steps), policy, steps)
    shares = 1 if mesh is None else mesh.size
    multiple = 2 * config.policy.num_centres
    check_memory(search, config.num_seeds, spec.traceable, multiple, shares, draws_late(task))
    return Setup(config, task, policy, search, evaluate, explore, initial, mesh, scout)


def scout_steps(spec: TaskSpec) -> int:
    """Env steps for which policies run to tell what they see: an episode, if that is not long."""
    return min(spec.episode_length, MOST_SCOUTED)


def _mesh(config: Config, spec: TaskSpec, devices: str) -> Mesh | None:
    """The devices that share a run.

    Raises:
        UserError: if there are not as many, or this run cannot be shared.
    """
    mesh = mesh_of(devices, config.num_seeds, config.num_envs, config.policy.num_centres)
    if mesh is None:
        return None
    option, without = "--devices", "leave it out"
    if hosts.several():
        option, without = "several processes", "use --num-processes 1"
    if METHODS[config.method.name].build is None:
        name = config.method.name
        raise UserError(f"method {name!r} trains on one device, not by {option}; {without}")
    if not spec.traceable:
        raise UserError(
            f"engine {spec.backend!r} steps on the host, which {option} cannot share out; "
            f"{without}, or use an engine on JAX such as mjx"
        )
    return mesh


def make_policy(config: Config, spec: TaskSpec) -> Policy:
    """The architecture that the configuration asks for on a task."""
    sizes = (spec.observation_size, *config.policy.hidden_sizes, spec.action_size)
    return Policy(sizes, config.policy.activation, config.policy.output)


def make_task(config: Config, method: Method, body: Body | None = None) -> Task:
    """The task that a configuration names, or a body, on an engine that suits the method."""
    asked, backend = config.task, config.task.backend
    stands = asked.name if body is None else body
    if backend == "auto" and method.build is None:
        # agents step environments within their own programs
        names = engines(stands)
        backend = next((name for name in ("jax", "mjx") if name in names), backend)
    return make(
        stands,
        backend=backend,
        episode_length=asked.episode_length,
        num_threads=asked.num_threads,
        num_slots=asked.num_slots,
    )


def draws_late(task: Task) -> bool:
    """Whether policies need not be there before a lane of the host takes them up."""
    return getattr(task, "takes_recipes", False) and host_noise.reproducible()


def check_memory(
    search: PolicySearch,
    num_seeds: int,
    traceable: bool,
    multiple: int = 1,
    shares: int = 1,
    late: bool = False,
) -> None:
    """Refuses a run that cannot fit the memory, before anything of it is compiled.

    Only what is certainly needed is counted, so that nothing is refused which would fit; what
    passes can still be too large.

    Args:
        search: the method's statics.
        num_seeds: M, seeds trained side by side.
        traceable: whether the rollouts run where the arrays live, rather than on the host.
        multiple: of which a number of policies has to be one.
        shares: devices that share the populations of all seeds.
        late: whether policies that `learn` does not read are drawn one by one; see `draws_late`.

    Raises:
        UserError: if the run cannot fit; it tells how many policies do.
    """
    free, where, copies = free_device_bytes(), DEVICE, 1
    if free is None:
        # a task on the host gets populations and clouds together, copied into one
        free, where, copies = free_host_bytes(), HOST, 1 if traceable else 2
    if free is not None:
        needs = run_needs(search, num_seeds, traceable, copies, late)
        needs = needs._replace(per_policy=needs.per_policy // shares)
        check_fits(search.num_envs, needs, free, multiple, where)


def run_needs(
    search: PolicySearch, num_seeds: int, traceable: bool, copies: int, late: bool = False
) -> Needs:
    """What a run needs, by the shapes of its state and of so many copies of its populations.

    Populations that a traceable task, or one on lanes, draws as it goes take next to nothing.
    """
    state = jax.eval_shape(search.init_state, jax.eval_shape(lambda: jax.random.key(0)))
    iteration = jax.ShapeDtypeStruct((), jnp.int32)
    propose = search.population if late and not search.reads_policies else search.propose
    thetas = jax.eval_shape(propose, state, iteration)
    if not (traceable or late):
        thetas = jax.eval_shape(drawn, thetas)
    per_policy = num_bytes(thetas) // search.num_envs
    return Needs(num_seeds * num_bytes(state), num_seeds * copies * per_policy)
