"""Names of a person's functions: config.json says where each is and what its source was, so a run is repeated by it."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from alignjax.asking.declared_functions import check_declared
from alignjax.config import ConfigError, Fn

PLAIN = (bool, int, float, str, bytes, type(None))
ADVICE = "write it with def at the top level of a module, or of the config file"


def check_named(function: Any, where: str) -> None:
    """Checks that config.json can say which function a slot holds.

    Args:
        function: What stands in the slot: a function, an `fn`, a partial, or an object that can be called.
        where: The slot, for the message.

    Raises:
        ConfigError: It cannot be called, is a lambda, a class, or defined inside another function, or declares that it
            cannot be asked with its hyper-parameters.
    """
    _check_place(function, where)
    check_declared(function)


def check_inner(function: Any, where: str) -> None:
    """Checks a function that another one calls, as `check_named`, and that it is no coroutine, for which nobody waits.

    Args:
        function: The function.
        where: The slot, for the message.

    Raises:
        ConfigError: It cannot be named, or is a coroutine.
    """
    check_named(function, where)
    if inspect.iscoroutinefunction(function.function if isinstance(function, Fn) else function):
        raise ConfigError(f"{where} is a coroutine, for which nobody waits there; write it without async")


def _check_place(function: Any, where: str) -> None:
    """Raises ConfigError for a function that no import path leads to."""
    if isinstance(function, (Fn, functools.partial)):
        return _check_place(function.function if isinstance(function, Fn) else function.func, where)
    if not callable(function):
        raise ConfigError(f"{where} is {function!r}, which cannot be called; {ADVICE}, and name it there")
    if inspect.isclass(function):
        raise ConfigError(f"{where} is the class {function.__name__}; pass an object of it that can be called")
    place = getattr(function, "__qualname__", type(function).__qualname__)
    if place.rpartition(".")[2] == "<lambda>":
        raise ConfigError(f"{where} is a lambda, which config.json has no name for; {ADVICE}")
    if "<locals>" in place:
        inside, name = place.split(".<locals>")[0], place.rpartition(".")[2]
        raise ConfigError(
            f"{where} is {name}, defined inside {inside}(), where config.json cannot name it; {ADVICE}; what differs "
            f"from one to the next goes into fn({name}, ...) as keyword-only parameters"
        )
    return None


def described(function: Any) -> dict[str, Any]:
    """Returns what config.json holds beside the import path of a function: the hash of its source, where there is one,
    and of an object its numbers in the open and a hash of all else, which may hold secrets."""
    if isinstance(function, Fn):
        return described(function.function)
    if isinstance(function, functools.partial):
        return described(function.func) | _state({"args": function.args, **function.keywords})
    if inspect.ismethod(function):
        return described(function.__func__) | _state(vars(function.__self__) if _has_vars(function.__self__) else {})
    if inspect.isroutine(function):
        source = source_hash(function)
        return {"source": source} if source else {}
    return described(type(function).__call__) | _state(vars(function) if _has_vars(function) else {})


def _has_vars(value: Any) -> bool:
    return hasattr(value, "__dict__") and not inspect.ismodule(value) and not inspect.isclass(value)


def _state(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers as they are; one hash of what else is plain."""
    plain = {name: value for name, value in values.items() if isinstance(value, (bool, int, float))}
    rest = sorted((name, _spelled(value)) for name, value in values.items() if name not in plain and _is_plain(value))
    return plain | ({"state": _digest(repr(rest))} if rest else {})


def _spelled(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"[{', '.join(map(_spelled, value))}]" if isinstance(value, (tuple, list)) else hex(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def source_hash(function: Any) -> str:
    """Returns 16 hexadecimal digits of a function's source, of those that it names in its own file, and of the plain
    constants there that it reads; comments and layout do not count. "" where there is no source."""
    parts = sorted(_sources(inspect.unwrap(function), set()))
    return _digest("\n".join(parts)) if parts else ""


def _sources(function: Any, seen: set[int]) -> Iterator[str]:
    """The syntax of a function, and of what it reads of its own file, each once."""
    function = getattr(function, "__func__", function)
    if id(function) in seen:
        return
    seen.add(id(function))
    try:
        yield ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # a builtin, or typed in at a prompt
        return
    if inspect.isclass(function):
        inner = [each for each in vars(function).values() if inspect.isfunction(each)]
    else:
        inner = [function]
    for each in inner:
        for name in sorted(_names(each.__code__)):
            value = each.__globals__.get(name)
            if isinstance(value, PLAIN) and value is not None:
                yield f"{name} = {value!r}"
            elif (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == each.__module__:
                yield from _sources(value, seen)


def _names(code: Any) -> set[str]:
    """The names that a function's code, and the code within it, reads."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= _names(constant)
    return names
