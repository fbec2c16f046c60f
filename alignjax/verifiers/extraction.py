r"""Answers in texts: what stands in the last `\boxed{}`, behind the last "####", in the last <answer> tag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Extract = Literal["auto", "whole", "boxed", "hashes", "tag", "last line"]
_OPENED = ("\\boxed", "\\fbox")


def text_of(completion: Any) -> str:
    """Returns a completion, or a prompt, as text: of messages the content of the last."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion and isinstance(completion[-1], Mapping) else None
    return content if isinstance(content, str) else ""


def extracted(text: str, where: Extract = "auto") -> str | None:
    r"""Finds the answer that a text gives.

    Args:
        text: The text.
        where: "boxed" takes what stands in the last `\boxed{}`, "hashes" what stands behind the last "####" up to the
            end of its line, "tag" what stands in the last <answer></answer>, "last line" the last line that is not
            blank, "whole" all of it. "auto" tries boxed, tag and hashes, then takes the whole.

    Returns:
        The answer without outer spaces; None if the text has none of this form.
    """
    if where == "auto":
        marked = (extracted(text, form) for form in ("boxed", "tag", "hashes"))
        return next((answer for answer in marked if answer is not None), text.strip())
    if where == "boxed":
        return _boxed(text)
    if where == "hashes":
        _, mark, rest = text.rpartition("####")
        return rest.partition("\n")[0].strip() if mark else None
    if where == "tag":
        start = text.rfind("<answer>")
        inner, closed, _ = text[start + len("<answer>") :].partition("</answer>")
        return inner.strip() if start >= 0 and closed else None
    if where == "last line":
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), None)
    return text.strip()


def _boxed(text: str) -> str | None:
    r"""The inside of the last `\boxed{..}` whose braces are closed, whatever braces it has within."""
    end = len(text)
    while (start := max(text.rfind(command, 0, end) for command in _OPENED)) >= 0:
        opened = text.find("{", start)
        if opened >= 0 and not text[start + 1 : opened].removeprefix("boxed").removeprefix("fbox").strip():
            depth = 0
            for place in range(opened, len(text)):
                escaped = text[place - 1] == "\\"
                depth += 0 if escaped else (text[place] == "{") - (text[place] == "}")
                if not depth:
                    return text[opened + 1 : place].strip()
        end = start
    return None
