"""V from a zoo: it ranks what it has not seen, is kept, and is climbed only as far as it holds."""

import json
from pathlib import Path

import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.training.offline import OfflineConfig, fit_value
from epvf.zoo import fit as fitting
from epvf.zoo import improve
from epvf.zoo import rank as ranking
from epvf.zoo.predictors import Neighbours, Pairs, Predictor, Ridge, load_predictor
from epvf.zoo.store import Origin, Rows, Zoo

POLICY = Policy((3, 1))
BEST = np.array([1.0, -1.0, 0.5, 0.0], np.float32)
CONFIG = OfflineConfig(
    members=3,
    representation="raw",
    hidden_sizes=(32,),
    epochs=40,
    batch_size=64,
    learning_rate=3e-3,
)
NOISE = 0.1


def _truth(thetas: np.ndarray) -> np.ndarray:
    return -((thetas - BEST) ** 2).sum(axis=1)


def _pairs(count: int, seed: int = 0, shuffled: bool = False) -> Rows:
    draw = np.random.default_rng(seed)
    thetas = draw.normal(size=(count, POLICY.num_parameters)).astype(np.float32)
    returns = _truth(thetas) + NOISE * draw.normal(size=count)
    if shuffled:
        draw.shuffle(returns)
    nothing = np.full(count, np.nan, np.float32)
    return Rows(thetas, returns.astype(np.float32), nothing, np.ones(count, np.int32))


class _Rollouts:
    """Noisy episodes of a formula; counts them."""

    def __init__(self) -> None:
        self.draw, self.episodes = np.random.default_rng(5), 0

    def __call__(self, thetas: np.ndarray, episodes: int) -> np.ndarray:
        self.episodes += len(thetas) * episodes
        noise = NOISE * self.draw.normal(size=(len(thetas), episodes))
        return _truth(np.asarray(thetas))[:, None] + noise


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    made = Zoo.create(tmp_path_factory.mktemp("zoos") / "zoo")
    for seed in range(3):
        made.add(POLICY, _pairs(250, seed), Origin("formula", source=f"run{seed}"))
    return made


@pytest.fixture(scope="module")
def fitted(zoo):
    out = zoo.path / "value.safetensors"
    return out, fitting.fit(zoo, zoo.entries(), CONFIG, 600, "run2", out)


@pytest.mark.slow
def test_v_ranks_policies_of_a_source_that_it_has_not_seen(fitted):
    _, result = fitted
    found = result["held_out_source"]
    assert found["value"]["spearman"] > 0.9 > 0.8 > found["ridge"]["spearman"] > 0.3
    assert found["value"]["low"] <= found["value"]["spearman"] <= found["value"]["high"]
    assert found["value"]["policies"] == 250


def test_v_learns_of_each_source_as_much(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo")
    for source, count in (("many", 400), ("few", 30), ("some", 90)):
        rows = _pairs(count)
        rows.episodes[:] = count
        zoo.add(POLICY, rows, Origin("formula", source=source))
    counts = fitting.balanced(zoo, zoo.entries(), 150).episodes.tolist()
    assert [counts.count(count) for count in (30, 90, 400)] == [30, 45, 67]
    assert len(fitting.balanced(zoo, zoo.entries(), 10_000).returns) == 520


@pytest.mark.slow
def test_returns_without_rhyme_are_not_learned(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo")
    zoo.add(POLICY, _pairs(400, shuffled=True), Origin("formula", source="a"))
    zoo.add(POLICY, _pairs(400, 1, shuffled=True), Origin("formula", source="b"))
    result = fitting.fit(zoo, zoo.entries(), CONFIG, 400, "b", tmp_path / "v.safetensors")
    found = result["held_out_source"]["value"]
    assert found["low"] < 0.1 and found["high"] > -0.1 and abs(found["spearman"]) < 0.2


@pytest.mark.slow
def test_what_is_saved_predicts_the_same(fitted, zoo):
    path, _ = fitted
    predictor = load_predictor(path)
    assert (predictor.policy, predictor.units) == (POLICY, "return")
    rows = _pairs(100, 9)
    said = predictor(rows.thetas)
    assert np.corrcoef(said.mean, _truth(rows.thetas))[0, 1] > 0.9
    one_by_one = np.concatenate([predictor(theta[None]).mean for theta in rows.thetas[:5]])
    np.testing.assert_allclose(said.mean[:5], one_by_one, rtol=1e-4, atol=1e-4)
    far = predictor(rows.thetas * 20.0)
    assert np.median(far.spread) > 3.0 * np.median(said.spread)


@pytest.mark.slow
def test_ranking_puts_the_best_first_and_says_how_far_it_is_from_what_was_seen(
    fitted, zoo, tmp_path
):
    predictor = load_predictor(fitted[0])
    other = Zoo.create(tmp_path / "other")
    rows = _pairs(60, 11)
    rows.thetas[:5] *= 10.0
    other.add(POLICY, rows, Origin("formula", source="new"))
    entries = other.entries()
    ranked = ranking.rank(other, entries, predictor)
    assert (np.diff(ranked.predicted) <= 0.0).all()
    near, far = (ranked.distance[(ranked.row < 5) == is_far] for is_far in (False, True))
    assert np.median(far) > 5.0 * np.median(near)
    returns = _truth(ranking.policies(other, entries, ranked, np.arange(60)))
    assert ranking.agreement(ranked, returns)["value"]["spearman"] > 0.9
    places, measured = ranking.verify(other, entries, ranked, 20, 4, _Rollouts())
    np.testing.assert_array_equal(places, np.unique(np.linspace(0, 59, 20).round()))
    np.testing.assert_allclose(measured, returns[places], atol=0.5)


def test_another_task_is_refused(fitted, tmp_path):
    other = Zoo.create(tmp_path / "other")
    other.add(POLICY, _pairs(4), Origin("ant"))
    with pytest.raises(UserError, match=r"is of task 'formula', but zoo .* of 'ant'"):
        ranking.rank(other, other.entries(), load_predictor(fitted[0]))


@pytest.mark.slow
def test_another_architecture_is_refused(fitted, tmp_path):
    other = Zoo.create(tmp_path / "other")
    policy = Policy((3, 2, 1))
    thetas = np.zeros((4, policy.num_parameters), np.float32)
    other.add(policy, _pairs(4)._replace(thetas=thetas), Origin("formula"))
    with pytest.raises(UserError, match="reads policies 3-1 tanh clip, but zoo"):
        ranking.rank(other, other.entries(), load_predictor(fitted[0]))


def test_correlation_is_spearmans_and_its_interval_covers_it():
    draw = np.random.default_rng(0)
    a = draw.normal(size=200)
    found = ranking.correlation(a, np.exp(a))
    assert found["spearman"] == pytest.approx(1.0) and found["policies"] == 200
    found = ranking.correlation(a, draw.normal(size=200))
    assert found["low"] < 0.0 < found["high"]
    assert ranking.correlation(a, np.full(200, np.nan))["spearman"] is None
    assert ranking.correlation(np.ones(200), a)["spearman"] is None


def test_baselines_know_what_they_can():
    rows = _pairs(400)
    pairs, new = Pairs(rows.thetas, rows.returns), _pairs(100, 3)
    distance, told = Neighbours(pairs)(new.thetas)
    assert 0.3 < np.median(distance) < 3.0
    assert np.corrcoef(told, _truth(new.thetas))[0, 1] > 0.7
    distance, told = Neighbours(pairs)(rows.thetas)
    np.testing.assert_allclose(distance, 0.0, atol=0.05)
    slope = np.array([1.0, 2.0, -1.0, 0.5], np.float32)
    line = Pairs(rows.thetas, rows.thetas @ slope + 3.0)
    np.testing.assert_allclose(
        Ridge(line)(new.thetas), new.thetas @ slope + 3.0, rtol=0.2, atol=0.5
    )


def test_projected_distances_are_nearly_the_true_ones():
    draw = np.random.default_rng(0)
    thetas = draw.normal(size=(200, 2000)).astype(np.float32)
    near = Neighbours(Pairs(thetas, np.zeros(200)))
    shifted = thetas[:20] * 3.0
    distance, _ = near(shifted)
    true = np.linalg.norm(shifted[:, None] - thetas[None], axis=2).min(axis=1)
    between = np.linalg.norm(thetas[:, None] - thetas[None], axis=2) + np.diag([np.inf] * 200)
    np.testing.assert_allclose(distance, true / np.median(between.min(axis=1)), rtol=0.2)


def test_v_improves_a_policy_and_proves_it(fitted):
    predictor, roll = load_predictor(fitted[0]), _Rollouts()
    start = np.array([-1.0, 1.0, 0.0, 1.0], np.float32)
    found = improve.climb(predictor, start, roll, 1024)
    assert found.better and found.after > found.before + 2.0
    assert found.low <= found.after - found.before <= found.high
    assert _truth(found.theta[None])[0] > _truth(start[None])[0] + 2.0
    assert found.episodes == roll.episodes <= 1024
    assert any(one.accepted for one in found.rounds)


def test_evolution_strategies_spend_the_same_episodes(fitted):
    predictor, roll = load_predictor(fitted[0]), _Rollouts()
    start = np.array([-1.0, 1.0, 0.0, 1.0], np.float32)
    found = improve.evolve(improve.noise_scale(predictor, start), start, roll, 1024)
    assert found.better and found.episodes == roll.episodes <= 1024


@pytest.mark.slow
def test_a_v_that_knows_nothing_changes_nothing_for_the_worse():
    rows = _pairs(300, shuffled=True)
    fitted = fit_value(POLICY, rows.thetas, rows.returns, rows.episodes, CONFIG)
    pairs = Pairs(rows.thetas, rows.returns)
    predictor = fitting.fitted_predictor("v", "formula", POLICY, CONFIG, fitted, pairs)
    found = improve.climb(predictor, BEST.copy(), _Rollouts(), 512)
    assert not found.better
    np.testing.assert_array_equal(found.theta, BEST)


def test_what_cannot_be_done_is_refused(fitted, tmp_path):
    predictor = load_predictor(fitted[0])
    with pytest.raises(UserError, match="must be at least 64"):
        improve.climb(predictor, BEST, _Rollouts(), 10)
    unknown = Predictor("v", "formula", POLICY, "return", None, predictor.members)
    with pytest.raises(UserError, match="does not say what it has learned from"):
        improve.climb(unknown, BEST, _Rollouts(), 512)
    with pytest.raises(UserError, match="V needs 20"):
        rows = _pairs(10)
        fit_value(POLICY, rows.thetas, rows.returns, rows.episodes, CONFIG)


def test_files_that_are_no_v_are_refused(fitted, tmp_path):
    content = fitted[0].read_bytes()
    file: Path = tmp_path / "v.safetensors"
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    other = header["__metadata__"] | {"policy": json.dumps({"layer_sizes": [9, 9]})}
    for told in (other, {"format": "epvf-value/9"}, header["__metadata__"] | {"config": "{}"}):
        text = json.dumps(header | {"__metadata__": told}).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        with pytest.raises(UserError):
            load_predictor(file)
    for short in (b"", content[:20], content[:-5]):
        file.write_bytes(short)
        with pytest.raises(UserError, match="cannot read V"):
            load_predictor(file)


def test_a_kernel_is_no_member_of_an_ensemble() -> None:
    with pytest.raises(UserError, match="'kernel' is not learned by gradient"):
        OfflineConfig(representation="kernel")
