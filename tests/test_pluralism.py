"""Planted tastes are recovered: held-out users' accuracy above that of one reward for all, by an interval, and with
nothing planted no better than what a user's own labels give."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from alignjax.cli.config_file import imported
from alignjax.evaluate.intervals import interval
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow


def test_labels_of_held_out_users_lift_pal_and_vpl_above_one_reward_for_all() -> None:
    study = imported(ROOT / "experiments" / "pluralism" / "population.py")
    program = jax.jit(study.curves, static_argnames="planted")
    for planted in (True, False):
        found = jax.tree.map(np.asarray, program(jax.random.key(11), planted=planted))
        over = lambda one, other: dict(interval(found[one][-1] - found[other][-1]))  # noqa: E731, B023
        if planted:
            assert over("PAL", "population BT")["low"] > 0.05
            assert over("VPL", "population BT")["low"] > 0
            assert over("PAL", "user alone")["low"] > 0.02
        else:
            assert over("PAL", "user alone")["high"] < 0
