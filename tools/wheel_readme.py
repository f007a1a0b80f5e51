"""The README that a wheel carries: without links that lead nowhere outside the repository.

Hatchling calls this when it builds; see `tool.hatch.metadata.hooks.custom` in pyproject.toml.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class WheelReadme(MetadataHookInterface):
    """Sets the project's description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling with the `[project]` table."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": unlinked(text)}


def unlinked(markdown: str) -> str:
    """Markdown whose relative links are plain words, and whose relative pictures are gone."""
    markdown = re.sub(r"^!\[[^\]]*\]\((?!https?:)[^)]+\)\n\n?", "", markdown, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", markdown)
