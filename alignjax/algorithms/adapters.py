"""Any recipe with low-rank adapters in the place of whole weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax import roles
from alignjax.config import ConfigError, Fn, fn, nearest
from alignjax.models import lora, quantize
from alignjax.models.weights import MATRICES
from alignjax.roles import CopyOf, PoolOf
from alignjax.types import Algorithm, Role, frozen

__all__ = ["with_lora"]


def with_lora(
    algorithm: Algorithm,
    *,
    adapted: tuple[str, ...] = ("policy",),
    rank: int = 8,
    alpha: float = 16.0,
    targets: str = MATRICES,
    rank_stabilised: bool = False,
    whole: str = lora.SMALL_HEADS,
    bits: int | None = None,
    start: Fn | None = None,
) -> Algorithm:
    """The algorithm with low-rank adapters (arXiv:2106.09685) in the roles named `adapted`: each keeps only its
    adapters, which its optimizer trains, over the frozen weights of a new role "base" ("base_policy", .. if several are
    named), which starts as the role did.

    What follows an adapted role follows its adapters: a role that starts as a copy of it (a snapshot, an average, a
    slow learner) or as a pool of its past has adapters of its own over the same base, and a copy that never moves, a
    reference, is the base itself and has no weights. Copies, snapshots, pools and the build `roles.combined` (which
    becomes `lora.mixed`) are exact. An average by a rule, `roles.ema`, is not that of the weights: it averages a and b
    apart, and mean(a) mean(b) falls short of mean(a b) by the covariance of a and b over what is averaged, of second
    order in how far they move within its memory. The exact mean of K policies has rank K R. Of the recipes here
    `nash_ema` alone averages; its opponent, the average of all weights, is itself taken in the place of a mixture of
    past policies. Where the mean of the weights matters, average few snapshots with `roles.combined`.

    rank, alpha, targets, rank_stabilised, whole: see `models.lora`. bits: 8 or 4 keeps the matrices of the base
    quantized (QLoRA, arXiv:2305.14314; see `models.quantize`). start: function(key, base's params) -> adapters, in the
    place of fresh ones of that rank and those targets (`models.peft.start`).

    Raises ConfigError for a role that does not exist, has no model, or has a build or follows another role already, and
    for a role that would follow adapters with whole weights.
    """
    made = dict(algorithm.roles)
    for name in adapted:
        if name not in made:
            raise ConfigError(f"with_lora: there is no role {name!r}.{nearest(name, made)}")
        _refuse(name, made[name])
        base = "base" if len(adapted) == 1 else f"base_{name}"
        if base in made:
            raise ConfigError(f"with_lora: the algorithm has a role {base!r} already; adapt all roles in one call")
        build = fn(lora.build, base=base, alpha=alpha, rank_stabilised=rank_stabilised)
        first = made[name].start if bits is None else roles.through(made[name].start, fn(quantize, bits=bits))
        small = roles.adapters_of(base, start or fn(lora.init, rank=rank, targets=targets, whole=whole))
        family = _family(name, made)
        read = {role.rule.kwargs.get("of") for role in made.values()}  # by a rule, so they need a tree of their own
        changed = {one: _follower(made[one], name, build, one in read) for one in family - {name}}
        changed[name] = dataclasses.replace(made[name], start=small, build=build)
        _refuse_followers(name, family, made)
        mixtures = {one: _mixture(role, family) for one, role in made.items()}
        made = {**mixtures, **changed, base: Role(made[name].model, first)}
    return dataclasses.replace(algorithm, roles=made)


def _refuse(name: str, role: Role) -> None:
    if role.model is None:
        raise ConfigError(f"with_lora: role {name!r} has no model, so no weights to adapt")
    if role.build is not None:
        raise ConfigError(f"with_lora: role {name!r} has a build already; it would have to be put over the adapters")
    if isinstance(role.start, (CopyOf, PoolOf)):
        raise ConfigError(f"with_lora: role {name!r} starts from {role.start.role!r}: adapt that one, and it follows")


def _refuse_followers(name: str, family: set[str], made: Mapping[str, Role]) -> None:
    for one, role in made.items():
        if one not in family and role.model is not None and role.rule.kwargs.get("of") in family:
            raise ConfigError(
                f"with_lora: role {one!r} follows {role.rule.kwargs['of']!r} with whole weights, which adapters are "
                f"not: start it as copy_of({name!r})"
            )


def _family(name: str, made: Mapping[str, Role]) -> set[str]:
    """The roles whose first value is, through any number of copies, that of role `name`."""

    def first(one: str) -> str:
        start = made[one].start
        return first(start.role) if isinstance(start, (CopyOf, PoolOf)) and start.role in made else one

    return {one for one in made if first(one) == name}


def _follower(role: Role, name: str, build: Fn, read: bool) -> Role:
    if role.build is not None:  # of its own tree, a pool's: it gives adapters now
        build = build.replace(inner=role.build)
    elif isinstance(role.start, CopyOf) and role.optimizer is None and role.rule.function is frozen and not read:
        return dataclasses.replace(
            role, start=roles.value(fn(nothing)), build=fn(lora.of_base, base=build.kwargs["base"])
        )
    # Of the adapted role itself: what it copied may be the base by now.
    return dataclasses.replace(role, start=dataclasses.replace(role.start, role=name), build=build)


def nothing(key: Any) -> dict[str, Any]:
    """The first value of a role that has no weights of its own."""
    return {}


def _mixture(role: Role, family: set[str]) -> Role:
    """A role that combines adapted roles combines their adapters."""
    if (
        role.build is None
        or role.build.function is not roles.combined
        or not family.issuperset(role.build.kwargs["of"])
    ):
        return role
    return dataclasses.replace(role, build=fn(lora.mixed, of=role.build.kwargs["of"]))
