"""Tabular preference games: their exact equilibria, and policies that learn to play them."""

from alignjax.games.compiled_runs import Played as Played, grid as grid, play as play
from alignjax.games.distances import (
    duality_gap as duality_gap,
    exploitability as exploitability,
    kl as kl,
    payoff as payoff,
)
from alignjax.games.enumeration import (
    every_pair as every_pair,
    exact as exact,
    expected_gradient as expected_gradient,
    sampled_distribution as sampled_distribution,
)
from alignjax.games.equilibria import (
    Mixed as Mixed,
    Unregularized as Unregularized,
    fitted_reward as fitted_reward,
    geometric_mixture as geometric_mixture,
    mixture_equilibrium as mixture_equilibrium,
    nash as nash,
    tilted as tilted,
    unregularized_nash as unregularized_nash,
)
from alignjax.games.examples import (
    annotators as annotators,
    bradley_terry as bradley_terry,
    condorcet as condorcet,
    cycle as cycle,
    intransitive as intransitive,
    rock_paper_scissors as rock_paper_scissors,
    sequence_game as sequence_game,
    stack as stack,
)
from alignjax.games.game import TabularGame as TabularGame, best_response as best_response
from alignjax.games.strings import (
    Language as Language,
    conditionals as conditionals,
    log_distribution as log_distribution,
)
from alignjax.games.table_policy import start as start, table_policy as table_policy
from alignjax.games.world import (
    Contexts as Contexts,
    contexts as contexts,
    measure as measure,
    parts as parts,
    role_of as role_of,
    table_judge as table_judge,
)
