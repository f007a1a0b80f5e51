"""Experiments, the paper's figures among them, as lists of named runs."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from epvf.config.presets import preset
from epvf.config.schema import Config, replace
from epvf.config.variants import VARIANTS, vary
from epvf.errors import UserError, unknown

Scale: TypeAlias = Literal["full", "small"]
SCALES: tuple[Scale, ...] = ("full", "small")

NOMINAL_LENGTH = 1000
"""Env steps an Ant episode is reckoned with, where a budget of steps becomes iterations."""


class Arm(NamedTuple):
    """One setting of an experiment: its name (also its folder's) and its configuration."""

    name: str
    config: Config


class Size(NamedTuple):
    """How large an experiment is at a scale.

    Attributes:
        arms: the settings, from the configuration that they start from.
        seeds: how many, unless told otherwise.
        seeds_per_run: how many of an arm's seeds train side by side in one run (vmapped). Fewer
            need less memory, and a long experiment is split into more parts.
    """

    arms: Callable[[Config], list[Arm]]
    seeds: int
    seeds_per_run: int


class Experiment(NamedTuple):
    """One figure.

    Attributes:
        title: above the figure.
        task: what is trained, from the task's `paper` preset unless told otherwise.
        best: the highest return there is.
        claims: what the paper says of it, in its order; none of what is not the paper's.
        sizes: by scale.
        smooth: iterations that a running mean takes in the figure.
        axes: what the figure is drawn over, of `curves.AXES`.
        compares_presets: whether its settings start from presets of their own.
    """

    title: str
    task: str
    best: float
    claims: tuple[str, ...]
    sizes: dict[str, Size]
    smooth: int = 1
    axes: tuple[str, ...] = ("env-steps",)
    compares_presets: bool = False


def _cartpole(num_envs: tuple[int, ...], iterations: int) -> Callable[[Config], list[Arm]]:
    # a checkpoint holds the buffer, here gigabytes
    rarely = {"checkpoint.every_minutes": 15, "checkpoint.keep": 1}

    def arms(base: Config) -> list[Arm]:
        size = {"iterations": iterations} | rarely
        return [Arm(_envs(n), replace(base, size | {"num_envs": n})) for n in num_envs]

    return arms


def _envs(num: int) -> str:
    return "1 env" if num == 1 else f"{num} envs"


# The best of a search (docs/reproduction.md). Noise scaled by the weights keeps its size against
# them while they grow; argmax sees nothing of their length.
ONE_ENV: dict[str, Any] = {
    "num_envs": 1,
    "policy.hidden_sizes": (),
    "policy.init": "zeros",
    "perturbation.noise": "scaled_uniform",
    "perturbation.scale": 1.25,
    "perturbation.floor": 1.0,
    "buffer.size": 64,
    "value.hidden_sizes": (32,),
    "value.activation": "relu",
    "value.layer_norm": True,
    "value.inputs": "raw",
    "target.transform": "raw",
    "value_update.batch_size": 64,
    "value_update.steps": 20,
    "value_update.learning_rate": 2e-2,
    "policy_update.steps": 3,
    "policy_update.optimizer": "normalised",
    "policy_update.learning_rate": 1e-2,
    "policy_update.final_learning_rate": None,
    "iterations": 4000,
    "eval.interval": 25,
    "eval.episodes": 100,
}
"""V(θ) of linear policies on CartPole with one environment."""

LONGEST_EPISODE = 500


def _one_env(env_steps: int) -> Callable[[Config], list[Arm]]:
    """A run that ends before so many env steps: after the iteration that passes an episode less."""

    def arms(base: Config) -> list[Arm]:
        size = {"env_steps": env_steps - LONGEST_EPISODE}
        return [Arm("1 env", replace(base, ONE_ENV | size))]

    return arms


def _ant(base: Config, num_envs: int, env_steps: int) -> Config:
    """`num_envs` policies an iteration, batch and buffer as large, and a budget of env steps."""
    return replace(
        base,
        {
            "num_envs": num_envs,
            "value_update.batch_size": num_envs,
            "buffer.size": num_envs,
            "iterations": max(1, round(env_steps / (num_envs * NOMINAL_LENGTH))),
        },
    )


def _ant_scaling(num_envs: tuple[int, ...], env_steps: int) -> Callable[[Config], list[Arm]]:
    def arms(base: Config) -> list[Arm]:
        return [Arm(_envs(n), _ant(base, n, env_steps)) for n in num_envs]

    return arms


def _ant_ablations(num_envs: int, env_steps: int) -> Callable[[Config], list[Arm]]:
    def arms(base: Config) -> list[Arm]:
        best = _ant(base, num_envs, env_steps)
        return [Arm("best", best), *(Arm(name, vary(best, name)) for name in VARIANTS)]

    return arms


def _ant_representations(num_envs: int, env_steps: int) -> Callable[[Config], list[Arm]]:
    names = ("raw", "probing", "probing+raw", "unf", "unf+raw")

    def arms(base: Config) -> list[Arm]:
        best = _ant(base, num_envs, env_steps)
        return [Arm(name, replace(best, {"representation.name": name})) for name in names]

    return arms


# The best of a search, or level with the best (docs/reproduction.md).
_OPENES: dict[str, Any] = {
    "policy_update.learning_rate": 1e-2,
    "policy_update.final_learning_rate": 5e-4,
    "schedule_iterations": 420,
}


class Match(NamedTuple):
    """V(θ) as preset `tuned` has it, and matched OpenES, on equal populations and budgets.

    Attributes:
        num_envs: policies an iteration.
        env_steps: of each run.
        openes: hidden layers of the policies that OpenES has, a run of each.
    """

    num_envs: int
    env_steps: int
    openes: tuple[tuple[int, ...], ...]


def _matches(*matches: Match) -> Callable[[Config], list[Arm]]:
    def arms(base: Config) -> list[Arm]:
        return [
            Arm(name, replace(config, {"num_envs": match.num_envs, "env_steps": match.env_steps}))
            for match in matches
            for name, config in _rivals(base, match.num_envs, match.openes)
        ]

    return arms


def _rivals(base: Config, num: int, openes: tuple[tuple[int, ...], ...]) -> list[Arm]:
    def of(preset_name: str, method: str, delta: dict[str, Any]) -> Config:
        own = preset(base.task.name, preset_name, method)
        limit = {"iterations": LONGEST_SEARCH}
        return replace(dataclasses.replace(own, task=base.task, eval=base.eval), limit | delta)

    kept = preset(base.task.name, "tuned", "epvf")
    rows = kept.method.buffer.size // kept.num_envs * num
    kernel = {"buffer.size": rows, "value_update.batch_size": rows}
    return [
        Arm(f"kernel {num}", of("tuned", "epvf", kernel)),
        *(
            Arm(
                f"OpenES {num} {'-'.join(map(str, sizes))}",
                of("paper", "matched-openes", _OPENES | {"policy.hidden_sizes": sizes}),
            )
            for sizes in openes
        ),
    ]


LONGEST_SEARCH = 100_000
"""Iterations that a budget of env steps ends sooner."""

PAPER_STEPS = 2_000_000_000
SMALL_STEPS = 2_000_000
SMALL_ENVS = 128

EXPERIMENTS: dict[str, Experiment] = {
    "fig1": Experiment(
        title="CartPole, 1 to 16 environments",
        task="cartpole",
        best=500.0,
        claims=(
            "all settings eventually reach the maximum return of 500",
            "more environments converge faster",
            "diminishing returns with more than 8 environments",
        ),
        sizes={
            "full": Size(_cartpole((1, 2, 4, 8, 16), 3000), seeds=10, seeds_per_run=5),
            "small": Size(_cartpole((1, 4, 16), 300), seeds=3, seeds_per_run=3),
        },
        smooth=50,
        axes=("env-steps", "iterations"),
    ),
    "cartpole-one-env": Experiment(
        title="CartPole, linear policies, 1 environment, 33,000 env steps",
        task="cartpole",
        best=500.0,
        claims=(),
        sizes={
            "full": Size(_one_env(33_000), seeds=10, seeds_per_run=1),
            "small": Size(_one_env(5_000), seeds=3, seeds_per_run=1),
        },
    ),
    "v-theta": Experiment(
        title="Ant, V(θ) by what policies do, and matched OpenES",
        task="ant",
        best=1000.0,
        claims=(),
        sizes={
            "full": Size(
                _matches(
                    Match(1024, 50_000_000, ((64, 64),)),
                    Match(4096, 100_000_000, ((64, 64), (32,))),
                ),
                seeds=5,
                seeds_per_run=1,
            ),
            "small": Size(_matches(Match(128, SMALL_STEPS, ((64, 64), (32,)))), 3, 3),
        },
        compares_presets=True,
    ),
    "fig2-scaling": Experiment(
        title="Ant, number of environments = batch size",
        task="ant",
        best=1000.0,
        claims=(
            "a larger batch directly improves the policy",
            "at least 2048 environments are needed to solve the task",
            "fewer struggle to reach even a quarter of the maximum return",
        ),
        sizes={
            "full": Size(_ant_scaling((512, 1024, 2048, 4096), PAPER_STEPS), 5, seeds_per_run=1),
            "small": Size(_ant_scaling((32, 64, 128, 256, 512), SMALL_STEPS), 3, seeds_per_run=3),
        },
    ),
    "fig2-ablations": Experiment(
        title="Ant, ablations",
        task="ant",
        best=1000.0,
        claims=("weight clipping and noise scaled by the weights are what training needs",),
        sizes={
            "full": Size(_ant_ablations(4096, PAPER_STEPS), 5, seeds_per_run=1),
            "small": Size(_ant_ablations(SMALL_ENVS, SMALL_STEPS), 3, seeds_per_run=3),
        },
    ),
    "fig2-representations": Experiment(
        title="Ant, representations of the policy",
        task="ant",
        best=1000.0,
        claims=(
            "probing alone is worse than probing and raw weights, and both than raw weights",
            "UNF alone is worse than raw weights",
            "UNF and raw weights learn slightly faster than raw weights, and end alike",
        ),
        sizes={
            "full": Size(_ant_representations(4096, PAPER_STEPS), 5, seeds_per_run=1),
            "small": Size(_ant_representations(SMALL_ENVS, SMALL_STEPS), 3, seeds_per_run=3),
        },
    ),
}


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        UserError: if there is none.
    """
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]


def planned(
    name: str,
    scale: str,
    seeds: int | None = None,
    start: str = "paper",
    delta: dict[str, Any] | None = None,
    abreast: int | None = None,
    env_steps: int | None = None,
) -> tuple[list[Arm], int]:
    """All runs of an experiment, and how many seeds each arm has.

    Args:
        name: of the experiment.
        scale: `full` or `small`.
        seeds: how many; None: as many as the experiment wants at that scale.
        start: preset that every arm starts from.
        delta: dotted fields that every arm changes besides, e.g. the engine.
        abreast: how many of an arm's seeds train side by side in one run; None: as many as the
            experiment wants at that scale.
        env_steps: after which each seed ends, its schedules as they are: the beginning of the
            same curves. None: as the experiment wants.

    Returns:
        One `Arm` a run, named as its setting and, where a setting has several runs, `-s<seed>`;
        and the number of seeds of each setting.

    Raises:
        UserError: if anything is unknown, or a number is not positive.
    """
    experiment = find(name)
    if scale not in experiment.sizes:
        raise unknown("scale", scale, experiment.sizes)
    if experiment.compares_presets and start != "paper":
        raise UserError(f"experiment {name!r} compares presets of its own; leave out --preset")
    size = experiment.sizes[scale]
    count = size.seeds if seeds is None else seeds
    abreast = size.seeds_per_run if abreast is None else abreast
    for told, number in {"seeds": count, "seeds_per_run": abreast, "env_steps": env_steps}.items():
        if number is not None and number < 1:
            raise UserError(f"{told} is {number}, but must be at least 1")
    arms = size.arms(replace(preset(experiment.task, start, "epvf"), delta or {}))
    if env_steps is not None:
        arms = [Arm(arm.name, replace(arm.config, {"env_steps": env_steps})) for arm in arms]
    # all arms of some seeds before the next seeds: an experiment cut short can be compared
    starts = range(0, count, abreast)
    return [
        _run(arm, start, min(abreast, count - start), alone=len(starts) == 1)
        for start in starts
        for arm in arms
    ], count


def _run(arm: Arm, seed: int, num_seeds: int, alone: bool) -> Arm:
    name = arm.name if alone else f"{arm.name}-s{seed}"
    return Arm(name, replace(arm.config, {"seed": seed, "num_seeds": num_seeds}))
