"""V over a plane through θ, the true returns there, where θ came from, and where V is fooled.

A point of the plane is θ moved by α d₁ + β d₂ in units of the noise: at a distance of 1 from θ it
is as far away as a typical perturbation. V and returns have their own units, so V is shown after
the line, of a slope of at least 0, that brings it nearest to the returns of the plane. V(s, θ) and
V(s₀, θ) are averaged over states.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from epvf.analysis.neighbourhood import Neighbourhood
from epvf.analysis.restore import restore
from epvf.config.schema import check_seed
from epvf.errors import UserError
from epvf.files import read_json, write_json
from epvf.policies.noise import jitter
from epvf.runs.folder import trail_path
from epvf.runs.trail import read_trail
from epvf.training.prepare import Setup
from epvf.types import PRNGKey

Along: TypeAlias = Literal["trail", "gradient", "random"]
Announce: TypeAlias = Callable[[str], None]

FORMAT = "epvf-landscape/1"
CONFIDENCE = 0.95
LEAST_REACH, MOST_REACH = 2.0, 30.0
"""How far the plane goes from θ, in perturbations' lengths; as far as the trail within these."""
FLAT = 1e-6
"""A trail that spans less than this is no plane."""


@dataclass(frozen=True)
class Settings:
    """What of the plane is measured.

    Attributes:
        along: d₁ and d₂ span `trail` (where θ has been lies nearest to the plane), `gradient` (∇V
            and a random direction) or are `random`; None: the trail where it has one.
        points: of the grid of true returns, on each side; odd, so that θ is among them.
        detail: V is known at so many times as many points a side.
        episodes: behind each true return.
        reach: how far the plane goes, in perturbations' lengths; None: as far as the trail.
        seed: of everything random here.
    """

    along: Along | None = None
    points: int = 9
    detail: int = 3
    episodes: int = 8
    reach: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 3 <= self.points <= 101 or self.points % 2 == 0:
            raise UserError(f"points is {self.points}, but must be odd, 3 to 101")
        if not 1 <= self.detail <= 10:
            raise UserError(f"detail is {self.detail}, but must be 1 to 10")
        if not 2 <= self.episodes <= 1000:
            raise UserError(f"episodes is {self.episodes}, but must be 2 to 1000")
        if self.reach is not None and not 0.0 < self.reach < float("inf"):
            raise UserError(f"reach is {self.reach:g}, but must be finite and greater than 0")
        check_seed(self.seed)


class Plane(NamedTuple):
    """Two orthogonal directions of length √P, and what is known of where θ has been.

    Attributes:
        axes: `[2, P]` moves.
        names: of the directions, in words.
        trail: `[K, 2]` where θ has been, projected.
        updates: of these.
        seen: share of the trail's squared distance from θ that lies in the plane.
    """

    axes: Float[np.ndarray, "2 P"]
    names: tuple[str, str]
    trail: Float[np.ndarray, "K 2"]
    updates: list[int]
    seen: float


class Returns(NamedTuple):
    """True returns of policies: `[n]` means, and the half-widths of their 95 % intervals."""

    mean: np.ndarray
    error: np.ndarray


def landscape(
    run: Path,
    announce: Announce = lambda message: None,
    seed_of_run: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measures the plane around θ of a run's newest checkpoint; its files are only read.

    Args:
        run: its folder.
        announce: told of what is being done.
        seed_of_run: of several seeds which; None: the first.
        settings: of `Settings`.

    Returns:
        Plain values: `alpha` and `beta` of V's grid, `value` `[detail, detail]` (rows of equal β);
        `points`, each with its true return, its interval's half-width and whether V is `fooled`
        there; the `trail`; V's rank correlation; and what the axes are.

    Raises:
        UserError: if the folder is no run, has no checkpoint, or its method has no V.
    """
    wanted = Settings(**settings)
    found = restore(run)
    setup, around = found.setup, found.around(seed_of_run)
    index = 0 if seed_of_run is None else seed_of_run - setup.config.seed
    keys = dict(
        zip(
            ("plane", "returns", "value", "again"),
            jax.random.split(jax.random.key(wanted.seed), 4),
            strict=True,
        )
    )
    announce("directions")
    plane = _plane(run, index, around, wanted, keys["plane"])
    reach = wanted.reach or _reach(plane.trail)
    coarse = np.linspace(-reach, reach, wanted.points)
    fine = np.linspace(-reach, reach, (wanted.points - 1) * wanted.detail + 1)
    announce(f"true returns of {wanted.points**2} policies, {wanted.episodes} episodes each")
    thetas = _policies(around, plane, coarse)
    returns = _returns(setup, keys["returns"], thetas, wanted.episodes)
    announce(f"V of {len(fine) ** 2} policies")
    policies = _policies(around, plane, fine)
    raw, again = (_value(around, keys[name], policies) for name in ("value", "again"))
    at = _coarse(len(fine), wanted.detail)
    line = _line(raw[at], returns)
    value = line(raw)
    # V(s, θ) looks at fresh steps: what it says of them differs from one time to the next
    unsure = np.abs(line(raw) - line(again))[at] * 1.96 / np.sqrt(2.0)
    off = value[at] - returns.mean
    fooled = np.abs(off) > np.hypot(returns.error, unsure)
    config = setup.config
    return {
        "format": FORMAT,
        "run": str(run),
        "task": config.task.name,
        "method": config.method.name,
        "update": found.state.iteration,
        "env_steps": int(found.state.env_steps[index]),
        "along": list(plane.names),
        "alpha": fine.tolist(),
        "beta": fine.tolist(),
        "value": value.reshape(len(fine), -1).tolist(),
        "line": {"slope": line.slope, "offset": line.offset},
        "episodes": wanted.episodes,
        "points": [
            {"alpha": a, "beta": b, "return": r, "error": e, "fooled": f}
            for (b, a), r, e, f in zip(
                ((b, a) for b in coarse.tolist() for a in coarse.tolist()),
                returns.mean.tolist(),
                returns.error.tolist(),
                fooled.tolist(),
                strict=True,
            )
        ],
        "fooled": float(fooled.mean()),
        "spearman": _rank_correlation(raw[at], returns.mean),
        "trail": plane.trail.tolist(),
        "trail_updates": plane.updates,
        "trail_seen": plane.seen,
    }


def write(folder: Path, result: dict[str, Any]) -> None:
    """Writes `landscape.json` and `landscape.png`.

    Raises:
        UserError: if they cannot be written.
    """
    from epvf.analysis import drawing, value_drawing

    drawing.save(value_drawing.landscape(result), folder / "landscape.png")
    write_json(folder / "landscape.json", result)


def read(folder: Path) -> dict[str, Any] | None:
    """What `write` wrote; None where there is nothing.

    Raises:
        UserError: if there is something else.
    """
    file = folder / "landscape.json"
    if not file.is_file():
        return None
    result = read_json(file)
    if result.get("format") != FORMAT:
        raise UserError(f"{file} has format {result.get('format')!r}, not {FORMAT!r}")
    return result


def table(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    points = result["points"]
    middle = min(points, key=lambda point: point["alpha"] ** 2 + point["beta"] ** 2)
    best = max(points, key=lambda point: _or_lowest(point["return"]))
    lines = [
        f"update {result['update']}, {result['env_steps']} env steps; true returns at "
        f"{len(points)} policies, {result['episodes']} episodes each",
        f"at θ: {_plus(middle)}; best: {_plus(best)} at α {best['alpha']:.2f}, "
        f"β {best['beta']:.2f}",
        f"V's rank correlation with returns in the plane: {result['spearman']:.3f}",
        f"V is fooled at {result['fooled']:.0%} of the policies (further off than the noise)",
    ]
    if result["trail"]:
        lines.append(f"the plane holds {result['trail_seen']:.0%} of θ's way")
    return "\n".join(lines)


def _plane(run: Path, index: int, around: Neighbourhood, wanted: Settings, key: PRNGKey) -> Plane:
    moves, updates = _trail(run, index, around)
    spread = np.linalg.svd(moves, full_matrices=False) if len(moves) > 2 else None
    spans = spread is not None and spread[1][1] > FLAT * np.sqrt(moves.shape[1])
    along = wanted.along or ("trail" if spans else "gradient")
    if along == "trail" and not spans:
        raise UserError(
            f"{run} does not know where its policy has been (runs since version 0.2 do); use "
            "--along gradient"
        )
    first, second = (jax.random.fold_in(key, number) for number in (0, 1))
    names = ("random", "another")
    if along == "trail":
        assert spread is not None
        names = ("where θ moved most", "where it moved next most")
        pair = spread[2][:2]
        # θ came from the left and from below
        pair = pair * np.where(pair @ moves[0] > 0.0, -1.0, 1.0)[:, None]
    elif along == "gradient":
        names = ("∇V", "random")
        slopes = around.slopes(first)
        slope, _ = slopes.get("value-long", slopes["value"])
        pair = np.stack([np.asarray(slope), _random(second, around)])
    else:
        pair = np.stack([_random(first, around), _random(second, around)])
    axes = _orthogonal(pair, around)
    size = float((axes[0] ** 2).sum())
    trail = moves @ axes.T / size
    whole = float((moves**2).sum())
    seen = float((trail**2).sum()) * size / whole if whole else 0.0
    return Plane(axes, names, trail, updates, seen)


def _trail(run: Path, index: int, around: Neighbourhood) -> tuple[np.ndarray, list[int]]:
    """Moves `[K, P]` from θ to where it has been, and after which updates that was."""
    size = around.theta.shape[0]
    if not trail_path(run).exists():
        return np.zeros((0, size)), []
    points = read_trail(trail_path(run))
    if points.thetas.shape[2] != size or index >= points.thetas.shape[1]:
        raise UserError(f"{trail_path(run)} is of other policies than the run")
    moves = np.asarray(around.moves(jnp.asarray(points.thetas[:, index])), np.float64)
    return moves, points.updates.tolist()


def _random(key: PRNGKey, around: Neighbourhood) -> np.ndarray:
    moving = np.asarray(around.deviation > 0.0, np.float64)
    return np.asarray(jax.random.normal(key, moving.shape), np.float64) * moving


def _orthogonal(pair: np.ndarray, around: Neighbourhood) -> np.ndarray:
    """The same plane by two orthogonal moves, each as long as a typical perturbation."""
    length = np.sqrt(float((np.asarray(around.deviation) > 0.0).sum()))
    first = pair[0] / max(float(np.linalg.norm(pair[0])), 1e-30)
    second = pair[1] - (pair[1] @ first) * first
    second /= max(float(np.linalg.norm(second)), 1e-30)
    return np.stack([first, second]) * length


def _reach(trail: np.ndarray) -> float:
    far = 1.15 * float(np.abs(trail).max()) if len(trail) else 0.0
    return min(max(far, LEAST_REACH), MOST_REACH)


def _policies(around: Neighbourhood, plane: Plane, side: np.ndarray) -> np.ndarray:
    """Policies `[n * n, P]`, rows of equal β one after the other."""
    axes = jnp.asarray(plane.axes, jnp.float32)
    moved = jax.jit(jax.vmap(lambda a, b: around.moved(a * axes[0] + b * axes[1])))
    beta, alpha = (x.ravel() for x in np.meshgrid(side, side, indexing="ij"))
    return np.asarray(moved(jnp.asarray(alpha, jnp.float32), jnp.asarray(beta, jnp.float32)))


def _coarse(side: int, detail: int) -> Bool[np.ndarray, "n"]:
    """Which of V's points have a true return."""
    on = np.arange(side) % detail == 0
    return (on[:, None] & on[None, :]).ravel()


def _returns(setup: Setup, key: PRNGKey, thetas: np.ndarray, episodes: int) -> Returns:
    """Where episodes start alike, each runs a copy of the policy with its weights jittered."""
    spec, config = setup.task.spec, setup.config
    copies = np.repeat(thetas, episodes, axis=0)
    if spec.deterministic_reset:
        clouds = jax.vmap(lambda k, theta: jitter(k, theta, episodes, config.eval.jitter))
        keys = jax.random.split(jax.random.fold_in(key, 1), len(thetas))
        copies = np.asarray(clouds(keys, jnp.asarray(thetas))).reshape(copies.shape)
    rolled = np.asarray(setup.evaluate(key, copies).returns, np.float64)
    each = rolled.reshape(len(thetas), episodes)
    mean, deviation = each.mean(axis=1), each.std(axis=1, ddof=1)
    quantile = stats.t.ppf((1.0 + CONFIDENCE) / 2.0, episodes - 1)
    return Returns(mean, quantile * deviation / np.sqrt(episodes))


def _value(around: Neighbourhood, key: PRNGKey, thetas: np.ndarray) -> np.ndarray:
    return np.asarray(around.expected(key, jnp.asarray(thetas)), np.float64)


class _Line(NamedTuple):
    slope: float
    offset: float

    def __call__(self, value: np.ndarray) -> np.ndarray:
        return self.offset + self.slope * value


def _line(value: np.ndarray, returns: Returns) -> _Line:
    """What brings V nearest to the returns; see the top."""
    known = np.isfinite(value) & np.isfinite(returns.mean)
    if known.sum() < 3:
        raise UserError("the returns around θ are not finite; look at nan/ in the run")
    x, y = value[known], returns.mean[known]
    slope = max(float(np.cov(x, y)[0, 1] / max(float(x.var(ddof=1)), 1e-30)), 0.0)
    return _Line(slope, float(y.mean() - slope * x.mean()))


def _rank_correlation(value: np.ndarray, returns: np.ndarray) -> float:
    """NaN where one of them is the same everywhere."""
    known = np.isfinite(value) & np.isfinite(returns)
    ranks = [stats.rankdata(x[known]) for x in (value, returns)]
    if min(rank.std() for rank in ranks) == 0.0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _or_lowest(value: float) -> float:
    return value if np.isfinite(value) else -np.inf


def _plus(point: dict[str, Any]) -> str:
    return f"{point['return']:.2f} ± {point['error']:.2f}"
