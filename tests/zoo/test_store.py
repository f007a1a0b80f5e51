"""A folder of policies: what goes in comes out, whoever else writes, whatever is killed."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import drawn, perturbed
from epvf.zoo.store import INDEX, SHARDS, Origin, Outcomes, Rows, Zoo, select

POLICY = Policy((3, 4, 2))
ORIGIN = Origin("hopper", "native", source="runs/a", method="epvf", seed=0, update=7)


def _rows(count: int, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    return Rows(
        draw.normal(size=(count, POLICY.num_parameters)).astype(np.float32),
        draw.normal(size=count).astype(np.float32),
        np.full(count, 10.0, np.float32),
        np.ones(count, np.int32),
    )


@pytest.fixture
def zoo(tmp_path):
    return Zoo.create(tmp_path / "zoo")


def test_weights_come_back_with_all_that_is_known_of_them(zoo):
    rows = _rows(5)
    zoo.add(POLICY, rows, ORIGIN)
    (entry,) = Zoo.open(zoo.path).entries()
    assert (entry.num, entry.policy, entry.origin, entry.noise) == (5, POLICY, ORIGIN, None)
    assert entry.best_return == pytest.approx(float(rows.returns.max()))
    for ours, theirs in zip(rows, zoo.rows(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("noise", ["gaussian", "scaled_uniform"])
def test_populations_are_kept_as_centres_and_keys(noise, zoo):
    config = PerturbationConfig(noise, 0.3, clip=0.5, antithetic=True)
    theta = np.random.default_rng(0).normal(size=(2, POLICY.num_parameters)).astype(np.float32)
    population = perturbed(config, jax.random.key(3), theta, 64)
    rows = _rows(64)
    zoo.add_drawn(POLICY, population, Outcomes(*rows[1:]), ORIGIN)
    (entry,) = zoo.entries()
    assert entry.noise == config
    found = zoo.rows()
    np.testing.assert_allclose(found.thetas, np.asarray(drawn(population)), atol=1e-6)
    np.testing.assert_array_equal(found.returns, rows.returns)


def test_a_population_of_thousands_takes_next_to_nothing(zoo):
    policy = Policy((34, 64, 64, 8))
    centre = np.zeros((1, policy.num_parameters), np.float32)
    population = perturbed(PerturbationConfig(), jax.random.key(0), centre, 65_536)
    known = np.zeros(65_536, np.float32)
    zoo.add_drawn(policy, population, Outcomes(known, known, known.astype(np.int32)), ORIGIN)
    (shard,) = (zoo.path / SHARDS).iterdir()
    assert shard.stat().st_size - 3 * 4 * 65_536 < 28_500


def test_some_of_many_are_evenly_spaced(zoo):
    for seed in range(3):
        zoo.add(POLICY, _rows(50, seed), ORIGIN)
    everything, some = zoo.rows(), zoo.rows(most=40)
    np.testing.assert_array_equal(some.thetas, everything.thetas[::4])
    np.testing.assert_array_equal(some.returns, everything.returns[::4])


def test_what_is_asked_for_is_selected(zoo):
    zoo.add(POLICY, _rows(2), ORIGIN)
    zoo.add(Policy((3, 2)), _linear(3), ORIGIN._replace(source="runs/b"))
    found = zoo.entries()
    assert [entry.num for entry in select(found, source="b")] == [3]
    assert [entry.num for entry in select(found, architecture=POLICY.describe())] == [2]
    assert select(found, task="ant") == []
    with pytest.raises(UserError, match="several kinds, choose by --task and --architecture"):
        zoo.rows()


def _linear(count: int) -> Rows:
    thetas = np.zeros((count, Policy((3, 2)).num_parameters), np.float32)
    return _rows(count)._replace(thetas=thetas)


def test_merging_takes_what_is_missing_once(zoo, tmp_path):
    other = Zoo.create(tmp_path / "other")
    for seed in range(3):
        other.add(POLICY, _rows(4, seed), ORIGIN)
    zoo.add(POLICY, _rows(4, 1), ORIGIN)
    assert zoo.merge(other) == 2
    assert zoo.merge(other) == 0
    assert zoo.merge(zoo) == 0
    assert sum(entry.num for entry in zoo.entries()) == 12
    assert len(zoo.rows().returns) == 12


def _write_many(path: Path, seed: int, count: int) -> None:
    zoo = Zoo.open(path)
    for number in range(count):
        zoo.add(POLICY, _rows(3, 1000 * seed + number), ORIGIN._replace(seed=seed, update=number))


@pytest.mark.slow
def test_of_several_writers_those_that_are_killed_lose_what_they_were_writing_and_no_more(zoo):
    context = multiprocessing.get_context("spawn")
    counts = (100_000, 100_000, 60)
    writers = [
        context.Process(target=_write_many, args=(zoo.path, seed, count))
        for seed, count in enumerate(counts)
    ]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and min(_written(zoo)[:2]) < 5:
        time.sleep(0.01)
    for writer in writers[:2]:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    written = _written(zoo)
    assert min(written[:2]) >= 5 and written[2] == 60
    for seed, count in enumerate(written):
        updates = [e.origin.update for e in zoo.entries() if e.origin.seed == seed]
        assert updates == list(range(count))
    assert len(zoo.rows().returns) == 3 * sum(written)
    # what was begun is no shard of the index, and in nobody's way
    known = {entry.shard for entry in zoo.entries()}
    left = [path.name for path in (zoo.path / SHARDS).iterdir() if path.name not in known]
    assert len(left) <= 2
    zoo.add(POLICY, _rows(1), ORIGIN)
    assert len(zoo.entries()) == sum(written) + 1


def _written(zoo: Zoo) -> list[int]:
    """Shards of each of three writers."""
    seeds = [entry.origin.seed for entry in zoo.entries()]
    return [seeds.count(seed) for seed in range(3)]


def test_a_torn_line_hides_nothing_else(zoo):
    zoo.add(POLICY, _rows(2), ORIGIN)
    whole = (zoo.path / INDEX).read_bytes()
    (zoo.path / INDEX).write_bytes(whole + whole[:50])
    assert len(zoo.entries()) == 1
    zoo.add(POLICY, _rows(3), ORIGIN)
    assert [entry.num for entry in zoo.entries()] == [2, 3]


@pytest.mark.parametrize("line", ["nonsense", "root:x:0:0:root:/root:/bin/bash", "[]", "\xff"])
def test_a_line_that_no_writer_began_is_refused(line, zoo):
    zoo.add(POLICY, _rows(2), ORIGIN)
    with (zoo.path / INDEX).open("a") as index:
        index.write(f"{line}\n")
    with pytest.raises(UserError, match=r"line 2 of .*index\.jsonl is no entry"):
        zoo.entries()


def _changed(zoo: Zoo, **changes) -> None:
    line = json.loads((zoo.path / INDEX).read_text())
    for name, value in changes.items():
        group, _, last = name.rpartition("__")
        (line[group] if group else line)[last] = value
    (zoo.path / INDEX).write_text(json.dumps(line) + "\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard": "../../escape.safetensors"}, "is no name of a shard"),
        ({"shard": "/etc/passwd"}, "is no name of a shard"),
        ({"num": 3}, "is not what the index says: returns is [2]"),
        ({"num": -1}, "num is -1"),
        ({"num": 1 << 40}, "num is"),
        ({"sha256": "0" * 64}, "it has changed"),
        ({"policy__layer_sizes": [3, 5, 2]}, "is not what the index says: thetas is"),
        ({"policy__layer_sizes": [1 << 20, 1 << 20]}, "layer sizes are none"),
        ({"policy__layer_sizes": ["3", 2]}, "layer sizes are none"),
        ({"policy__activation": "exec"}, "activation is 'exec'"),
        ({"noise": {"noise": "gaussian"}}, "is not what the index says: centres is missing"),
        ({"noise": {"nose": 1}}, "is no entry"),
        ({"origin__task": 3}, "task is 3"),
        ({"mean_return": "much"}, "returns are no numbers"),
        ({"shard": "0" * 16 + ".safetensors"}, "cannot read shard"),
    ],
)
def test_an_index_that_lies_is_refused_in_a_line(changes, message, zoo, loose):
    zoo.add(POLICY, _rows(2), ORIGIN)
    _changed(zoo, **changes)
    with pytest.raises(UserError) as error:
        zoo.rows()
    assert message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300


def test_a_shard_that_lies_is_refused(zoo):
    import hashlib

    zoo.add(POLICY, _rows(2), ORIGIN)
    (shard,) = (zoo.path / SHARDS).iterdir()
    for content in (b"", b"\xff" * 8, shard.read_bytes()[:-9]):
        shard.write_bytes(content)
        _changed(zoo, sha256=hashlib.sha256(content).hexdigest())
        with pytest.raises(UserError, match="cannot read shard"):
            zoo.rows()


def test_what_is_no_zoo_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no zoo: it has no zoo\.json"):
        Zoo.open(tmp_path)
    (tmp_path / "zoo.json").write_text('{"format": "epvf-zoo/9"}')
    with pytest.raises(UserError, match="has format 'epvf-zoo/9'"):
        Zoo.open(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UserError, match="is no zoo and not empty"):
        Zoo.create(tmp_path / "other")
