"""A worker that reads Python files and prints the docstring pairs in them. Run by path, in a process of its own.

It imports the standard library only, so that a worker starts in milliseconds, does not care how its parent was started
(console script, notebook, unguarded script) and cannot import what it reads. stdin: a JSON list of [package, path,
name of the file relative to its root]; stdout: a JSON object with `pairs` and `failed`.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import warnings

_RULE = re.compile(r"[-=~^*#]{3,}$")
_ENDS = (".", "!", "?")


def clean(text: str) -> str:
    """Returns a docstring without what carries no words: trailing blanks, rows of dashes under headings, runs of empty
    lines."""
    lines = [line.rstrip() for line in text.splitlines()]
    text = "\n".join(line for line in lines if not _RULE.match(line.strip()))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def split_summary(docstring: str) -> tuple[str, str]:
    """Returns (PEP 257 summary line, body). A summary that was wrapped over two lines is joined."""
    head, _, body = docstring.partition("\n\n")
    return " ".join(head.split()), clean(body)


def is_pair(summary: str, body: str) -> bool:
    """Says whether a summary is a sentence worth learning and the body says enough to write it from.

    Args:
        summary: The first line of a docstring.
        body: What the docstring says after it.
    """
    words = summary.split()
    if not (len(words) >= 3 and 15 <= len(summary) <= 160 and summary.endswith(_ENDS)):
        return False
    if not summary[0].isupper() or any(mark in summary for mark in (">>>", "http", "---", "===")):
        return False
    if sum(ch.isalpha() or ch == " " for ch in summary) < 0.75 * len(summary) or not summary.isprintable():
        return False
    prose = [line for line in body.splitlines() if line.strip() and not line.lstrip().startswith((">>>", "..."))]
    if sum(map(len, prose)) < 40 or sum(len(line.split()) for line in prose) < 6 or body.startswith(">>>"):
        return False
    return summary.rstrip(".!?").lower() not in " ".join(body.lower().split())


def signature(node: ast.AST, owner: str, module: str) -> str:
    """Returns `Class.method(a, *rest, b)` of a function, `class Name` or `module path`.

    Args:
        node: What the docstring belongs to.
        owner: The dotted name of the classes around it, or "".
        module: The dotted path of the module.
    """
    if isinstance(node, ast.Module):
        return f"module {module}"
    name = f"{owner}.{node.name}" if owner else node.name  # type: ignore[attr-defined]
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    args = node.args  # type: ignore[attr-defined]
    names = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    names += [f"*{args.vararg.arg}"] if args.vararg else []
    names += [arg.arg for arg in args.kwonlyargs]
    names += [f"**{args.kwarg.arg}"] if args.kwarg else []
    return f"{name}({', '.join(name for name in names if name not in ('self', 'cls'))})"


def walk(node: ast.AST, owner: str = ""):
    """Yields (node, dotted name of the classes around it) of everything that may have a docstring, in the order of the
    file.

    Args:
        node: The tree of a file.
        owner: The dotted name of the classes around `node`.
    """
    if isinstance(node, ast.Module):
        yield node, ""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield child, owner
            inside = f"{owner}.{child.name}" if owner else child.name
            yield from walk(child, inside if isinstance(child, ast.ClassDef) else "")
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from walk(child, owner)


def pairs_of(source: bytes, package: str, where: str) -> list[list[str]]:
    """Returns [package, where, signature, summary, body] of every good docstring of a file.

    Args:
        source: The content of the file.
        package: The package that it belongs to.
        where: The path of the file relative to its root.

    Raises:
        SyntaxError, ValueError: The file does not parse.
    """
    if b'"""' not in source and b"'''" not in source:
        return []
    module = where.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    pairs = []
    for node, owner in walk(ast.parse(source)):
        docstring = ast.get_docstring(node)  # type: ignore[arg-type]
        if docstring and "\n\n" in docstring:
            summary, body = split_summary(docstring)
            if is_pair(summary, body):
                pairs.append([package, where, signature(node, owner, module), summary, body])
    return pairs


def main() -> None:
    """Answers on stdout what is asked on stdin."""
    warnings.simplefilter("ignore")  # invalid escapes in other people's files
    pairs, failed = [], 0
    for package, path, where in json.load(sys.stdin):
        try:
            with open(path, "rb") as file:
                pairs += pairs_of(file.read(), package, where)
        except (OSError, SyntaxError, ValueError, RecursionError):
            failed += 1  # templates and Python 2 files live in site-packages; a file that does not parse has no pairs
    pairs = [pair for pair in pairs if all(is_utf8(part) for part in pair)]
    json.dump({"pairs": pairs, "failed": failed}, sys.stdout)


def is_utf8(text: str) -> bool:
    """Says whether UTF-8 can write a text."""
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate written as an escape
        return False
    return True


if __name__ == "__main__":
    main()
