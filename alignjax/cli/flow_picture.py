"""The flow of data through a config as an SVG: stages and losses from top to bottom, roles beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from html import escape

from alignjax.cli.catalogue import summary
from alignjax.cli.data_flow import Flow, Moved, Part, formulas, numbers
from alignjax.config import Fn

# In pixels, of fonts that every system has; a character is taken to be this wide.
LEFT, RIGHT, GAP, LINE, PAD, CHARACTER = 560, 260, 90, 17, 9, 7.0
WIDTH = LEFT + GAP + RIGHT + 40
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
FILL = {"source": "#f2f2f2", "stage": "#eaf2fb", "loss": "#fdf0e6", "learns": "#e9f6f0", "role": "#f7f7f7"}
Box = tuple[str, float]  # the elements of a box, and the height of its middle


def picture(flows: Mapping[str, Flow | Fn]) -> str:
    """Draws the steps of a config, one below the other.

    Args:
        flows: The flow of each step by name, or the job that it is.

    Returns:
        An SVG document that loads nothing.
    """
    parts, top = [], 20.0
    for name, flow in flows.items():
        if isinstance(flow, Fn):
            drawn, bottom = _box(20, top, LEFT, "source", f"{name}: a job, {flow.name}", [summary(flow.function)], "")
        else:
            drawn, bottom = _panel(name, flow, top)
        parts.append(drawn)
        top = bottom + 40
    marker = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="context-stroke"/></marker></defs>'
    )
    style = 'font-family="system-ui, sans-serif" font-size="12.5"'
    size = f'width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}"'
    back = f'<rect width="{WIDTH}" height="{top:.0f}" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{marker}{back}{"".join(parts)}</svg>\n'


def _panel(name: str, flow: Flow, top: float) -> tuple[str, float]:
    """A step: its elements, and where it ends."""
    # The left column is drawn first, since the lines between the columns end at the middles of its boxes.
    title = f"{name + ': ' if name else ''}{flow.experiment.steps} iterations"
    drawn = [f'<text x="20" y="{top + 12}" font-size="16" font-weight="bold">{escape(title)}</text>']
    start = y = top + 30
    middles: dict[str, float] = {}
    for kind, part in _in_order(flow):
        box, bottom = _box(20, y, LEFT, kind, _title(kind, part), _sentences(kind, part), _small(kind, part))
        middles[part.name] = (y + bottom) / 2
        drawn.append(box)
        y = bottom + 22
        drawn.append(_arrow(20 + LEFT / 2, bottom, 20 + LEFT / 2, y, "#555555"))
    drawn.pop()
    left_bottom, y = y - 22, start
    for number, role in enumerate(flow.roles):
        color = COLORS[number % len(COLORS)]
        box, bottom = _role(role, y, color)
        drawn.append(box)
        drawn += _lines(flow, role, (y + bottom) / 2, middles, color, number)
        y = bottom + 18
    key = "lines: what reads a role; dashed: its gradient"
    drawn.append(f'<text x="{20 + LEFT + GAP}" y="{y + 4:.0f}" font-size="11" fill="#444444">{key}</text>')
    return "".join(drawn), max(left_bottom, y)


def _in_order(flow: Flow) -> list[tuple[str, Part]]:
    stages, losses = (("stage", part) for part in flow.stages), (("loss", part) for part in flow.losses)
    return [("source", flow.source), *stages, *losses]


def _title(kind: str, part: Part) -> str:
    named = kind if kind == part.name else f"{kind} {part.name}"
    return named if part.name == part.function.name else f"{named}: {part.function.name}"


def _sentences(kind: str, part: Part) -> list[str]:
    return [words for _, words in formulas(part.function)] if kind == "loss" else [summary(part.function.function)]


def _small(kind: str, part: Part) -> str:
    """What stands in small letters: numbers, and what is read, added or logged."""
    added = ", ".join(f"{name} {shape}" for name, shape in part.adds.items())
    listed = "" if kind == "source" else ", ".join(numbers(part.function))
    read = f"reads {', '.join(part.reads)}" if part.reads else ""
    return "\n".join(filter(None, (listed, read, added and f"adds {added}")))


def _box(x: float, y: float, width: float, kind: str, title: str, words: list[str], small: str) -> tuple[str, float]:
    """A box with a title, sentences and small lines: its elements, and its lower edge."""
    room = int((width - 2 * PAD) / CHARACTER)
    lines = [(title, 'font-weight="bold"')]
    lines += [(line, "") for sentence in words for line in textwrap.wrap(sentence, room)]
    lines += [
        (line, 'font-size="11" fill="#444444"') for row in small.split("\n") for line in textwrap.wrap(row, room + 8)
    ]
    height = len(lines) * LINE + 2 * PAD
    texts = [
        f'<text x="{x + PAD:.0f}" y="{y + PAD + LINE * place + 12:.0f}" {style}>{escape(line)}</text>'
        for place, (line, style) in enumerate(lines)
    ]
    look = f'rx="6" fill="{FILL[kind]}" stroke="#bbbbbb"'
    frame = f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" {look}/>'
    return frame + "".join(texts), y + height


def _role(role: Moved, y: float, color: str) -> tuple[str, float]:
    size = f"{role.size:,} numbers" if role.size else ""
    x = 20 + LEFT + GAP
    by = [f"learns by {role.by[0]}", *role.by[1:]] if role.learns else role.by
    small = "\n".join(filter(None, (f"starts as {role.start}", size, *by)))
    kind = "learns" if role.learns else "role"
    box, bottom = _box(x, y, RIGHT, kind, f"role {role.name}", [], small)
    edge = f'<rect x="{x:.0f}" y="{y:.0f}" width="4" height="{bottom - y:.0f}" fill="{color}"/>'
    return box + edge, bottom


def _lines(flow: Flow, role: Moved, middle: float, middles: Mapping[str, float], color: str, number: int) -> list[str]:
    """The lines of a role: to what reads it, and back from the losses if it learns."""
    drawn = []
    left, right, aside = 20 + LEFT, 20 + LEFT + GAP, 3 * number
    for kind, part in _in_order(flow):
        if role.name in part.roles:
            drawn.append(_arrow(right, middle, left, middles[part.name] - 6 + aside, color))
            if role.learns and kind == "loss":
                drawn.append(_arrow(left, middles[part.name] + 8, right, middle + 8, color, dashed=True))
    return drawn


def _arrow(x1: float, y1: float, x2: float, y2: float, color: str, *, dashed: bool = False) -> str:
    bend = (x2 - x1) / 2
    curve = f"M{x1:.0f},{y1:.0f} C{x1 + bend:.0f},{y1:.0f} {x2 - bend:.0f},{y2:.0f} {x2:.0f},{y2:.0f}"
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    return f'<path d="{curve}" fill="none" stroke="{color}" stroke-width="1.4"{dash} marker-end="url(#head)"/>'
