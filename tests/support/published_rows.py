"""Made-up rows with all the columns that published sets have, and what each dataset is to read of them.

A case is (layout, rows, {dataset: records}); a record is (prompt, completions, further fields), a prompt in messages as
a tuple of (role, content). `published_lists.py` has those of several completions.
"""

from __future__ import annotations

import json
from typing import Any

U, A, S = "user", "assistant", "system"
HI, MORE = ((U, "hi"),), ((U, "hi"), (A, "oh"), (U, "more"))


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": (U, A)[n % 2], "content": text} for n, text in enumerate(texts)]


def said_by(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": A, "content": text}]


CASES: list[tuple[str, list[dict[str, Any]], dict[str, list[Any]]]] = [
    ("prompt", [{"prompt": "p"}, {"prompt": talk("hi")}], {"Prompts": [("p", (), {}), (HI, (), {})]}),
    (
        "prompt and answer",
        [{"prompt": "p", "answer": "about 1,234"}, {"prompt": "p", "answer": "1,234"}, {"prompt": "p", "answer": 7}],
        {
            "Prompts": [
                ("p", (), {"text": "about 1,234"}),
                ("p", (), {"answer": 1234, "text": "1,234"}),
                ("p", (), {"answer": 7}),
            ]
        },
    ),
    (
        "prompt and completion",
        [{"prompt": "p", "completion": "c"}, {"prompt": talk("hi"), "completion": reply("c")}],
        {"Instructions": [("p", ("c",), {}), (HI, ("c",), {})]},
    ),
    ("text", [{"text": "a whole text"}], {"Instructions": [("", ("a whole text",), {})]}),
    (
        "messages",
        [{"messages": talk("hi", "oh", "more", "c"), "tools": None, "parallel_tool_calls": True}],
        {"Instructions": [(MORE, ("c",), {})], "Prompts": [(MORE, (), {})]},
    ),
    (
        "prompt, chosen and rejected",
        [
            {"prompt": talk("hi"), "chosen": reply("a"), "rejected": reply("b")},
            {
                "prompt": "p",
                "chosen": "a",
                "chosen_model": "m",
                "rejected": "b",
                "rejected_model": "n",
                "subset": "alpacaeval-easy",
                "id": 0,
            },
            {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 3, "score_rejected": 3.0},
        ],
        {
            "Preferences": [
                (HI, ("a", "b"), {"preference": 1}),
                ("p", ("a", "b"), {"preference": 1}),
                ("p", ("a", "b"), {"preference": 0.5}),
            ]
        },
    ),
    (
        "two conversations",
        [{"chosen": talk("hi", "a"), "rejected": talk("hi", "b"), "source": "magpie", "chosen_score": 1.0}],
        {"Preferences": [(HI, ("a", "b"), {"preference": 1})], "Prompts": [(HI, (), {})]},
    ),
    (
        "two texts",
        [{"chosen": "the sky is blue.", "rejected": "the sky is black."}],
        {"Preferences": [("the sky is", (" blue.", " black."), {})], "Prompts": [("the sky is", (), {})]},
    ),
    (
        "prompt, completion and label",
        [
            {"prompt": talk("hi"), "completion": reply("a"), "label": True},
            {"prompt": "p", "completion": "a", "label": False},
        ],
        {"Thumbs": [(HI, ("a",), {"scores": (1,)}), ("p", ("a",), {"scores": (0,)})]},
    ),
    (
        "stepwise",
        [{"prompt": "p", "completions": ["one", "two"], "labels": [True, False]}],
        {"Thumbs": [("p", ("one",), {"scores": (1,)}), ("p", ("one\ntwo",), {"scores": (0,)})]},
    ),
    (
        "ultrachat_200k",
        [{"prompt": "hi", "prompt_id": "x", "messages": talk("hi", "oh", "more", "c")}],
        {"Instructions": [(MORE, ("c",), {})]},
    ),
    (
        "ultrafeedback_binarized",
        [
            {
                "prompt": "hi",
                "prompt_id": "x",
                "chosen": talk("hi", "a"),
                "rejected": talk("hi", "b"),
                "messages": talk("hi", "a"),
                "score_chosen": 8.0,
                "score_rejected": 2.0,
            },
            {
                "prompt": "hi",
                "prompt_id": "x",
                "chosen": talk("hi", "a"),
                "rejected": talk("hi", "b"),
                "messages": talk("hi", "a"),
                "score_chosen": 8.0,
                "score_rejected": 8.0,
            },
        ],
        {"Preferences": [(HI, ("a", "b"), {"preference": 1}), (HI, ("a", "b"), {"preference": 0.5})]},
    ),
    (
        "messages, chosen and rejected",
        [{"messages": talk("hi"), "chosen": reply("a"), "rejected": reply("b")}],
        {"Preferences": [(HI, ("a", "b"), {})], "Prompts": [(HI, (), {})]},
    ),
    (
        "sharegpt",
        [
            {"id": "x", "conversations": said_by("hi", "oh", "more", "c")},
            {"id": "x", "system": "be brief", "conversations": said_by("hi", "c"), "tools": "[]"},
        ],
        {
            "Instructions": [(MORE, ("c",), {}), (((S, "be brief"), *HI), ("c",), {})],
            "Prompts": [(MORE, (), {}), (((S, "be brief"), *HI), (), {})],
        },
    ),
    (
        "conversations",
        [{"conversations": talk("hi", "c"), "source": "x"}],
        {"Instructions": [(HI, ("c",), {})], "Prompts": [(HI, (), {})]},
    ),
    (
        "sharegpt pairs",
        [
            {"conversations": said_by("hi"), "chosen": said_by("", "a")[1], "rejected": said_by("", "b")[1]},
            {"conversations": said_by("hi"), "chosen": "we a", "rejected": "we b"},
        ],
        {"Preferences": [(HI, ("a", "b"), {}), (HI, ("we a", "we b"), {})], "Prompts": [(HI, (), {})] * 2},
    ),
    (
        "conversations, chosen and rejected",
        [{"conversations": talk("hi"), "chosen": reply("we a")[0], "rejected": reply("we b")[0]}],
        {"Preferences": [(HI, ("we a", "we b"), {})], "Prompts": [(HI, (), {})]},
    ),
    (
        "alpaca pairs",
        [
            {"instruction": "do", "input": "this", "chosen": "we a", "rejected": "we b"},
            {"instruction": "do", "input": "", "chosen": "we a", "rejected": "we b"},
        ],
        {
            "Preferences": [("do\n\nthis", ("we a", "we b"), {}), ("do", ("we a", "we b"), {})],
            "Prompts": [("do\n\nthis", (), {}), ("do", (), {})],
        },
    ),
    (
        "alpaca thumbs",
        [{"instruction": "do", "input": "this", "output": "c", "kto_tag": kind} for kind in (True, False)],
        {"Thumbs": [("do\n\nthis", ("c",), {"scores": (1,)}), ("do\n\nthis", ("c",), {"scores": (0,)})]},
    ),
    (
        "sharegpt thumbs",
        [{"conversations": said_by("hi", "a"), "kto_tag": False}],
        {"Thumbs": [(HI, ("a",), {"scores": (0,)})], "Prompts": [(HI, (), {})]},
    ),
    (
        "alpaca",
        [
            {"instruction": "do", "input": "this", "output": "c", "text": "Below is ... do ... c"},
            {"instruction": "do", "input": "", "output": "c", "text": "t"},
        ],
        {
            "Instructions": [("do\n\nthis", ("c",), {}), ("do", ("c",), {})],
            "Prompts": [("do\n\nthis", (), {}), ("do", (), {})],
        },
    ),
    (
        "instruction and response",
        [{"instruction": "do", "context": "this", "response": "c", "category": "open_qa"}],
        {"Instructions": [("do\n\nthis", ("c",), {})], "Prompts": [("do\n\nthis", (), {})]},
    ),
    (
        "question, chosen and rejected",
        [{"system": "be brief", "question": "hi", "chosen": "a", "rejected": "b"}],
        {"Preferences": [(((S, "be brief"), *HI), ("a", "b"), {})], "Prompts": [(((S, "be brief"), *HI), (), {})]},
    ),
    (
        "question and response",
        [{"id": "x", "system_prompt": "", "question": "hi", "response": "c"}],
        {"Instructions": [(HI, ("c",), {})], "Prompts": [(HI, (), {})]},
    ),
    (
        "verl",
        [
            {
                "data_source": "openai/gsm8k",
                "prompt": talk("hi"),
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": "42"},
                "extra_info": {"split": "train", "index": 0, "answer": "... #### 42", "question": "hi"},
            }
        ],
        {"Prompts": [(HI, (), {"answer": 42, "text": "42"})]},
    ),
    (
        "problem and answer",
        [
            {"problem": "p", "answer": "\\frac{1}{2}", "solution": "s"},
            {"problem": "p", "answer": "-3.5", "solution": "s"},
        ],
        {"Prompts": [("p", (), {"text": "\\frac{1}{2}"}), ("p", (), {"answer": -3.5})]},
    ),
    (
        "problem and solution",
        [{"problem": "p", "answer": "1", "solution": "s", "subject": "algebra", "level": 2, "unique_id": "x"}],
        {"Instructions": [("p", ("s",), {})]},
    ),
    (
        "openr1",
        [
            {
                "problem": "hi",
                "solution": "s",
                "answer": "8",
                "problem_type": "Algebra",
                "question_type": "math-word-problem",
                "source": "olympiads",
                "uuid": "x",
                "is_reasoning_complete": [True],
                "generations": ["g"],
                "correctness_math_verify": [True],
                "correctness_llama": None,
                "finish_reasons": None,
                "correctness_count": 1,
                "messages": talk("hi", "c"),
            }
        ],
        {"Prompts": [("hi", (), {"answer": 8})], "Instructions": [(HI, ("c",), {})]},
    ),
    (
        "question and answer",
        [{"question": "p", "answer": "6 times 7\n#### 42"}],
        {"Prompts": [("p", (), {"answer": 42, "text": "42"})], "Instructions": [("p", ("6 times 7\n#### 42",), {})]},
    ),
    ("prompt and response", [{"prompt": "p", "response": "c"}], {"Instructions": [("p", ("c",), {})]}),
    (
        "numinamath",
        [{"source": "x", "problem": "hi", "solution": "c", "messages": talk("hi", "c")}],
        {"Instructions": [(HI, ("c",), {})], "Prompts": [(HI, (), {})]},
    ),
    (
        "openmathinstruct2",
        [{"problem": "p", "generated_solution": "so 5", "expected_answer": "5", "problem_source": "x"}],
        {"Instructions": [("p", ("so 5",), {})], "Prompts": [("p", (), {"answer": 5})]},
    ),
    (
        "query and response",
        [{"query": "p", "response": "c", "type": "x", "original_question": "o"}],
        {"Instructions": [("p", ("c",), {})], "Prompts": [("p", (), {})]},
    ),
    (
        "squad",
        [
            {
                "id": "x",
                "title": "t",
                "context": "c",
                "question": "q",
                "answers": {"text": ["a", "b"], "answer_start": [3, 9]},
            }
        ],
        {"Instructions": [("c\n\nq", ("a",), {})], "Prompts": [("c\n\nq", (), {"text": "a"})]},
    ),
    (
        "wildchat",
        [
            {
                "conversation_hash": "x",
                "model": "m",
                "toxic": False,
                "conversation": [{**turn, "language": "English", "redacted": False} for turn in talk("hi", "c")],
            }
        ],
        {"Instructions": [(HI, ("c",), {})], "Prompts": [(HI, (), {})]},
    ),
    (
        "capybara",
        [{"source": "x", "conversation": [{"input": "hi", "output": "oh"}, {"input": "more", "output": "c"}]}],
        {"Instructions": [(MORE, ("c",), {})], "Prompts": [(MORE, (), {})]},
    ),
    (
        "lima",
        [{"conversations": ["hi", "oh", "more", "c"], "source": "x"}],
        {"Instructions": [(MORE, ("c",), {})], "Prompts": [(MORE, (), {})]},
    ),
    (
        "xlam",
        [
            {
                "id": 0,
                "query": "hi",
                "answers": json.dumps([{"name": "f", "arguments": {"a": 1}}]),
                "tools": json.dumps([{"name": "f", "description": "d", "parameters": {"a": {"type": "int"}}}]),
            }
        ],
        {
            "Instructions": [(HI, ('[{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]',), {})],
            "Prompts": [(HI, (), {})],
        },
    ),
    (
        "glaive",
        [{"system": "SYSTEM: be brief", "chat": "USER: hi\n\n\nASSISTANT: c <|endoftext|>\n\n\n"}],
        {"Instructions": [(((S, "be brief"), *HI), ("c",), {})], "Prompts": [(((S, "be brief"), *HI), (), {})]},
    ),
]
