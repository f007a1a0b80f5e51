"""Where θ has been: evenly spread, never too much, and gone on with."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from epvf.errors import UserError
from epvf.runs import trail as module
from epvf.runs.trail import MOST, Trail, read_trail


def _noted(trail, updates):
    for update in updates:
        if trail.due(update):
            trail.note(update, np.full((2, 3), update, np.float32))
    trail.save()


@pytest.mark.parametrize("count", [1, 5, 64, 65, 1000, 5000])
def test_a_trail_is_evenly_spread_however_long_it_gets(count, tmp_path):
    file = tmp_path / "trail.safetensors"
    _noted(Trail(file, 0), range(1, count + 1))
    thetas, updates = read_trail(file)
    assert thetas.shape == (len(updates), 2, 3) and len(updates) <= MOST
    assert updates[0] == 1 and len(updates) >= min(count, MOST // 4)
    np.testing.assert_array_equal(thetas[:, 0, 0], updates)
    steps = np.diff(updates)
    assert count < 3 or steps.max() <= 3 * steps.min()
    assert count - updates[-1] <= 2 * max(1, count // 16)


def test_a_run_that_goes_on_drops_what_came_after_its_checkpoint(tmp_path):
    file = tmp_path / "trail.safetensors"
    _noted(Trail(file, 0), range(1, 21))
    _noted(Trail(file, 10), range(11, 16))
    np.testing.assert_array_equal(read_trail(file).updates, range(1, 16))
    _noted(Trail(file, 0), [1])
    np.testing.assert_array_equal(read_trail(file).updates, [1])


def test_large_policies_leave_a_shorter_trail(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 8 * 24)
    _noted(Trail(tmp_path / "trail", 0), range(100))
    assert 4 <= len(read_trail(tmp_path / "trail").updates) <= 8


def _of_type(kind):
    """A file of tensors of a type that numpy lacks."""
    tensor = {"dtype": kind, "shape": [1, 1, 2], "data_offsets": [0, 4]}
    header = {"__metadata__": {"format": module.FORMAT}, "thetas": tensor}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


def test_what_is_no_trail_is_refused_and_begun_anew_by_a_run(tmp_path):
    file = tmp_path / "trail.safetensors"
    meta = {"format": module.FORMAT}
    bad: list[Any] = [
        b"", b"\xff" * 40,
        {"thetas": np.zeros((2, 1, 3), np.float32), "updates": np.arange(3)},
        {"thetas": np.full((1, 1, 3), np.nan, np.float32), "updates": np.arange(1)},
        {"thetas": np.zeros((2, 3), np.float32), "updates": np.arange(2)},
        *(_of_type(kind) for kind in ("BF16", "F8_E4M3", "F4")),
    ]  # fmt: skip
    for content in bad:
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            save_file(content, file, metadata=meta)
        with pytest.raises(UserError):
            read_trail(file)
        _noted(Trail(file, 7), [8])
        np.testing.assert_array_equal(read_trail(file).updates, [8])
