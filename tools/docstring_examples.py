"""Examples in docstrings are shown as code and what it prints; mkdocstrings knows `Examples:`."""

from typing import Any

import griffe


class DocstringExamples(griffe.Extension):
    """Reads `Example:` as the section that it is."""

    def on_instance(self, *, obj: griffe.Object, **others: Any) -> None:
        """Called for everything that has a docstring, before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
