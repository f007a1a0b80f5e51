"""What several commands are tried on."""

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
        before = sorted(workplace.rglob("*"))
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("epvf: error: ") and err.count("\n") == 1 and err.endswith("\n")
        assert message in err
        assert sorted(workplace.rglob("*")) == before

    return check
