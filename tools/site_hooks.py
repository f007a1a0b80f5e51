"""What the site makes of the repository, for mkdocs: see `hooks` in mkdocs.yml.

Pages link to each other, and to files beside `docs/`, as on a code host: by relative paths in the
repository. On the site a linked file is a page that shows it, and so are notebooks and the pages at
the root. Drawings are put into the page, where they take its colours.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages at the root, and where they are on the site; `index.md` stands for README.md there."""

LANGUAGES = {".py": "python", ".sh": "sh", ".toml": "toml", ".yml": "yaml", ".json": "json"}

HELP = "<!-- help -->"
"""Stands for what the commands say of themselves."""

_CODE = re.compile(r"(^```[\s\S]*?^```[^\S\n]*$|^(?: {4}|\t).*$|`[^`\n]+`)", re.MULTILINE)
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")


def on_config(config: Any) -> Any:
    """Headings get the anchors that a code host gives them."""
    config["mdx_configs"].setdefault("toc", {})["slugify"] = anchor
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made of files outside of `docs/`."""
    from mkdocs.structure.files import File, InclusionLevel

    in_nav = {**{p: home for home, p in ROOT_PAGES.items() if p != "index.md"}, **notebooks()}
    for page, home in in_nav.items():
        files.append(File.generated(config, page, content=text_of(home)))
    hidden = InclusionLevel.NOT_IN_NAV
    for home in sorted(linked_files()):
        page = File.generated(config, page_of(home), content=shown(home), inclusion=hidden)
        files.append(page)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Points links to where their targets are on the site, and puts drawings into the page."""
    place = page.file.src_uri
    if place.startswith("files/"):
        return markdown
    home = home_of(place)
    if HELP in markdown:
        markdown = markdown.replace(HELP, helps())
    markdown = re.sub(r"^!\[([^\]]*)\]\((\S+\.svg)\)$", _drawn(home), markdown, flags=re.MULTILINE)
    return outside_of_code(markdown, lambda text: relinked(text, home, place))


def anchor(heading: str, separator: str = "-") -> str:
    """The anchor of a heading: small letters, figures and hyphens, as code hosts make it."""
    text = re.sub(r"<[^>]*>", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", separator)


def links(markdown: str) -> list[str]:
    """Targets of the links and pictures of a page that are no addresses, code left out."""
    found: list[str] = []

    def note(text: str) -> str:
        found.extend(target for _, target, _ in _LINK.findall(text) if not _is_address(target))
        return text

    outside_of_code(markdown, note)
    return found


def resolved(home: str, link: str) -> tuple[str, str]:
    """Path in the repository and anchor of a link from the page at `home`."""
    path, _, fragment = link.partition("#")
    return (normpath(f"{Path(home).parent.as_posix()}/{path}") if path else home), fragment


def relinked(text: str, home: str, place: str) -> str:
    """Text of the page at `home` with links as they are from `place` on the site."""

    def point(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        if _is_address(link) or link.startswith("#"):
            return match.group(0)
        target, fragment = resolved(home, link)
        there = relpath(page_of(target), Path(place).parent.as_posix())
        return f"{before}{there}{'#' + fragment if fragment else ''}{after}"

    return _LINK.sub(point, text)


def outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    """Changes the text of a page but for its blocks and spans of code."""
    parts = _CODE.split(markdown)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(_whole_links(parts)))


def page_of(home: str) -> str:
    """Where a file or folder of the repository is on the site."""
    if home in ROOT_PAGES:
        return ROOT_PAGES[home]
    if home.endswith(".ipynb"):
        return f"notebooks/{Path(home).stem}.md"
    if (ROOT / home).is_dir():
        return f"files/{home}/index.md"
    return home.removeprefix("docs/") if home.startswith("docs/") else f"files/{home}.md"


def home_of(place: str) -> str:
    """The file of the repository that a page of the site is made of."""
    made = {page: home for home, page in ROOT_PAGES.items() if page != "index.md"} | notebooks()
    return made.get(place, f"docs/{place}")


def notebooks() -> dict[str, str]:
    """Pages of the notebooks, and the notebooks."""
    return {page_of(home): home for home in _relative(sorted(ROOT.glob("examples/*.ipynb")))}


def pages() -> dict[str, str]:
    """Every page that is written by somebody: its place on the site and in the repository."""
    own = {page_of(home): home for home in _relative(sorted(ROOT.glob("docs/**/*.md")))}
    at_root = {page: home for home, page in ROOT_PAGES.items() if page != "index.md"}
    return own | at_root | notebooks()


def linked_files() -> set[str]:
    """Files and folders outside of `docs/`, and folders in it, to which a page links."""
    return {
        target
        for home in pages().values()
        for target, _ in (resolved(home, link) for link in links(text_of(home)))
        if page_of(target).startswith("files/") and (ROOT / target).exists()
    }


def helps() -> str:
    """What every command prints with --help, as a page's text."""
    from epvf.cli.main import COMMANDS, main

    asked = [["--help"], ["train", "ant", "--help"], *([name, "--help"] for name in COMMANDS)]
    parts = []
    for argv in asked:
        with redirect_stdout(StringIO()) as told:
            main(argv)
        parts.append(f"## epvf {' '.join(argv)}\n\n````text\n{told.getvalue().strip()}\n````\n")
    return "\n".join(parts)


def text_of(home: str) -> str:
    """A page as Markdown: itself, or what a notebook holds."""
    text = (ROOT / home).read_text(encoding="utf-8")
    return _notebook(home, text) if home.endswith(".ipynb") else text


def shown(home: str) -> str:
    """The page that shows a file, or lists a folder."""
    path = ROOT / home
    if path.is_dir():
        listed = (f"- [{name}]({home}/{name})" for name in sorted(p.name for p in path.iterdir()))
        text = "\n".join(listed)
        return f"# {home}\n\n{relinked(text, 'README.md', page_of(home))}\n"
    fence = f"````{LANGUAGES.get(path.suffix, 'text')}"
    return f"# {home}\n\n{fence}\n{path.read_text(encoding='utf-8')}\n````\n"


def _notebook(home: str, text: str) -> str:
    parts = [f"*This page is the notebook `{home}`: run it, and the figures appear.*"]
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join([parts[1], parts[0], *parts[2:]]) + "\n"


def _drawn(home: str) -> Callable[[re.Match[str]], str]:
    def draw(match: re.Match[str]) -> str:
        told, link = match.groups()
        svg = (ROOT / resolved(home, link)[0]).read_text(encoding="utf-8")
        svg = re.sub(r"\n\s*\n", "\n", svg[svg.index("<svg") :])
        return f'<div class="drawing" role="img" aria-label="{told}">\n{svg}</div>'

    return draw


def _whole_links(parts: list[str]) -> Iterator[str]:
    """Spans of code within a link's text belong to the link: `[`epvf.train`](...)`."""
    text = parts[0]
    for code, after in zip(parts[1::2], parts[2::2], strict=True):
        if "\n" not in code and not code.startswith((" ", "\t")) and re.search(r"\[[^\]]*$", text):
            text += code + after
            continue
        yield text
        yield code
        text = after
    yield text


def _is_address(link: str) -> bool:
    return re.match(r"[a-z]+:", link) is not None


def _relative(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]
