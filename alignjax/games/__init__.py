"""Tabular preference games and their exact equilibria."""

from alignjax.games.tabular import (
    TabularGame,
    best_response,
    bradley_terry,
    duality_gap,
    exploitability,
    nash,
    rock_paper_scissors,
)

__all__ = [
    "TabularGame",
    "best_response",
    "bradley_terry",
    "duality_gap",
    "exploitability",
    "nash",
    "rock_paper_scissors",
]
