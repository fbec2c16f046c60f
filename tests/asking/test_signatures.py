"""Functions by their signatures and names: those of TRL as they are, and how a config names a person's functions."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError, fn
from alignjax.train.run_record import config_json, differences
from alignjax.train.text_host import check_text_functions
from alignjax.types import Algorithm, Context
from tests.support.asked import Ask, Returning, batch, hits, lines_of

# ------------------------------------------------------------------------------------- the signature of TRL's rewards


def thinks(completions: list[list[dict[str, str]]], **kwargs: Any) -> list[float]:
    return [float(completion[0]["content"].startswith("red")) for completion in completions]


class TooLong:
    __name__ = "too_long"

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        return [-float(len(ids) > self.most) for ids in completion_ids]


def right(completions: Any, color: list[str], log_extra: Any = None, trainer_state: Any = None, **kwargs: Any) -> Any:
    log_extra("wanted", color)
    kwargs["log_metric"]("asked", 1.0)
    texts = [completion[0]["content"] for completion in completions]
    return [None if c == "blue" else float(c in text) for c, text in zip(color, texts, strict=True)]


def test_three_functions_of_the_signature_of_trl(ask: Ask, tmp_path: Path) -> None:
    answer = ask(fn(stages.text_reward, function=(thinks, TooLong(2), right)), chat=True, folder=tmp_path)
    assert answer[..., 0].tolist() == [[0, 0], [1, 0], [0, 0]]
    assert answer[..., 1].tolist() == [[-1, 0], [-1, 0], [0, -1]]
    np.testing.assert_array_equal(answer[..., 2], [[1, 0], [1, 0], [np.nan, np.nan]])
    assert lines_of(tmp_path / "reward-00000001.jsonl")[0]["extra"] == {"wanted": "green"}


@pytest.mark.slow
def test_three_functions_of_trl_unchanged(ask: Ask) -> None:
    rewards = pytest.importorskip("trl.rewards")
    long, repeats = rewards.get_soft_overlong_punishment(4, 2), rewards.get_repetition_penalty_reward(ngram_size=1)
    asked = fn(stages.text_reward, function=(rewards.think_format_reward, long, repeats), weights=(1.0, 0.5, 2.0))
    answer = ask(asked, chat=True)
    texts, ids = batch().tokens, batch().valid
    assert texts is not None
    assert ids is not None
    assert answer[..., 0].tolist() == [[0, 0]] * 3
    np.testing.assert_allclose(answer[..., 1], [[-0.5, 0], [-0.5, 0], [0, -1]])
    np.testing.assert_allclose(answer[..., 2], [[0, 0], [-1 / 3, 0], [0, 0]], rtol=1e-6)
    held = config_json(asked)["asks"]
    assert held[1]["type"].startswith("trl.rewards.")
    assert held[1]["max_completion_len"] == 4


# ------------------------------------------------------------------------------------------------------------- names


def test_a_function_without_a_name_is_refused_in_words() -> None:
    def inside(completions: Any) -> Any:
        return [0.0 for _ in completions]

    def algorithm(function: Any) -> Any:
        class Held:
            algorithm = Algorithm({"reward": fn(stages.text_reward, function=function)})

        return Held

    for function, words in (
        (lambda completions: completions, r"stage 'reward': text_reward\(function=..\) is a lambda, which config.json"),
        (inside, r"is inside, defined inside test_a_function_without.*at the top level of a module"),
        (Returning, r"is the class Returning; pass an object"),
        (3, r"is 3, which cannot be called"),
        ((hits, functools.partial(inside)), r"is inside, defined inside"),
        ((hits, hits), r"two are called 'hits'"),
        ((), r"names no function"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_text_functions(algorithm(function))
    with pytest.raises(ConfigError, match="2 weights for 1 functions"):
        stages.text_reward(Context(), batch(), None, function=hits, weights=(1.0, 2.0))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="text_judge asks one function"):
        stages.text_judge(Context(), batch(), None, function=(hits, weighed))  # type: ignore[arg-type]


LIMIT = 3


def limited(completions: Any) -> list[bool]:
    return [_fits(text) for text in completions]


def _fits(text: str) -> bool:
    return len(text) < LIMIT


def weighed(completions: Any, *, factor: float = 2.0) -> list[float]:
    return [factor * len(text) for text in completions]


def test_a_config_names_functions_and_their_sources(monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    held = config_json(fn(stages.text_reward, function=(limited, Returning(0.5), fn(weighed, factor=3.0))))
    assert held["function"].endswith(".text_reward")
    assert held["asks"][0]["function"] == f"{__name__}.limited"
    assert held["asks"][1] == {
        "type": "tests.support.asked.Returning",
        "source": held["asks"][1]["source"],
        "value": 0.5,
    }
    assert held["asks"][2]["factor"] == 3.0
    assert differences(held, config_json(fn(stages.text_reward, function=(limited, Returning(0.5), fn(weighed))))) == [
        "asks[2].factor: 3.0 -> 2.0"
    ]
    before = held["asks"][0]["source"]
    monkeypatch.setattr(__name__ + ".LIMIT", 4)
    changed = config_json(fn(stages.text_reward, function=limited))["asks"][0]["source"]
    assert len(before) == 16
    assert changed != before
    monkeypatch.setattr(__name__ + "._fits", hits)
    assert config_json(fn(stages.text_reward, function=limited))["asks"][0]["source"] not in (before, changed)
    secret = config_json(fn(stages.text_reward, function=Returning("sk-secret")))
    assert "sk-secret" not in json.dumps(secret)
    assert ask(fn(stages.text_reward, function=fn(weighed, factor=3.0)))[0, 1, 0] == 9
