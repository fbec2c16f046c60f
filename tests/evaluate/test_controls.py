"""What makes conclusions sound: controls chosen on other prompts, ties, rates at equal length, what judges share."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import exact_tasks
from alignjax.config import ConfigError, fn
from alignjax.evaluate import controls, players, tournament, verdicts, win_rate
from alignjax.evaluate.intervals import DataError
from alignjax.types import Batch
from alignjax.workspace import Workspace
from tests.evaluate.conftest import judgements


def test_the_control_of_a_prompt_is_chosen_on_others():
    """What happens on odd prompts does not move the control that odd prompts get."""
    player = np.full(8, 0.7)
    first = np.array([0.9, 0.2, 0.9, 0.2, 0.9, 0.2, 0.9, 0.2])  # the best on even prompts
    second = np.array([0.1, 0.6, 0.1, 0.6, 0.1, 0.6, 0.1, 0.6])  # the best on odd ones
    rates = {"player": player, "first": first, "second": second}
    row = controls.against_best_control(rates, ["player"], ["first", "second"], draws=50)["player"]
    # Odd prompts meet the first, even ones the second: neither does well where it was not chosen.
    assert row["mean"] == pytest.approx(np.mean([0.7 - 0.1] * 4 + [0.7 - 0.2] * 4))
    assert set(row["controls"]) == {"first", "second"}
    changed = {**rates, "second": np.where(np.arange(8) % 2, 0.65, second)}
    moved = controls.against_best_control(changed, ["player"], ["first", "second"], draws=50)["player"]
    assert moved["mean"] == pytest.approx(row["mean"]), (
        "the second still wins the odd prompts, and meets even ones only"
    )


def test_choosing_the_luckiest_of_many_costs_nothing():
    """Twenty controls that are the player's equals: the difference is 0 on average, where the naive choice is below."""
    draw = np.random.default_rng(0)
    honest, naive = [], []
    for _ in range(200):
        rates = {f"control {k}": draw.random(60) for k in range(20)} | {"player": draw.random(60)}
        names = [name for name in rates if name != "player"]
        honest.append(controls.against_best_control(rates, ["player"], names, draws=2)["player"]["mean"])
        naive.append(rates["player"].mean() - max(rates[name].mean() for name in names))
    error = np.std(honest) / np.sqrt(200)
    assert abs(np.mean(honest)) < 4 * error
    assert np.mean(naive) < -0.05


def test_a_warning_says_what_cannot_be_told_apart():
    rates = {"good": np.full(50, 0.8), "same": np.linspace(0.3, 0.7, 50), "bad": np.full(50, 0.2)}
    rates["cool"] = np.random.default_rng(1).permutation(rates["same"])
    compared = controls.against_best_control(rates, ["good", "same", "bad"], ["cool"])
    said = controls.warnings(compared, {"good": "Good", "same": "Same", "bad": "Bad", "cool": "SFT, T = 0.5"})
    assert len(said) == 2
    assert said[0].startswith("Same is not told apart from its best control, SFT, T = 0.5")
    assert said[1].startswith("Bad falls behind its best control")
    assert controls.against_best_control(rates, ["good"], []) == {}
    with pytest.raises(DataError, match="same prompts"):
        controls.against_best_control({**rates, "cool": np.ones(3)}, ["good"], ["cool"])


def test_ties_are_counted_once_for_both_orders():
    judged = {("a", "b"): [0.5, 0.5 + 1e-9, 0.7, 0.2], ("a", "c"): [0.1, 0.2, 0.3, 0.4], ("b", "c"): [0.5] * 4}
    shares = win_rate.ties(judged, draws=20)
    assert shares["a"]["b"]["mean"] == shares["b"]["a"]["mean"] == 0.5
    assert shares["a"]["c"]["mean"] == 0
    assert shares["c"]["b"]["mean"] == 1
    assert win_rate.win_rate_matrix(judged, score="hard", draws=20)["b"]["c"]["mean"] == 0.5


def test_a_judge_of_length_alone_says_one_half_at_equal_length():
    draw = np.random.default_rng(2)
    short, long = draw.integers(3, 9, 300), draw.integers(5, 13, 300)
    extra = np.tanh((long - short) / (long - short).std())
    judged = {("long", "short"): 0.5 + 0.4 * extra}
    rates = win_rate.length_controlled(judged, {"long": long, "short": short}, draws=100)
    assert np.mean(judged["long", "short"]) > 0.6
    assert rates["long"]["short"]["mean"] == pytest.approx(0.5, abs=1e-9)


def test_equal_lengths_change_no_win_rate_and_the_two_orders_are_complements():
    judged = judgements(3, n=80)
    names = {name for pair in judged for name in pair}
    raw = win_rate.win_rate_matrix(judged, draws=100)
    same = win_rate.length_controlled(judged, dict.fromkeys(names, np.full(80, 7)), draws=100)
    lengths = {name: np.random.default_rng(k).integers(1, 9, 80) for k, name in enumerate(sorted(names))}
    rates = win_rate.length_controlled(judged, lengths, draws=100)
    turned = win_rate.length_controlled({(b, a): 1 - p for (a, b), p in judged.items()}, lengths, draws=100)
    for a, b in judged:
        assert same[a][b]["mean"] == pytest.approx(raw[a][b]["mean"])
        assert rates[a][b]["mean"] + rates[b][a]["mean"] == pytest.approx(1)
        assert turned[a][b]["mean"] == pytest.approx(rates[a][b]["mean"])
    with pytest.raises(DataError, match="one a prompt"):
        win_rate.length_controlled(judged, dict.fromkeys(names, np.full(79, 7)))


def test_rates_where_both_ended_are_those_of_these_prompts():
    judged = judgements(5, n=40)
    names = {name for pair in judged for name in pair}
    draw = np.random.default_rng(0)
    ends = {name: draw.random(40) < 0.8 for name in sorted(names)}
    rates = win_rate.where_both(judged, ends, "sft")
    assert set(rates["sft"]) == names - {"sft"}
    for name in names - {"sft"}:
        both = ends[name] & ends["sft"]
        p = judged["sft", name] if ("sft", name) in judged else 1 - judged[name, "sft"]
        assert rates["sft"][name]["mean"] == pytest.approx(np.mean(p[both]))
        assert rates["sft"][name]["n"] == both.sum()
    assert win_rate.where_both(judged, dict.fromkeys(names, np.zeros(40, bool)), "sft") == {}


def test_the_best_of_several_wins_most_against_the_others():
    preference = jnp.array(
        [[[0.5, 0.9, 0.2], [0.1, 0.5, 0.1], [0.8, 0.9, 0.5]], [[0.5, 0.6, 0.9], [0.4, 0.5, 0.9], [0.1, 0.1, 0.5]]]
    )
    tokens = jnp.arange(6).reshape(2, 3, 1)
    batch = Batch(
        prompt=jnp.zeros((2, 1), int), tokens=tokens, valid=jnp.ones_like(tokens, bool), logps={"sampler": tokens * 1.0}
    )
    best = players._best(batch, preference)
    assert best.tokens[:, :, 0].tolist() == [[2], [3]]
    assert best.logps == {}, "nobody sampled from what was picked"


def test_controls_are_the_baseline_and_say_that_they_took_no_training():
    baseline = players.Player("sft", "a step", label="SFT")
    made = controls.default_controls(baseline, ["held_out", "training"])
    assert [player.stage for player in made] == ["a step"] * 3
    assert all(player.control for player in made)
    assert [(player.temperature, player.best_of) for player in made] == [(0.5, 1), (0.0, 1), (1.0, 4)]
    assert len({player.name for player in (baseline, *made)}) == 4
    assert len(controls.default_controls(baseline, ["held_out"])) == 2, "nobody to pick the best"


def test_a_judge_may_be_a_function():
    judges = {"held_out": fn(exact_tasks.sorting_gold, scale=5.0)}
    asked = verdicts.judges_of(Workspace(Path(".")), None, judges)
    prompt = np.array([[1, 4, 5, 6, 7, 8, 9, 10, 11]], np.int32)
    tokens = np.array([[[4, 5, 6, 7, 8, 9, 10, 11, 2], [5, 4, 6, 7, 8, 9, 10, 11, 2]]], np.int32)
    table = Batch(prompt=prompt, prompt_valid=prompt > 0, tokens=tokens, valid=tokens > 0)
    said = verdicts.verdicts(asked["held_out"], [table, table], ["a", "b"])
    np.testing.assert_allclose(said["a", "b"], 1 / (1 + np.exp(-5 / 28)), rtol=1e-5)
    with pytest.raises(ConfigError, match="held_out"):
        verdicts.judges_of(Workspace(Path(".")), None, {"gold": fn(exact_tasks.sorting_gold)})
    with pytest.raises(ConfigError, match="judge_model"):
        verdicts.judges_of(Workspace(Path(".")), None, judges | {"training": "preference"})


def test_agreement_counts_what_is_decided():
    first = {("a", "b"): np.array([0.9, 0.9, 0.5, 0.2]), ("a", "c"): np.array([0.3, 0.3, 0.3, 0.3])}
    second = {("a", "b"): np.array([0.8, 0.1, 0.9, 0.5]), ("a", "c"): np.array([0.5, 0.5, 0.2, 0.2])}
    agreed = verdicts.agreement_on(first, second, list(first))
    assert agreed is not None
    assert agreed["mean"] == pytest.approx((1 + 0 + 0.5 + 1 + 1) / 5)
    assert verdicts.agreement_on(first, {pair: np.full(4, 0.5) for pair in first}, list(first)) is None


def test_a_judge_says_what_it_shares_with_the_training_judge(tmp_path: Path):
    def step(name, **config):
        (tmp_path / name).mkdir()
        done = {"config": config, "hash": "", "seconds": 1.0, "summary": {}}
        (tmp_path / name / "done.json").write_text(json.dumps(done))

    def judge(stage, split, seed, sampler="sft"):
        start = {"type": "restored", "stage": stage}
        roles = {"preference": {"model": "net", "start": start}, "policy": {"start": sampler}}
        return {"algorithm": {"experience": {"label": 1}, "roles": roles}, "source": {"split": split}, "seed": seed}

    step("preference", **judge("sft", "train", 1))
    step("twin", **judge("sft", "train", 2))
    step("stranger", **judge("other_sft", "dev", 2, sampler="other_sft"))
    place = Workspace(tmp_path)
    common = {"training": "preference"}
    twin = verdicts.shared(place, common | {"held_out": "twin"}, "held_out")
    assert twin["backbone"] == "the weights that both started from"
    assert twin["data"] == "the same split, in another order"
    assert twin["labels"] == "made in the same way"
    stranger = verdicts.shared(place, common | {"held_out": "stranger"}, "held_out")
    assert stranger == {"backbone": "the architecture", "data": "another source", "labels": "made otherwise"}
    assert verdicts.shared(place, common, "training") == {}
    gold = fn(exact_tasks.sorting_gold)
    assert verdicts.shared(place, common | {"held_out": gold}, "held_out")["labels"] == "none"
    name = f"{gold.function.__module__}.{gold.function.__qualname__}"
    step("labels", algorithm={"experience": {"prefer": {"judge": {"judge": {"function": name}}}}})
    step("learned", algorithm={"roles": {}}, source={"stage": "labels"})
    drawn = verdicts.shared(place, {"training": "learned", "held_out": gold}, "held_out")
    assert "drawn from it" in drawn["labels"]


def test_texts_have_ended_where_the_end_token_is_valid():
    tokens = np.array([[[4, 2, 0], [4, 5, 6], [4, 5, 2]]])
    valid = np.array([[[True, True, False], [True, True, True], [True, True, False]]])
    batch = Batch(tokens=jax.numpy.asarray(tokens), valid=jax.numpy.asarray(valid))
    assert players.finished(batch, (2,)).tolist() == [[True, False, False]]
    assert players.finished(batch, (2, 6)).tolist() == [[True, True, False]]


def test_texts_of_unequal_room_stand_side_by_side() -> None:
    """Human texts have less room than samples: what is added is not valid."""
    prompt = np.ones((2, 1), np.int32)
    short, long = (np.full((2, 1, size), 7, np.int32) for size in (2, 4))
    parts = [Batch(prompt=prompt, prompt_valid=prompt > 0, tokens=t, valid=t > 0) for t in (long, short)]
    table = verdicts.side_by_side(parts)
    assert np.asarray(table.valid).sum(-1).tolist() == [[4, 2], [4, 2]]
    assert np.asarray(table.tokens)[0, 1].tolist() == [7, 7, 0, 0]


def test_no_prompt_is_played_twice():
    """Intervals resample prompts, so one that comes again would count for two: batches end before it."""
    batches = [Batch(example_id=np.arange(start, start + 4) % 10) for start in (0, 4, 8, 12)]
    assert [batch.example_id[0] for batch in tournament._once(batches, 4)] == [0, 4]
    assert len(tournament._once(batches[:1], 1)) == 1
    assert len(tournament._once([Batch(example_id=np.zeros(4, int))] * 2, 2)) == 1, "fewer prompts than a batch has"
    assert len(tournament._once([Batch()] * 3, 3)) == 3, "nobody says which prompts these are"
