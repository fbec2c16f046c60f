"""A full set of made-up results: five players, three seeds, curves of five stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alignjax.evaluate import win_rate

PLAYERS = {"sft": "SFT", "offline_ipo": "Offline IPO", "online_ipo": "Online IPO", "ipo_md": "IPO-MD", "human": "Human"}
STRENGTH = {"sft": 0.0, "offline_ipo": 0.25, "online_ipo": 0.75, "ipo_md": 0.9, "human": 1.1}
POST = """Read a comma-separated values file into a table, inferring the type of every column.

The first line is taken as the header unless ``header=None``. Lines that are too short are padded with missing values,
and lines that are too long raise an error that names the line. Remote addresses are supported:

>>> read("s3://bucket/file.csv", columns=["a", "b"])  # doctest: +SKIP
"""
OUTPUTS = {
    "sft": "Read a file into a table of columns and lines.",
    "offline_ipo": "Read a values file into a table.",
    "online_ipo": "Read comma-separated values into a typed table.",
    "ipo_md": "Read a comma-separated values file into a table with inferred column types.",
    "human": "Load a CSV file as a table.",
}


def judgements(seed: int, n: int = 300) -> dict[tuple[str, str], np.ndarray]:
    noise = {name: np.random.default_rng([seed, i]).normal(size=n) for i, name in enumerate(PLAYERS)}
    names = list(PLAYERS)
    return {
        (a, b): 1 / (1 + np.exp(-(STRENGTH[a] - STRENGTH[b] + noise[a] - noise[b])))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }


def span(mean: float, half: float, n: int = 300) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def curve(generator: np.random.Generator, start: float, end: float, noise: float, steps: int, every: int) -> dict:
    step = np.arange(every, steps + 1, every)
    value = end + (start - end) * np.exp(-4 * step / steps) + noise * generator.normal(size=len(step))
    return {"step": step.tolist(), "value": value.tolist()}


def stages() -> dict[str, Any]:
    generator = np.random.default_rng(3)
    curves = {
        "sft": {
            "loss": curve(generator, 8.3, 3.4, 0.12, 1200, 10),
            "accuracy": curve(generator, 0.05, 0.42, 0.015, 1200, 10),
        },
        "preference_model": {
            "loss": curve(generator, 0.69, 0.31, 0.03, 800, 10),
            "accuracy": curve(generator, 0.5, 0.87, 0.02, 800, 10),
        },
    }
    for index, name in enumerate(("offline_ipo", "online_ipo", "ipo_md")):
        curves[name] = {
            "loss": curve(generator, 25, 17 - 2 * index, 1.2, 150, 1),
            "preference": curve(generator, 0.5, 0.6 + 0.06 * index, 0.03, 150, 1),
            "kl": curve(generator, 0, 3 + 2.5 * index, 0.3, 150, 1),
        }
    return curves


def make_results() -> dict[str, Any]:
    kls = {"sft": span(0.0, 0.0), "offline_ipo": span(2.9, 0.4), "online_ipo": span(8.2, 0.7), "ipo_md": span(6.1, 0.6)}
    players: dict[str, Any] = {}
    for index, (name, label) in enumerate(PLAYERS.items()):
        players[name] = {
            "label": label,
            "kl": kls.get(name),
            "rouge_l": span(0.21 + 0.015 * index, 0.014),
            "length": span(9.1 + 0.7 * index, 0.6),
            "repetition": span(0.03, 0.008),
            "distinct_2": 0.71 + 0.03 * index,
            "copied": 0.05 - 0.01 * index,
            "empty": 0.0,
        }
    players["human"]["rouge_l"] = None
    rates = win_rate.win_rate_matrix(judgements(0), draws=300)
    by_seed = {
        str(seed): {
            "win_rates": win_rate.win_rate_matrix(judgements(seed), draws=200),
            "players": {name: {"kl": span(kl["mean"] * (0.9 + 0.1 * seed), 0.4)} for name, kl in kls.items()},
        }
        for seed in range(3)
    }
    return {
        "title": "Online preference optimisation on docstrings",
        "baseline": "sft",
        "players": players,
        "win_rates": rates,
        "win_rates_hard": win_rate.win_rate_matrix(judgements(0), score="hard", draws=300),
        "win_rates_by_judge": {"train": win_rate.win_rate_matrix(judgements(5), draws=300)},
        "exploitability": win_rate.exploitability(rates),
        "judges": {
            "train": {"label": "training judge", "accuracy": span(0.861, 0.02), "note": "labels the self-play pairs"},
            "held_out": {
                "label": "the held-out judge",
                "accuracy": span(0.853, 0.02),
                "note": "another seed, other data",
            },
        },
        "agreement": span(0.88, 0.018),
        "length_bias": span(0.12, 0.06),
        "curves": stages(),
        "samples": [{"post": POST, "outputs": OUTPUTS} for _ in range(3)],
        "data": {
            "pairs": 15234,
            "packages": 87,
            "splits": {"train": {"pairs": 13101, "packages": 70}, "test": {"pairs": 2133, "packages": 17}},
            "skipped": "211 rows over 512 tokens",
        },
        "seconds": {
            "data": 21.4,
            "sft": 88.1,
            "preference_model": 62.7,
            "online_ipo": 71.0,
            "ipo_md": 84.9,
            "evaluate": 9,
        },
        "config": {"sft": {"steps": 1200, "algorithm": {"losses": {"sft": "fn(sft)"}}}, "ipo_md": {"beta": 0.125}},
        "versions": {"alignjax": "0.1.0", "jax": "0.10.2", "python": "3.11.2"},
        "seeds": {"run": 0, "training judge": 1, "held-out judge": 2},
        "git": "0123456789abcdef0123456789abcdef01234567",
        "by_seed": by_seed,
        "command": "alignjax train configs/quickstart.py",
        "device": "2 CPU cores",
        "date": "2026-11-21",
    }


@pytest.fixture
def results() -> dict[str, Any]:
    return make_results()
