"""Any recipe with low-rank adapters in the place of whole weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax import roles
from alignjax.config import ConfigError, Fn, check_known, fn
from alignjax.models import lora, quantize
from alignjax.models.weights import MATRICES
from alignjax.ranges import Bits, Count, Positive
from alignjax.roles import CopyOf, PoolOf
from alignjax.types import Algorithm, Role, frozen


def with_lora(
    algorithm: Algorithm,
    *,
    adapted: tuple[str, ...] = ("policy",),
    rank: Count = 8,
    alpha: Positive = 16.0,
    targets: str = MATRICES,
    rank_stabilised: bool = False,
    whole: str = lora.SMALL_HEADS,
    bits: Bits | None = None,
    start: Fn | None = None,
) -> Algorithm:
    """The algorithm with low-rank adapters (arXiv:2106.09685) in the roles named `adapted`: each keeps only its
    adapters, which its optimizer trains, over the frozen weights of a new role "base" ("base_policy", .. if several are
    named), which starts as the role did.

    What follows an adapted role follows its adapters: a role that starts as a copy of it (a snapshot, an average, a
    slow learner) or as a pool of its past has adapters of its own over the same base, and a copy that never moves, a
    reference, is the base itself and has no weights. Copies, snapshots, pools and the build `roles.combined` (which
    becomes `lora.mixed`) are exact; an average by `roles.ema` is that of the factors, not of the weights
    (docs/design.md says by how much it falls short).

    Args:
        algorithm: An algorithm whose roles have whole weights.
        adapted: The roles that get adapters.
        rank: Columns of an adapter's factors; see `models.lora`, also for alpha, targets, rank_stabilised and whole.
        alpha: Scale of the adapters.
        targets: A pattern of the weights that get adapters.
        rank_stabilised: Scales by alpha / sqrt(rank) in the place of alpha / rank.
        whole: A pattern of the weights that are trained whole.
        bits: 8 or 4 keeps the matrices of the base quantized (QLoRA, arXiv:2305.14314; see `models.quantize`).
        start: function(key, base's params) -> adapters, in the place of fresh ones of that rank and those targets
            (`models.peft.start`).

    Raises:
        ConfigError: For a role that does not exist, has no model, or has a build or follows another role already, and
            for a role that would follow adapters with whole weights.
    """
    # Roles are a graph: one starts as a copy of another (`followers`), or its rule reads another (`_readers`). A pure
    # map over it: each adapted role, its followers and the mixtures of them are replaced, everything else stays.
    graph, changed, bases = algorithm.roles, {}, {}
    for name in adapted:
        check_known(name, graph, f"with_lora: there is no role {name!r}")
        base = "base" if len(adapted) == 1 else f"base_{name}"
        family = _followers(graph, name)
        _check(graph, name, family, base)
        role, build = graph[name], fn(lora.build, base=base, alpha=alpha, rank_stabilised=rank_stabilised)
        whole_start = role.start if bits is None else roles.through(role.start, fn(quantize, bits=bits))
        adapters = roles.adapters_of(base, start or fn(lora.init, rank=rank, targets=targets, whole=whole))
        bases[base] = Role(role.model, whole_start)
        changed |= {mixture: _mixed(graph[mixture]) for mixture in _mixtures(graph, family)}
        changed |= {follower: _follow(graph, follower, name, build) for follower in family - {name}}
        changed[name] = dataclasses.replace(role, start=adapters, build=build)
    return dataclasses.replace(algorithm, roles={**graph, **changed, **bases})


def _followers(graph: Mapping[str, Role], name: str) -> set[str]:
    """Find the roles whose first value is, through any number of copies, that of role `name`, itself among them."""

    def origin(role: str) -> str:
        start = graph[role].start
        return origin(start.role) if isinstance(start, (CopyOf, PoolOf)) and start.role in graph else role

    return {role for role in graph if origin(role) == name}


def _readers(graph: Mapping[str, Role], name: str) -> set[str]:
    """Find the roles whose rule reads role `name`, which needs a tree of its own for that."""
    return {reader for reader, role in graph.items() if role.rule.kwargs.get("of") == name}


def _mixtures(graph: Mapping[str, Role], family: set[str]) -> set[str]:
    """Find the roles whose build combines members of a family, and no others."""
    builds = {name: role.build for name, role in graph.items() if role.build is not None}
    return {
        name
        for name, build in builds.items()
        if build.function is roles.combined and family.issuperset(build.kwargs["of"])
    }


def _check(graph: Mapping[str, Role], name: str, family: set[str], base: str) -> None:
    """Refuse a role that cannot be adapted, and a role that would follow adapters with whole weights."""
    role = graph[name]
    if role.model is None:
        raise ConfigError(f"with_lora: role {name!r} has no model, so no weights to adapt")
    if role.build is not None:
        raise ConfigError(f"with_lora: role {name!r} has a build already; it would have to be put over the adapters")
    if isinstance(role.start, (CopyOf, PoolOf)):
        raise ConfigError(f"with_lora: role {name!r} starts from {role.start.role!r}: adapt that one, and it follows")
    if base in graph:
        raise ConfigError(f"with_lora: the algorithm has a role {base!r} already; adapt all roles in one call")
    for leader in family:
        whole = sorted(reader for reader in _readers(graph, leader) - family if graph[reader].model is not None)
        if whole:
            raise ConfigError(
                f"with_lora: role {whole[0]!r} follows {leader!r} with whole weights, which adapters are not: start it "
                f"as copy_of({name!r})"
            )


def _follow(graph: Mapping[str, Role], follower: str, name: str, build: Fn) -> Role:
    """Rewrite a follower of role `name`: adapters of its own, or for a copy that never moves the base alone."""
    role = graph[follower]
    if role.build is not None:  # of its own tree, a pool's: it gives adapters now
        build = build.replace(inner=role.build)
    elif (
        isinstance(role.start, CopyOf)
        and role.optimizer is None
        and role.rule.function is frozen
        and not _readers(graph, follower)
    ):
        base_alone = fn(lora.of_base, base=build.kwargs["base"])
        return dataclasses.replace(role, start=roles.value(fn(_no_weights)), build=base_alone)
    # Of the adapted role itself: what it copied may be the base by now.
    return dataclasses.replace(role, start=dataclasses.replace(role.start, role=name), build=build)


def _no_weights(key: Any) -> dict[str, Any]:
    return {}


def _mixed(role: Role) -> Role:
    """Rewrite a role that combines adapted roles: it combines their adapters."""
    assert role.build is not None
    return dataclasses.replace(role, build=fn(lora.mixed, of=role.build.kwargs["of"]))
