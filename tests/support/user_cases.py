"""Lines of `cases.py` for losses that know whose judgment a row is."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignjax import losses, roles, user_scores
from alignjax.config import fn
from alignjax.types import Batch, Role
from tests.support.loss_case import Case
from tests.support.network import WIDTH
from tests.support.tiny import sgd

PAIRS = ((0, 1), (2, 1), (0, 3))
STATES = {"output": "policy@embed"}  # what embeds completions


def with_users(batch: Batch) -> Batch:
    """Rows of three users, one of a user that nobody knows, and the noise that a latent user is drawn with."""
    user = (np.arange(len(batch.tokens)) * 5 % 3).astype(batch.mask.dtype)
    user[3] = np.nan
    noise = np.random.default_rng(6).normal(size=(len(user), 2)).astype(batch.mask.dtype)
    return batch.replace(prompts={**batch.prompts, "user": user, "noise": noise})


def small_role(start: Any, **hyper: Any) -> Role:
    return Role(None, roles.value(fn(start, **hyper)), optimizer=fn(sgd))


TASTES = {
    "prototypes": small_role(user_scores.ideal_points, width=WIDTH, prototypes=3),
    "users": small_role(user_scores.user_weights, users=3, prototypes=3),
}
ANGLES = fn(user_scores.pal_scores, similarity="angle", **STATES)  # distances read no scale, whose gradient is then 0
LATENT = {"latent": small_role(user_scores.latent_network, width=WIDTH, latent=2, hidden=5)}
USERS = [
    Case(fn(losses.pal, pairs=PAIRS, scores=ANGLES, link="logistic"), fields=with_users, extra=TASTES),
    Case(
        fn(losses.vpl, pairs=PAIRS, kappa=0.3, **STATES),
        fields=with_users,
        extra=LATENT,
        couples_rows=True,
        order_matters=True,
    ),
]
