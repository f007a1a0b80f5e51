"""CartPole by V(θ): what is best with one environment, and what Figure 1 leaves open, searched.

    python benchmarks/cartpole_search.py one-env OUT.csv [--seconds 1500] [--seeds 8]
    python benchmarks/cartpole_search.py fig1 OUT.csv [--seconds 1500] [--seeds 2]
    python benchmarks/cartpole_search.py one-env OUT.csv --only '{"value_update.steps": 20, ...}'

`one-env`: linear policies, one environment; a seed stands still before it would pass 33,000 env
steps, and what counts is the return of the unperturbed policy then. `fig1`: what the paper says of
Figure 1 (N(0, 1) noise, policies 4-64-64-2, batches of 16 from a buffer that keeps all), eight
environments, some hundred iterations; what counts is the return of the perturbed policies.

Compiling takes as long as training twenty settings here. So the settings of one program differ in
numbers only (`NUMBERS`, which are traced) and run side by side with all their seeds; programs
differ in everything else. Programs are drawn at random first, then changed, one or two choices at a
time, from the best settings so far. One row a setting; those that OUT.csv has are what is changed.
"""

import argparse
import csv
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from paper_search import named

from epvf.config.presets import preset
from epvf.errors import UserError
from epvf.methods.epvf import Learner
from epvf.methods.optimizers import make_optimizer
from epvf.runtime.compilation import compiler_options
from epvf.training.prepare import prepare

Options = dict[str, Any]

RATE, FINAL_RATE = "policy_update.learning_rate", "policy_update.final_learning_rate"
NOISE, VALUE_RATE = "perturbation.scale", "value_update.learning_rate"
NUMBERS: Options = {
    NOISE: 1.0,
    VALUE_RATE: 3e-3,
    "value_update.weight_decay": 0.0,
    RATE: 0.03,
    FINAL_RATE: None,
    "schedule_iterations": 300,
    "policy.init_scale": 1.0,
    "target.scale": 1.0,
    "value.input_scale": 1.0,
}
"""What may differ between the settings of a program, and what it is where nothing is said."""

COLUMNS = ("options", "first_seed", "seeds", "perturbed", "unperturbed", "each", "iterations")
"""`each`: of every seed the return that counts."""


@dataclass(frozen=True)
class Goal:
    """What is searched for.

    Attributes:
        fixed: fields that no trial changes.
        choices: what a program is drawn from, and its settings; where a field is a number, these
            are of `NUMBERS`.
        iterations: at most.
        every: iterations between evaluations.
        recent: iterations over which the perturbed return at the end is averaged.
        env_steps: of a seed, at most; None: without limit.
        scored: which return counts.
    """

    fixed: Options
    choices: dict[str, Sequence[Any]]
    iterations: int
    every: int
    recent: int
    env_steps: int | None
    scored: str


GOALS = {
    "one-env": Goal(
        fixed={"num_envs": 1, "policy.hidden_sizes": (), "eval.episodes": 10},
        choices={
            "value.hidden_sizes": ((16,), (32,), (64,), (32, 32), ()),
            "value.inputs": ("raw", "standardised"),
            "value.activation": ("tanh", "relu"),
            "value.layer_norm": (True, False),
            "target.transform": ("raw", "standardised", "centred_ranks", "scaled"),
            "value_update.steps": (5, 10, 20),
            "value_update.batch_size": (32, 64),
            "buffer.size": (64, 128, 256),
            "policy_update.steps": (1, 3, 10, 30),
            "policy_update.optimizer": ("adam", "normalised", "sgd"),
            "policy_update.gradient_at": ("theta", "population"),
            "policy.init": ("lecun_normal", "zeros"),
            "perturbation.noise": ("gaussian", "scaled_uniform"),
            "perturbation.floor": (0.3, 1.0),
            RATE: (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            FINAL_RATE: (None, 0.003, 0.0003),
            "schedule_iterations": (150, 300, 500),
            NOISE: (0.2, 0.3, 0.5, 0.7, 1.0, 1.2, 2.0),
            VALUE_RATE: (1e-3, 3e-3, 1e-2),
            "value_update.weight_decay": (0.0, 0.01, 0.1),
            "target.scale": (30.0, 100.0, 500.0),
        },
        iterations=750,
        every=25,
        recent=10,
        env_steps=33_000,
        scored="unperturbed",
    ),
    "fig1": Goal(
        fixed={"num_envs": 8, "eval.episodes": 8, NOISE: 1.0},
        choices={
            "value.hidden_sizes": ((16,), (32,), (64,), (64, 64)),
            "value.inputs": ("raw", "standardised"),
            "value.activation": ("tanh", "relu"),
            "value.layer_norm": (True, False),
            "target.transform": ("raw", "standardised", "scaled"),
            "value_update.steps": (3, 10),
            "policy_update.steps": (3, 10, 30),
            "policy.activation": ("tanh", "relu"),
            RATE: (0.001, 0.003, 0.01, 0.03, 0.1),
            FINAL_RATE: (None, 0.001, 0.0003),
            "schedule_iterations": (300, 600),
            VALUE_RATE: (1e-3, 3e-3, 1e-2),
            "policy.init_scale": (1.0, 5.0, 10.0, 20.0),
            "target.scale": (30.0, 100.0, 500.0),
        },
        iterations=300,
        every=50,
        recent=50,
        env_steps=None,
        scored="perturbed",
    ),
}


class Traced(Learner):
    """A learner whose numbers may be traced."""

    def _policy_optimizer(self) -> optax.GradientTransformation:
        update = self.policy_update
        first, last = update.learning_rate, update.final_learning_rate
        steps = self.iterations * update.steps - 1
        rate = lambda count: first * (last / first) ** jnp.minimum(count / steps, 1.0)  # noqa: E731
        return make_optimizer(update.optimizer, rate, update.weight_decay, self.perturbation)


def with_numbers(learner: Any, numbers: Options) -> Traced:
    """The learner with the numbers of one setting."""
    changed = {name: getattr(learner, name) for name in learner.__dataclass_fields__}
    groups: dict[str, Options] = {}
    for name, value in numbers.items():
        group, _, last = name.rpartition(".")
        groups.setdefault(group, {})[last] = value
    for group in ("perturbation", "value_update", "policy_update"):
        changed[group] = replace(changed[group], **groups.get(group, {}))
    config = replace(learner.value.config, **groups.get("value", {}))
    changed["value"] = replace(learner.value, config=config, perturbation=changed["perturbation"])
    changed["targets"] = replace(learner.targets, **groups.get("target", {}))
    changed["iterations"] = numbers["schedule_iterations"]
    changed["init_scale"] = numbers["policy.init_scale"]
    return Traced(**changed)


def train(
    goal: Goal, program: Options, settings: Sequence[Options], first: int, seeds: int
) -> list[Options]:
    """Rows of settings that differ in `NUMBERS` only, each with so many seeds from the first on."""
    config = preset("cartpole", "paper", "epvf").replace(
        goal.fixed | {"buffer.size": goal.fixed["num_envs"] * goal.iterations} | program
        | {"iterations": goal.iterations}
    )  # fmt: skip
    setup = prepare(config)
    numbers = {
        name: jnp.repeat(jnp.asarray([float(number(one, name)) for one in settings]), seeds)
        for name in NUMBERS
    }
    keys = jax.vmap(jax.random.key)(jnp.tile(jnp.arange(first, first + seeds), len(settings)))
    lanes, every = len(keys), goal.every
    most = jnp.iinfo(jnp.int32).max if goal.env_steps is None else goal.env_steps

    def one(numbers: Options, state: Any, steps: Any, over: Any, iteration: Any) -> Any:
        learner = with_numbers(setup.search, numbers)
        thetas = learner.propose(state, iteration)
        rolled = setup.evaluate(learner.keys(state, iteration).rollouts, thetas)
        new, _ = learner.learn(state, iteration, thetas, rolled)
        after = steps + rolled.lengths.sum()
        over = over | (after > most)
        if goal.env_steps is not None:
            new = jax.tree.map(lambda old, new: jnp.where(over, old, new), state, new)
        told = jnp.where(over, jnp.nan, rolled.returns.mean())
        return new, jnp.where(over, steps, after), over, told

    def measure(numbers: Options, state: Any, iteration: Any) -> Any:
        learner = with_numbers(setup.search, numbers)
        cloud = learner.centre_cloud(state, iteration)
        return setup.evaluate(learner.keys(state, iteration).evaluation, cloud).returns.mean()

    def part(numbers: Options, states: Any, steps: Any, over: Any, start: Any) -> Any:
        def body(i: Any, carry: Any) -> Any:
            *carry, returns = carry
            step = jax.vmap(one, in_axes=(0, 0, 0, 0, None))
            *carry, told = step(numbers, *carry, start + i)
            return *carry, returns.at[i].set(told)

        carry = (states, steps, over, jnp.zeros((every, lanes)))
        *carry, returns = jax.lax.fori_loop(0, every, body, carry)
        kept = jax.vmap(measure, in_axes=(0, 0, None))(numbers, carry[0], start + every)
        return *carry, returns, kept

    begin = jax.jit(jax.vmap(lambda n, key: with_numbers(setup.search, n).init_state(key)))
    carry = (begin(numbers, keys), jnp.zeros(lanes, jnp.int32), jnp.zeros(lanes, jnp.bool_))
    lowered = jax.jit(part, donate_argnums=(1,)).lower(numbers, *carry, jnp.int32(0))
    run = lowered.compile(compiler_options=compiler_options())
    perturbed, unperturbed = [], np.zeros(lanes)
    for start in range(0, goal.iterations, every):
        *carry, returns, kept = run(numbers, *carry, jnp.int32(start))
        perturbed.append(np.asarray(returns))
        unperturbed = np.asarray(kept)
        if np.asarray(carry[2]).all():
            break
    returns = np.concatenate(perturbed).T
    recent = np.array([values[~np.isnan(values)][-goal.recent :].mean() for values in returns])
    rows = []
    for i, setting in enumerate(settings):
        own = slice(i * seeds, (i + 1) * seeds)
        told = {"perturbed": recent[own], "unperturbed": unperturbed[own]}
        rows.append(
            {"options": named(program | setting), "first_seed": first, "seeds": seeds}
            | {name: round(float(values.mean()), 1) for name, values in told.items()}
            | {"each": " ".join(f"{x:.0f}" for x in told[goal.scored])}
            | {"iterations": returns.shape[1]}
        )
    return rows


def number(setting: Options, name: str) -> Any:
    """A setting's value of one of `NUMBERS`; a rate without a final one does not fall."""
    value = setting.get(name, NUMBERS[name])
    return number(setting, RATE) if name == FINAL_RATE and value is None else value


class Search:
    """Programs and their settings, from what was found so far."""

    def __init__(self, goal: Goal, rows: list[Options], draws: random.Random, width: int) -> None:
        self.goal, self.rows, self.draws, self.width = goal, rows, draws, width

    def next(self) -> tuple[Options, list[Options]]:
        """A program and its settings: drawn, or changed from one of the six best."""
        programs = {named(split(json.loads(row["options"]))[0]) for row in self.rows}
        if len(programs) < 10 or self.draws.random() < 0.2:
            program = split(self.drawn(self.goal.choices))[0]
            return program, self.settings(program, {}, len(NUMBERS))
        ordered = sorted(self.rows, key=lambda row: -float(row[self.goal.scored]))
        program, best = split(json.loads(self.draws.choice(ordered[:6])["options"]))
        for name in self.draws.sample(self.shapes(), self.draws.choice((1, 2))):
            program[name] = self.draws.choice(self.goal.choices[name])
        return program, self.settings(program, best, 2)

    def settings(self, program: Options, best: Options, most: int) -> list[Options]:
        """Different ones, each with at most so many numbers drawn anew."""
        names = [name for name in self.goal.choices if name in NUMBERS]
        found: dict[str, Options] = {}
        for _ in range(self.width):
            count = min(len(names), self.draws.randint(0, most) if best else most)
            new = best | self.drawn(
                {n: self.goal.choices[n] for n in self.draws.sample(names, count)}
            )
            if program.get("target.transform") != "scaled":
                new.pop("target.scale", None)
            found[named(new)] = new
        return list(found.values())

    def drawn(self, choices: dict[str, Sequence[Any]]) -> Options:
        return {name: self.draws.choice(values) for name, values in choices.items()}

    def shapes(self) -> list[str]:
        return [name for name in self.goal.choices if name not in NUMBERS]


def split(options: Options) -> tuple[Options, Options]:
    """What makes a program, and the numbers of a setting."""
    program = {name: value for name, value in options.items() if name not in NUMBERS}
    return program, {name: value for name, value in options.items() if name in NUMBERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("goal", choices=sorted(GOALS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=1500.0, help="when to begin no more")
    parser.add_argument("--width", type=int, default=20, help="settings of a program")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100, help="the first")
    parser.add_argument("--iterations", type=int, help="at most, if not as many as the goal says")
    parser.add_argument("--only", action="append", help="JSON of a setting's options, no others")
    asked = parser.parse_args()
    goal = GOALS[asked.goal]
    if asked.iterations is not None:
        goal = replace(goal, iterations=asked.iterations)
    deadline = time.time() + asked.seconds
    rows = list(csv.DictReader(asked.out.open())) if asked.out.exists() else []
    search = Search(goal, rows, random.Random(len(rows)), asked.width)
    waiting = list(grouped([json.loads(words) for words in asked.only or ()]))
    while waiting if asked.only else time.time() < deadline:
        program, settings = waiting.pop(0) if asked.only else search.next()
        try:
            found = train(goal, program, settings, asked.seed, asked.seeds)
        except UserError as error:
            print(f"left out: {error}", flush=True)
            continue
        add(asked.out, found)
        search.rows += found
        for one in sorted(found, key=lambda one: -one[goal.scored]):
            print(one[goal.scored], f"[{one['each']}]", one["options"], flush=True)


def grouped(options: Sequence[Options]) -> list[tuple[Options, list[Options]]]:
    """The programs of some settings."""
    programs: dict[str, tuple[Options, list[Options]]] = {}
    for program, setting in map(split, options):
        programs.setdefault(named(program), (program, []))[1].append(setting)
    return list(programs.values())


def add(out: Path, rows: Sequence[Options]) -> None:
    """Appends rows, with a header where there is none."""
    made = out.exists()
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not made:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
