"""Rows of messages are the tokens that `transformers` makes of the whole conversation, prompt and completion together,
up to and with the end of the assistant's turn."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf
import transformers

from alignjax.data import (
    Instructions,
    Preferences,
    Rankings,
    Tokenizer,
    instructions,
    load_tokenizer,
    preferences,
    rankings,
    tokenizer_of,
)
from alignjax.data.datasets.conversations import written
from alignjax.data.datasets.framing import CONTENT, FRAME, OTHERS, SYSTEM, Tokens, encoded
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.sources.batch_layout import completion_ids, framed_ids
from alignjax.data.text.chat import turn_end
from tests.support.chat_families import FAMILIES, Family, write_tokenizer

SYSTEM_MESSAGE = {"role": "system", "content": "Be brief."}
ASK, ANSWER = {"role": "user", "content": " What is two and two?\n"}, {"role": "assistant", "content": "It is four. "}
AGAIN = {"role": "user", "content": "Why is the sky blue — say?"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nBecause of the air."}
PLAIN = {"role": "assistant", "content": "Because of the air é."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"b": 1, "a": [2]}}}]
CALL = {
    "role": "assistant",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": None}}}],
}

TALKS = {
    "single": [ASK, ANSWER],
    "system": [SYSTEM_MESSAGE, ASK, PLAIN],
    "several": [SYSTEM_MESSAGE, ASK, ANSWER, AGAIN, PLAIN],
    "thoughts": [ASK, {**ANSWER, "content": "<think>\nwell\n</think>\n\nFour."}, AGAIN, THOUGHT],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("families")

    @functools.cache
    def of(name: str, metaspace: bool = False) -> Path:
        return write_tokenizer(root / f"{name}{metaspace}", FAMILIES[name], metaspace)

    return of


def rows_of(folder: Path, row: dict[str, Any], **settings: Any) -> tuple[Tokens, list[Tokens], Tokenizer]:
    """Prompt and completions of a row as a dataset with this tokenizer makes them."""
    kind = Preferences if "chosen" in row else Instructions
    dataset = kind(path="unread", tokenizer=str(folder), **settings)
    ((record, error),) = written([dataset.parse(row)], dataset.template, dataset.template_words)
    if error is not None:
        raise error
    tokenizer = load_tokenizer(folder)
    ((prompt, completions),), _ = encoded(record.framed, tokenizer)
    return prompt, completions, tokenizer


def whole(folder: Path, family: Family, talk: list[dict[str, Any]], **words: Any) -> list[int]:
    """What transformers makes of the conversation, up to the last end of a turn in it."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = theirs.apply_chat_template(talk, tokenize=True, return_dict=False, **words)
    end = theirs.convert_tokens_to_ids(family.end)
    return ids[: len(ids) - ids[::-1].index(end)]


@pytest.mark.parametrize("metaspace", [False, True])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_completion_are_the_whole_conversation(folder, name: str, talk: str, metaspace: bool) -> None:
    family, messages = FAMILIES[name], TALKS[talk]
    if not family.system:
        messages = [message for message in messages if message["role"] != "system"]
    at = folder(name, metaspace)
    prompt, (completion,), tokenizer = rows_of(at, {"messages": messages})
    assert [*prompt.ids, *completion.ids] == whole(at, family, messages)
    opened = transformers.AutoTokenizer.from_pretrained(at).apply_chat_template(
        messages[:-1], tokenize=True, return_dict=False, add_generation_prompt=True
    )
    assert list(prompt.ids) == opened
    assert tokenizer.backend.id_to_token(completion.ids[-1]) == family.end
    assert completion.ids[-1] == turn_end(tokenizer, family.template)[-1]
    # What is frame and what is content: the latter, put together, is what was said.
    assert completion.parts[-1] == FRAME
    said = tokenizer.decode(i for i, part in zip(completion.ids, completion.parts, strict=True) if part == CONTENT)
    assert messages[-1]["content"].strip() in said
    kinds = [CONTENT, *([SYSTEM] if messages[0]["role"] == "system" else [])]
    texts = {
        kind: tokenizer.decode(i for i, part in zip(prompt.ids, prompt.parts, strict=True) if part == kind)
        for kind in kinds
    }
    assert "two and two?" in texts[CONTENT]
    assert texts.get(SYSTEM, "brief").strip() in ("Be brief.", "brief")
    frame = tokenizer.decode(i for i, part in zip(prompt.ids, prompt.parts, strict=True) if part == FRAME)
    assert "two and two" not in frame


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sampled_turn_stops_where_the_learned_one_ends(tmp_path: Path, name: str) -> None:
    """A sampler stops at the ids of eos, of generation_config and of the template's end of a turn. Cut at
    the first of them, what the template writes after a prompt is what was learned."""
    family = FAMILIES[name]
    at = write_tokenizer(tmp_path / "model", family)
    number = hf.Tokenizer.from_file(str(at / "tokenizer.json")).token_to_id
    more = next(token for token in family.special if token not in (family.eos, family.end))
    (at / "generation_config.json").write_text(json.dumps({"eos_token_id": [number(more), number(family.eos)]}))
    if more in family.template or more == family.bos:  # a token of the frame ends nothing here
        (at / "generation_config.json").write_text(json.dumps({"eos_token_id": number(family.eos)}))
        more = family.eos
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [ASK, ANSWER, AGAIN, PLAIN]}))
    dataset = Instructions(path=str(tmp_path / "rows.jsonl"), tokenizer=str(at), test_fraction=0.0)
    tokenizer = tokenizer_of(dataset)
    assert set(tokenizer.ends) == {number(token) for token in (family.eos, more, family.end)}
    assert tokenizer.ends[0] == number(family.eos)
    learned = instructions(None, 0, dataset=dataset, batch_size=1, prompt_length=400, completion_length=200)[0]
    ids = learned.tokens[0, 0][learned.mask[0, 0] > 0].tolist()
    theirs = transformers.AutoTokenizer.from_pretrained(at)
    opened = theirs.apply_chat_template([ASK, ANSWER, AGAIN], return_dict=False, add_generation_prompt=True)
    said = theirs.apply_chat_template([ASK, ANSWER, AGAIN, PLAIN], return_dict=False)[len(opened) :]
    sampled = said[: next(place for place, token in enumerate(said) if token in tokenizer.ends) + 1]
    assert ids == sampled
    assert learned.prompt[0][learned.prompt_valid[0]].tolist() == opened
    assert ids[-1] == number(family.end)


def test_every_turn_of_the_assistant_is_learned(folder) -> None:
    """With turns="all" the whole conversation is the same tokens, and the mask is what the template marks itself."""
    talk, family = [SYSTEM_MESSAGE, ASK, ANSWER, AGAIN, PLAIN], FAMILIES["tools"]
    prompt, (completion,), tokenizer = rows_of(folder("tools"), {"messages": talk}, turns="all")
    assert [*prompt.ids, *completion.ids] == whole(folder("tools"), family, talk)
    theirs = transformers.AutoTokenizer.from_pretrained(folder("tools")).apply_chat_template(
        talk, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    learned = [0] * len(prompt.ids) + [int(part != OTHERS) for part in completion.parts]
    assert learned == theirs["assistant_masks"][: len(learned)]
    assert sum(learned) < len(completion.ids)
    ids, mask = completion_ids(completion, len(completion.ids) - 3, tokenizer)
    assert ids == list(completion.ids[:-3])
    assert mask == [part != OTHERS for part in completion.parts[:-3]]
    first = completion.parts.index(OTHERS)  # cut within what the user says: back to the end of the assistant's turn
    ids, mask = completion_ids(completion, first + 4, tokenizer)
    assert (ids, all(mask)) == (list(completion.ids[:first]), True)
    assert tokenizer.backend.id_to_token(ids[-1]) == family.end


def test_tools_are_written_and_called_as_transformers_does(folder) -> None:
    row = {"prompt": [ASK], "tools": TOOLS, "chosen": [CALL], "rejected": "no", "chat_template_kwargs": {"x": 1}}
    prompt, completions, _ = rows_of(folder("tools"), row)
    for completion, end in zip(completions, (CALL, {"role": "assistant", "content": "no"}), strict=True):
        assert [*prompt.ids, *completion.ids] == whole(folder("tools"), FAMILIES["tools"], [ASK, end], tools=TOOLS)


def test_words_of_a_row_reach_the_template(folder) -> None:
    at, words = folder("qwen3"), {"chat_template_kwargs": {"enable_thinking": False}}
    row = {"prompt": [ASK], "completion": "Four.", **words}
    prompt, (completion,), _ = rows_of(at, row)
    talk = [ASK, {"role": "assistant", "content": "Four."}]
    assert [*prompt.ids, *completion.ids] == whole(at, FAMILIES["qwen3"], talk, enable_thinking=False)


@pytest.mark.parametrize(
    ("name", "talk", "sentence"),
    [
        ("gemma2", [SYSTEM_MESSAGE, ASK, PLAIN], "says: no system role here"),
        ("llama2", [ASK, PLAIN, PLAIN], "says: roles must take turns"),
        ("mistral", [SYSTEM_MESSAGE, ASK, PLAIN], "writes the prompt otherwise once it is answered"),
    ],
)
def test_what_a_template_does_not_write_is_said(folder, name: str, talk: list[dict[str, str]], sentence: str) -> None:
    with pytest.raises(BadRow, match=sentence):
        rows_of(folder(name), {"messages": talk})


def test_where_a_token_reaches_over_the_border_the_prompt_stands(tmp_path: Path) -> None:
    """The prompt has the tokens that it has when it is sampled from, and the text is that of the whole."""
    backend = hf.Tokenizer(hf.models.BPE())
    backend.decoder = hf.decoders.Fuse()
    backend.train_from_iterator(["ask:\nyes;"] * 3, hf.trainers.BpeTrainer(vocab_size=50, special_tokens=["</s>"]))
    backend.save(str(tmp_path / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.content }}:\n{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "chat_template": template}))
    dataset = Instructions(path="unread", tokenizer=str(tmp_path))
    row = {"prompt": [{"role": "user", "content": "ask"}], "completion": "yes;"}
    ((record, _),) = written([dataset.parse(row)], dataset.template, dataset.template_words)
    tokenizer = load_tokenizer(tmp_path)
    ((prompt, (completion,)),), straddling = encoded(record.framed, tokenizer)
    assert straddling == 1
    assert list(prompt.ids) == tokenizer.encode("ask:\n")
    assert tokenizer.encode("ask:\nyes;")[: len(prompt.ids)] != list(prompt.ids)
    assert backend.decode([*prompt.ids, *completion.ids]) == "ask:\nyes;"
    assert completion.ids[-1] == tokenizer.eos


# ----------------------------------------------------------------------------------------------------------- truncation


@pytest.mark.parametrize("keep", ["start", "end"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_frame_is_never_cut(folder, name: str, keep: str) -> None:
    """At every length that holds the frame: frame tokens stay, contents are cut from one side, system messages last."""
    talk = [SYSTEM_MESSAGE, ASK, ANSWER, AGAIN, PLAIN][0 if FAMILIES[name].system else 1 :]
    prompt, _, _ = rows_of(folder(name), {"messages": talk})
    ids, parts = list(prompt.ids), list(prompt.parts)
    frame = [number for number, part in zip(ids, parts, strict=True) if part == FRAME]
    for length in range(len(frame), len(ids) + 1):
        cut = framed_ids(prompt, length, keep)
        assert len(cut) == length
        places = range(len(ids)) if keep == "end" else range(len(ids))[::-1]
        order = [k for kind in (CONTENT, SYSTEM) for k in places if parts[k] == kind]
        dropped = set(order[: len(ids) - length])
        assert cut == [number for k, number in enumerate(ids) if k not in dropped]
    assert framed_ids(prompt, len(frame), keep) == frame
    with pytest.raises(ValueError, match="frame alone"):
        framed_ids(prompt, len(frame) - 1, keep)


def test_a_cut_completion_has_no_part_of_its_end(folder) -> None:
    _, (completion,), tokenizer = rows_of(folder("llama2", True), {"messages": [ASK, ANSWER]})
    end = completion.parts.index(FRAME)
    assert len(completion.ids) - end == 2  # a space and the token
    for length in range(1, len(completion.ids)):
        assert completion_ids(completion, length, tokenizer)[0] == list(completion.ids[: min(length, end)])
    assert completion_ids(completion, len(completion.ids), tokenizer)[0] == list(completion.ids)


def test_lists_with_two_alike_of_different_scores_are_skipped_where_they_are_cut(tmp_path: Path, caplog) -> None:
    rows = [
        {"prompt": "why", "completions": ["no", "the same start: a", "the same start: b"], "scores": scores}
        for scores in ([0.5, 2, 3], [0.5, 2, 2])
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = Rankings(path=str(tmp_path / "rows.jsonl"), vocab_size=300, test_fraction=0.0)
    for length, used in ((4, [0.5, 2, 2]), (40, None)):
        sizes = {"batch_size": 1, "prompt_length": 9, "completion_length": length, "long_completions": "truncate"}
        with caplog.at_level(logging.WARNING, "alignjax.data"):
            source = rankings(None, 0, dataset=dataset, completions=3, **sizes)
        assert source.counts["rows"] == (1 if used else 2)
        assert ("1 skipped alike completions (line 1)" in caplog.text) == bool(used)
        assert used is None or source[0].reward[0].tolist() == used
        caplog.clear()


def test_rows_that_cannot_be_cut_and_pairs_alike_are_skipped_and_said(tmp_path: Path, caplog) -> None:
    head = "the same long beginning of both answers, said at length: "
    talk = [{"role": "user", "content": "many words " * 9}]
    turns = [{"role": ("user", "assistant")[k % 2], "content": "x"} for k in range(15)]
    rows = [
        {"prompt": talk, "chosen": "yes", "rejected": "no"},
        {"prompt": talk, "chosen": head + "good", "rejected": head + "bad"},
        {"prompt": talk, "chosen": " fine", "rejected": "fine  "},  # alike as the template writes them
        {"prompt": turns, "chosen": "yes", "rejected": "no"},
    ]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"vocab_size": 300, "test_fraction": 0.0, "chat_template": template}
    dataset = Preferences(path=str(tmp_path / "rows.jsonl"), **settings)
    sizes = {"batch_size": 1, "prompt_length": 48, "completion_length": 3, "long_completions": "truncate"}
    with caplog.at_level(logging.WARNING, "alignjax.data"):
        source = preferences(None, 0, dataset=dataset, long_prompts="truncate_left", **sizes)
        batch = source[0]
    assert {key: source.counts[key] for key in ("rows", "skipped_long_frames", "skipped_alike_completions")} == {
        "rows": 1,
        "skipped_long_frames": 1,
        "skipped_alike_completions": 2,
    }
    (line,) = caplog.messages
    assert "2 skipped alike completions (lines 2, 3)" in line
    assert "1 skipped long frames (line 4)" in line
    text = tokenizer_of(dataset).decode(batch.prompt[0][batch.prompt_valid[0]])
    assert text.startswith("<user>")
    assert text.endswith("words<assistant>")


def test_prepared_rows_are_known_by_the_contents_of_a_template(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    for name in ("one", "two", "three"):
        write_tokenizer(tmp_path / name, FAMILIES["zephyr" if name == "three" else "chatml"])
        (tmp_path / f"{name}.jinja").write_text(name[:1])
    path = str(tmp_path / "rows.jsonl")
    kinds = {name: Preferences(path=path, tokenizer=str(tmp_path / name)) for name in ("one", "two")}
    assert kinds["one"].folder == kinds["two"].folder  # the same contents under two paths
    (tmp_path / "moved").mkdir()
    moved = Preferences(path=str((tmp_path / "rows.jsonl").rename(tmp_path / "moved/data.jsonl")), tokenizer=path)
    (tmp_path / "rows.jsonl").write_text("{}")
    assert dataclasses.replace(moved, tokenizer=str(tmp_path / "one")).folder == kinds["one"].folder
    tested = [dataclasses.replace(kinds["one"], test=str(file)) for file in (path, tmp_path / "one.jinja")]
    assert len({kinds["one"].folder, *(each.folder for each in tested)}) == 3
    third = Preferences(path=str(tmp_path / "rows.jsonl"), tokenizer=str(tmp_path / "three"))
    assert third.folder != kinds["one"].folder
    shared = dataclasses.replace(kinds["one"], tokenizer=kinds["two"])
    before = shared.folder
    named = dataclasses.replace(kinds["one"], chat_template=str(tmp_path / "two.jinja"))
    assert named.folder == dataclasses.replace(named, chat_template=str(tmp_path / "three.jinja")).folder
    assert named.folder != kinds["one"].folder
    write_tokenizer(tmp_path / "two", FAMILIES["zephyr"])
    assert shared.folder != before
