"""What stepping another library's environments as tasks costs over stepping them bare.

    python benchmarks/foreign_environments.py [gymnasium:Pendulum-v1 gymnax:Acrobot-v1 ...] [--json]
    python benchmarks/foreign_environments.py gymnasium:CartPole-v1 --around POLICY

Gymnasium's: `Evaluate` of a population, policies and all, against the same
environments in as many processes, stepped in the plainest loop with random actions that are drawn
beforehand, and begun anew where they end; and, for comparison, against `SyncVectorEnv` in one
process with the same actions. JAX's: the task's step against the library's own, both as a scan
over environments side by side with random actions. The sides take turns, so that they see the same
machine; the median of the turns' ratios is reported: seconds a step through the adapter by seconds
a step bare."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores belong to the processes

import gymnasium
import jax
import numpy as np
from gymnasium.vector import SyncVectorEnv

from epvf.policies.formats.registry import load_policy
from epvf.policies.mlp import Policy
from epvf.runtime.processors import num_processors
from epvf.tasks import make
from epvf.tasks.adapters import from_gymnax
from epvf.tasks.adapters.stepping import SEATS

NAMES = ("gymnasium:CartPole-v1", "gymnasium:Pendulum-v1", "gymnasium:Hopper-v5")
STEPS = 100


def population(spec: Any, asked: Any) -> tuple[Policy, np.ndarray]:
    """Policies `[N, P]` around one in a file, or one that was drawn as at a run's start."""
    if asked.around is not None:
        saved = load_policy(asked.around)
        policy, centre = saved.policy, np.asarray(saved.theta)
    else:
        sizes = (spec.observation_size, *asked.hidden_sizes, spec.action_size)
        policy = Policy(sizes, output="argmax" if spec.discrete else "clip")
        centre = np.asarray(policy.init(jax.random.key(0)))
    noise = np.random.default_rng(0).normal(size=(asked.environments, len(centre)))
    return policy, (centre + 0.1 * noise).astype(np.float32)


def on_host(name: str, asked: Any) -> dict[str, Callable[[], float]]:
    """Env steps per second of both sides, and of Gymnasium's own vector."""
    task = make(name)
    policy, thetas = population(task.spec, asked)
    evaluate = task.evaluator(policy)
    bare = task.bare_stepper(policy, thetas)

    def through() -> float:
        start = time.perf_counter()
        steps = int(evaluate(jax.random.key(1), thetas).lengths.sum())
        return steps / (time.perf_counter() - start)

    def alone() -> float:
        stepped = bare()
        return stepped.steps / stepped.seconds

    through()  # makes the environments
    return {"task": through, "bare": alone, "sync_vector_env": synchronous(name)}


def synchronous(name: str) -> Callable[[], float]:
    """Env steps per second of `SyncVectorEnv`, in this process."""
    known_as = name.rpartition(":")[2]
    envs = SyncVectorEnv([lambda: gymnasium.make(known_as, disable_env_checker=True)] * SEATS)
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(STEPS)]
    envs.reset(seed=0)

    def run() -> float:
        start = time.perf_counter()
        for action in actions:
            envs.step(action)
        return SEATS * STEPS / (time.perf_counter() - start)

    return run


def in_jax(name: str, num: int) -> dict[str, Callable[[], float]]:
    """Env steps per second of the task's step and of the library's own."""
    spec, environment = make(name).spec, make(name).environment  # type: ignore[attr-defined]
    keys = jax.random.split(jax.random.key(0), num)
    if spec.discrete:
        actions = jax.random.randint(jax.random.key(1), (STEPS, num), 0, spec.action_size)
    else:
        shape = (STEPS, num, spec.action_size)
        actions = jax.random.uniform(jax.random.key(1), shape, minval=-1.0, maxval=1.0)

    def scanned(reset: Any, step: Any) -> Callable[[], float]:
        def advance(state: Any, action: Any) -> tuple[Any, Any]:
            state, seen = jax.vmap(step)(state, action)
            return state, jax.tree.map(lambda x: x.sum(), seen)

        run = jax.jit(lambda: jax.lax.scan(advance, jax.vmap(reset)(keys), actions))
        jax.block_until_ready(run())

        def rate() -> float:
            start = time.perf_counter()
            jax.block_until_ready(run())
            return num * STEPS / (time.perf_counter() - start)

        return rate

    def through(state: Any, action: Any) -> tuple[Any, Any]:
        state, reward, over = environment.step(state, action)
        return state, (environment.observe(state), reward, over)

    return {"task": scanned(environment.reset, through), "bare": scanned(*library_s_own(name))}


def library_s_own(name: str) -> tuple[Any, Any]:
    """Reset and step of a library, as it offers them."""
    library, _, known_as = name.partition(":")
    if library == "gymnax":
        import gymnax

        own, params = gymnax.make(known_as)
        space = own.action_space(params)
        convert = from_gymnax._actions(name, space)[2]

        def step(state: Any, action: Any) -> tuple[Any, Any]:
            key, inner = state
            key, step_key = jax.random.split(key)
            seen, inner, reward, over, _ = own.step_env(step_key, inner, convert(action), params)
            return (key, inner), (seen, reward, over)

        return lambda key: (key, own.reset_env(key, params)[1]), step
    if library == "brax":
        from brax.envs import get_environment

        its: Any = get_environment(known_as)
    else:
        from mujoco_playground import registry

        its = registry.load(known_as, config_overrides={"impl": "jax"})

    def advance(state: Any, action: Any) -> tuple[Any, Any]:
        state = its.step(state, action)
        return state, (state.obs, state.reward, state.done)

    return its.reset, advance


def measure(name: str, asked: Any) -> dict[str, Any]:
    """Medians of both sides' rates, and of their ratios."""
    on_processes = name.startswith("gymnasium:")
    sides = on_host(name, asked) if on_processes else in_jax(name, asked.environments)
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(asked.turns):
        for side, rate in sides.items():
            rates[side].append(rate())
    ratios = [bare / through for through, bare in zip(rates["task"], rates["bare"], strict=True)]
    return {
        "name": name,
        "cores": num_processors(),
        "environments": asked.environments,
        "hidden_sizes": asked.hidden_sizes,
        "turns": asked.turns,
        "steps_per_second": {side: statistics.median(values) for side, values in rates.items()},
        "cost": statistics.median(ratios),
        "cost_range": [min(ratios), max(ratios)],
    }


def main() -> None:
    """Prints a line for each, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--environments", type=int, default=256)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--hidden-sizes", type=int, nargs="*", default=[64, 64])
    parser.add_argument("--around", metavar="POLICY")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    for name in asked.names:
        result = measure(name, asked)
        if asked.json:
            print(json.dumps(result))
            continue
        rates = ", ".join(f"{side} {r:,.0f}" for side, r in result["steps_per_second"].items())
        low, high = result["cost_range"]
        cost = result["cost"]
        print(f"{name}: {rates} steps/s; costs {cost:.3f} of bare ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
