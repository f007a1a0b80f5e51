"""The page of a run: whole, alone, and safe whatever the run's files hold."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from epvf.analysis import page, report
from epvf.config.presets import preset
from epvf.config.schema import replace
from epvf.errors import UserError
from epvf.runs.folder import read_config

RUNS = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0"
ALONE = {"meta", "link", "br", "img", "use", "path", "stop", "image"}


class Page(HTMLParser):
    """Notes what a page loads, which scripts it has, and whether elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.tags, self.ids = [], [], [], []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "poster"):
                self.loads.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ALONE:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def run(tmp_path):
    """A copy that may be changed."""
    shutil.copytree(RUNS / "psvf", tmp_path / "psvf")
    return tmp_path / "psvf"


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("epvf", "openes", "ppo")]


@pytest.mark.parametrize("name", ["psvf", *SLOW])
def test_a_page_of_a_run_needs_nothing_but_itself(name, tmp_path):
    video = tmp_path / "video.mp4"
    video.write_bytes(b"pictures")
    out = report.write([RUNS / name], tmp_path / "report.html", video)
    text = out.read_text()
    found = Page(text)
    assert found.open == [] and "script" not in found.tags
    assert all(load.startswith(("data:", "#")) for load in found.loads)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    assert {"svg", "video", "table", "details"} <= set(found.tags)
    assert len(set(found.ids)) == len(found.ids)
    task = read_config(RUNS / name).task.name
    for word in (task, name, "Learning curves", "Model card", "limits", "env steps"):
        assert word in found.words
    for used in re.findall(r'(?:url\(|href=")#([\w-]+)', text):
        assert used in found.ids


def test_what_a_run_holds_is_text_and_nothing_else(run, tmp_path):
    info = json.loads((run / "run.json").read_text())
    evil = "</pre><script>alert(1)</script><img src=http://example.org/x onerror=alert(1)>\x1b[31m"
    info |= {"argv": ["epvf", "train", evil], "started": evil}
    info |= {"git": {"commit": evil}}
    (run / "run.json").write_text(json.dumps(info))
    text = report.write([run], tmp_path / "page.html").read_text()
    found = Page(text)
    assert "script" not in found.tags and "img" not in found.tags and "\x1b" not in text
    assert all(load.startswith(("data:", "#")) for load in found.loads)
    assert "<script>alert(1)</script>" in found.words


def test_what_differs_from_the_preset_is_told():
    base = preset("cartpole", "debug", "epvf")
    changed = replace(base, {"num_envs": 48, "policy.hidden_sizes": [], "task.backend": "jax"})
    assert set(report.changes(changed, base)) == {
        ("num_envs", "48", str(base.num_envs)),
        ("policy.hidden_sizes", "none", " ".join(map(str, base.policy.hidden_sizes))),
    }
    assert report._preset_of({"argv": ["epvf", "train", "--preset", "debug"]}) == "debug"
    assert report._preset_of({"argv": ["epvf", "train", "--preset=paper"]}) == "paper"
    assert report._preset_of({"argv": ["epvf.train"]}) == "tuned"


def test_an_evaluation_and_a_landscape_beside_the_run_are_shown(run, tmp_path):
    told: dict[str, Any] = {
        "episode_return": 12.5,
        "episode_return_std": 1.0,
        "episode_return_min": 1.0,
    }
    told |= {"episode_return_max": 20.0, "episodes": 77, "engine": "jax"}
    report.note_evaluation(run, told)
    words = Page(report.write([run], tmp_path / "page.html").read_text()).words
    assert "12.5 ± 1.0" in words and "77 episodes" in words and "fresh episodes" in words
    (run / "evaluation.json").write_text('{"format": "else"}')
    with pytest.raises(UserError, match="has format 'else'"):
        report.write([run], tmp_path / "page.html")


@pytest.mark.slow
def test_several_runs_are_compared_and_those_without_records_are_named(run, tmp_path):
    empty = tmp_path / "empty"
    shutil.copytree(run, empty)
    (empty / "metrics.jsonl").unlink()
    runs = [run, RUNS / "epvf", empty]
    words = Page(report.write(runs, tmp_path / "page.html").read_text()).words
    assert "ant, cartpole: psvf, epvf" in words and f"not shown: {empty}" in words
    assert words.count(" --config ") == 2
    with pytest.raises(UserError, match="no records yet"):
        report.write([empty], tmp_path / "page.html")


def test_a_video_that_is_too_large_is_named_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_VIDEO", 3)
    (tmp_path / "video.mp4").write_bytes(b"four")
    assert "<video" not in page.video(tmp_path / "video.mp4")
    assert page.video(None) == ""
