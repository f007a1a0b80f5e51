"""Commands in README and docs are such that the command line takes; links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import epvf
from conftest import SOURCE
from epvf.analysis.trained_value import TrainedValue
from epvf.cli import arguments, train
from epvf.cli.main import COMMANDS

ROOT = SOURCE.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

STANDS_FOR = {
    "TASK": "ant",
    "TEXT": "text",
    "K": "40",
    "RUN": "run",
    "POLICY": "policy.safetensors",
    "FILE": "file",
    "DIR": "folder",
    "S": "0",
    "SEED": "0",
    "OPTIONS": None,
    "...": None,
}
"""What a reader puts in the place of a word; None: nothing."""


def _commands(page: Path) -> list[str]:
    """Lines that begin with `epvf`, in blocks of code, joined where they go on."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ *(?:\$ )?(epvf [^\n]*)$", text, re.MULTILINE)
    return [line for line in lines if not re.search(r"[.:;]$|\[|`", line)]


CASES = [(page.name, line) for page in PAGES for line in _commands(page)]


def test_there_are_commands_to_be_tried() -> None:
    assert len(CASES) > 60
    assert {line.split()[1] for _, line in CASES} > {"train", "resume", "eval", "compare", "bench"}


@pytest.mark.parametrize(("page", "line"), sorted(set(CASES)))
def test_a_command_in_the_docs_is_understood(page: str, line: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)  # where pages say that examples/ lies
    words = shlex.split(line, comments=True)[1:]
    words = [told for word in words if (told := STANDS_FOR.get(word, word)) is not None]
    name, *argv = words
    if name.startswith("-"):
        assert name in ("--help", "--version")
        return
    module = import_module(f"epvf.cli.{COMMANDS[name].module}")
    if "--config" in argv or {"-h", "--help"} & set(argv):
        return  # of a file that the page only shows; help ends the program
    if name == "train":
        train.understood(argv)
    elif hasattr(module, "SUBCOMMANDS"):
        second, *argv = argv
        if not {"-h", "--help"} & {second}:
            kind = module.SUBCOMMANDS[second].options
            arguments.read(kind, f"epvf {name} {second}", argv)
    else:
        arguments.read(module.Options, f"epvf {name}", argv)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    found = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in found if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    missing = []
    for name in set(re.findall(r"`(epvf(?:\.[a-z_]\w*)+)", text)):
        parts = name.split(".")
        # a module, or something in one
        if not any(_is_module(parts[:end]) for end in (len(parts), len(parts) - 1)):
            missing.append(name)
    assert missing == []
    files = re.findall(r"(?:src/epvf|tests|benchmarks|examples)/[\w/.-]+\.(?:py|sh)", text)
    assert [file for file in files if not (ROOT / file).exists()] == []


FIGURES = [
    (page.relative_to(ROOT).as_posix(), figure)
    for page in PAGES
    for figure in re.findall(r"!\[[^\]]*\]\((?:docs/)?figures/([^)]+)\)", page.read_text())
]


@pytest.mark.parametrize(("page", "figure"), FIGURES)
def test_a_figure_has_the_command_that_makes_it_beside_it(page: str, figure: str) -> None:
    sections = re.split(r"^#+ ", (ROOT / page).read_text(), flags=re.MULTILINE)
    around = next(section for section in sections if f"figures/{figure})" in section)
    assert re.search(r"epvf (train|compare|experiment|diagnose|landscape|play) ", around)


def test_figures_are_drawn_from_data_that_is_committed() -> None:
    drawings = {"algorithm.svg", "ant.gif", "landscape-ant.png"}  # by hand, and of a whole run
    folder = ROOT / "docs" / "figures"
    done = subprocess.run(
        [sys.executable, "-c", "import figures; print(*figures.drawn())"],
        env={"PYTHONPATH": f"{SOURCE}{os.pathsep}{ROOT / 'benchmarks'}"},
        capture_output=True,
        text=True,
    )
    drawn = {f"{name}.png" for name in done.stdout.split()}
    there = {path.name for path in folder.iterdir()}
    assert there == drawn | drawings
    assert there == {figure for _, figure in FIGURES}


def _is_module(parts: list[str]) -> bool:
    path = SOURCE.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.slow
def test_the_readmes_python_runs_and_uses_public_names_only(workplace: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert set(re.findall(r"\bepvf\.(\w+)", block)) <= set(epvf.__all__)
    assert re.findall(r"^(?:from|import) (\S+)", block, re.MULTILINE) == ["epvf"]
    names: dict[str, object] = {}
    exec(block, names)  # the page's own example
    assert isinstance(names["value"], TrainedValue)
