"""Names of the leaves of a tree, from their paths: what checkpoints, published weights, adapters and meshes go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


def path_keys(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The keys along a path of jax.tree_util, as strings: ("layers", "q")."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def leaf_name(path: tuple[Any, ...], separator: str = "/") -> str:
    """Makes the name of a leaf: the keys of its path, joined ("layers/q"); a separator inside a key is written %2F.

    Args:
        path: The keys of the leaf, as jax gives them.
        separator: Joins keys.

    Returns:
        The name.
    """
    escaped = f"%{ord(separator):02X}"
    return separator.join(key.replace("%", "%25").replace(separator, escaped) for key in path_keys(path))


def leaves_by_name(tree: Any, separator: str = "/") -> dict[str, Any]:
    """Names the leaves of a tree, in the order of jax.tree.leaves: {"roles/policy/embed": leaf, ...}.

    Args:
        tree: Any tree.
        separator: Joins keys.

    Returns:
        Leaves by name.

    Raises:
        ValueError: Two keys of one node differ, but not as strings.
    """
    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = {leaf_name(path, separator): leaf for path, leaf in flat}
    if len(named) < len(flat):
        raise ValueError("two leaves of the state have the same name; its keys must differ as strings")
    return named


def nested(named: Mapping[str, Any], separator: str = "/") -> Any:
    """Makes the tree of `leaves_by_name` again, as nested dicts; a tree of one leaf, which has no name (""), is that
    leaf.

    Args:
        named: Leaves by name.
        separator: What joined the keys.

    Returns:
        The tree.
    """
    if list(named) == [""]:
        return named[""]
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = (
            key.replace(f"%{ord(separator):02X}", separator).replace("%25", "%") for key in name.split(separator)
        )
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
