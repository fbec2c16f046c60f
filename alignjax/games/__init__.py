"""Tabular preference games: their exact equilibria, and policies that learn to play them."""

from alignjax.games.compiled_runs import Played, grid, play
from alignjax.games.enumeration import every_pair, exact, expected_gradient, sampled_distribution
from alignjax.games.equilibria import (
    Mixed,
    Unregularised,
    fitted_reward,
    geometric_mixture,
    mixture_equilibrium,
    tilted,
    unregularised_nash,
)
from alignjax.games.examples import (
    annotators,
    bradley_terry,
    condorcet,
    cycle,
    intransitive,
    rock_paper_scissors,
    sequence_game,
    stack,
)
from alignjax.games.game import TabularGame, best_response, duality_gap, exploitability, kl, nash, payoff
from alignjax.games.strings import Language, conditionals, log_distribution
from alignjax.games.table_policy import start, table_policy
from alignjax.games.world import Contexts, contexts, measure, parts, role_of, table_judge

__all__ = [
    "Contexts",
    "Language",
    "Mixed",
    "Played",
    "TabularGame",
    "Unregularised",
    "annotators",
    "best_response",
    "bradley_terry",
    "conditionals",
    "condorcet",
    "contexts",
    "cycle",
    "duality_gap",
    "every_pair",
    "exact",
    "expected_gradient",
    "exploitability",
    "fitted_reward",
    "geometric_mixture",
    "grid",
    "intransitive",
    "kl",
    "log_distribution",
    "measure",
    "mixture_equilibrium",
    "nash",
    "parts",
    "payoff",
    "play",
    "rock_paper_scissors",
    "role_of",
    "sampled_distribution",
    "sequence_game",
    "stack",
    "start",
    "table_judge",
    "table_policy",
    "tilted",
    "unregularised_nash",
]
