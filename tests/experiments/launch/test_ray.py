"""Runs as tasks of Ray: the runs that other launchers make, and no Ray in a line."""

import sys

import pytest

from epvf.errors import UserError
from epvf.experiments.launch import ray
from epvf.runs.metrics import read_metrics
from probes import untimed


@pytest.mark.slow
def test_a_comparison_on_ray_is_the_one_made_here(epvf, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    asked = ["compare", "cartpole", "--methods", "matched-openes", "ridge", "--preset", "debug"]
    asked += ["--env-steps", "1000", "--seeds", "1"]
    for launcher, jobs in (("ray", 2), ("local", 1)):
        where = ["--launcher", launcher, "--jobs", jobs, "--out", tmp_path / launcher]
        done = epvf(*asked, *where)
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("matched-openes-s0", "ridge-s0"):
        ours, theirs = (
            untimed(read_metrics(tmp_path / launcher / "runs" / name / "metrics.jsonl"))
            for launcher in ("ray", "local")
        )
        assert ours and ours == theirs


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"a Ray cluster needs ray: pip install 'epvf\[ray\]'"):
        ray.run([], 1, lambda text: None)
