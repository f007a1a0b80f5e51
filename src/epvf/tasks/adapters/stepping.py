"""What a process does that steps environments of Gymnasium: whole episodes, and segments of them.

Policies go to where the environments are, so that nothing is sent on every step. JAX is not needed
here, and this module imports nothing that loads it.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from epvf.policies.crowd import Architecture, Crowd
from epvf.tasks.adapters.spaces import Actions, Observations, actions, observations

SEATS = 64
"""Policies that a process runs side by side: their weights should stay in the cache."""


class Batch(NamedTuple):
    """Policies that wait for an episode.

    Attributes:
        rows: `[n]` places in the population.
        thetas: `[n, P]`.
        seeds: `[n]` of their episodes.
    """

    rows: Sequence[int]
    thetas: np.ndarray
    seeds: np.ndarray


class Lived(NamedTuple):
    """One policy's episode.

    Attributes:
        row: place in the population.
        total: its return; NaN where a reward, an action or an observation was not finite.
        length: steps.
        start: `[observation]` what it saw first.
    """

    row: int
    total: float
    length: int
    start: np.ndarray


Ask: TypeAlias = Callable[[list[Lived]], Batch | None]
"""Takes what became of policies, and gives the next ones; None where none are left."""


class Standing(NamedTuple):
    """Environments that wait in the middle of episodes, and what is known of each.

    Attributes:
        environments: `n` of them.
        observations: `[n, observation]` what their next policies see first.
        serials: `[n]` which call left them there; 0: none.
    """

    environments: list[Any]
    observations: np.ndarray
    serials: np.ndarray


class Leg(NamedTuple):
    """What a process has to do of an exploration, and what comes of it; rows as in `Segment`.

    Attributes:
        thetas: `[n, P]`.
        seeds: `[n]` of environments that have not been reset yet.
        serials: `[n]` of the call that left the environments where they are thought to be.
        serial: of this call.
        steps, total, finished, finished_steps: `[n]` of `Envs`, changed in place.
        horizon: H.
    """

    thetas: np.ndarray
    seeds: np.ndarray
    serials: np.ndarray
    serial: int
    steps: np.ndarray
    total: np.ndarray
    finished: np.ndarray
    finished_steps: np.ndarray
    horizon: int


class Met(NamedTuple):
    """What policies met on a leg; rows as in `Segment` and `Envs`."""

    observations: np.ndarray
    outputs: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    steps: np.ndarray
    total: np.ndarray
    finished: np.ndarray
    finished_steps: np.ndarray


class Stepped(NamedTuple):
    """What a step of several environments led to.

    Attributes:
        rewards: `[n]`; NaN where an action, the reward or the observation was not finite.
        terminated: which are in a terminal state, or have no reward.
        truncated: which ended for another reason, such as their time.
    """

    rewards: np.ndarray
    terminated: list[int]
    truncated: list[int]


class Stepper:
    """Environments of one kind, made as they are needed, and kept."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """Makes the first environment.

        Raises:
            UserError: if policies cannot see or act in it.
        """
        self._make = make
        self._environments = [make()]
        self.seen: Observations = observations(self._environments[0].observation_space)
        self.acted: Actions = actions(self._environments[0].action_space)
        self._standing: dict[int, Standing] = {}

    def try_out(self) -> None:
        """One reset and one step, for what fails there to fail early."""
        environment = self._environment(0)
        observation = np.zeros((1, self.seen.size), np.float32)
        self._reset(environment, 0, observation[0])
        middle = np.zeros((1, self.acted.size), np.float32)
        chosen = middle.argmax(axis=1) if self.acted.discrete else middle
        self._step([environment], chosen, observation)

    def episodes(self, architecture: Architecture, num_seats: int, ask: Ask) -> list[Lived]:
        """Runs one episode of every policy that is given, `num_seats` side by side.

        Policies take the places of those that are done. A θ that is not finite takes no step: its
        return is NaN and its length 0.

        Returns:
            What became of the last ones, of which `ask` has not been told.
        """
        seats = _Seats(architecture, num_seats, self.seen.size)
        waiting: deque[tuple[int, np.ndarray, int]] = deque()
        lived: list[Lived] = []
        more = True
        while True:
            while seats.num_taken < num_seats and (waiting or more):
                if waiting:
                    lived += self._begin(seats, *waiting.popleft())
                    continue
                batch = ask(lived)
                lived, more = [], batch is not None
                if batch is not None:
                    waiting.extend(zip(batch.rows, batch.thetas, batch.seeds.tolist(), strict=True))
            if not seats.num_taken:
                return lived
            lived += self._go_on(seats)

    def _begin(self, seats: "_Seats", row: int, theta: np.ndarray, seed: int) -> list[Lived]:
        """Starts an episode in the first free seat; what there is to tell of it already."""
        seat = seats.num_taken
        self._reset(self._environment(seat), seed, seats.observed[seat])
        start = seats.observed[seat].copy()
        if not np.isfinite(theta).all():
            return [Lived(row, float("nan"), 0, start)]
        seats.take(row, theta, start)
        return []

    def _go_on(self, seats: "_Seats") -> list[Lived]:
        """One step of all that sit; what became of those who are done, and have left."""
        num, kept = seats.num_taken, self._environments
        step = self._act(seats.crowd, kept[:num], seats.observed[:num])[1]
        seats.totals[:num] += step.rewards
        seats.lengths[:num] += 1
        lived = []
        for seat in sorted(step.terminated + step.truncated, reverse=True):
            lived.append(seats.leave(seat))
            # the last one has moved there, and takes its environment along
            last = seats.num_taken
            kept[seat], kept[last] = kept[last], kept[seat]
        return lived

    def explore(self, whose: int, architecture: Architecture, leg: Leg) -> Met:
        """Runs policies for a segment, each in the environment of its row.

        Environments are those that the explorer `whose` left there in the call that `serials` tell;
        others, as after a run was resumed, begin an episode.
        """
        num = len(leg.thetas)
        standing = self._stand(whose, num)
        shape = (num, leg.horizon)
        met = Met(
            np.zeros((num, leg.horizon + 1, self.seen.size), np.float32),
            np.zeros((*shape, self.acted.size), np.float32),
            np.zeros(shape, np.float32),
            np.zeros(shape, bool),
            np.zeros(shape, bool),
            leg.steps,
            leg.total,
            leg.finished,
            leg.finished_steps,
        )
        for first in range(0, num, SEATS):
            part = slice(first, min(first + SEATS, num))
            rows = Met(*(array[part] for array in met))
            self._explore(architecture, leg, part, standing, rows)
        standing.serials[:] = leg.serial
        return met

    def _explore(
        self, architecture: Architecture, leg: Leg, part: slice, standing: Standing, rows: Met
    ) -> None:
        """The same for some rows, of which everything stays in the cache."""
        environments, observed = standing.environments[part], standing.observations[part]
        strange = (standing.serials[part] != leg.serials[part]) | (leg.serials[part] == 0)
        for i in np.flatnonzero(strange).tolist():
            self._reset(environments[i], int(leg.seeds[part][i]), observed[i])
            rows.steps[i], rows.total[i] = 0, 0.0
        crowd = Crowd(architecture, len(environments))
        crowd.thetas[:] = leg.thetas[part]
        for t in range(leg.horizon):
            rows.observations[:, t] = observed
            rows.outputs[:, t], step = self._act(crowd, environments, observed)
            rows.rewards[:, t] = step.rewards
            rows.terminated[step.terminated, t] = True
            rows.truncated[step.truncated, t] = True
            rows.steps[:] += 1
            rows.total[:] += np.nan_to_num(step.rewards)
            for i in step.terminated + step.truncated:
                rows.finished[i], rows.finished_steps[i] = rows.total[i], rows.steps[i]
                rows.total[i], rows.steps[i] = 0.0, 0
                self._reset(environments[i], None, observed[i])
        rows.observations[:, -1] = observed

    def bare(self, num_envs: int, num_steps: int, seed: int) -> int:
        """Steps environments with random actions and without policies; the steps taken."""
        rng = np.random.default_rng(seed)
        shape = (num_steps, num_envs)
        if self.acted.discrete:
            drawn = rng.integers(0, self.acted.size, shape)
        else:
            drawn = rng.uniform(-1.0, 1.0, (*shape, self.acted.size)).astype(np.float32)
        environments = [self._environment(i) for i in range(num_envs)]
        for i, environment in enumerate(environments):
            environment.reset(seed=seed + i)
        for chosen in map(self.acted.convert, drawn):
            for environment, action in zip(environments, chosen, strict=True):
                _, _, terminated, truncated, _ = environment.step(action)
                if terminated or truncated:
                    environment.reset()
        return num_envs * num_steps

    def close(self) -> None:
        """Closes all environments."""
        stood = [e for standing in self._standing.values() for e in standing.environments]
        for environment in [*self._environments, *stood]:
            with suppress(Exception):  # nobody can do anything about it
                environment.close()

    def _environment(self, i: int) -> Any:
        while len(self._environments) <= i:
            self._environments.append(self._make())
        return self._environments[i]

    def _stand(self, whose: int, num: int) -> Standing:
        standing = self._standing.get(whose)
        if standing is None or len(standing.environments) != num:
            standing = Standing(
                [self._make() for _ in range(num)],
                np.zeros((num, self.seen.size), np.float32),
                np.zeros(num, np.int64),
            )
            self._standing[whose] = standing
        return standing

    def _reset(
        self, environment: Any, seed: int | None, out: Float[np.ndarray, " observation"]
    ) -> None:
        observation = environment.reset(seed=seed)[0]
        out[:] = observation if self.seen.flatten is None else self.seen.flatten(observation)
        if not np.isfinite(out).all():
            np.copyto(out, 0.0, where=~np.isfinite(out))

    def _act(
        self, crowd: Crowd, environments: Sequence[Any], observed: np.ndarray
    ) -> tuple[np.ndarray, Stepped]:
        """Outputs of the policies, and the step that they led to; writes what is observed then."""
        outputs = crowd.outputs(observed)
        acted = crowd.actions(outputs)
        if all_finite(outputs):
            return outputs, self._step(environments, acted, observed)
        return outputs, self._step_some(environments, acted, observed, outputs)

    def _step(self, environments: Sequence[Any], acted: Any, observed: np.ndarray) -> Stepped:
        """Steps environments, and writes what is observed `[n, observation]`."""
        seen: list[Any] = []
        paid: list[float] = []
        terminated: list[int] = []
        truncated: list[int] = []
        for environment, action in zip(environments, self.acted.convert(acted), strict=True):
            observation, reward, terminal, cut, _ = environment.step(action)
            if terminal:
                terminated.append(len(seen))
            elif cut:
                truncated.append(len(seen))
            seen.append(observation)
            paid.append(float(reward))
        if self.seen.flatten is not None:
            seen = [self.seen.flatten(observation) for observation in seen]
        # of all environments at once, as numpy takes longer for a call than for a few numbers
        observed[:] = np.concatenate(seen).reshape(observed.shape)
        rewards = np.array(paid, np.float64)
        if not (all_finite(observed) and all_finite(rewards)):
            failed = ~(np.isfinite(observed).all(axis=1) & np.isfinite(rewards))
            np.copyto(observed, 0.0, where=~np.isfinite(observed))
            rewards[failed] = np.nan
            terminated = sorted({*terminated, *np.flatnonzero(failed).tolist()})
            truncated = [i for i in truncated if not failed[i]]
        return Stepped(rewards, terminated, truncated)

    def _step_some(
        self, environments: Sequence[Any], acted: Any, observed: np.ndarray, outputs: np.ndarray
    ) -> Stepped:
        """The same where some policies' outputs are not finite: nothing is stepped, they failed."""
        rewards = np.full(len(environments), np.nan)
        sound = np.flatnonzero(np.isfinite(outputs).all(axis=1)).tolist()
        failed = sorted(set(range(len(environments))) - set(sound))
        if not sound:
            return Stepped(rewards, failed, [])
        part = observed[sound]
        step = self._step([environments[i] for i in sound], acted[sound], part)
        observed[sound], rewards[sound] = part, step.rewards
        terminated, truncated = (
            [sound[i] for i in ends] for ends in (step.terminated, step.truncated)
        )
        return Stepped(rewards, sorted(terminated + failed), truncated)


def all_finite(numbers: np.ndarray) -> bool:
    """Whether all of a few numbers surely are finite: their sum is, which is quicker to see.

    Where they are so large that it is not, it says no, and who asked looks at each.
    """
    return math.isfinite(numbers.sum())


class _Seats:
    """Policies in the middle of their episodes; those in the first seats are there.

    Attributes:
        crowd: the policies.
        observed: `[S, observation]` what they see.
        totals, lengths: `[S]` of their episodes so far.
    """

    def __init__(self, architecture: Architecture, num: int, observation_size: int) -> None:
        self.crowd = Crowd(architecture, num)
        self.observed = np.zeros((num, observation_size), np.float32)
        self.totals = np.zeros(num)
        self.lengths = np.zeros(num, np.int64)
        self._sitting: list[tuple[int, np.ndarray]] = []  # their rows and starts

    @property
    def num_taken(self) -> int:
        """How many are taken."""
        return len(self._sitting)

    def take(self, row: int, theta: np.ndarray, start: np.ndarray) -> None:
        """Seats a policy in the first free one."""
        seat = self.num_taken
        self.crowd.thetas[seat], self.totals[seat], self.lengths[seat] = theta, 0.0, 0
        self._sitting.append((row, start))

    def leave(self, seat: int) -> Lived:
        """Frees a seat, to which the last one moves; what became of its policy."""
        row, start = self._sitting[seat]
        lived = Lived(row, float(self.totals[seat]), int(self.lengths[seat]), start)
        last = self.num_taken - 1
        for array in (self.crowd.thetas, self.observed, self.totals, self.lengths):
            array[seat] = array[last]
        self._sitting[seat] = self._sitting[last]
        self._sitting.pop()
        return lived
