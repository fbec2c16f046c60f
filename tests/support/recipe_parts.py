"""Recipes that stand for all others: an algorithm is data, so what there is to go wrong about how it is laid out on
devices is in its parts. `representatives` chooses recipes in which every kind of part occurs. A recipe with a kind of
its own is among them by that; one that only combines what others have, like DPO's stages with the loss of IPO, is not.
(Losses are no parts here: test_mesh_losses.py has every one of them on meshes.)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.config import Fn
from alignjax.types import Algorithm


def kinds(algorithm: Algorithm) -> set[str]:
    """The kinds of its stages (with their judges, behaviors and options), of its roles (how they start, whether they
    are trained, their rules) and of its way through a batch: all that does not depend on names and on sizes."""
    return set(_kinds(algorithm))


def _kinds(algorithm: Algorithm) -> Iterator[str]:
    roles = algorithm.roles
    for stage in algorithm.experience.values():
        yield f"stage {_kind(stage, roles)}"
    for role in roles.values():
        what = "trained" if role.optimizer is not None else "held"
        state = "model" if role.model is not None else "state"
        yield f"role {type(role.start).__name__} {what} {state} {_kind(role.rule, roles)}"
    for name in ("epochs", "minibatches", "microbatches", "packing"):
        if getattr(algorithm, name) not in (None, 1):
            yield name


def _kind(part: Any, roles: Mapping[str, Any]) -> str:
    """A function with its options; numbers and names of roles as no more than that."""
    if isinstance(part, Fn):
        options = (f"{key}={_kind(value, roles)}" for key, value in sorted(part.kwargs.items()))
        return f"{part.function.__qualname__}({', '.join(options)})"
    if isinstance(part, Mapping):
        return "{" + ", ".join(sorted(f"{key}: {_kind(value, roles)}" for key, value in part.items())) + "}"
    if isinstance(part, tuple | list):
        return "[" + ", ".join(sorted({_kind(value, roles) for value in part})) + "]"
    if isinstance(part, str):
        return "role" if part.partition(":")[0] in roles else part
    return str(part) if part is None or isinstance(part, bool) else type(part).__name__


def representatives(recipes: Mapping[str, set[str]], first: tuple[str, ...] = ()) -> list[str]:
    """Names of recipes in which every kind occurs: `first`, then always the one that has most of what is missing.

    Args:
        recipes: name -> its kinds.
        first: Those that are among them in any case.
    """
    chosen = [*first]
    missing = set[str]().union(*recipes.values()) - set[str]().union(*(recipes[name] for name in chosen))
    while missing:
        best = max(recipes, key=lambda name: len(recipes[name] & missing))
        chosen.append(best)
        missing -= recipes[best]
    return chosen
