"""Completion in shells: what a script offers after words that were typed."""

import shutil
import subprocess

import pytest

from epvf.cli import completion
from epvf.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """`bash("epvf", "tr")`: what is offered in the last word's place."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    script = tmp_path_factory.mktemp("completion") / "epvf.bash"
    script.write_text(completion._bash(completion.commands()))
    ask = (
        f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _epvf; '
        'echo "${COMPREPLY[@]}"'
    )

    def offered(*words):
        done = subprocess.run(
            ["bash", "-c", ask, "bash", *words], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    return offered


def test_commands_options_and_values_are_completed(bash):
    assert set(bash("epvf", "")) == {*COMMANDS, "--help", "--version"}
    assert bash("epvf", "comp") == ["compare", "completion"]
    assert bash("epvf", "train", "half") == ["halfcheetah"]
    assert bash("epvf", "train", "ant", "--psvf.no") == ["--psvf.noise"]
    assert bash("epvf", "train", "ant", "--no-r") == ["--no-report"]
    assert bash("epvf", "train", "ant", "--preset", "") == ["paper", "tuned", "debug"]
    assert "epvf" in bash("epvf", "train", "ant", "--method", "")
    assert bash("epvf", "policy", "ex") == ["export"]
    assert bash("epvf", "policy", "export", "RUN", "--form") == ["--format"]
    assert bash("epvf", "nosuch", "") == []


def test_where_a_file_is_asked_for_the_shell_offers_its_own(bash):
    assert bash("epvf", "train", "ant", "--config", "") == []
    assert bash("epvf", "resume", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_one_of_its_shell(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shutil.which(shell) is not None:
        file = tmp_path / "script"
        file.write_text(script)
        subprocess.run([shell, "-n", file], check=True)
    lines = [line for line in script.splitlines() if line.startswith("complete -c epvf")]
    assert len(lines) > 200 if shell == "fish" else lines == []
    for name in COMMANDS:
        assert name in script


def test_another_shell_is_refused(refused):
    refused(["completion", "csh"], "csh")
    refused(["completion"], "which shell? epvf completion bash, zsh or fish")
