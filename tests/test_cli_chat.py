"""`alignjax generate` and `alignjax chat` on a published folder of a few weights."""

from __future__ import annotations

import builtins
import json

import pytest

from alignjax.cli import chat_loop, main
from alignjax.cli.open_model import open_model
from tests.test_open_model import TALK, folder_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(folder_of(tmp_path_factory.mktemp("published") / "chatty"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(folder_of(tmp_path_factory.mktemp("published") / "base", "gemma3", template=False))


def typed(monkeypatch, *lines):
    """What a person types, line by line; an exception is what happens in the place of a line."""
    given = iter(lines)

    def line(_=""):
        one = next(given, EOFError())
        if isinstance(one, str):
            return one
        raise one

    monkeypatch.setattr(builtins, "input", line)


def test_generate_takes_rows_of_any_form(folder, tmp_path, capsys):
    line = ["generate", folder, "--max-tokens", "3", "--format", "json", "--prompt-file"]
    rows = [{"prompt": "Why?"}, {"messages": TALK}, {"instruction": "Why?", "dataset": "made up"}]
    files = {
        "rows.jsonl": "\n".join(map(json.dumps, rows)),
        "rows.txt": "\n".join(map(json.dumps, rows)),
        "rows.json": json.dumps(rows, indent=1),
    }
    said = []
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert main([*line, str(tmp_path / name)]) == 0
        said.append([json.loads(row) for row in capsys.readouterr().out.splitlines()])
    assert said[0] == said[1] == said[2]
    assert [row["prompt"] for row in said[0]] == ["Why?", TALK, "Why?"]
    (tmp_path / "system.txt").write_text("Why?")
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": TALK}))
    assert main([*line, str(tmp_path / "system.txt"), "--system", "Be brief."]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main([*line, str(tmp_path / "talk.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out) == alone  # a text behind --system is that conversation


def test_alpaca_eval_reads_what_generate_writes(folder, tmp_path, capsys):
    rows = [{"instruction": "Why?", "dataset": "made up"}, {"instruction": 'Say "é".', "dataset": "helpful"}]
    (tmp_path / "eval.json").write_text(json.dumps(rows))
    line = ["generate", folder, "--max-tokens", "4", "--prompt-file", str(tmp_path / "eval.json")]
    assert main([*line, "--format", "alpaca_eval"]) == 0
    outputs = json.loads(capsys.readouterr().out)
    assert main([*line, "--format", "json"]) == 0
    texts = [json.loads(row)["completions"][0]["text"] for row in capsys.readouterr().out.splitlines()]
    assert outputs == [{**row, "output": text, "generator": "chatty"} for row, text in zip(rows, texts, strict=True)]
    assert main([*line, "--format", "alpaca_eval", "--n", "2"]) == 2
    assert "leave out --n 2" in capsys.readouterr().err


def test_what_is_typed_is_answered_as_what_is_in_a_file(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "two.txt").write_text("Why?\nWho?")
    line = ["generate", folder, "--max-tokens", "12", "--seed", "3"]
    assert main([*line, "--prompt-file", str(tmp_path / "two.txt")]) == 0
    told = capsys.readouterr().out.replace("> Why?\n", "").replace("> Who?\n", "")
    typed(monkeypatch, "Why?", "Who?", "")
    assert main(line) == 0
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ('{"prompt": "a", "messages": []}', [], "it has prompt and messages"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', [], "nothing is left to answer"),
        ('{"prompt": "a"}\n{"prompt": 1}', [], "p:2 cannot be read: not a JSON object with a text"),
        ('[{"prompt": "a"}, {"promt": "b"}]', [], "element 2 of"),
        ('{"messages": [{"role": "system", "content": "a"}]}', ["--system", "b"], "leave out --system"),
        ("a\n" + "word " * 60, [], "prompt 2 has"),
    ],
)
def test_prompts_that_cannot_be_answered(folder, tmp_path, capsys, text, more, message):
    (tmp_path / "p").write_text(text)
    assert main(["generate", folder, "--prompt-file", str(tmp_path / "p"), "--max-tokens", "3", *more]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_a_conversation_is_remembered_until_it_is_reset(folder, capsys, monkeypatch):
    asked = []
    real = chat_loop.pieces_of

    def seen(worker, prompt, wanted):
        asked.append(prompt)
        return real(worker, prompt, wanted)

    monkeypatch.setattr(chat_loop, "pieces_of", seen)
    typed(monkeypatch, "Why?", "", "/what", "//no", "/reset", "Why?", "/system Be brief.", "Why?", "/quit", "never")
    assert main(["chat", folder, "--max-tokens", "4", "--seed", "1"]) == 0
    shown = capsys.readouterr()
    first, second, *_ = shown.out.split("\n")
    opened = open_model(folder)
    user, both = {"role": "user", "content": "Why?"}, {"role": "system", "content": "Be brief."}
    history = [user, {"role": "assistant", "content": first}, {"role": "user", "content": "/no"}]
    assert asked == [opened.prompt_ids([talk])[0] for talk in ([user], history, [user], [both, user])]
    assert shown.out.split("\n")[2] == first  # the same seed and the same conversation
    assert "there is no command /what" in shown.err
    assert "[cut after 4 tokens: --max-tokens is 4]" in shown.err
    assert second


def test_a_full_conversation_is_said_and_stays_as_it_was(folder, capsys, monkeypatch):
    typed(monkeypatch, "Why? " * 40, "Why?")
    assert main(["chat", folder, "--max-length", "40"]) == 0
    shown = capsys.readouterr()
    assert "leave no room for an answer within 40; it stays as it was: /reset" in shown.err
    assert shown.out.count("\n") >= 1
    assert main(["chat", folder, "--max-length", "65"]) == 2
    assert "--max-length is 65, and chatty is meant for 64 tokens" in capsys.readouterr().err


def test_control_c_ends_an_answer_and_then_the_chat(folder, capsys, monkeypatch):
    real = chat_loop.visible

    def interrupted(text):
        monkeypatch.setattr(chat_loop, "visible", real)
        raise KeyboardInterrupt

    typed(monkeypatch, "Why?", KeyboardInterrupt(), "never")
    monkeypatch.setattr(chat_loop, "_tell", lambda text: None)
    monkeypatch.setattr(chat_loop, "visible", interrupted)
    assert main(["chat", folder]) == 0
    assert capsys.readouterr().out.strip() == ""


def test_a_base_model_speaks_plainly_and_for_one_side(base, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        chat_loop, "pieces_of", lambda worker, prompt, wanted: asked.append((prompt, wanted)) or iter(())
    )
    typed(monkeypatch, "Why?")
    assert main(["chat", base]) == 0
    ((prompt, wanted),) = asked
    assert open_model(base).tokenizer.decode(prompt) == "User: Why?\nAssistant:"
    assert wanted.stop_texts == ("\nUser:",)
    shown = capsys.readouterr().err
    assert "no chat template, so messages are written plainly" in shown
    assert "[no words; the conversation stays as it was]" in shown
