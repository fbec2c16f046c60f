"""Whole runs as one program: the steps of `alignjax train`, one compilation for a grid, and where they end."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from alignjax import algorithms, games, roles
from alignjax.cli import main
from alignjax.config import ConfigError, Experiment, fn
from alignjax.games import compiled_runs
from alignjax.sampling import mixture
from alignjax.stages.host_stages import host
from alignjax.train.loop import train
from alignjax.train.optimizers import sgd
from alignjax.types import Role
from alignjax.workspace import Workspace
from tests.support.compiled import compilations

GAME = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.1, strength=(0.5, 0.25, 0.4))
PROMPTS = games.contexts(None, 0, batch_size=8)[0]


def algorithm(
    recipe: Any = algorithms.ipo_md, *, game: games.TabularGame = GAME, rate: float = 0.05, **hyper: Any
) -> Any:
    model = games.table_policy(game)
    return recipe(model, optimizer=fn(sgd, learning_rate=rate), **games.parts(game), **hyper)


def at(base: Any, *, tau: float, beta: float) -> Any:
    """The same algorithm with other numbers."""
    generate, pair = base.experience["generate"], base.losses["pair"]
    mixed = generate.replace(behaviour=generate.kwargs["behaviour"].replace(beta=beta))
    return dataclasses.replace(
        base, experience={**base.experience, "generate": mixed}, losses={"pair": pair.replace(tau=tau)}
    )


def logits(played: compiled_runs.Played) -> np.ndarray:
    return np.asarray(played.state.roles["policy"]["logits"])


def test_a_run_takes_the_steps_of_the_training_loop(tmp_path: Path) -> None:
    base = algorithm()
    experiment = Experiment(base, fn(games.contexts, batch_size=8), steps=6, seed=3, log_every=1, checkpoint_every=6)
    state = train(experiment, Workspace(tmp_path / "run"), console=Console(file=io.StringIO()))
    played = games.play(base, PROMPTS, steps=6, seed=3, every=1)
    np.testing.assert_allclose(logits(played), state.roles["policy"]["logits"], rtol=1e-5, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(played.metrics["loss"], [line["loss"] for line in lines], rtol=1e-4)
    assert np.ptp(np.asarray(played.tables["policy"]["logits"]), axis=0).max() > 0.01


def test_a_grid_is_its_runs_and_compiles_once() -> None:
    base = algorithm()
    points = [at(base, tau=tau, beta=beta) for tau in (0.1, 0.5) for beta in (0.0, 0.25, 0.5)]
    compiled = compilations(compiled_runs._grid)
    played = games.grid(points, PROMPTS, steps=10, seeds=(0, 1))
    games.grid([at(base, tau=tau, beta=0.1 * tau) for tau in np.linspace(1, 2, 6)], PROMPTS, steps=10, seeds=(4, 5))
    assert compiled() == [1]
    assert logits(played).shape == (6, 2, 1, 3)
    for number in (0, 4):
        for seed in (0, 1):
            alone = games.play(points[number], PROMPTS, steps=10, seed=seed)
            np.testing.assert_allclose(logits(played)[number, seed], logits(alone), rtol=1e-4, atol=1e-5)
    assert not np.allclose(logits(played)[0, 0], logits(played)[0, 1])


def test_equal_games_give_equal_parts() -> None:
    """Algorithms that were made one by one on a game, or on its copy, differ in their numbers alone: one program runs
    them all, and they are points of a grid."""
    copy = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.7, strength=(0.5, 0.25, 0.4))
    points = [algorithm(game=game, tau=tau) for game, tau in ((GAME, 0.1), (copy, 0.4))]
    compiled = compilations(compiled_runs._play_once)
    alone = [logits(games.play(point, PROMPTS, steps=3)) for point in points]
    assert compiled() == [1]
    together = logits(games.grid(points, PROMPTS, steps=3))
    np.testing.assert_allclose(together[:, 0], alone, rtol=1e-4, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    assert games.parts(GAME) == games.parts(copy)
    other = GAME.replace(preference=GAME.preference.T)
    assert games.parts(GAME)["judges"] != games.parts(other)["judges"]
    assert games.parts(GAME)["start"] == games.parts(other)["start"]
    assert games.start(GAME) != games.start(GAME.replace(reference=GAME.reference[::-1]))


@pytest.mark.parametrize(
    ("recipe", "beta", "rate"),
    [(algorithms.ipo_md, 0.0, 0.15), (algorithms.ipo_md, 0.25, 0.15), (algorithms.nash_md, 0.25, 6.0)],
)
def test_expected_dynamics_end_where_the_theory_says(recipe: Any, beta: float, rate: float, float64: None) -> None:
    """Online IPO at the equilibrium; IPO-MD and Nash-MD with the mixture at the equilibrium of tau / (1 - beta), and
    the policy beyond it: not at the equilibrium of tau. (A gradient of IPO is 4 / tau times that of the payoff.)"""
    played = games.play(
        games.exact(algorithm(recipe, tau=GAME.tau, beta=beta, rate=rate), GAME.language),
        games.contexts(None, 0, batch_size=1)[0], steps=400, every=100,
    )  # fmt: skip
    policy = np.exp(games.log_distribution(GAME.language, logits(played)))[0]
    expected = games.mixture_equilibrium(GAME, beta)
    np.testing.assert_allclose(policy, expected.policy, atol=1e-8)
    np.testing.assert_allclose(games.geometric_mixture(GAME, policy, beta), expected.mixture, atol=1e-8)
    away = np.abs(policy - games.nash(GAME)).sum() / 2
    assert away < 1e-8 if beta == 0 else away > 0.01


def test_exact_descent_follows_the_trajectories_of_the_oracle(oracles: Path, float64: None) -> None:
    """Online IPO and IPO-MD (beta 0.25) through stages, loss and optimizer, against 200 steps of independent code."""
    oracle, seen = json.loads((oracles / "games.json").read_text()), 0
    by_name = {one["name"]: one for one in oracle["games"]}
    for trajectory in oracle["trajectories"]:
        if trajectory["update"] not in ("online_ipo_gd", "ipo_md_gd"):
            continue
        one, beta = by_name[trajectory["game"]], {"online_ipo_gd": 0.0, "ipo_md_gd": 0.25}[trajectory["update"]]
        game = games.TabularGame(one["P"], np.array(one["mu"]) / np.sum(one["mu"]), one["tau"])
        learned = algorithm(game=game, tau=game.tau, beta=beta, rate=trajectory["eta"])
        prompts = games.contexts(None, 0, batch_size=1)[0]
        played = games.play(games.exact(learned, game.language), prompts, steps=200, every=1)
        policies = np.exp(games.log_distribution(game.language, np.asarray(played.tables["policy"]["logits"])))[:, 0]
        for row in trajectory["log"][1:]:
            np.testing.assert_allclose(policies[row["t"] - 1], row["pi"], atol=1e-11)
            assert games.duality_gap(game, policies[row["t"] - 1]) == pytest.approx(row["gap"], abs=1e-10)
        seen += 1
    assert seen >= 2


def test_strings_mixed_token_by_token_rest_at_the_best_response_to_what_is_sampled(float64: None) -> None:
    """For strings of several tokens there is no closed form, but policy = BR(sampler) holds with the true sampler."""
    game = games.sequence_game(0.5, seed=1, vocab=3, length=2)
    beta = 0.5
    played = games.play(
        games.exact(algorithm(game=game, tau=game.tau, beta=beta, rate=0.4), game.language),
        games.contexts(None, 0, batch_size=1)[0], steps=1000,
    )  # fmt: skip
    policy = np.exp(games.log_distribution(game.language, logits(played)))[0]
    sampler = games.sampled_distribution(game, played.state.roles["policy"], fn(mixture, beta=beta))
    np.testing.assert_allclose(policy, games.best_response(game, sampler), atol=1e-8)
    assert np.abs(policy - games.mixture_equilibrium(game, beta).policy).max() > 1e-5  # near it at this tau, not at it


def test_sampling_gets_there_too() -> None:
    """200 steps of 64 sampled pairs, ten seeds: nearer the equilibrium than the reference is, by far."""
    learned = algorithm(algorithms.online_ipo, tau=GAME.tau)
    falling = fn(sgd, learning_rate=0.1, schedule="linear", total_steps=200)
    policy = dataclasses.replace(learned.roles["policy"], optimizer=falling)
    measure = fn(games.measure, language=GAME.language, tau=GAME.tau)
    learned = dataclasses.replace(
        learned, roles={**learned.roles, "policy": policy}, experience={"measure": measure, **learned.experience}
    )
    played = games.grid([learned], games.contexts(None, 0, batch_size=64)[0], steps=200, seeds=range(10), every=1)
    policies = np.exp(games.log_distribution(GAME.language, logits(played)))[0, :, 0]
    gaps = games.duality_gap(GAME, policies)
    assert gaps.shape == (10,)
    assert gaps.mean() < 0.03 * games.duality_gap(GAME, GAME.reference)
    # What the stage said on the way is what the exact solver says of the kept tables.
    tables = np.asarray(played.tables["policy"]["logits"])[0, :, :-1, 0]
    kept = np.exp(games.log_distribution(GAME.language, tables))
    said = np.asarray(played.metrics["measure/duality_gap"])[0]
    np.testing.assert_allclose(said[:, 1:], games.duality_gap(GAME, kept), atol=1e-6)
    np.testing.assert_allclose(said[:, 0], games.duality_gap(GAME, GAME.reference), atol=1e-6)
    np.testing.assert_allclose(
        played.metrics["measure/exploitability"][0, :, 1:], games.exploitability(GAME, kept), atol=1e-6
    )
    np.testing.assert_allclose(played.metrics["measure/kl"][0, :, 1:], games.kl(kept, GAME.reference), atol=1e-5)


def test_a_judge_that_meets_an_unfinished_string_says_so_by_nan() -> None:
    game = games.sequence_game(0.5, seed=1, vocab=3, length=2)
    base = algorithm(game=game)
    endless = base.experience["generate"].replace(max_tokens=1)
    with pytest.raises(ConfigError, match="max_tokens=2"):
        games.play(dataclasses.replace(base, experience={**base.experience, "generate": endless}), PROMPTS, steps=1)
    tokens = jax.numpy.array([[[0, 0], [2, 0], [0, 1]]])
    valid = jax.numpy.array([[[True, False], [True, False], [True, True]]])
    numbers = games.strings.string_numbers(game.language, tokens, valid)
    assert numbers[0, 0] == -1
    assert (numbers[0, 1:] >= 0).all()


def test_what_is_not_one_program_is_refused() -> None:
    base = algorithm()
    with pytest.raises(ConfigError, match="differ in more than numbers"):
        games.grid([base, algorithm(algorithms.online_ipo)], PROMPTS, steps=1)
    with pytest.raises(ConfigError, match="must divide"):
        games.play(base, PROMPTS, steps=5, every=2)
    restored = Role(games.table_policy(GAME), roles.restored("sft", "policy"))
    with pytest.raises(ConfigError, match="'policy' starts from a checkpoint"):
        games.play(dataclasses.replace(base, roles={**base.roles, "policy": restored}), PROMPTS, steps=1)
    asked = fn(host, stage=lambda context, batch, key: batch, like=lambda batch: batch)
    with pytest.raises(ConfigError, match="host stage"):
        games.play(dataclasses.replace(base, experience={"host": asked}), PROMPTS, steps=1)
    with pytest.raises(ConfigError, match="multiple of the game's 3 contexts"):
        games.contexts(None, 0, count=3, batch_size=4)


SWEEP = """
import dataclasses
import numpy as np
from alignjax import algorithms, games
from alignjax.config import Experiment, fn
from alignjax.train.optimizers import sgd

GAME = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.1)
GRID = {"algorithm.losses.pair.tau": (0.2, 0.4), "algorithm.experience.generate.behaviour.beta": (0.0, 0.5, 0.9)}
SEEDS = 2

def get_config(mode="tiny"):
    algorithm = algorithms.ipo_md(games.table_policy(GAME), optimizer=fn(sgd, learning_rate=0.1), **games.parts(GAME))
    return Experiment(algorithm, fn(games.contexts, batch_size=4), steps=3)

def measures(policy, point):
    return {"kl": games.kl(policy, GAME.reference), "tau": point["algorithm.losses.pair.tau"] * np.ones(len(policy))}
"""


def test_the_command_runs_a_grid_and_writes_it_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.py"
    file.write_text(SWEEP)
    assert main(["sweep", str(file), "--run-dir", str(tmp_path / "grid")]) == 0
    said = capsys.readouterr().out
    assert "6 points x 2 seeds x 3 steps" in said
    with np.load(tmp_path / "grid/grid.npz") as found:
        assert found["kl"].shape == (2, 3, 2)
        assert found["logits"].shape == (2, 3, 2, 1, 3)
        np.testing.assert_allclose(found["tau"], np.broadcast_to(np.array([0.2, 0.4])[:, None, None], (2, 3, 2)))
        assert (found["kl"] > 0).all()
    record = json.loads((tmp_path / "grid/grid.json").read_text())
    np.testing.assert_allclose(np.array(record["measures"]["kl"]["mean"]).shape, (2, 3))
    assert record["seeds"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("GRID = {'algorithm.losses.pair.taus': (0.1,)}", "tau"),
        ("GRID = {}", "must define GRID"),
        ("GRID = {'algorithm.experience.generate.n': (2.0, 3.0)}", "integer"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(
    change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.py"
    file.write_text(SWEEP + change + "\n")
    assert main(["sweep", str(file)]) == 2
    assert message in capsys.readouterr().err
