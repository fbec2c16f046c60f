"""Docstrings are plain text: in the API reference a shape [B,N] is no link, and a product a * b no emphasis. An
extension of griffe, which reads the sources for mkdocstrings."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

QUOTED = re.compile(r"(`[^`]*`)")


def as_markdown(text: str) -> str:
    """Escapes what Markdown would take for its own, outside of backquotes."""
    parts = QUOTED.split(text)
    # A shape behind a quoted name, `reward` [B,N], would be taken for a reference: hence the escape of every bracket.
    plain = [
        part if part.startswith("`") else re.sub(r"([\[\]*])", r"\\\1", part.replace("<", "&lt;")) for part in parts
    ]
    return re.sub(r"^( *)\\\*(?:\\(\*))?(\w+:)", r"\1*\2\3", "".join(plain), flags=re.M)  # *args: is a parameter


class PlainDocstrings(Extension):
    """Rewrites every docstring as it is loaded."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
