"""The contents of results.json: everything a report shows, as plain JSON.

An *interval* is {"mean": float, "low": float, "high": float, "n": int}: a value, its 95 % bootstrap interval, and how
many prompts it rests on. Required keys:

    title       str, what was run
    baseline    str, the player that win rates are headlined against (the reference of the KL)
    players     {player: {...}}, in the order of display. All of these may be missing or null:
                  label str; note str (one line: how it was made);
                  kl, kl_per_token (nats, to the reference), rouge_l (0..1), length (words), repetition
                    (0..1): intervals
                  distinct_2, copied, empty: floats in 0..1
    win_rates   {a: {b: interval}}, P(a beats b) by the held-out judge in 0..1, both orders of every judged pair and no
                  player against itself
    judges      {"held_out": {...}, and any others}: each {label str, accuracy interval, note str}, all optional
    curves      {stage: {metric: {"step": [int], "value": [float or null]}}}; a stage of a player's name gets its colour
    samples     [{"post": str, "outputs": {player: str}}], the human reference being a player like any other
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
    length_bias     interval of the held-out judge's correlation with length, or {player: interval}
    by_seed         {seed: {"win_rates": {a: {b: interval}}, "players": {player: {"kl": interval}}}}: further runs of
                    the same config with other seeds; win_rates and players may be partial
    command         str: what was typed
    date            str
    device          str
    notes           [str]: sentences shown under the headline
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignjax.config import nearest

Results = Mapping[str, Any]

REQUIRED = {
    "title": str,
    "baseline": str,
    "players": dict,
    "win_rates": dict,
    "judges": dict,
    "curves": dict,
    "samples": list,
    "data": dict,
    "seconds": dict,
    "config": object,
    "versions": dict,
    "seeds": dict,
    "git": (str, type(None)),
}
PLAYER_INTERVALS = ("kl", "kl_per_token", "rouge_l", "length", "repetition")
PLAYER_NUMBERS = ("distinct_2", "copied", "empty")


class ResultsError(ValueError):
    """Results that cannot be reported. The message names the key, as a path into results.json."""


def _need(container: Any, key: str, kind: Any, where: str = "") -> Any:
    path = f"{where}.{key}" if where else key
    if key not in container:
        raise ResultsError(f"results.json has no {path!r}.{nearest(key, map(str, container))}")
    if not isinstance(container[key], kind):
        kinds = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ResultsError(f"{path!r} of results.json is a {type(container[key]).__name__}; it must be a {kinds}")
    return container[key]


def _check_number(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ResultsError(f"{path!r} of results.json is {value!r}; it must be a finite number")


def _check_interval(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise ResultsError(f"{path!r} of results.json is {value!r}; it must be an interval (mean, low, high, n)")
    for key in ("mean", "low", "high", "n"):
        _check_number(_need(value, key, object, path), f"{path}.{key}")


def _check_matrix(rates: Any, players: Any, path: str) -> None:
    if not isinstance(rates, dict):
        raise ResultsError(f"{path!r} of results.json must be a mapping {{a: {{b: interval}}}}")
    for a, row in rates.items():
        if not isinstance(row, dict):
            raise ResultsError(f"{path + '.' + a!r} of results.json must be a mapping from opponent to interval")
        for name in (a, *row):
            if name not in players:
                raise ResultsError(f"{path!r} has a player {name!r} that 'players' has not.{nearest(name, players)}")
        for b, rate in row.items():
            _check_interval(rate, f"{path}.{a}.{b}")
            if b not in rates or a not in rates[b]:
                raise ResultsError(f"results.json has no {f'{path}.{b}.{a}'!r}, though it has {f'{path}.{a}.{b}'!r}")


def validate(results: Results) -> None:
    """Check results against the schema above; raises ResultsError naming the first missing or wrong key."""
    for key, kind in REQUIRED.items():
        _need(results, key, kind)
    players = results["players"]
    if results["baseline"] not in players:
        raise ResultsError(
            f"baseline {results['baseline']!r} is not in 'players'.{nearest(results['baseline'], players)}"
        )
    for player, row in players.items():
        if not isinstance(row, dict):
            raise ResultsError(f"{'players.' + player!r} of results.json must be a mapping")
        for key in PLAYER_INTERVALS:
            if row.get(key) is not None:
                _check_interval(row[key], f"players.{player}.{key}")
        for key in PLAYER_NUMBERS:
            if row.get(key) is not None:
                _check_number(row[key], f"players.{player}.{key}")
    _check_matrix(results["win_rates"], players, "win_rates")
    if results.get("win_rates_hard") is not None:
        _check_matrix(results["win_rates_hard"], players, "win_rates_hard")
    for judge, rates in (results.get("win_rates_by_judge") or {}).items():
        _check_matrix(rates, players, f"win_rates_by_judge.{judge}")
    _need(results["judges"], "held_out", dict, "judges")
    _check_rest(results)


def _check_rest(results: Results) -> None:
    for name, judge in results["judges"].items():
        if judge.get("accuracy") is not None:
            _check_interval(judge["accuracy"], f"judges.{name}.accuracy")
    for stage, metrics in results["curves"].items():
        for metric, curve in metrics.items():
            path = f"curves.{stage}.{metric}"
            steps, values = _need(curve, "step", list, path), _need(curve, "value", list, path)
            if len(steps) != len(values):
                raise ResultsError(f"{path!r} of results.json has {len(steps)} steps but {len(values)} values")
    for index, sample in enumerate(results["samples"]):
        _need(sample, "post", str, f"samples.{index}")
        _need(sample, "outputs", dict, f"samples.{index}")
    for key in ("pairs", "packages"):
        _check_number(_need(results["data"], key, object, "data"), f"data.{key}")
    for stage, seconds in results["seconds"].items():
        _check_number(seconds, f"seconds.{stage}")
    if results.get("agreement") is not None:
        _check_interval(results["agreement"], "agreement")
    for player, row in (results.get("exploitability") or {}).items():
        _check_interval(row, f"exploitability.{player}")
        _need(row, "by", str, f"exploitability.{player}")
    for player, row in length_biases(results).items():
        _check_interval(row, f"length_bias.{player}")
    for seed, run in (results.get("by_seed") or {}).items():
        _check_matrix(_need(run, "win_rates", dict, f"by_seed.{seed}"), results["players"], f"by_seed.{seed}.win_rates")
        for player, row in run.get("players", {}).items():
            if row.get("kl") is not None:
                _check_interval(row["kl"], f"by_seed.{seed}.players.{player}.kl")


def length_biases(results: Results) -> dict[str, Any]:
    """The held-out judge's correlations with length by player; a single interval stands under ""."""
    given = results.get("length_bias") or {}
    return {"": given} if "mean" in given else dict(given)


def label(results: Results, player: str) -> str:
    """What a player is called in print."""
    return results["players"].get(player, {}).get("label") or player.replace("_", " ")


def human(results: Results) -> str | None:
    """The player whose texts are the references, if there is one."""
    name = results.get("human") or "human"
    return name if name in results["players"] else None


def rate(results: Results, a: str, b: str | None) -> Any:
    """Interval of P(a beats b), or None where that was not judged."""
    return results["win_rates"].get(a, {}).get(b)


def plain(value: Any) -> Any:
    """`value` as strict JSON: NumPy and JAX numbers and arrays as Python ones, NaN and infinities as null, other
    objects by their repr, keys as strings."""
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
    """Write results.json, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(plain(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def load(folder: Path) -> dict[str, Any]:
    """The results of a run folder, validated. Raises ResultsError if there are none or they are not JSON."""
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise ResultsError(
            f"there is no results.json in {folder}: it is written when a run has been evaluated; "
            "check the folder, or finish the run with `alignjax train ... --resume`"
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path} is not JSON ({error}); evaluate the run again to write it anew") from error
    if not isinstance(results, dict):
        raise ResultsError(f"{path} holds a {type(results).__name__}; it must be a mapping")
    validate(results)
    return results
