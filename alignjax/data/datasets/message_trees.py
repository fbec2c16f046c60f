"""Trees of messages (OpenAssistant, arXiv:2304.07327): prompts with the replies that people ranked, out of the messages
of one tree in rows beside each other, or out of one row that holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.data.datasets.parsing import BadRow, number_field, text_field

Row = Mapping[str, Any]
ROLES = {"prompter": "user", "assistant": "assistant"}


class Asked(NamedTuple):
    """A prompt in a tree: the messages up to it, and the messages that answer it."""

    prompt: list[dict[str, str]]
    replies: list[Row]


def rankings(rows: Sequence[Row] | Row, named: str = "rank") -> list[dict[str, Any]]:
    """Returns each prompt that has several judged replies, with their scores.

    Args:
        rows: The messages of one tree, or the row that holds it.
        named: "rank", for minus the rank among the replies, or one of the labels; see `thumbs`.

    Raises:
        BadRow: They are no tree, or it has no such prompt.
    """
    lists = []
    for prompt, replies in _asked(rows):
        scores = [
            (-_rank(each) if "rank" in each else None) if named == "rank" else _label(each, named) for each in replies
        ]
        judged = [(each["text"], score) for each, score in zip(replies, scores, strict=True) if score is not None]
        if len(judged) > 1:
            texts, numbers = zip(*judged, strict=True)
            lists.append({"prompt": prompt, "completions": list(texts), "scores": list(numbers)})
    return _some(lists, f"no prompt with two replies that have a {named}")


def instructions(rows: Sequence[Row] | Row, named: str = "") -> list[dict[str, Any]]:
    """Returns each prompt that is answered with the reply of the best rank, the first where none has one.

    Args:
        rows: As of `rankings`.
        named: Not used: it is the rank that says what is best.

    Raises:
        BadRow: They are no tree, or nothing in it is answered.
    """
    best = []
    for prompt, replies in _asked(rows):
        ranks = [_rank(each) if "rank" in each else 1e6 for each in replies]
        if replies:
            best.append({"prompt": prompt, "completion": replies[ranks.index(min(ranks))]["text"]})
    return _some(best, "no reply")


def prompts(rows: Sequence[Row] | Row, named: str = "") -> list[dict[str, Any]]:
    """Returns each prompt of a tree, answered or not; no score is read. Raises BadRow if the rows are none."""
    return _some([{"prompt": prompt} for prompt, _ in _asked(rows)], "no prompt")


def thumbs(rows: Sequence[Row] | Row, named: str) -> list[dict[str, Any]]:
    """Returns each reply with what people said of it.

    Args:
        rows: As of `rankings`.
        named: One of the labels, which are means of ratings in [0, 1]: quality, helpfulness, creativity, ...; "rank",
            which says nothing of one reply alone, stands for quality.

    Raises:
        BadRow: They are no tree, or no reply in it has the label.
    """
    judged, named = [], "quality" if named == "rank" else named
    for prompt, replies in _asked(rows):
        for each in replies:
            label = _label(each, named)
            if label is not None:
                judged.append({"prompt": prompt, "completion": each["text"], "label": label})
    return _some(judged, f"no reply with the label {named!r}")


def _rank(message: Row) -> float:
    return number_field(message, "rank", 0.0, 1e6)


def _some(records: list[dict[str, Any]], lacking: str) -> list[dict[str, Any]]:
    if not records:
        raise BadRow(f"a tree with {lacking}")
    return records


def _label(message: Row, named: str) -> float | None:
    """The value of a label, which is written as {name: [..], value: [..]} or as {label: {value: ..}}."""
    labels = message.get("labels")
    if not isinstance(labels, Mapping):
        return None
    names, values = labels.get("name"), labels.get("value")
    if isinstance(names, list) and isinstance(values, list) and len(names) == len(values):
        said = dict(zip(map(str, names), values, strict=True)).get(named)
    else:
        said = labels.get(named)
        said = said.get("value") if isinstance(said, Mapping) else said
    return None if said is None else number_field({named: said}, named, 0.0, 1.0)


def _asked(rows: Sequence[Row] | Row) -> Iterator[Asked]:
    """The prompts of a tree from its root on, each before those after its replies. What was deleted is left out, and
    what follows it. Raises BadRow if the rows are no tree."""
    # Replies are looked up by their parent and walked from the root with a list of what waits, so that neither the
    # order of rows nor the depth of a tree matters; ids that form a circle are never reached.
    messages = list(_within(rows)) if isinstance(rows, Mapping) else list(rows)
    replies: dict[str | None, list[Row]] = {}
    known = {text_field(each, "message_id") for each in messages}
    if len(known) != len(messages):
        raise BadRow("two messages of a tree have one message_id")
    for each in messages:
        parent = text_field(each, "parent_id") if "parent_id" in each else None
        if not each.get("deleted"):
            text_field(each, "text")
        if parent is not None and parent not in known:
            raise BadRow(
                "a parent_id is not among the messages beside it: keep trees whole, and sort rows by message_tree_id",
                str(parent)[:40],
            )
        replies.setdefault(parent, []).append(each)
    if None not in replies:
        raise BadRow("a tree without a root: no message is without a parent_id")
    waiting: list[tuple[list[dict[str, str]], Row]] = [([], each) for each in reversed(replies[None])]
    while waiting:
        before, message = waiting.pop()
        role = ROLES.get(str(message.get("role")))
        if role is None:
            raise BadRow("a message is by neither a prompter nor the assistant", str(message.get("role"))[:40])
        if message.get("deleted"):
            continue
        path = [*before, {"role": role, "content": text_field(message, "text")}]
        after = [each for each in replies.get(message["message_id"], []) if not each.get("deleted")]
        if role == "user":
            yield Asked(path, [each for each in after if each.get("role") == "assistant"])
        waiting += [(path, each) for each in reversed(after)]


def _within(tree: Row) -> Iterator[Row]:
    """The messages of a tree that one row holds: its prompt, with replies that have replies."""
    waiting: list[tuple[Any, str | None]] = [(tree.get("prompt"), None)]
    while waiting:
        message, parent = waiting.pop()
        replies = message.get("replies") if isinstance(message, Mapping) else None
        if not isinstance(message, Mapping) or not isinstance(replies, list | None):
            raise BadRow("field 'prompt' is not a message with a list of replies")
        values = {name: value for name, value in message.items() if value is not None and name != "replies"}
        yield {**values, "parent_id": parent} if parent else {k: v for k, v in values.items() if k != "parent_id"}
        waiting += [(each, text_field(values, "message_id")) for each in reversed(replies or ())]
