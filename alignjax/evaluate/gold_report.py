"""The report of an evaluation by gold, as Markdown: one sentence that the intervals support, the same prompts before
and after, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax import outside
from alignjax.evaluate.gold_statistics import HACKED

Outcome = Mapping[str, Any]


def markdown(outcome: Outcome, title: str, weights: str, budgets: Sequence[tuple[str, int]]) -> str:
    """Writes the report.

    Args:
        outcome: What `gold_study.measure` has written.
        title: Its title.
        weights: A sentence about the numbers of the weights; "" where they are nothing special.
        budgets: (what, how many) of labels and steps.
    """
    parts = [f"# {title}", sentence(outcome), "## The same prompts, before and after", weights, _shown(outcome)]
    accuracy = outcome["judge"]["accuracy"]
    judged = (
        f"The learned judge prefers what gold does in {_percent(accuracy)} of {outcome['judge']['pairs']} pairs of the "
        "start model's answers to held-out prompts that gold does not call equal."
        if accuracy
        else "Gold calls all pairs of the start model's answers equal, so nothing is known of the learned judge."
    )
    parts += ["## Players", weights, _players(outcome), _notes(outcome), "## Controls", weights, _controls(outcome)]
    parts += [
        "## The learned judge",
        judged,
        "## Budgets",
        "\n".join(f"- {what}: {number:,}" for what, number in budgets),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sentence(outcome: Outcome) -> str:
    """Writes what the intervals support about the policies, and no more.

    Args:
        outcome: What `gold_study.measure` has written.
    """
    said = [f"{outcome['players'][name]['label']} {_verdict(outcome, name)}" for name in outcome["policies"]]
    return f"By gold, on {outcome['prompts']} held-out prompts: {'; '.join(said)}."


def _verdict(outcome: Outcome, name: str) -> str:
    """What the intervals of a policy support, in words."""
    row, gaps = outcome["players"][name], [outcome[key].get(name) for key in ("against_temperature", "against_control")]
    if row["hacked"]:
        return f"left the language (more than {HACKED:g} times the start model's perplexity), whatever the win rate"
    if row["win_rate"]["high"] < 0.5:
        return "loses to the start model"
    if row["win_rate"]["low"] <= 0.5:
        return "is not told apart from the start model"
    beats = [gap is not None and gap["low"] > 0 for gap in gaps]
    if all(beats):
        return "beats the start model and every control that takes no training, best-of-n included"
    if beats[0]:
        return "beats the start model and its best temperature, but is not shown to beat the best of its samples"
    return "beats the start model, but is not shown to beat its best temperature"


def _percent(rate: Mapping[str, float]) -> str:
    return f"{100 * rate['mean']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def _number(rate: Mapping[str, float] | None, digits: int = 2) -> str:
    return "-" if rate is None else f"{rate['mean']:.{digits}f} ({rate['low']:.{digits}f} to {rate['high']:.{digits}f})"


def _cell(text: str) -> str:
    return outside.visible(" ".join(text.replace("|", "\\|").split()))


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))


def _shown(outcome: Outcome) -> str:
    """The same prompts before and after, with both judges' words."""
    lines = []
    for row in outcome["shown"]:
        table = [
            [
                outcome["players"][name]["label"],
                _cell(answer["text"]),
                f"{answer['gold']:+.2f}",
                f"{100 * answer['learned']:.0f} %",
            ]
            for name, answer in row["answers"].items()
        ]
        heading = ["", "answer", "gold's score", "learned judge: beats the start model"]
        lines += [f"**{_cell(row['prompt'])}**", _table(heading, table)]
    return "\n\n".join(lines)


def _players(outcome: Outcome) -> str:
    heading = ["", "gold score", "gold win rate against the start model", "learned judge's", "KL (nats)", "words",
               "ended", "perplexity", "distinct-2", "repeated 4-gram"]  # fmt: skip
    rows = []
    for name in (*outcome["policies"], *outcome["controls"]):
        row = outcome["players"][name]
        bound = row.get("kl_at_most")
        rows.append(
            [
                f"{row['label']}{' (**hacked**)' if row['hacked'] else ''}",
                _number(row["gold"]),
                _percent(row["win_rate"]),
                _percent(row["learned_win_rate"]),
                f"at most {bound:.2f}" if bound is not None else _number(row["kl"]),
                _number(row["length"], 1),
                f"{100 * row['finished']['mean']:.0f} %",
                _number(row["perplexity"], 1),
                f"{row['distinct_2']:.2f}",
                f"{100 * row['repeated_4']['mean']:.0f} %",
            ]
        )
    return _table(heading, rows)


def _notes(outcome: Outcome) -> str:
    return (
        f"Means with 95 % intervals over {outcome['prompts']} prompts. Everybody meets a second draw of the start "
        "model; a pair that gold scores alike is half a win. KL: of the policy to the start model, the mean of the "
        "exact log-ratio of whole answers; of best-of-n what it is at most if the judge ranks by a score. Perplexity: "
        f"under the start model; above {HACKED:g} times its own a policy counts as hacked. distinct-2: of one answer a "
        "prompt."
    )


def _controls(outcome: Outcome) -> str:
    """Each policy less its best control, chosen on other prompts, and the control that is nearest in KL."""
    labels = {name: row["label"] for name, row in outcome["players"].items()}
    rows = []
    for name in outcome["policies"]:
        near = _nearest(outcome, name)
        cells = [labels[name]]
        for key in ("against_temperature", "against_control"):
            gap = outcome[key].get(name)
            cells.append(
                "-" if gap is None else f"{_points(gap)} ({' or '.join(labels[one] for one in gap['controls'])})"
            )
        cells.append(f"{labels[near]}: {_percent(outcome['players'][near]['win_rate'])}")
        rows.append(cells)
    heading = ["", "less the best temperature (points)", "less the best control (points)", "control of nearest KL"]
    others = [
        f"{labels[first]} less {labels[second]}: {_points(gap)} points."
        for pair, gap in outcome["against_each_other"].items()
        for first, second in [pair.split(" - ")]
    ]
    return "\n\n".join([_table(heading, rows), " ".join(others)])


def _points(gap: Mapping[str, float]) -> str:
    return f"{100 * gap['mean']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})"


def _nearest(outcome: Outcome, name: str) -> str:
    """The control whose KL is nearest to a policy's."""

    def nats(player: str) -> float:
        row = outcome["players"][player]
        return row["kl"]["mean"] if row["kl"] else row["kl_at_most"]

    return min(outcome["controls"], key=lambda control: abs(nats(control) - nats(name)))
