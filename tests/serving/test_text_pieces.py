"""Pieces of text: together they are the text, each of whole characters, whatever the tokenizer and the tokens."""

from __future__ import annotations

import random

import pytest

from alignjax.data import load_tokenizer, train_bpe
from alignjax.serving.text_pieces import StopTexts, TextPieces, token_bytes, token_text
from tests.support.chat_families import FAMILIES, write_tokenizer

TEXT = "Why is the sky blue? — Ça, c'est 两个 🏳️‍🌈 don't , it 's\n\n  café . <|im_end|> done"


@pytest.fixture(scope="module", params=["bytes", "metaspace", "cleaning", "own"])
def tokenizer(request, tmp_path_factory):
    if request.param == "own":
        return train_bpe([TEXT] * 3, 300)
    folder = tmp_path_factory.mktemp("tokenizer") / request.param
    loaded = load_tokenizer(write_tokenizer(folder, FAMILIES["chatml"], metaspace=request.param == "metaspace"))
    if request.param == "cleaning":
        object.__setattr__(loaded, "cleans_up", True)
    return loaded


def said(tokenizer, ids, before=()):
    pieces = TextPieces(tokenizer, before)
    return [*(pieces.push(token) for token in ids), pieces.close()]


def test_pieces_are_the_text_and_never_half_a_character(tokenizer):
    ids = tokenizer.encode(TEXT)
    told = said(tokenizer, ids)
    assert "".join(told) == tokenizer.decode(ids)
    assert len([piece for piece in told if piece]) > 20
    assert not any("\ufffd" in piece for piece in told[:-1]) or "\ufffd" in tokenizer.decode(ids)
    for cut in range(len(ids)):  # a beginning of them is told as it would be alone, but for what is not certain yet
        assert tokenizer.decode(ids[:cut]).startswith("".join(told[:cut]))


def test_pieces_of_any_tokens_are_their_text(tokenizer):
    draw = random.Random(3)
    for _ in range(40):
        ids = [draw.randrange(tokenizer.vocab_size) for _ in range(draw.randrange(1, 40))]
        assert "".join(said(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_continuation_is_what_it_adds_to_the_prompt(tokenizer):
    ids = tokenizer.encode("Why is the sky blue in here")
    for cut in range(1, len(ids)):
        before, behind = tokenizer.decode(ids[:cut]), "".join(said(tokenizer, ids[cut:], ids[:cut]))
        assert before + behind == tokenizer.decode(ids)


def test_stops_are_found_wherever_pieces_are_cut():
    draw = random.Random(5)
    for _ in range(300):
        text = "".join(draw.choice("ab") for _ in range(draw.randrange(1, 14)))
        stops = ["".join(draw.choice("ab") for _ in range(draw.randrange(1, 5))) for _ in range(draw.randrange(3))]
        finder, out, rest, stopped = StopTexts(stops), "", text, False
        while rest and not stopped:
            size = draw.randrange(1, 4)
            piece, stopped = finder.push(rest[:size])
            out, rest = out + piece, rest[size:]
        out += "" if stopped else finder.close()
        places = [text.find(stop) for stop in stops if stop in text]
        assert stopped == bool(places)
        # The first stop that is complete ends the text; another that began before it is not whole by then.
        if not places:
            assert out == text
        else:
            assert any(text.startswith(out + stop) for stop in stops)
            assert not any(stop in out for stop in stops)


def test_tokens_are_told_as_text_or_as_bytes(tokenizer):
    ids = tokenizer.encode("Why café")
    assert b"".join(token_bytes(tokenizer, token) for token in ids).decode().strip() == "Why café"
    assert token_text(tokenizer, tokenizer.eos) == tokenizer.backend.id_to_token(tokenizer.eos)
    assert token_bytes(tokenizer, 10**6) == b""
    byte = tokenizer.backend.token_to_id("Ã")  # 0xc3 in a byte-level vocabulary
    if byte is not None:
        assert token_text(tokenizer, byte) == "bytes:\\xc3"
