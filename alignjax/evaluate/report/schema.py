"""The contents of results.json: everything a report shows, as plain JSON.

An *interval* is {"mean": float, "low": float, "high": float, "n": int}: a value, its 95 % bootstrap interval, and how
many prompts it rests on. Required keys:

    title       str, what was run
    baseline    str, the player that win rates are headlined against (the reference of the KL)
    players     {player: {...}}, in the order of display. All of these may be missing or null:
                  label str; note str (one line: how it was made);
                  kl, kl_per_token (nats, to the reference), rouge_l (0..1), length (words), repetition
                    (0..1), finished (share that ended, 0..1): intervals; with measures the length is in letters
                  distinct_2, copied, empty: floats in 0..1
                  measures {measure: interval}; control bool: it needed no training
    win_rates   {a: {b: interval}}, P(a beats b) by the held-out judge in 0..1, both orders of every judged pair and no
                  player against itself
    judges      {"held_out": {...}, and any others}: each {label str, accuracy interval, note str}, all optional
    curves      {stage: {metric: {"step": [int], "value": [float or null]}}}; a stage of a player's name gets its color
    samples     [{"post": str, "outputs": {player: str}}], the human reference being a player like any other; "verdicts"
                  {judge: {player: float}}, optional: P(its output beats the baseline's)
    data        {"pairs": int, "packages": int, "splits": {split: {"pairs": int, "packages": int}}}; splits is optional,
                  and so are further entries (str or number), which are shown as they are
    seconds     {stage: float}, wall clock
    config      any JSON: the resolved config
    versions    {package: str}
    seeds       {name: int}
    git         str or null: the commit

Optional keys:

    human           player whose texts are the references (default "human", if there is one)
    score           "probability" (default) or "hard": how win_rates were scored
    win_rates_hard  like win_rates, scored by hard wins
    win_rates_by_judge  {judge: like win_rates}, what the other judges make of the same pairs
    exploitability  {player: interval and "by": player}, from `win_rate.exploitability`
    agreement       interval: how often the training judge and the held-out judge prefer the same side
    length_bias     interval of the held-out judge's correlation with length, of the baseline against the human, or
                    {player: interval}
    ties            like win_rates: the share of prompts on which the held-out judge says 1/2, the same in both orders
    win_rates_length_controlled  like win_rates, at equal length (`win_rate.length_controlled`)
    win_rates_both_ended  {a: {b: interval}} of pairs with the baseline, over the prompts on which both texts ended
    against_best_control  {player: interval and "controls": [player]}, from `controls.against_best_control`
    agreement_sampled  interval: as agreement, over pairs of sampled texts that the held-out judge decides
    measures        {measure: {"label": str, "maximum": float, "chance": float or null, "share": bool}}, of the exact
                    numbers that players have; chance: without reading the prompt
    over_optimization  {curve: [{"setting": str, "stage": str, "kl": interval, "win_rates": {judge: interval},
                       "measures": {name: interval}}]}
    budgets         {what: int}: labels and steps that the results cost
    warnings        [str]: what the numbers do not show; stands among the notes too
    by_seed         {seed: {"win_rates": {a: {b: interval}}, "players": {player: {"kl": interval}}}}: further runs of
                    the same config with other seeds; win_rates and players may be partial
    headline        str: stands in the place of the sentences about who beats whom
    runs            {run: {what: str}}: of a report on several runs (`comparison.py`), whose players and curves are
                    called "RUN / NAME"; a table
    differences     {path of a config: {run: str}}, progress {stage: {what: str}}: further tables
    command         str: what was typed
    date            str
    device          str
    notes           [str]: sentences shown under the headline
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError, DataError, nearest
from alignjax.workspace import read_json, whole_file

Results = Mapping[str, Any]

SEPARATOR = " / "  # between a run and what is of it
# The shape of results.json: what stands under a key is of a type, a NUMBER, a list of one shape, or a mapping again. A
# key with "?" may be missing or null; "*" is any further key.
NUMBER = "a finite number"
NUMBER_OR_NULL = "a finite number or null"
LARGEST = sys.float_info.max
INTERVAL: dict[str, Any] = dict.fromkeys(("mean", "low", "high", "n"), NUMBER)
MATRIX = {"*": {"*": INTERVAL}}
JUDGE = {"label?": str, "accuracy?": INTERVAL, "note?": str, "shares?": dict}
PLAYER_INTERVALS = ("kl", "kl_per_token", "rouge_l", "length", "repetition", "finished")
PLAYER_NUMBERS = ("distinct_2", "copied", "empty")
SHAPE: dict[str, Any] = {
    "title": str,
    "baseline": str,
    "players": {
        "*": {
            **{f"{key}?": INTERVAL for key in PLAYER_INTERVALS},
            **{f"{key}?": NUMBER for key in PLAYER_NUMBERS},
            "measures?": {"*": INTERVAL},
            **{f"{key}?": str for key in ("label", "note")},
            "control?": bool,
        }
    },
    "win_rates": MATRIX,
    "judges": {"held_out": JUDGE, "*": JUDGE},
    "curves": {"*": {"*": {"step": [NUMBER], "value": [NUMBER_OR_NULL]}}},
    "samples": [{"post": str, "outputs": {"*": str}, "verdicts?": {"*": {"*": NUMBER_OR_NULL}}}],
    "data": {
        "pairs": NUMBER,
        "packages": NUMBER,
        "splits?": {"*": {"pairs": NUMBER, "packages": NUMBER}},
        "sentence?": str,
    },
    "seconds": {"*": NUMBER},
    "config": object,
    "versions": {"*": str},
    "seeds": dict,
    "human?": str,
    "score?": str,
    "length_bias?": dict,
    "git": (str, type(None)),
    "win_rates_hard?": MATRIX,
    "win_rates_by_judge?": {"*": MATRIX},
    "exploitability?": {"*": {**INTERVAL, "by": str}},
    "agreement?": INTERVAL,
    "agreement_sampled?": INTERVAL,
    "ties?": MATRIX,
    "win_rates_length_controlled?": MATRIX,
    "win_rates_both_ended?": MATRIX,
    "against_best_control?": {"*": {**INTERVAL, "controls": list}},
    "measures?": {"*": {"label": str, "maximum": NUMBER, "chance?": NUMBER}},
    "over_optimization?": {"*": [{"setting": str, "kl": INTERVAL, "win_rates": {"*": INTERVAL}}]},
    "budgets?": {"*": NUMBER},
    "warnings?": [str],
    "weights?": str,
    **{key: {"*": {"*": str}} for key in ("runs?", "differences?", "progress?")},
    "headline?": str,
    "by_seed?": {"*": {"win_rates": MATRIX, "players?": {"*": {"kl?": INTERVAL}}}},
}
REQUIRED = tuple(key for key in SHAPE if not key.endswith("?"))


class ResultsError(ValueError):
    """Results that cannot be reported. The message names the key, as a path into results.json."""


def validate(results: Results) -> None:
    """Check results against the schema above.

    Args:
        results: The contents of results.json.

    Raises:
        ResultsError: Naming the first missing or wrong key.
    """
    _check(results, SHAPE, "")
    _check(length_biases(results), {"*": INTERVAL}, "length_bias")
    players = results["players"]
    _check_player(results["baseline"], players, "baseline")
    matrices = {"win_rates": results["win_rates"], "win_rates_hard": results.get("win_rates_hard") or {}}
    for judge, rates in (results.get("win_rates_by_judge") or {}).items():
        matrices[f"win_rates_by_judge.{judge}"] = rates
    for seed, run in (results.get("by_seed") or {}).items():
        matrices[f"by_seed.{seed}.win_rates"] = run["win_rates"]
    for path, rates in matrices.items():
        _check_matrix(rates, players, path)
    for stage, metrics in results["curves"].items():
        for metric, curve in metrics.items():
            steps, values = len(curve["step"]), len(curve["value"])
            if steps != values:
                raise ResultsError(f"'curves.{stage}.{metric}' of results.json has {steps} steps but {values} values")


def _check(value: Any, shape: Any, path: str) -> None:
    """Compare a value with its shape, and what is inside it with theirs."""
    if shape in (NUMBER, NUMBER_OR_NULL):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
        if not number and not (value is None and shape is NUMBER_OR_NULL):
            raise ResultsError(f"{path!r} of results.json is {str(value)[:60]!r}; it must be {shape}")
        return
    kind = dict if isinstance(shape, dict) else list if isinstance(shape, list) else shape
    if not isinstance(value, kind):
        names = " or ".join(choice.__name__ for choice in (kind if isinstance(kind, tuple) else (kind,)))
        wanted = "interval (mean, low, high, n)" if shape is INTERVAL else names
        raise ResultsError(f"{path!r} of results.json is a {type(value).__name__}; it must be a {wanted}")
    if isinstance(shape, list):
        for index, item in enumerate(value):
            _check(item, shape[0], f"{path}.{index}")
    if isinstance(shape, dict):
        for key in shape:
            if key not in value and key != "*" and not key.endswith("?"):
                missing = f"{path}.{key}".lstrip(".")
                raise ResultsError(f"results.json has no {missing!r}.{nearest(key, map(str, value))}")
        for key, item in value.items():
            inner = shape.get(key, shape.get(f"{key}?", shape.get("*")))
            if inner is not None and not (item is None and f"{key}?" in shape):
                _check(item, inner, f"{path}.{key}".lstrip("."))


def _check_player(name: Any, players: Iterable[str], path: str) -> None:
    if name not in players:
        raise ResultsError(f"{path!r} has a player {name!r} that 'players' has not.{nearest(str(name), players)}")


def _check_matrix(rates: Mapping[str, Mapping[str, Any]], players: Iterable[str], path: str) -> None:
    """Refuse win rates of unknown players, and of pairs in one order only."""
    for a, row in rates.items():
        for name in (a, *row):
            _check_player(name, players, path)
        for b in row:
            if a not in rates.get(b, {}):
                raise ResultsError(f"results.json has no {f'{path}.{b}.{a}'!r}, though it has {f'{path}.{a}.{b}'!r}")


def length_biases(results: Results) -> dict[str, Any]:
    """Return the held-out judge's correlations with length by player; a single interval stands under ""."""
    bias = results.get("length_bias") or {}
    return {"": bias} if "mean" in bias else dict(bias)


def label(results: Results, player: str) -> str:
    """Return the name of a player in print.

    Args:
        results: The contents of results.json.
        player: The player or stage.
    """
    run = run_of(results, player)
    own = f"{run}{SEPARATOR}" if run is not None else ""
    return results["players"].get(player, {}).get("label") or own + player.removeprefix(own).replace("_", " ")


def run_of(results: Results, name: str) -> str | None:
    """Return the run whose player or stage has this name, of a report on several runs; None of any other.

    Args:
        results: The contents of results.json.
        name: The player, stage or curve.
    """
    run, found, _ = name.rpartition(SEPARATOR)
    return run if found and run in (results.get("runs") or {}) else None


def human(results: Results) -> str | None:
    """Return the player whose texts are the references, if there is one."""
    name = results.get("human") or "human"
    return name if name in results["players"] else None


def rate(results: Results, a: str, b: str | None) -> Any:
    """Return the interval of P(a beats b), or None where that was not judged.

    Args:
        results: The contents of results.json.
        a: A player.
        b: Another, or None for one that the tournament lacks.
    """
    return results["win_rates"].get(a, {}).get(b)


def plain(value: Any) -> Any:
    """Convert `value` to strict JSON: NumPy and JAX numbers and arrays become Python ones, NaN and infinities null,
    other objects their repr, keys strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else repr(value)


def save(results: Results, path: Path) -> None:
    """Write results.json, whole or not at all.

    Args:
        results: The contents of results.json.
        path: The file, which is replaced if it exists.
    """
    text = json.dumps(plain(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # half a surrogate pair, as JSON escapes it


def load(folder: Path) -> dict[str, Any]:
    """Read the results of a run folder and validate them.

    Args:
        folder: A run folder.

    Returns:
        The contents of its results.json.

    Raises:
        ResultsError: If there are none, they are not JSON, or a key is missing or wrong.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise ResultsError(
            f"there is no results.json in {folder}: it is written when a run has been evaluated; "
            "check the folder, or finish the run with `alignjax train ... --resume`"
        )
    try:
        results = read_json(path, "evaluate the run again to write it anew")
    except (ConfigError, DataError) as error:
        raise ResultsError(str(error)) from error
    if not isinstance(results, dict):
        raise ResultsError(f"{path} holds a {type(results).__name__}; it must be a mapping")
    validate(results)
    return results
