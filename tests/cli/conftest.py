"""What several commands are tried on."""

from pathlib import Path

import pytest

from epvf.cli.main import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of V(θ) on CartPole, to be looked at but not changed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", "cartpole", "--preset", "debug", "--out", str(run)]) == 0
    return run


@pytest.fixture
def refused(workplace, capsys):
    """`refused(words, message)`: one line on stderr, exit code 2, and nothing left behind."""

    def check(words, message):
        before = _files(workplace)
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("epvf: error: ") and err.count("\n") == 1 and err.endswith("\n")
        assert message in err
        assert _files(workplace) == before

    return check


def _files(folder: Path) -> list[Path]:
    """All that lies there, but for what Python keeps of modules that it has imported."""
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
