"""The site: every page has a place, every link leads somewhere, what it shows is true."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import epvf
from conftest import SOURCE

ROOT = SOURCE.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def _tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = _tool("site_hooks")
HOMES = sorted(["README.md", *site.pages().values()])


def _nav(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    for entry in entries if isinstance(entries, list) else []:
        yield from _nav(entry if isinstance(entry, str) else next(iter(entry.values())))


def test_every_page_has_one_place_in_the_navigation() -> None:
    there = list(_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(there) == sorted(site.pages())


def _anchors(home: str) -> set[str]:
    text = re.sub(r"^```.*?^```", "", site.text_of(home), flags=re.MULTILINE | re.DOTALL)
    return {site.anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("home", HOMES)
def test_every_link_leads_to_a_file_and_a_heading(home: str) -> None:
    dead = []
    for link in site.links(site.text_of(home)):
        target, fragment = site.resolved(home, link)
        reachable = (ROOT / target).exists() and not target.startswith("..")
        if not reachable or (fragment and fragment not in _anchors(target)):
            dead.append(link)
    assert dead == []


def test_links_are_found_in_text_and_not_in_code() -> None:
    text = "[a](x.md), ![b](y.png), [`c`](z.md#d), [e](https://f)\n\n    [g](h.md)\n\n`[i](j.md)`\n"
    assert site.links(text + "```\n[k](l.md)\n```\n") == ["x.md", "y.png", "z.md#d"]


def test_links_are_moved_to_where_their_targets_are_on_the_site() -> None:
    def moved(home: str, place: str, link: str) -> str:
        return str(site.relinked(f"[x]({link})", home, place)[4:-1])

    assert moved("docs/tasks.md", "tasks.md", "../examples/own_task.py") == (
        "files/examples/own_task.py.md"
    )
    assert moved("docs/reference/a.md", "reference/a.md", "../concepts.md#words") == (
        "../concepts.md#words"
    )
    assert moved("CHANGELOG.md", "changelog.md", "docs/recipe.md") == "recipe.md"
    assert moved("docs/own_task.md", "own_task.md", "../examples/own_task.ipynb") == (
        "notebooks/own_task.md"
    )
    assert moved("SECURITY.md", "security.md", "README.md") == "index.md"


def test_headings_get_the_anchors_of_a_code_host() -> None:
    assert site.anchor("Ant, V(θ) alone") == "ant-vθ-alone"
    assert site.anchor("`a.b` and _c_") == "ab-and-_c_"


def _messages() -> set[str]:
    """Texts of the source, `…` for what is put into them; parts of one expression are joined."""
    found: set[str] = set()
    for path in (SOURCE / "epvf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                values = node.values
                parts = [str(v.value) if isinstance(v, ast.Constant) else "…" for v in values]
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return {text for text in found if " " in text and "\n" not in text}


def test_the_errors_that_are_explained_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = re.findall(r"^### `([^`]+)`$", page, re.MULTILINE)
    assert len(told) > 30
    source = _messages()
    assert [message for message in told if not _is_of(message, source)] == []
    assert not _is_of("there is no … in that", source)


def _is_of(message: str, source: set[str]) -> bool:
    """Whether the message is one of these texts, of which a page may leave out the end."""
    words = [re.escape(part) for part in re.split("…|'…'", message)]
    pattern = re.compile(".*?".join(words))
    return any(pattern.match(text) for text in source)


def test_ten_lines_of_numpy_act_as_the_library_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "policies.md").read_text(), re.DOTALL
    )
    random = np.random.default_rng(0)
    policy = epvf.Policy((5, 16, 7, 3))
    theta = random.standard_normal(policy.num_parameters).astype(np.float32)
    (tmp_path / "policies").mkdir()
    epvf.save_policy(tmp_path / "policies" / "best.safetensors", policy, theta, "mine", 0.0)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)  # the page's own example
    for observation in random.standard_normal((20, 5)).astype(np.float32):
        expected = policy.apply(policy.unravel(theta), observation)
        np.testing.assert_allclose(names["act"](observation), expected, rtol=1e-5, atol=1e-6)


PAGES_WITH_PYTHON = ["index.md", "concepts.md", "own_task.md", "resume.md", "start.md"]


RUN_EACH = """
import json, os, pathlib, sys

for name, program in json.load(sys.stdin).items():
    folder = pathlib.Path(name).absolute()
    folder.mkdir()
    os.chdir(folder)
    exec(compile(program, name, "exec"), {"__name__": "__main__"})
    os.chdir("..")
"""
"""Programs by name, each in a folder of its own; one process, since most of the time is imports."""


@pytest.mark.slow
def test_the_python_of_the_pages_runs(tmp_path: Path) -> None:
    programs = {}
    for name in PAGES_WITH_PYTHON:
        text = (ROOT / "docs" / name).read_text()
        programs[name] = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
        assert programs[name]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_EACH],
        cwd=tmp_path,
        env=_environment(),
        input=json.dumps(programs),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_carries_no_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [c for c in code if c["outputs"] or c["execution_count"] is not None] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    program = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=_environment() | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_notebook_runs_in_a_kernel(tmp_path: Path) -> None:
    client, nbformat, _ = (
        pytest.importorskip(name, reason="needs the extra `notebooks`")
        for name in ("nbclient", "nbformat", "ipykernel")
    )
    notebook = nbformat.read(ROOT / "examples" / "first_steps.ipynb", as_version=4)
    client.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    for module in ("material", "mkdocstrings"):
        pytest.importorskip(module, reason="needs the extra `docs`")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*.html")}
    assert {"index.html", "changelog.html", "notebooks/own_task.html"} <= set(pages)
    loading = re.compile(r'<(?:script|img|iframe)[^>]+src="?https?:|<link[^>]+href="?https?:[^>]+>')
    assert [name for name, path in pages.items() if loading.search(path.read_text())] == []
    assert "epvf train ant" in pages["reference/commands.html"].read_text()
    assert 'id="epvf.train"' in pages["reference/api.html"].read_text()


def test_what_is_cited_is_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == epvf.__version__
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Bohlinger", "Peters"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]
    assert paper["url"] == project["urls"]["Paper"]


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_a_form_for_issues_asks_for_something(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_wheels_readme_has_no_link_that_leads_nowhere() -> None:
    text = _tool("wheel_readme").unlinked((ROOT / "README.md").read_text())
    assert re.findall(r"\]\((?!https?:)", text) == []
    assert "what else was measured" in text  # the words of a link stay
    assert "ant-tuned.png" not in text


def _environment() -> dict[str, str]:
    paths = [str(SOURCE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
