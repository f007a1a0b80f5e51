"""A policy made better by V, within what V can be trusted with; or by evolution strategies.

Both spend the same episodes, and both prove what they found by the same rule: fresh episodes of the
old policy and of the new one, and a one-sided Welch test (Welch 1947).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import stats

from epvf.errors import UserError
from epvf.zoo.predictors import Neighbours, Predictor
from epvf.zoo.rollouts import RollOut

CONFIDENCE = 0.95
LEAST_BUDGET = 64
STEPS = 20
"""Gradient steps of a climb."""

PARTS = (0.25, 0.5, 1.0)
"""Of a climb, where candidates are taken."""

FURTHEST = 6.0
"""Radius beyond which V is not followed, in distances that are usual between what it has seen."""

SAMPLE = 1024
"""Policies that V has learned from, whose spread says what is usual."""

ES_PAIRS = 16


class Round(NamedTuple):
    """One round of a search.

    Attributes:
        radius: as far as candidates were taken.
        predicted: gain that V promised of the best candidate; NaN of evolution strategies.
        realised: gain that fresh episodes show.
        accepted: whether it took the policy's place.
    """

    radius: float
    predicted: float
    realised: float
    accepted: bool


class Improved(NamedTuple):
    """How a search ended.

    Attributes:
        theta: `[P]` the new policy; the old one where nothing better was found.
        better: whether it is better, at 95 % confidence in fresh episodes.
        before, after: mean returns in the fresh episodes of the old and the new policy.
        low, high: 95 % interval of the gain.
        episodes: spent in all.
        rounds: what happened.
    """

    theta: Float[np.ndarray, "P"]
    better: bool
    before: float
    after: float
    low: float
    high: float
    episodes: int
    rounds: list[Round]


def climb(
    predictor: Predictor,
    theta: Float[np.ndarray, "P"],
    roll: RollOut,
    budget: int,
    announce: Callable[[str], None] = lambda message: None,
) -> Improved:
    """Climbs V from θ in rounds, and keeps what rollouts show to be better.

    In each round every member of the ensemble climbs by itself, no further than the radius and no
    further than where the members part by more than they do around what V has seen; the best
    candidate is played against θ. What was promised and kept widens the radius, what was not halves
    it: V's own error says how far it is followed.

    Raises:
        UserError: if the budget is too small, or nobody knows what V has seen.
    """
    _check(budget)
    if predictor.pairs is None:
        raise UserError(
            f"V of {predictor.name} does not say what it has learned from, so that it cannot be "
            "told how far to trust it; use a run of V(θ), or epvf zoo fit"
        )
    region = _Region(predictor)
    proof = budget // 4
    left, radius, current, rounds = budget - proof, 1.0, theta, []
    each = max(LEAST_BUDGET // 2, left // 6)
    while left >= each and radius > 1.0 / 64:
        candidates, gains = region.candidates(current, radius)
        number, spent, realised, sure = _select(roll, current, candidates, each)
        left -= spent
        accepted = realised > 0.0 and sure > 0.8
        rounds.append(Round(radius, float(gains[number]), realised, accepted))
        announce(
            f"radius {radius:.3g}: V promised {gains[number]:+.2f}, rollouts {realised:+.2f}, "
            f"{'kept' if accepted else 'not kept'}"
        )
        if accepted:
            current = candidates[number]
            kept = realised > 0.25 * float(gains[number])
            radius = min(2.0 * radius if kept else radius, FURTHEST)
        else:
            radius /= 2.0
    return _proved(roll, theta, current, proof, budget - left - proof, rounds)


def evolve(
    scale: Float[np.ndarray, "P"],
    theta: Float[np.ndarray, "P"],
    roll: RollOut,
    budget: int,
    seed: int = 0,
) -> Improved:
    """OpenES (Salimans et al. 2017) with the same budget and the same proof.

    Antithetic noise of `scale` a weight, centred ranks, and steps half as long as a perturbation.
    """
    _check(budget)
    draw = np.random.default_rng(seed)
    proof = budget // 4
    left, current, rounds = budget - proof, theta.copy(), []
    while left >= 2 * ES_PAIRS:
        noise = draw.standard_normal((ES_PAIRS, len(theta)), np.float32)
        noise = np.concatenate([noise, -noise])
        returns = roll((current + scale * noise).astype(np.float32), 1)[:, 0]
        left -= 2 * ES_PAIRS
        ranks = stats.rankdata(np.nan_to_num(returns, nan=-np.inf)) / (len(returns) - 1) - 0.5
        slope = ranks @ noise
        length = float(np.linalg.norm(slope))
        if length > 0.0:
            step = 0.5 * np.sqrt(len(theta)) * slope / length
            current = (current + scale * step).astype(np.float32)
        rounds.append(Round(0.5, float("nan"), float(np.nanmean(returns)), True))
    return _proved(roll, theta, current, proof, budget - left - proof, rounds)


def noise_scale(predictor: Predictor, theta: Float[np.ndarray, "P"]) -> np.ndarray:
    """Noise `[P]` for evolution strategies: a quarter of the deviation in what V has seen."""
    if predictor.pairs is None:
        return np.full(len(theta), 0.1 * float(np.sqrt((theta**2).mean())), np.float32)
    return (0.25 * _deviation(predictor.pairs.thetas)).astype(np.float32)


class _Region:
    """Where V is followed: distances and spreads that are usual where it has learned."""

    def __init__(self, predictor: Predictor) -> None:
        pairs = predictor.pairs
        assert pairs is not None
        self._predictor = predictor
        spread = predictor(np.asarray(pairs.thetas[:SAMPLE], np.float32)).spread
        # a single V has no spread: distances alone say how far it is followed
        self._limit = float(np.percentile(spread, 90)) if np.isfinite(spread).all() else np.inf
        deviation = _deviation(pairs.thetas)
        self._unit = Neighbours(pairs).usual * deviation / np.sqrt(len(deviation))
        self._climbed = jax.jit(self._climb)

    def candidates(
        self, theta: Float[np.ndarray, "P"], radius: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Policies `[n, P]` that V prefers to θ, and the gains `[n]` that it promises.

        Where it trusts nothing of what it prefers, the nearest are taken all the same: rollouts
        decide.
        """
        climbs = np.asarray(self._climbed(jnp.asarray(theta), radius), np.float32)
        found = climbs.reshape(-1, len(theta))
        said = self._predictor(np.concatenate([theta[None], found]))
        gains = said.mean[1:] - said.mean[0]
        allowed = max(self._limit, float(np.nan_to_num(said.spread[0])))
        trusted = ~(said.spread[1:] > allowed)
        if not trusted.any():
            trusted[:: climbs.shape[1]] = True
        return found[trusted], gains[trusted]

    def _climb(self, theta: Any, radius: Any) -> Any:
        """Points of every member's climb `[members, parts, P]`, by normalised gradients."""
        unit, members = jnp.asarray(self._unit), self._predictor.members
        places = jnp.asarray([max(0, round(part * STEPS) - 1) for part in PARTS])

        def member(number: int) -> Any:
            def value(move: Any) -> Any:
                return members((theta + unit * move)[None])[number, 0]

            def step(move: Any, _: None) -> Any:
                slope = jax.grad(value)(move)
                length = radius * jnp.sqrt(float(move.size)) / STEPS
                move = move + length * slope / (jnp.linalg.norm(slope) + 1e-12)
                return move, move

            _, moves = jax.lax.scan(step, jnp.zeros_like(theta), length=STEPS)
            return theta[None, :] + unit[None, :] * moves[places]

        return jnp.stack([member(number) for number in range(members(theta[None]).shape[0])])


def _select(
    roll: RollOut, theta: np.ndarray, candidates: np.ndarray, episodes: int
) -> tuple[int, int, float, float]:
    """Half of the episodes to all candidates, the rest to the best of them and to θ.

    Returns:
        The candidate's number, episodes spent, its gain in the second half, and how sure that is.
    """
    first = max(1, episodes // (2 * len(candidates)))
    found = roll(candidates, first)
    means = np.nan_to_num(found.mean(axis=1), nan=-np.inf)
    number = int(np.argmax(means))
    second = max(4, episodes // 4)
    old, new = roll(np.stack([theta, candidates[number]]), second)
    return number, found.size + 2 * second, float(new.mean() - old.mean()), _sureness(old, new)


def _proved(
    roll: RollOut,
    old: np.ndarray,
    new: np.ndarray,
    episodes: int,
    spent: int,
    rounds: list[Round],
) -> Improved:
    """Plays the old and the new policy in fresh episodes, half each."""
    if np.array_equal(old, new):
        nan = float("nan")
        mean = float(roll(old[None], episodes).mean())
        return Improved(old, False, mean, mean, nan, nan, spent + episodes, rounds)
    before, after = roll(np.stack([old, new]), episodes // 2)
    gain = float(after.mean() - before.mean())
    error = float(np.sqrt(before.var(ddof=1) / before.size + after.var(ddof=1) / after.size))
    better = _sureness(before, after) > CONFIDENCE
    return Improved(
        new if better else old,
        better,
        float(before.mean()),
        float(after.mean()),
        gain - 1.96 * error,
        gain + 1.96 * error,
        spent + 2 * (episodes // 2),
        rounds,
    )


def _sureness(old: np.ndarray, new: np.ndarray) -> float:
    """1 less the p-value of "the new one is no better"; 0 where either was not finite."""
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        return 0.0
    if old.std() == 0.0 and new.std() == 0.0:
        return float(new.mean() > old.mean())
    return 1.0 - float(stats.ttest_ind(new, old, equal_var=False, alternative="greater").pvalue)


def _deviation(thetas: Any) -> np.ndarray:
    deviation = np.asarray(thetas).std(axis=0)
    typical = float(np.sqrt((deviation**2).mean())) or 1.0
    return np.maximum(deviation, 0.1 * typical)


def _check(budget: int) -> None:
    if budget < LEAST_BUDGET:
        raise UserError(f"budget is {budget} episodes, but must be at least {LEAST_BUDGET}")
