"""The words, numbers and table rows of a report, shared by the terminal, Markdown and HTML."""

from __future__ import annotations

from typing import Any

from alignjax.evaluate.report import schema

DASH, MINUS = "\u2013", "\u2212"  # en dash, typographic minus


def number(value: float, digits: int = 1, factor: float = 1) -> str:
    """Write a number with a typographic minus; -0 is 0.

    Args:
        value: The number.
        digits: Digits after the point.
        factor: Multiplies it first (100 for percent).
    """
    text = f"{value * factor:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


def interval_parts(rate: Any, digits: int = 1, factor: float = 1) -> tuple[str, str]:
    """Write an interval as ("63.2", "60.1 - 66.4"), a missing one as a dash.

    Args:
        rate: {"mean", "low", "high"}, or None.
        digits: Digits after the point.
        factor: Multiplies the numbers first (100 for percent).

    Returns:
        (mean, span); the span of a missing interval is "".
    """
    if rate is None:
        return DASH, ""
    low, high = (number(rate[end], digits, factor) for end in ("low", "high"))
    return number(rate["mean"], digits, factor), f"{low} {DASH} {high}"


def interval_text(rate: Any, digits: int = 1, factor: float = 1) -> str:
    """Write an interval on one line: "63.2 (60.1 - 66.4)".

    Args:
        rate: {"mean", "low", "high"}, or None.
        digits: Digits after the point.
        factor: Multiplies the numbers first (100 for percent).
    """
    mean, span = interval_parts(rate, digits, factor)
    return f"{mean} ({span})" if span else mean


def percent(rate: Any) -> str:
    """Write an interval for a sentence: "63.2 % (95 % interval 60.1 to 66.4 %)"."""
    mean, low, high = (number(rate[key], 1, 100) for key in ("mean", "low", "high"))
    return f"{mean} % (95 % interval {low} to {high} %)"


def duration(seconds: float) -> str:
    """Write seconds as 4.2 s, 3 min 05 s or 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def trained(results: schema.Results) -> list[str]:
    """Return the players that are neither the baseline nor the human reference nor a control without training."""
    others = (results["baseline"], schema.human(results))
    return [name for name, row in results["players"].items() if name not in others and not row.get("control")]


def verdict(rate: Any) -> str:
    """Say in a verb what a win rate against the baseline means: the interval decides, not the mean."""
    if rate["low"] > 0.5:
        return "beats"
    return "loses to" if rate["high"] < 0.5 else "cannot be told apart from"


def capital(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def judge_name(results: schema.Results, name: str) -> str:
    """Name a judge for a sentence: "the held-out judge".

    Args:
        results: The contents of results.json.
        name: The judge's name there.
    """
    text = results["judges"].get(name, {}).get("label") or name.replace("_", "-")
    text = text if "judge" in text.lower() else f"{text} judge"
    return text if text.lower().startswith("the ") else f"the {text}"


def headline(results: schema.Results) -> str:
    """Write the result in sentences: who beats the baseline, by how much, on which judge, and honestly if nobody
    does."""
    baseline, names = results["baseline"], trained(results)
    rates = {name: rate for name in names if (rate := schema.rate(results, name, baseline)) is not None}
    base = schema.label(results, baseline)
    if not rates:
        return f"No player was compared with {base}."
    first, *rest = sorted(rates, key=lambda name: -rates[name]["mean"])
    judge = judge_name(results, "held_out")
    rate = rates[first]
    text = f"{capital(schema.label(results, first))} {verdict(rate)} {base} on {judge}: win rate {percent(rate)}"
    sentences = [f"{text}, {rate['n']:,} prompts."]
    if verdict(rate) != "beats":
        sentences.insert(0, f"No trained policy beats {base}.")
    if rest:
        others = [
            f"{schema.label(results, name)} {verdict(rates[name])} {base} "
            f"({number(rates[name]['mean'], 1, 100)} %, {number(rates[name]['low'], 1, 100)} to "
            f"{number(rates[name]['high'], 1, 100)} %)"
            for name in rest
        ]
        sentences.append(capital("; ".join(others)) + ".")
    return " ".join(sentences)


def scoring(results: schema.Results) -> str:
    """Say in a sentence how the win rates were scored, for the notes under a table."""
    if results.get("score") == "hard":
        text = "A win is a prompt on which the judge gives the row's player more than one half; ties count one half."
    else:
        text = "A win rate is the judge's mean probability that the row's player is better."
    return f"{text} Each interval is of one comparison, not corrected for how many there are."


def player_rows(results: schema.Results) -> tuple[list[str], list[list[Any]]]:
    """Collect column titles and cells of the table of players: a string, or the arguments of `interval_parts`. Columns
    that hold nothing are left out."""
    # Each cell stands beside its title; what no run of this kind has falls out at the end.
    human, base = schema.human(results), schema.label(results, results["baseline"])
    gold, others = results.get("measures") or {}, results.get("win_rates_by_judge") or {}
    matrices = {
        f"win rate vs {base} (%)": results["win_rates"],
        **{f"vs {base} by {judge_name(results, name)} (%)": rates for name, rates in others.items()},
        "ties (%)": results.get("ties"),
        "at equal length (%)": results.get("win_rates_length_controlled"),
        "where both ended (%)": results.get("win_rates_both_ended"),
    }
    rows: list[dict[str, Any]] = []
    for player, row in results["players"].items():
        measures = row.get("measures") or {}
        cells: dict[str, Any] = {"player": schema.label(results, player)}
        cells |= {_title(measure): _measured(measures.get(name), measure) for name, measure in gold.items()}
        for title, rates in matrices.items():
            cells[title] = ((rates or {}).get(player, {}).get(results["baseline"]), 1, 100)
            if human and rates is results["win_rates"]:
                cells[f"vs {schema.label(results, human)} (%)"] = (schema.rate(results, player, human), 1, 100)
        rouge = None if player == human else row.get("rouge_l")  # the references against themselves say nothing
        cells |= {"ended (%)": (row.get("finished"), 1, 100), "KL to ref. (nats)": (row.get("kl"), 2)}
        cells |= {"ROUGE-L (%)": (rouge, 1, 100), f"length ({'letters' if gold else 'words'})": (row.get("length"), 1)}
        cells["repeated bigrams (%)"] = (row.get("repetition"), 1, 100)
        for title, key in zip(("distinct-2 (%)", "copied (%)", "empty (%)"), schema.PLAYER_NUMBERS, strict=True):
            cells[title] = DASH if row.get(key) is None else number(row[key], 1, 100)
        rows.append(cells)
    keep = [title for title in rows[0] if any(cells[title] != DASH and cells[title][0] is not None for cells in rows)]
    return keep, [[cells[title] for title in keep] for cells in rows]


def _title(measure: Any) -> str:
    """A column of a measure: its name, and its unit where it is a share."""
    return f"{measure['label']} (%)" if measure.get("share", True) else measure["label"]


def _measured(rate: Any, measure: Any) -> tuple[Any, int, float]:
    """A cell of a measure."""
    return (rate, 1, 100) if measure.get("share", True) else (rate, 2, 1)


def data_sentence(results: schema.Results) -> str:
    """Say in a sentence how many pairs came from how many packages."""
    data = results["data"]
    if data.get("sentence"):
        return capital(data["sentence"]) + "."
    return f"{data['pairs']:,} pairs from {data['packages']:,} packages."


def exploit_rows(results: schema.Results) -> list[tuple[str, str, Any]]:
    """Collect the rows (player, the opponent that does best against it, that opponent's win rate)."""
    return [
        (schema.label(results, player), schema.label(results, row["by"]), (row, 1, 100))
        for player, row in (results.get("exploitability") or {}).items()
    ]


def judge_rows(results: schema.Results) -> list[tuple[str, Any, str]]:
    """Collect the rows (judge, its accuracy on held-out pairs, a note)."""
    return [
        (judge_name(results, name).removeprefix("the "), (judge.get("accuracy"), 1, 100), _judge_note(judge))
        for name, judge in results["judges"].items()
    ]


def _judge_note(judge: Any) -> str:
    """What was noted of a judge, and what it has in common with the training judge."""
    shares = ", ".join(f"{what}: {how}" for what, how in (judge.get("shares") or {}).items())
    parts = [judge.get("note"), shares and f"in common with the training judge: {shares}"]
    return "; ".join(part for part in parts if part)


def bias_rows(results: schema.Results) -> list[tuple[str, Any]]:
    """Collect the rows (player, the held-out judge's correlation with length); a single one is that of the baseline
    against the human."""
    rows = []
    for name, bias in schema.length_biases(results).items():
        sides = (name,) if name else (results["baseline"], "human")
        rows.append((" against ".join(schema.label(results, side) for side in sides), (bias, 2)))
    return rows


def seed_rows(results: schema.Results) -> tuple[list[str], list[list[str]]]:
    """Collect win rates against the baseline (%) by seed, with their range: columns and rows; no rows without other
    seeds."""
    runs, baseline = results.get("by_seed") or {}, results["baseline"]
    rows = []
    for player in trained(results) if runs else []:
        rates = [run["win_rates"].get(player, {}).get(baseline) for run in runs.values()]
        means = [rate["mean"] for rate in rates if rate]
        if means:
            cells = [number(rate["mean"], 1, 100) if rate else DASH for rate in rates]
            spread = f"{number(min(means), 1, 100)} {DASH} {number(max(means), 1, 100)}"
            rows.append([schema.label(results, player), *cells, number(sum(means) / len(means), 1, 100), spread])
    return ["player", *(f"seed {seed}" for seed in runs), "mean", "range"], rows


def said_of(results: schema.Results, sample: Any, player: str) -> str:
    """Say with what probability each judge prefers a player's answer to the baseline's, on one prompt; "" where none
    was asked.

    Args:
        results: The contents of results.json.
        sample: One of its samples.
        player: Whose answer.
    """
    rows = {judge: row.get(player) for judge, row in (sample.get("verdicts") or {}).items()}
    said = [f"{judge_name(results, judge)} {number(p, 0, 100)} %" for judge, p in rows.items() if p is not None]
    return f"preferred to {schema.label(results, results['baseline'])}: {', '.join(said)}" if said else ""
