"""Gold scores against plain Python, the Nash mixture against the solver of games, chance levels against what blind
answers get, sources as functions of (seed, step)."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import exact_tasks, stages
from alignjax.config import ConfigError, fn
from alignjax.data import tokenizer_of
from alignjax.exact_tasks import distinct_letters, sorting, styles
from alignjax.games.equilibria import unregularized_nash
from alignjax.games.game import TabularGame
from alignjax.types import Batch, Context, with_metrics

TASKS = {"sorting": exact_tasks.SORTING, "styles": exact_tasks.STYLES, "distinct": exact_tasks.DISTINCT}
EOS, FIRST = 2, 4


def answered(task, texts, length=None):
    """A batch of one prompt per row, with answers given as lists of ids; 2 ends one."""
    prompts, answers = zip(*texts, strict=True)
    most = length or task.max_tokens
    tokens = np.zeros((len(texts), len(answers[0]), most), np.int32)
    valid = np.zeros(tokens.shape, bool)
    for row, column in itertools.product(range(len(texts)), range(len(answers[0]))):
        answer = answers[row][column][:most]
        tokens[row, column, : len(answer)], valid[row, column, : len(answer)] = answer, True
    prompt = np.array([[1, *row] for row in prompts], np.int32)
    return Batch(prompt=prompt, prompt_valid=prompt > 0, tokens=jnp.array(tokens), valid=jnp.array(valid))


@jax.jit
def _judged(judge, batch, key):
    return with_metrics(judge(Context(), batch, key))[0]


def judgement(judge, batch):
    return np.asarray(_judged(judge, batch, jax.random.key(0)))


def random_texts(task, rows=60, answers=3):
    """Prompts with answers of all sorts: right ones, shuffled ones, with slips, too short, too long, without an end."""
    draw = np.random.default_rng(0)
    texts = []
    for _ in range(rows):
        prompt = draw.integers(FIRST, FIRST + task.kinds, task.length).tolist()
        some = []
        for _ in range(answers):
            base = [sorted(prompt), prompt, sorted(prompt, reverse=True), sorted(set(prompt))][draw.integers(4)]
            answer = list(base)
            for _ in range(draw.integers(3)):
                answer[draw.integers(len(answer))] = int(draw.integers(1, FIRST + task.kinds))
            answer = answer[: len(answer) - draw.integers(2)] + [5] * int(draw.integers(2))
            answer = answer[: answer.index(EOS)] if EOS in answer else answer
            some.append(answer + [EOS] * int(draw.random() < 0.9))
        texts.append((prompt, some))
    return texts


def sorting_by_hand(prompt, answer):
    if len(answer) != 9 or answer[-1] != EOS:
        return 0.0
    text = answer[:-1]
    pairs = [(a, b) for i, a in enumerate(text) for b in text[i + 1 :]]
    missing = list(prompt)
    for letter in text:
        if letter in missing:
            missing.remove(letter)
    return max(0.0, sum(a <= b for a, b in pairs) / len(pairs) - len(missing) / 8)


def distinct_by_hand(prompt, answer):
    if not answer or answer[-1] != EOS:
        return 0.0
    text = answer[:-1]
    hits = len(set(text) & set(prompt))
    return max(0.0, (hits - (len(text) - hits)) / len(set(prompt)))


@pytest.mark.parametrize(
    ("task", "by_hand"), [("sorting", sorting_by_hand), ("distinct", distinct_by_hand)], ids=["sorting", "distinct"]
)
def test_gold_scores_are_those_of_plain_python(task, by_hand):
    task = TASKS[task]
    texts = random_texts(task)
    batch = answered(task, texts)
    expected = np.array([[by_hand(prompt, answer) for answer in some] for prompt, some in texts])
    score = next(measure for measure in task.measures if measure.name == "score")
    found = np.asarray(jax.jit(score.function)(batch))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(expected.round(6))) > 8, "the cases tell scores apart"
    exact = np.asarray(jax.jit(task.measures[0].function)(batch))
    np.testing.assert_array_equal(exact == 1, np.isclose(expected, 1))
    judged = judgement(task.gold.replace(scale=3.0), batch)
    odds = np.log(judged) - np.log1p(-judged)
    np.testing.assert_allclose(odds[:, 0, 1], 3 * (expected[:, 0] - expected[:, 1]), atol=1e-4)
    np.testing.assert_allclose(judged + judged.transpose(0, 2, 1), 1, atol=0)


def test_styles_are_read_as_plain_python_reads_them():
    task = TASKS["styles"]
    texts = random_texts(task)
    batch = answered(task, texts)
    judged = judgement(fn(exact_tasks.styles_gold, scale=5.0), batch)
    cycle = np.log(styles.WINS) - np.log(styles.WINS.T)

    def read(prompt, answer):
        targets = [sorted(prompt), sorted(prompt, reverse=True), prompt]
        shares = [np.mean([a == b for a, b in itertools.zip_longest(answer[:6], target)]) for target in targets]
        good = len(answer) == 7 and answer[-1] == EOS
        return int(np.argmax(shares)), max(shares) if good else 0.0

    for (prompt, some), matrix in zip(texts, judged, strict=True):
        for i, j in itertools.combinations(range(3), 2):
            (style, q), (other, p) = read(prompt, some[i]), read(prompt, some[j])
            odds = 5 * (q - p) + q * p * cycle[style, other]
            assert matrix[i, j] == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-5)


def test_the_nash_mixture_of_styles_is_the_solver_s():
    """And among all answers, faulty ones too: no answer beats the mixture."""
    game = TabularGame(styles.WINS, np.full(3, 1 / 3), 1.0)
    np.testing.assert_allclose(unregularized_nash(game).policy, exact_tasks.NASH, atol=1e-9)
    np.testing.assert_allclose(styles.WINS + styles.WINS.T, 1)
    np.testing.assert_allclose(styles.WINS @ exact_tasks.NASH, 0.5, atol=1e-12)
    task = TASKS["styles"]
    prompt = [9, 5, 12, 7, 15, 4]
    every = [[*order, EOS] for order in itertools.permutations(prompt)]
    batch = answered(task, [(prompt, every)])
    against = np.asarray(jax.jit(styles.against_nash)(batch))[0]
    ideal = np.array([sorted(prompt), sorted(prompt, reverse=True), prompt])
    best = [k for k, answer in enumerate(every) if any((np.array(answer[:-1]) == row).all() for row in ideal)]
    np.testing.assert_allclose(against[best], 0.5, atol=1e-6)
    assert (np.delete(against, best) < 0.5 - 1e-3).all()
    beaten = jax.jit(lambda batch: [styles.beaten_by(batch, style=k) for k in range(3)])(batch)
    worst = np.max([np.asarray(one)[0] for one in beaten], axis=0)
    by_judge = judgement(fn(exact_tasks.styles_gold), batch)[0]
    np.testing.assert_allclose(by_judge.max(0), np.maximum(worst, 0.5), atol=1e-5), "the best answer is faultless"


@pytest.mark.parametrize("name", TASKS)
def test_right_answers_reach_the_maximum_and_people_do_not(name):
    task = TASKS[name]
    common = {"dataset": exact_tasks.Letters(), "batch_size": 256, "length": task.length, "max_tokens": task.max_tokens}
    source = exact_tasks.revised_letters(None, 3, demonstrate=task.demonstrate, solve=task.solve, **common)
    batch = jax.tree.map(jnp.asarray, source[2])
    for measure in task.measures[:2]:
        right, people = np.asarray(jax.jit(measure.function)(batch)).mean(0)
        assert right == pytest.approx(measure.maximum, abs=1e-6)
        assert people < 0.97 * measure.maximum
    differs = (np.asarray(batch.tokens[:, 0]) != np.asarray(batch.tokens[:, 1])).any(-1)
    np.testing.assert_array_equal(np.asarray(batch.pair_weight)[:, 0, 1], differs)
    np.testing.assert_array_equal(np.asarray(batch.completions["edited"]).sum((1, 2)) > 0, differs)
    assert np.asarray(batch.pair_weight)[:, 1, 0].max() == 0
    assert np.asarray(batch.preference)[0].tolist() == [[0.5, 1.0], [0.0, 0.5]]


def blind(task, texts, measure, rows=10000):
    """Mean and standard error of what each text gets as the answer to every prompt."""
    prompts = exact_tasks.letters(None, 0, dataset=exact_tasks.Letters(), batch_size=rows, length=task.length)[0]
    tokens = np.zeros((len(texts), 14), np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text) + 1] = [*text, EOS]
    tokens = np.broadcast_to(tokens, (rows, *tokens.shape))
    batch = Batch(prompt=prompts.prompt, prompt_valid=prompts.prompt_valid, tokens=tokens, valid=tokens > 0)
    values = np.asarray(jax.jit(measure.function)(batch))
    return values.mean(0), values.std(0) / math.sqrt(rows)


@pytest.mark.parametrize("name", ["sorting", "distinct"])
def test_blind_answers_score_at_chance(name):
    """The best of them reaches the chance level, and no other gets beyond it."""
    task = TASKS[name]
    score = next(measure for measure in task.measures if measure.name == "score")
    texts = [list(range(FIRST, FIRST + size)) for size in range(1, 13)]
    texts += [[4, 4, 5, 5, 6, 6, 7, 7], [4] * 8, [4, 5, 6, 7, 12, 13, 14, 15], [9, 6, 12, 5, 4, 7, 15, 11]]
    mean, error = blind(task, texts, score)
    assert (mean - 4 * error < score.chance).all()
    assert abs(mean.max() - score.chance) < 4 * error[mean.argmax()]
    assert blind(task, texts, task.measures[0])[0].max() < 2e-3


def test_batches_are_functions_of_seed_and_example_alone():
    task = TASKS["sorting"]
    common = {"dataset": exact_tasks.Letters(), "length": 8, "max_tokens": 10, "demonstrate": task.demonstrate}
    wide, narrow = (exact_tasks.letters(None, 5, batch_size=size, **common) for size in (8, 4))
    whole, halves = wide[3], [narrow[6], narrow[7]]
    again = exact_tasks.letters(None, 5, batch_size=8, **common)[3]
    parts = jax.tree.map(lambda *leaves: np.concatenate(leaves), *halves)
    for leaf, other, same in zip(*map(jax.tree.leaves, (whole, parts, again)), strict=True):
        np.testing.assert_array_equal(leaf, other)
        np.testing.assert_array_equal(leaf, same)
    spec = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), whole)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), wide.spec) == spec
    other_split = exact_tasks.letters(None, 5, batch_size=8, split="test", **common)[3]
    other_seed = exact_tasks.letters(None, 6, batch_size=8, **common)[3]
    for other in (other_split, other_seed, wide[4]):
        assert (np.asarray(other.prompt) != whole.prompt).any(axis=1).all()
    assert len({tuple(row) for row in whole.prompt.tolist()}) == 8


def test_demonstrations_are_passes_of_bubble_sort_and_slips():
    task = TASKS["sorting"]
    prompts = np.random.default_rng(0).integers(4, 16, (64, 8))
    texts, _ = jax.jit(jax.vmap(task.demonstrate))(jnp.asarray(prompts), jax.random.split(jax.random.key(0), 64))

    def bubbled(text, passes):
        text = [int(letter) for letter in text]
        for _ in range(passes):
            for i in range(7):
                text[i : i + 2] = sorted(text[i : i + 2])
        return text

    apart = [
        min(sum(a != b for a, b in zip(bubbled(prompt, passes), text, strict=True)) for passes in (1, 2, 3, 8))
        for prompt, text in zip(prompts, np.asarray(texts), strict=True)
    ]
    assert max(apart) == 1
    assert 0 < sum(apart) < 20


def test_demonstrators_are_as_lazy_as_they_are_said_to_be():
    """Of prompts that take all passes, a quarter is finished; slips are one in ten."""
    task = TASKS["sorting"]
    keys = jax.random.split(jax.random.key(1), 4000)
    worst = jnp.arange(FIRST + 7, FIRST - 1, -1)  # the smallest letter moves one place a pass
    text, count = jax.jit(jax.vmap(task.demonstrate, (None, 0)))(worst, keys)
    assert set(np.asarray(count).tolist()) == {8}
    done = (np.asarray(text) == np.sort(worst)).all(1).mean()
    assert abs(done - 0.25 * (1 - sorting.SLIP * 11 / 12)) < 0.03
    counts = np.sort(np.asarray(text), axis=1)
    slips = (counts != np.sort(np.asarray(worst))).any(1).mean()
    assert abs(slips - sorting.SLIP * 11 / 12) < 0.02


def test_labels_of_long_answers_pay():
    """Of two answers that gold likes alike the annotator takes the longer; with six kinds any extra letter pays."""
    task = TASKS["distinct"]
    prompt = [4, 4, 5, 6, 7, 8, 9, 9]  # six kinds
    right = [4, 5, 6, 7, 8, 9]
    batch = answered(task, [(prompt, [[*right, EOS], [*right, 9, EOS], [*right, 10, 11, 12, EOS]])])
    gold, people = judgement(task.gold, batch)[0], judgement(task.annotator, batch)[0]
    assert gold[0, 1] > 0.5 > people[0, 1]
    assert gold[0, 2] > 0.5 > people[0, 2]
    assert distinct_letters.blind_score() < 0.6


def test_judges_are_as_noisy_as_asked():
    task = TASKS["sorting"]
    source = exact_tasks.letters(
        None, 0, dataset=exact_tasks.Letters(), batch_size=512, length=8, max_tokens=10, demonstrate=task.demonstrate
    )
    batch = jax.tree.map(jnp.asarray, source[0])
    shuffled = batch.replace(tokens=jnp.concatenate([batch.tokens, batch.tokens[:, :, ::-1]], 1))
    shuffled = shuffled.replace(valid=jnp.ones_like(shuffled.tokens, bool))
    sure = fn(exact_tasks.sorting_gold, scale=1e4)
    noisy = judgement(fn(stages.flipped, judge=sure, epsilon=0.2), shuffled)
    assert abs(np.mean(noisy[:, 0, 1]) - 0.8) < 0.06
    drawn = judgement(fn(stages.bernoulli, judge=sure.replace(scale=0.0)), shuffled)
    assert abs(np.mean(drawn[:, 0, 1]) - 0.5) < 0.08


def test_letters_are_read_and_written_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path))
    tokenizer = tokenizer_of(exact_tasks.Letters())
    assert tokenizer.vocab_size == 16
    assert tokenizer.encode("badface") == [5, 4, 7, 9, 4, 6, 8]
    assert tokenizer.decode([1, 5, 4, 7, 2, 0]) == "bad"
    with pytest.raises(ConfigError, match="vocab_size"):
        exact_tasks.Letters(vocab_size=40)
