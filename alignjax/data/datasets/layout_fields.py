"""Functions from a row to the fields of records, for layouts of which not every column is a field as it stands.

A function takes the row (where a layout reads rows together, a tuple of them) and returns its fields, or a list of
them where a row makes several records. Fields are called as the columns of TRL: prompt, chosen, rejected, completion,
completions, scores, label, and answer, weight, tools beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignjax.data.datasets.parsing import BadRow, checked_text, number_field, text_field
from alignjax.data.datasets.row_shapes import (
    json_value,
    messages_from,
    messages_in,
    plain,
)
from alignjax.data.text.chat import messages_of, shared_turns

Row = Mapping[str, Any]
Fields = dict[str, Any]

# What sets call the scores of the two sides of a pair.
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("rating_chosen", "rating_rejected"),
)


def columns(**names: str) -> Callable[[Row], Fields]:
    """Returns the function that reads each field from a column.

    Args:
        names: Field = the name of its column; a row without the column has no such field.
    """
    return lambda row: {name: row[column] for name, column in names.items() if column in row}


# ---------------------------------------------------------------------------------------------------- one conversation


def talk(row: Row, column: str = "messages") -> Fields:
    """Returns prompt and completion out of one conversation, which the assistant ends.

    Args:
        row: The row.
        column: The column that holds it.

    Raises:
        BadRow: It is no such conversation.
    """
    turns, last, _ = shared_turns(row[column], row[column], (column, column))
    if last[0]["role"] != "assistant":
        raise BadRow(f"field {column!r} does not end in an assistant message")
    return {"prompt": turns, "completion": last}


def talk_and_prompt(row: Row) -> Fields:
    """Returns what `talk` does, of a row that has the prompt beside it. Raises BadRow if it is not in it."""
    fields = talk(row)
    _same_prompt(row["prompt"], fields["prompt"], "messages")
    return fields


def talk_or_prompt(row: Row, column: str = "messages") -> Fields:
    """Returns the prompt of a conversation: all before the last turn of the assistant, where one ends it.

    Args:
        row: The row.
        column: The column that holds it.
    """
    turns = messages_of(row[column], column)
    if turns[-1]["role"] != "assistant":
        return {"prompt": turns}
    if len(turns) == 1:
        raise BadRow(f"field {column!r} has no message before the last one")
    return {"prompt": turns[:-1]}


def talk_of(
    column: str, read: Callable[[Row], list[dict[str, Any]]]
) -> tuple[Callable[[Row], Fields], Callable[[Row], Fields]]:
    """Returns what makes prompt and completion, and what makes the prompt alone, of a conversation.

    Args:
        column: The column that holds it.
        read: The function from a row to the messages.
    """
    return lambda row: talk({column: read(row)}, column), lambda row: talk_or_prompt({column: read(row)}, column)


def _in_turns(texts: Sequence[Any], column: str) -> list[dict[str, Any]]:
    """Messages of the user and the assistant by turns."""
    return [{"role": ("user", "assistant")[n % 2], "content": checked_text(t, column)} for n, t in enumerate(texts)]


def _bare(row: Row) -> list[dict[str, Any]]:
    """Messages of a log of a service, which beside each has countries, hashes and times, that no template is to get."""
    return [
        {name: turn[name] for name in ("role", "content") if name in turn} if isinstance(turn, Mapping) else turn
        for turn in row["conversation"]
    ]


def _paired(row: Row) -> list[dict[str, Any]]:
    texts = [text_field(turn, name) for turn in row["conversation"] for name in ("input", "output")]
    return _in_turns(texts, "conversation")


def _glaive(row: Row) -> list[dict[str, Any]]:
    """Turns of a transcript of calls, which stay text as the set has them: no template says how it would write them."""
    opening, *rest = re.split(r"(?:^|\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE): ?", text_field(row, "chat"))
    if opening.strip() or not rest:
        raise BadRow("field 'chat' does not begin with USER: or ASSISTANT:")
    roles = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
    said = text_field(row, "system").strip().removeprefix("SYSTEM:").strip()
    turns = [
        {"role": roles[who], "content": text.replace("<|endoftext|>", "").strip()}
        for who, text in zip(rest[::2], rest[1::2], strict=True)
    ]
    return [{"role": "system", "content": said}, *turns]


wild_chat, wild_chat_prompt = talk_of("conversation", _bare)
capybara, capybara_prompt = talk_of("conversation", _paired)
lima, lima_prompt = talk_of("conversations", lambda row: _in_turns(row["conversations"], "conversations"))
glaive, glaive_prompt = talk_of("chat", _glaive)


def xlam(row: Row) -> Fields:
    """Returns a query, the calls that answer it as one message of the assistant, and the tools. Raises BadRow."""
    calls, tools = (parsed_json(row[name], f"field {name!r}") for name in ("answers", "tools"))
    for name, each in (("answers", calls), ("tools", tools)):
        named = isinstance(each, list) and each and all(isinstance(one, Mapping) and "name" in one for one in each)
        if not named:
            raise BadRow(f"field {name!r} is not a list of objects with a name, one or more")
    called, known = ([{"type": "function", "function": dict(one)} for one in each] for each in (calls, tools))
    answer = [{"role": "assistant", "content": "", "tool_calls": called}]
    return {"prompt": [{"role": "user", "content": text_field(row, "query")}], "completion": answer, "tools": known}


def squad(row: Row) -> Fields:
    """Returns a question behind the passage that it asks about, and the first of its answers. Raises BadRow."""
    texts = row["answers"].get("text")
    if not isinstance(texts, list) or not texts:
        raise BadRow("field 'answers' has no text: a question without an answer")
    answer = checked_text(texts[0], "answers")
    prompt = f"{text_field(row, 'context')}\n\n{text_field(row, 'question')}"
    return {"prompt": prompt, "completion": answer, "answer": answer}


def share_gpt(row: Row) -> Fields:
    """Returns prompt and completion of a conversation of {from, value} turns. Raises BadRow."""
    return talk({"conversations": messages_from(row["conversations"], "conversations")}, "conversations")


def share_gpt_prompt(row: Row) -> Fields:
    """Returns the prompt of such a conversation, as `talk_or_prompt`."""
    return talk_or_prompt({"conversations": messages_from(row["conversations"], "conversations")}, "conversations")


def share_gpt_answers(row: Row) -> Fields:
    """Returns the fields of a conversation of {from, value} turns, and of what may follow it (`chosen` and `rejected`)
    or of its last turn, which is judged (`kto_tag`)."""
    turns = messages_from(row["conversations"], "conversations")
    if "kto_tag" in row:
        return {**talk({"conversations": turns}, "conversations"), "label": row["kto_tag"]}
    sides = {side: row[side] for side in ("chosen", "rejected")}
    return {"prompt": turns, **{k: v if isinstance(v, str) else messages_from(v, k) for k, v in sides.items()}}


def _same_prompt(prompt: Any, turns: Sequence[Row], column: str) -> None:
    """Refuses a prompt that the conversation beside it does not hold: one of the two is another row's."""
    asked = [turn["content"].strip() for turn in turns if turn["role"] == "user"]
    alike = prompt.strip() in asked if isinstance(prompt, str) else prompt == list(turns)
    if not alike:
        raise BadRow(f"field 'prompt' is not in the conversation in {column!r}")


# --------------------------------------------------------------------------------------------------------------- pairs


def two_talks(row: Row) -> Fields:
    """Returns prompt and answers out of two conversations that start alike; scores that tie make it a tie. Raises
    BadRow."""
    turns, chosen, rejected = shared_turns(row["chosen"], row["rejected"])
    return {"prompt": turns, "chosen": chosen, "rejected": rejected, **tied(row)}


def two_talks_and_prompt(row: Row) -> Fields:
    """Returns what `two_talks` does, of a row that has the prompt beside them. Raises BadRow if it is not in them."""
    fields = two_talks(row)
    _same_prompt(row["prompt"], fields["prompt"], "chosen")
    return fields


def two_transcripts(row: Row) -> Fields:
    """Returns prompt and answers out of two transcripts that differ in their last turn. Raises BadRow."""
    return two_talks({side: messages_in(row[side], side) for side in ("chosen", "rejected")})


def two_texts(row: Row) -> Fields:
    """Returns prompt and answers out of two texts: the prompt is all words that both begin with. Raises BadRow."""
    sides = [text_field(row, side) for side in ("chosen", "rejected")]
    shortest = min(map(len, sides))
    same = next((k for k in range(shortest) if sides[0][k] != sides[1][k]), shortest)
    while same and not all(text[same : same + 1].isspace() for text in sides):
        same -= 1
    if not sides[0][:same].strip():
        raise BadRow("no prompt, and chosen and rejected share no first word")
    return {"prompt": sides[0][:same], "chosen": sides[0][same:], "rejected": sides[1][same:]}


def tied(row: Row) -> Fields:
    """Returns the label of a pair beside whose sides scores stand: 0.5 where they tie, nothing where there are none.

    Raises:
        BadRow: The one that is chosen has the lower score, or a score is no number.
    """
    names = next((pair for pair in SCORES if {*pair} <= row.keys()), None)
    if names is None:
        return {}
    better, worse = (number_field(row, name) for name in names)
    if better < worse:
        raise BadRow(f"{names[0]} is below {names[1]}", f"{better:g} and {worse:g}")
    return {"label": 0.5} if better == worse else {}


def pair(row: Row) -> Fields:
    """Returns the fields of a pair whose columns are called so; scores that tie make it a tie."""
    return {**columns(prompt="prompt", chosen="chosen", rejected="rejected")(row), **tied(row)}


def orca(row: Row) -> Fields:
    """Returns the fields of a question, asked in a message, and of whichever answers stand beside it."""
    asked = [{"role": "user", "content": text_field(row, "question")}]
    return {"prompt": asked, **columns(chosen="chosen", rejected="rejected", completion="response")(row)}


def openai_pair(row: Row) -> Fields:
    """Returns the fields of a row of OpenAI's preference fine-tuning. Raises BadRow."""
    asked = row["input"]
    if not isinstance(asked, Mapping) or "messages" not in asked:
        raise BadRow("field 'input' has no messages")
    sides = {"chosen": plain(row["preferred_output"]), "rejected": plain(row["non_preferred_output"])}
    return {"prompt": plain(asked["messages"]), **sides, **columns(tools="tools")(asked)}


def ultra_interact(row: Row) -> Fields:
    """Returns the fields of a pair after a trajectory of {from, value} turns. Raises BadRow."""
    turns = messages_from(row["trajectory"], "trajectory")
    return {"prompt": turns, **columns(chosen="chosen", rejected="rejected")(row)}


def arena(row: Row) -> Fields:
    """Returns two conversations with one prompt and who has won; a tie is one. Raises BadRow."""
    names = ("conversation_a", "conversation_b")
    turns, first, second = shared_turns(row[names[0]], row[names[1]], names)
    known = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5, "both_bad": 0.5}
    winner = text_field(row, "winner")
    if winner not in known:
        raise BadRow("field 'winner' is neither model_a, model_b nor a tie", winner[:40])
    return {"prompt": turns, "chosen": first, "rejected": second, "label": known[winner]}


# -------------------------------------------------------------------------------------------------- answers, and others


def alpaca(row: Row) -> Fields:
    """Returns an instruction with its input behind a blank line, and the answers where there are any."""
    parts = [text_field(row, "instruction"), *(row[name] for name in ("input", "context") if row.get(name))]
    prompt = "\n\n".join(checked_text(part, "input") for part in parts if not isinstance(part, str) or part.strip())
    answers = columns(completion="output", chosen="chosen", rejected="rejected", label="kto_tag")(row)
    return {"prompt": prompt, **answers, **columns(completion="response")(row)}


def verl(row: Row) -> Fields:
    """Returns a prompt and the answer in reward_model.ground_truth. Raises BadRow if it is not there."""
    reward = parsed_json(row["reward_model"], "field 'reward_model'")
    if not isinstance(reward, Mapping) or reward.get("ground_truth") is None:
        raise BadRow("field 'reward_model' has no ground_truth")
    return {"prompt": row["prompt"], "answer": reward["ground_truth"]}


def plain_text(row: Row) -> Fields:
    """Returns a text that is learned whole: a completion of nothing."""
    return {"prompt": None, "completion": text_field(row, "text")}


def stepwise(row: Row) -> list[Fields]:
    """Returns a judged completion for each step of a solution: all steps up to it, with the label of that step."""
    steps, labels = row["completions"], row["labels"]
    if not isinstance(steps, list) or not isinstance(labels, list) or len(steps) != len(labels) or not steps:
        raise BadRow("fields 'completions' and 'labels' are not two lists of one length, 1 or more")
    texts = [checked_text(step, "completions") for step in steps]
    return [
        {"prompt": row["prompt"], "completion": "\n".join(texts[: k + 1]), "label": label}
        for k, label in enumerate(labels)
    ]


def parsed_tools(tools: Any) -> Any:
    """Returns tools as a list where they are written as JSON in a text, as many files have them. Raises BadRow."""
    listed = parsed_json(tools, "field 'tools'") or None
    if not isinstance(listed, list | None):
        raise BadRow("field 'tools' is not a list", type(listed).__name__)
    return listed


def parsed_json(value: Any, what: str) -> Any:
    """Returns a value that may be written as JSON in a text.

    Args:
        value: The value.
        what: What it is, for messages.

    Raises:
        BadRow: It is a text that is no JSON.
    """
    return json_value(value, what) if isinstance(value, str) and value.strip() else value
