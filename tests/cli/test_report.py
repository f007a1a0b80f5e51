"""`epvf report` and `epvf landscape`: pages and figures of runs."""

import json
import shutil
from pathlib import Path

import pytest

from epvf.cli.main import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report"], "which runs? epvf report RUN"),
        (["report", "nowhere"], "nowhere is no run"),
        (["report", "nowhere", "--out", "page.pdf"], "nowhere is no run"),
        (["landscape"], "missing: RUN"),
        (["landscape", "nowhere"], "nowhere is no run"),
        (["landscape", "nowhere", "--points", "4"], "points is 4, but must be odd"),
        (["landscape", "nowhere", "--along", "here"], "unknown value for along: 'here'"),
    ],
)
def test_bad_input(words, message, refused):
    refused(words, message)


def test_a_file_that_is_there_stays_unless_replacing_is_asked_for(finished, workplace, capsys):
    Path("page.html").write_text("mine")
    Path("figure.png").write_text("mine")
    quick = ["report", str(finished), "--no-video", "--no-landscape", "--out", "page.html"]
    plot = ["plot", str(finished), "--out", "figure.png"]
    for words, file in ((quick, "page.html"), (plot, "figure.png")):
        assert main(words) == 2
        assert f"{file} exists already; choose another --out, or give --replace" in (
            capsys.readouterr().err
        )
        assert Path(file).read_text() == "mine"
        assert main([*words, "--replace"]) == 0
        assert Path(file).stat().st_size > 4
    assert main([*quick[:-1], "page.pdf"]) == 2


def test_a_finished_run_has_a_page_and_one_that_did_not_want_it_has_none(finished, tmp_path):
    page = (finished / "report.html").read_text()
    told = json.loads((finished / "evaluation.json").read_text())
    assert f"{told['episode_return']:.1f} ± " in page and "epvf train cartpole" in page
    run = tmp_path / "run"
    quick = ["train", "cartpole", "--preset", "debug", "--iterations", "1", "--no-report"]
    assert main([*quick, "--out", str(run)]) == 0
    assert not (run / "report.html").exists()


@pytest.mark.slow
def test_a_page_with_everything_in_it(finished, workplace, capsys):
    pytest.importorskip("pygame")
    shutil.copytree(finished, "run")
    assert main(["landscape", "run", "--points", "3", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"]
    assert main(["report", "run"]) == 0
    assert capsys.readouterr().out == "report: run/report.html\n"
    page = Path("run/report.html").read_text()
    assert "V around θ at update" in page and "data:video/mp4;base64," in page


def test_several_runs_of_which_one_has_nothing_to_tell_yet(finished, workplace, capsys):
    shutil.copytree(finished, "empty")
    Path("empty/metrics.jsonl").unlink()
    assert main(["report", str(finished), "empty", "--no-video"]) == 0
    assert "not shown: empty" in Path("report.html").read_text()
    assert main(["plot", str(finished), "empty"]) == 0
    assert capsys.readouterr().err == "skipped empty: it has no records yet\n"
    assert main(["plot", "empty"]) == 2
