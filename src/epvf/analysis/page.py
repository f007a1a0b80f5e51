"""HTML that needs nothing but itself: text, tables, figures as SVG, videos inside the file.

The page runs no code and loads nothing, which its own policy forbids besides. It is read on a
phone, in the dark and on paper.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epvf.analysis.styles import BLUE, GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_VIDEO = 24_000_000
"""Bytes of a video that a page may hold."""

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --raised: #f3f5f8; --ink: #16191d;
  --faint: #5b6470; --line: #d5dae1; --accent: #0072b2; --blue: #0072b2; --grey: #666666; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --raised: #1e2329;
  --ink: #e8eaed; --faint: #9aa4b0; --line: #363d46; --accent: #6cb8e6;
  --blue: #3a9bdc; --grey: #9a9fa8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.2rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; } .faint { color: var(--faint); overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem;
  margin: 1rem 0; }
.tile { background: var(--raised); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.25rem; } .tile span { color: var(--faint);
  font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
td:first-child:not(:last-child) { white-space: nowrap; }
th { color: var(--faint); font-weight: 600; overflow-wrap: normal; }
pre { background: var(--raised); border-radius: .5rem; padding: .7rem; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem; }
figure { margin: .5rem 0; }
figure svg { width: 100%; height: auto; max-width: 38rem; display: block;
  margin: 0 auto; fill: currentColor; }
figcaption { color: var(--faint); font-size: .88rem; }
video { width: 100%; max-width: 44rem; display: block; margin: 0 auto; border-radius: .5rem; }
summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
.wide { overflow-x: auto; }
@media print { :root { color-scheme: light; --ground: #fff; --raised: #f3f5f8; --ink: #000;
  --faint: #444; --line: #bbb; --blue: #0072b2; --grey: #666666; }
  body { max-width: none; font-size: 11pt; }
  figure, .tile, tr { break-inside: avoid; } h2 { break-after: avoid; }
  section:has(video) { display: none; }
  details::details-content { content-visibility: visible; } }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


def page(title: str, parts: Sequence[str]) -> str:
    """The whole document around parts that are HTML."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>",
            *filter(None, parts),
            "</body></html>\n",
        ]
    )


def text(value: Any) -> str:
    """Anything as text of a page, whatever it holds."""
    return html.escape("".join(x if x.isprintable() or x == "\n" else "�" for x in str(value)))


def heading(title: str, below: str = "") -> str:
    """The top of a page."""
    return f'<h1>{text(title)}</h1><p class="faint">{text(below)}</p>'


def section(title: str, *parts: str) -> str:
    """A part under a title; nothing where it has no content."""
    content = "\n".join(filter(None, parts))
    return f"<section><h2>{text(title)}</h2>\n{content}</section>" if content else ""


def paragraph(words: str) -> str:
    """Text."""
    return f"<p>{text(words)}</p>"


def note(words: str) -> str:
    """Text that stands back."""
    return f'<p class="faint">{text(words)}</p>'


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """A few numbers, each over what it is."""
    cells = (f'<div class="tile"><b>{text(v)}</b><span>{text(n)}</span></div>' for n, v in values)
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows of text; nothing where there are none."""
    if not rows:
        return ""
    head = f"<tr>{''.join(f'<th>{text(cell)}</th>' for cell in header)}</tr>" if header else ""
    body = "\n".join(
        f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>" for cells in rows
    )
    return f'<div class="wide"><table>{head}{body}</table></div>'


def commands(lines: Sequence[str]) -> str:
    """Command lines to be copied."""
    return f"<pre>{text(chr(10).join(lines))}</pre>"


def folded(title: str, content: str) -> str:
    """What is shown when asked for."""
    return f"<details><summary>{text(title)}</summary>\n{content}</details>"


def picture(figure: "Figure | None", name: str, caption: str = "") -> str:
    """A figure in the page's own ink; `name` tells its parts from those of others."""
    if figure is None:
        return ""
    told = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{_svg(figure, name)}{told}</figure>"


def video(file: Path | None) -> str:
    """A video within the page; in words where it is too large or not there."""
    if file is None:
        return ""
    content = file.read_bytes()
    if len(content) > MOST_VIDEO:
        return note(f"The video has {len(content) / 1e6:.0f} MB: {file}")
    data = base64.b64encode(content).decode()
    if file.suffix.lower() == ".gif":
        return f'<figure><img alt="the policy" src="data:image/gif;base64,{data}"></figure>'
    source = f'src="data:video/mp4;base64,{data}"'
    return f"<figure><video controls loop muted playsinline {source}></video></figure>"


def _svg(figure: "Figure", name: str) -> str:
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawn, count=1)
    # parts of several figures in one document must not be taken for each other
    for before in (r'\bid="', r"url\(#", r'xlink:href="#'):
        drawn = re.sub(before, lambda found: f"{found[0]}{name}-", drawn)
    drawn = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", drawn)
    for colour, name_of in ((BLUE, "blue"), (GREY, "grey")):
        shown = f"\\1: var(--{name_of}, {colour})"
        drawn = re.sub(rf"(fill|stroke): {colour}\b", shown, drawn, flags=re.IGNORECASE)
    drawn = drawn.replace("fill: #ffffff; opacity: 0.8", "fill: none")  # behind a legend
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", drawn)
