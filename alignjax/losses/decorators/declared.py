"""A loss declares what it cannot do without (`needs`), and has the hyper-parameters of its math (`as_loss`)."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection
from typing import Any

from alignjax.config import ConfigError, Fn
from alignjax.ranges import Natural


def needs(*fields: str) -> Callable[[Any], Any]:
    """Declares which fields of the batch a loss refuses to do without: `@needs("preference", "completions")`.

    Tests hold every loss to its declaration; a loss that wraps another one declares only what it needs beside it.

    Args:
        *fields: Names of fields of `Batch` that a source or a stage fills.

    Returns:
        A decorator that sets `loss.needs`.
    """

    def declare(loss: Any) -> Any:
        loss.needs = fields
        return loss

    return declare


def is_loss(function: Any) -> bool:
    """Tells a loss, (context, batch, *, hyper-parameters), from decorators, rules and makers of losses."""
    return callable(function) and list(inspect.signature(function).parameters)[:2] == ["context", "batch"]


def needs_of(loss: Any) -> set[str]:
    """Returns the fields that a loss needs, or an `Fn` of one, with what the losses inside it need."""
    inner = loss.kwargs.values() if isinstance(loss, Fn) else ()
    function = loss.function if isinstance(loss, Fn) else loss
    return {
        *getattr(function, "needs", ()),
        *(field for part in inner if isinstance(part, Fn) for field in needs_of(part)),
    }


def kind_of(loss: Any) -> str | None:
    """Returns "listwise" or "unpaired" for what those decorators made, "pairwise" for that and for any other loss that
    needs a preference, and None for the rest."""
    for kind, attribute in (("listwise", "per_list"), ("unpaired", "per_completion")):
        if hasattr(loss, attribute):
            return kind
    return "pairwise" if "preference" in getattr(loss, "needs", ()) else None


def math_inputs(math: Callable[..., Any]) -> list[str]:
    """Returns the names of the positional parameters of the math of a loss: what it reads."""
    parameters = inspect.signature(math).parameters
    return [name for name, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]


def check_inputs(math: Callable[..., Any], known: Collection[str], has: str) -> list[str]:
    """Returns `math_inputs` after checking that all of them exist.

    Args:
        math: The function whose positional parameters are read.
        known: The names that it may ask for.
        has: The end of the message, which lists them.

    Returns:
        The names of its positional parameters, in order.

    Raises:
        ConfigError: If one of them is not in `known`.
    """
    inputs = math_inputs(math)
    unknown = [name for name in inputs if name not in known]
    if unknown:
        raise ConfigError(f"{math.__name__} asks for {', '.join(unknown)}; {has}")
    return inputs


# What most losses have: (type, default) of a hyper-parameter.
_SHARED = {
    "role": (str, "policy"),
    "reference": (str | None, "reference"),
    "pairs": (tuple[tuple[Natural, Natural], ...], ((0, 1),)),
    "normalize": (str, "none"),
}


def shared(*names: str, **defaults: Any) -> Callable[[Any], Any]:
    """Adds hyper-parameters that most losses have to a loss that takes them in its `**` parameter.

    role: what is trained, "policy"; reference: what log-ratios are against, "reference", or None for none, where
    log-probs take their place; pairs: which completions are compared, ((0, 1),); normalize: "none" for sums over
    tokens, "length" for means.

    Args:
        *names: Which of the four.
        **defaults: Other defaults than those above.

    Returns:
        A decorator of the loss.
    """
    added = {name: _SHARED[name][1] for name in names} | defaults

    def share(loss: Any) -> Any:
        @functools.wraps(loss)
        def with_shared(context: Any, batch: Any, **hyper: Any) -> Any:
            return loss(context, batch, **{**added, **hyper})

        first = [p for p in inspect.signature(loss).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        more = [_keyword(name, value, _SHARED[name][0]) for name, value in added.items()]
        with_shared.__signature__ = inspect.Signature([*first, *more])  # pyright: ignore[reportAttributeAccessIssue]
        return with_shared

    return share


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def as_loss(math: Any, evaluate: Any, shares: Collection[str], defaults: dict[str, Any], **attributes: Any) -> Any:
    """Makes a loss of some math: it has the name, docstring and hyper-parameters of the math, followed by shared ones.

    Args:
        math: What a user wrote; its keyword-only parameters are hyper-parameters.
        evaluate: (context, batch, shared hyper-parameters, those of the math) -> what the loss returns.
        shares: Names of hyper-parameters, see `shared`.
        defaults: Other defaults of those.
        **attributes: Attributes to set on the loss.

    Returns:
        The loss.
    """

    @shared(*shares, **defaults)
    def loss(context: Any, batch: Any, **hyper: Any) -> Any:
        where = {name: hyper.pop(name) for name in shares}
        return evaluate(context, batch, where, hyper)

    hints, parameters = typing.get_type_hints(math), inspect.signature(math).parameters.values()
    hyper = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    context, batch, *rest = inspect.signature(loss).parameters.values()
    functools.update_wrapper(loss, math)
    hyper = [_keyword(p.name, p.default, hints.get(p.name, Any)) for p in hyper]
    loss.__signature__ = inspect.Signature([context, batch, *hyper, *rest])
    for name, value in attributes.items():
        setattr(loss, name, value)
    return loss
