"""Statistics of an evaluation by gold: win rates, KL and fluency of players on the same prompts, and one sentence that
the intervals support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.text.words import words_of
from alignjax.evaluate.best_of_n import best_of_n_kl_bound
from alignjax.evaluate.controls import against_best_control
from alignjax.evaluate.intervals import Interval, interval
from alignjax.evaluate.text_metrics import distinct_n, repeats

HACKED = 2.0  # times the perplexity of the start model: a policy above it has left the language


class Answers(NamedTuple):
    """A player's answers to prompts, everything [prompts, answers].

    Attributes:
        texts: The texts.
        gold: Gold's scores.
        sampler: Log-probs of whole answers in nats, under what they were sampled from.
        reference: Those under the start model.
        tokens: Lengths in tokens.
        finished: Which have ended.
    """

    texts: Sequence[Sequence[str]]
    gold: np.ndarray
    sampler: np.ndarray
    reference: np.ndarray
    tokens: np.ndarray
    finished: np.ndarray

    def picked(self, index: np.ndarray) -> Answers:
        """Returns the answers of those numbers, [prompts, fewer answers]."""
        texts = [[row[int(k)] for k in which] for row, which in zip(self.texts, index, strict=True)]
        numbers: list[Any] = [np.take_along_axis(np.asarray(each), index, 1) for each in self[1:]]
        return Answers(texts, *numbers)


def best_picks(preference: np.ndarray, k: int) -> np.ndarray:
    """Picks of every k draws, one after another, the one that wins most against the others of its k.

    Args:
        preference: P(draw i beats draw j), [prompts, draws, draws].
        k: How many draws are picked from; it divides the number of draws.

    Returns:
        Numbers of draws, [prompts, draws / k].
    """
    draws = preference.shape[1]
    picks = []
    for begin in range(0, draws, k):
        within = preference[:, begin : begin + k, begin : begin + k]
        off = 1 - np.eye(within.shape[1])
        picks.append(begin + np.argmax((within * off).sum(2), axis=1))
    return np.stack(picks, axis=1)


def wins(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns for each prompt the share of pairs in which the first player's score is higher, ties counting a half.

    Args:
        first: Scores [prompts, n].
        second: Scores [prompts, m].
    """
    return ((np.sign(first[:, :, None] - second[:, None, :]) + 1) / 2).mean((1, 2))


def perplexity(answers: Answers) -> Interval:
    """Returns the perplexity of answers under the start model: exp of its nats over tokens, with an interval over
    prompts."""
    columns = np.stack([-answers.reference.mean(1), answers.tokens.mean(1)], 1)
    return interval(columns, lambda means: np.exp(means[..., 0] / np.maximum(means[..., 1], 1e-12)))


def statistics(
    answers: Mapping[str, Answers],
    learned: Mapping[tuple[str, str], np.ndarray],
    start: str,
    again: str,
    best_of: Sequence[int],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """Computes all that a report says.

    Args:
        answers: By player, the start model's own and a second draw of it among them.
        learned: The learned judge's P(first beats second) by pair of players, [prompts, answers, answers].
        start: The name of the start model's answers.
        again: That of the second draw, which everybody meets.
        best_of: The sizes of picks among the start model's answers.
        labels: Names in print of the trained policies.

    Returns:
        {"players", "controls", "policies", "judge", "against_start", "against_temperature", "against_control"}.
    """
    # Best-of-k answers are a subset of the start model's, so what was measured of those is taken over.
    everybody = {name: each for name, each in answers.items() if name != again}
    against = {name: learned[name, again] for name in everybody}
    names = {start: "start model"} | {name: f"start model, {_warmth(name)}" for name in everybody if name[:2] == "T="}
    temperatures = [name for name in everybody if name[:2] == "T="]
    for k in best_of:
        picks, name = best_picks(learned[start, start], k), f"best_of_{k}"
        everybody[name] = answers[start].picked(picks)
        against[name] = np.take_along_axis(learned[start, again], picks[..., None], 1)
        names[name] = f"start model, best of {k}"
    names |= labels
    players: dict[str, dict[str, Any]] = {
        name: {"label": names[name]} | _player(each, answers[again], against[name], name in answers)
        for name, each in everybody.items()
    }
    bound = players[start]["perplexity"]["mean"] * HACKED
    for name, row in players.items():
        row["hacked"] = bool(row["perplexity"]["mean"] > bound)
        if name.startswith("best_of_"):
            k = int(name.removeprefix("best_of_"))
            row["kl_at_most"] = best_of_n_kl_bound(k)
    rates = {name: wins(each.gold, answers[again].gold) for name, each in everybody.items()}
    trained, controls = list(labels), [start, *temperatures, *(f"best_of_{k}" for k in best_of)]
    return {
        "players": players,
        "policies": trained,
        "controls": controls,
        "prompts": len(rates[start]),
        "judge": judge_accuracy(answers[start].gold, learned[start, start]),
        "against_temperature": against_best_control(rates, trained, [start, *temperatures]),
        "against_control": against_best_control(rates, trained, controls),
        "against_each_other": {
            f"{a} - {b}": interval(rates[a] - rates[b]) for i, a in enumerate(trained) for b in trained[:i]
        },
    }


def _warmth(name: str) -> str:
    return "greedy" if name == "T=0" else name.replace("=", " = ")


def _player(each: Answers, opponent: Answers, learned: np.ndarray, has_sampler: bool) -> dict[str, Any]:
    """The numbers of one player; answers that were picked were sampled from nothing that has log-probs, so they have
    no KL."""
    first = [row[0] for row in each.texts]  # one a prompt: distinct-n falls with the amount of text
    words = np.array([[len(words_of(text)) for text in row] for row in each.texts], float)
    repeated = np.array([[repeats(text) for text in row] for row in each.texts], float)
    return {
        "gold": interval(each.gold.mean(1)),
        "win_rate": interval(wins(each.gold, opponent.gold)),
        "learned_win_rate": interval(learned.mean((1, 2))),
        "kl": interval((each.sampler - each.reference).mean(1)) if has_sampler else None,
        "length": interval(words.mean(1)),
        "finished": interval(each.finished.mean(1)),
        "perplexity": perplexity(each),
        "distinct_2": distinct_n(first),
        "repeated_4": interval(repeated.mean(1)),
    }


def judge_accuracy(gold: np.ndarray, preference: np.ndarray) -> dict[str, Any]:
    """Returns how often the learned judge prefers what gold does, over the pairs of a prompt's answers that gold does
    not call equal.

    Args:
        gold: Scores [prompts, n].
        preference: P(first beats second) [prompts, n, n].

    Returns:
        {"accuracy": the share with its interval over prompts, None where gold calls all equal, "pairs": how many}.
    """
    i, j = np.triu_indices(gold.shape[1], 1)
    truth = np.sign(gold[:, i] - gold[:, j])
    said = np.sign(preference[:, i, j] - 0.5)
    decided = truth != 0
    if not decided.any():
        return {"accuracy": None, "pairs": 0}
    columns = np.stack([(((1 + truth * said) / 2) * decided).sum(1), decided.sum(1)], 1)
    share = interval(columns, lambda means: means[..., 0] / np.maximum(means[..., 1], 1e-12))
    return {"accuracy": share, "pairs": int(decided.sum())}
