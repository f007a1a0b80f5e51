"""A checkpoint is restored as it was written, or told as damaged; never something between."""

import json
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from epvf.cli.main import main
from epvf.errors import LONGEST_LINE, UserError
from epvf.runs.checkpoints import FORMAT, Checkpoints, size_on_disk
from epvf.runs.folder import read_info
from epvf.runs.metrics import read_metrics
from epvf.training.loop import init_state
from epvf.training.prepare import prepare
from fuzz import _make_run
from probes import FormulaTask, config_of

TASK = FormulaTask(lambda t: t.sum(-1), traceable=False)


@pytest.fixture(scope="module")
def state():
    # arrays above 1 kB lie in files of their own
    return init_state(prepare(config_of(policy__hidden_sizes=[32]), TASK))


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """A run's folder with checkpoints of updates 1 and 2."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = Checkpoints(folder, keep=2)
    for update in (1, 2):
        checkpoints.save(state._replace(iteration=update))
    checkpoints.close()
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def _restored(folder, state, update=None):
    checkpoints = Checkpoints(folder, keep=2, read_only=True)
    try:
        return checkpoints.restore(state.learner, update)
    finally:
        checkpoints.close()


def _check_same(found, state, update):
    assert found.iteration == update
    for a, b in zip(jax.tree.leaves(found.learner), jax.tree.leaves(state.learner), strict=True):
        np.testing.assert_array_equal(jax.random.key_data(a) if _is_key(a) else a, _plain(b))


def _is_key(leaf):
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _newest(folder):
    return [path for path in (folder / f"{2:012}").rglob("*") if path.is_file()]


def _damage(path, number):
    """Truncated, removed, or a bit flipped."""
    rng = random.Random(number)
    content = bytearray(path.read_bytes())
    kind = number % 6
    if kind == 0:
        path.unlink()
    elif kind == 1 or not content:
        path.write_bytes(content[: len(content) // 2])
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def try_damage(folder: Path, state, numbers, saved: Path) -> dict[str, int]:
    """What became of a restoration after each damage: refused in words, or the same all the same.

    A newest checkpoint that is not even seen any more leaves the one before.
    """
    counts = {"refused": 0, "the same": 0, "the one before": 0}
    for number in numbers:
        shutil.rmtree(folder)
        shutil.copytree(saved, folder)
        files = sorted(_newest(folder))
        # one in two of those that hold the arrays
        arrays = [path for path in files if path.parent.name == "d"]
        chosen = arrays if number % 2 else files
        _damage(chosen[number // 2 % len(chosen)], number)
        try:
            found = _restored(folder, state)
        except UserError as error:
            counts["refused"] += 1
            assert "\n" not in str(error) and len(str(error)) < 400
            assert "remove" not in str(error)
            continue
        _check_same(found, state, found.iteration)
        counts["the same" if found.iteration == 2 else "the one before"] += 1
    return counts


def test_no_damage_is_restored_silently(state, saved, copy):
    counts = try_damage(copy, state, range(9), saved)
    assert counts["refused"] >= 2 and sum(counts.values()) == 9


@pytest.mark.slow
def test_no_damage_of_180_is_restored_silently(state, saved, copy):
    counts = try_damage(copy, state, range(9, 189), saved)
    print(counts)
    assert sum(counts.values()) == 180


def test_a_flipped_bit_is_told_and_the_checkpoint_before_is_offered(state, copy):
    data = max(_newest(copy), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes(content)
    with pytest.raises(UserError) as error:
        _restored(copy, state)
    told = str(error.value)
    assert told.startswith(f"checkpoint {2:012} is damaged (")
    assert told.endswith(f"go on from the one before: epvf resume {copy.parent} --checkpoint 1")
    _check_same(_restored(copy, state, 1), state, 1)
    with pytest.raises(UserError, match="there is no checkpoint 7; there is: 1, 2"):
        _restored(copy, state, 7)
    shutil.rmtree(copy / f"{1:012}")
    with pytest.raises(UserError, match="there is none before it; its policies may be whole"):
        _restored(copy, state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("iteration", 3),
            ("env_steps", [7]),
            ("wall_time", 9.0),
            ("format", "epvf-checkpoint/2"),
        ),
        *(("sha256", {}), ("arrays", {}), ("meta_sha256", None)),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked(name, value, state, copy):
    meta = copy / f"{2:012}" / "meta" / "metadata"
    told = json.loads(meta.read_text())
    assert told["format"] == FORMAT and told["sha256"].keys() == told["arrays"].keys()
    meta.write_text(json.dumps(told | {name: value}))
    with pytest.raises(UserError, match="is damaged"):
        _restored(copy, state)


def test_a_checkpoint_of_another_device_is_restored_on_the_one_at_hand(state, copy):
    sharding = copy / f"{2:012}" / "state" / "_sharding"
    told = sharding.read_text()
    assert "cpu" in told.lower()
    sharding.write_text(told.replace("TFRT_CPU_0", "cuda:0").replace("cpu", "cuda"))
    _check_same(_restored(copy, state), state, 2)


@pytest.mark.slow
def test_resuming_from_an_earlier_checkpoint_sets_later_ones_aside(workplace, capsys):
    _make_run(Path("run"), "interrupted")
    capsys.readouterr()
    assert main(["resume", "run", "--checkpoint", "9"]) == 2
    err = capsys.readouterr().err
    assert "there is no checkpoint 9; there is: 1, 2, 3" in err and len(err) <= LONGEST_LINE + 1
    assert read_info(Path("run"))["status"] == "interrupted"
    shutil.rmtree(Path("run/checkpoints") / f"{3:012}" / "state")
    assert main(["resume", "run"]) == 2
    assert "epvf resume run --checkpoint 2" in capsys.readouterr().err
    assert main(["resume", "run", "--checkpoint", "2"]) == 0
    assert [r["steps/update"] for r in read_metrics(Path("run/metrics.jsonl"))] == [1, 2, 3]
    assert (Path("run/set-aside") / f"{3:012}").is_dir()
    assert f"set aside: run/set-aside/{3:012}" in capsys.readouterr().err
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == [
        f"{update:012}" for update in (1, 2, 3)
    ]
    assert read_info(Path("run"))["status"] == "finished"


def test_a_checkpoint_of_before_there_were_hashes_is_restored(state, copy):
    meta = copy / f"{2:012}" / "meta" / "metadata"
    told = json.loads(meta.read_text())
    for name in ("sha256", "meta_sha256"):
        del told[name]
    meta.write_text(json.dumps(told | {"format": "epvf-checkpoint/2"}))
    _check_same(_restored(copy, state), state, 2)


def test_what_a_checkpoint_takes_is_no_less_than_what_it_says(state, saved):
    files = (saved / f"{2:012}").rglob("*")
    taken = sum(path.stat().st_blocks * 512 for path in files)
    assert taken <= size_on_disk(state.learner) < 5 * taken
