"""Likewise made-up rows, of sets that compare or rank several completions; see `published_rows.py`."""

from __future__ import annotations

from typing import Any

from tests.support.published_rows import HI, MORE, A, reply, talk

ASPECT = {"Rating": "4", "Rationale": "r", "Type": ["1"], "Rationale For Rating": "x"}


def rated(text: str, score: float, helpful: str) -> dict[str, Any]:
    aspects = dict.fromkeys(("honesty", "truthfulness", "instruction_following"), ASPECT)
    return {
        "annotations": {**aspects, "helpfulness": {**ASPECT, "Rating": helpful}},
        "custom_system_prompt": "s",
        "model": "m",
        "principle": "p",
        "response": text,
        "critique": "c",
        "overall_score": score,
        "fine-grained_score": score / 2,
    }


def node(
    name: str, parent: str | None, role: str, text: str, rank: int | None, quality: float | None
) -> dict[str, Any]:
    labels = {"name": ["spam", "quality"], "value": [0.0, quality], "count": [3, 3]} if quality is not None else None
    return {
        "message_id": name,
        "parent_id": parent,
        "user_id": "u",
        "created_date": "2023-02-05T14:23:50.983374+00:00",
        "text": text,
        "role": role,
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": text == "gone",
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "detoxify": {"toxicity": 0.01},
        "message_tree_id": "a",
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [2]},
        "labels": labels,
    }


TREE = [
    node("a", None, "prompter", "hi", None, None),
    node("b", "a", A, "so", 1, 0.25),
    node("c", "a", A, "oh", 0, 0.75),
    node("d", "a", A, "gone", 2, 0.5),
    node("e", "c", "prompter", "more", None, None),
    node("f", "e", A, "bad", 1, None),
    node("g", "e", A, "good", 0, 1.0),
]


TREE_RECORDS = {
    "Rankings": [(HI, ("so", "oh"), {"scores": (-1, 0)}), (MORE, ("bad", "good"), {"scores": (-1, 0)})],
    "Preferences": [(HI, ("oh", "so"), {"preference": 1}), (MORE, ("good", "bad"), {"preference": 1})],
    "Instructions": [(HI, ("oh",), {}), (MORE, ("good",), {})],
    "Thumbs": [
        (HI, ("so",), {"scores": (0.25,)}),
        (HI, ("oh",), {"scores": (0.75,)}),
        (MORE, ("good",), {"scores": (1,)}),
    ],
    "Prompts": [(HI, (), {}), (MORE, (), {})],
}


def nested(name: str) -> dict[str, Any]:
    replies = [nested(each["message_id"]) for each in TREE if each["parent_id"] == name]
    (message,) = [each for each in TREE if each["message_id"] == name]
    labels = message["labels"] and {"quality": {"value": message["labels"]["value"][1], "count": 3}}
    return {**{k: v for k, v in message.items() if k != "message_tree_id"}, "labels": labels, "replies": replies}


def help_steer(text: str, helpful: int, correct: int) -> dict[str, Any]:
    prompt = "hi\n\n<extra_id_1>Assistant\noh\n\n<extra_id_1>User\nmore"
    rest = {"coherence": 4, "complexity": 1, "verbosity": 2}
    return {"prompt": prompt, "response": text, "helpfulness": helpful, "correctness": correct, **rest}


LISTS: list[tuple[str, list[dict[str, Any]], dict[str, list[Any]]]] = [
    (
        "stack exchange",
        [
            {
                "qid": 3,
                "question": "p",
                "answers": [
                    {"answer_id": 1, "author": "x", "pm_score": 2, "selected": False, "text": "a"},
                    {"answer_id": 2, "author": "y", "pm_score": 5, "selected": True, "text": "b"},
                ],
                "date": "2020/01/01",
            }
        ],
        {
            "Rankings": [("p", ("a", "b"), {"scores": (2, 5)})],
            "Preferences": [("p", ("b", "a"), {"preference": 1, "weight": 1})],
            "Prompts": [("p", (), {})],
        },
    ),
    (
        "prompt, completions and scores",
        [{"prompt": "p", "completions": ["a", "b", "c"], "scores": [1, 3, 1]}],
        {
            "Rankings": [("p", ("a", "b", "c"), {"scores": (1, 3, 1)})],
            "Preferences": [
                ("p", ("b", "a"), {"preference": 1, "weight": 1 / 3}),
                ("p", ("a", "c"), {"preference": 0.5, "weight": 1 / 3}),
                ("p", ("b", "c"), {"preference": 1, "weight": 1 / 3}),
            ],
        },
    ),
    (
        "openai preferences",
        [
            {
                "input": {"messages": talk("hi"), "tools": [], "parallel_tool_calls": True},
                "preferred_output": reply("a"),
                "non_preferred_output": reply("b"),
            }
        ],
        {"Preferences": [(HI, ("a", "b"), {"preference": 1})], "Prompts": [(HI, (), {})]},
    ),
    (
        "helpsteer2",
        [help_steer("a", 2, 4), help_steer("b", 3, 4)],
        {
            "Preferences": [(MORE, ("b", "a"), {"preference": 1, "weight": 1})],
            "Rankings": [(MORE, ("a", "b"), {"scores": (2, 3)})],
            "Prompts": [(MORE, (), {})],
        },
    ),
    (
        "helpsteer2 preferences",
        [
            {
                "split": "train",
                "prompt": "hi",
                "response_1": "a",
                "response_2": "b",
                "preference_strength": 2,
                "preference_statement": "s",
                "preference_elaboration": "e",
                "three_most_similar_preferences": [],
                "all_preferences_unprocessed": [],
            }
        ],
        {
            "Preferences": [(HI, ("b", "a"), {"preference": 1})],
            "Rankings": [(HI, ("a", "b"), {"scores": (-1, 1)})],
            "Prompts": [(HI, (), {})],
        },
    ),
    (
        "helpsteer3",
        [
            {
                "domain": "general",
                "language": "english",
                "context": talk("hi", "oh", "more"),
                "response1": "a",
                "response2": "b",
                "overall_preference": strength,
                "individual_preference": [{"score": -3, "reasoning": "r", "feedback1": "f", "feedback2": "f"}],
            }
            for strength in (-3, 0)
        ],
        {
            "Preferences": [(MORE, ("a", "b"), {"preference": 1}), (MORE, ("a", "b"), {"preference": 0.5})],
            "Rankings": [(MORE, ("a", "b"), {"scores": (1.5, -1.5)}), (MORE, ("a", "b"), {"scores": (0, 0)})],
            "Prompts": [(MORE, (), {})] * 2,
        },
    ),
    (
        "rewardbench2",
        [
            {
                "id": "1",
                "prompt": "p",
                "chosen": ["a", "b"],
                "rejected": ["c"],
                "num_correct": 2,
                "num_incorrect": 1,
                "total_completions": 3,
                "models": ["m", "n", "o"],
                "subset": "Ties",
                "additional_metadata": {"category": None},
            }
        ],
        {
            "Preferences": [
                ("p", ("a", "c"), {"preference": 1, "weight": 0.5}),
                ("p", ("b", "c"), {"preference": 1, "weight": 0.5}),
            ],
            "Rankings": [("p", ("a", "b", "c"), {"scores": (1, 1, 0)})],
        },
    ),
    (
        "nectar",
        [
            {
                "prompt": "\n\nHuman: hi\n\nAssistant: oh\n\nHuman: more\n\nAssistant: ",
                "answers": [{"answer": text, "model": "m", "rank": rank} for text, rank in (("b", 2.0), ("a", 1.0))],
                "turns": 2,
                "num_responses": 2,
                "source": ["lmsys-chat-1m"],
                "good_natured": True,
            }
        ],
        {
            "Rankings": [(MORE, ("b", "a"), {"scores": (-2, -1)})],
            "Preferences": [(MORE, ("a", "b"), {"preference": 1})],
            "Prompts": [(MORE, (), {})],
        },
    ),
    (
        "ultrafeedback",
        [
            {
                "source": "evol_instruct",
                "instruction": "p",
                "models": ["m", "n"],
                "completions": [rated("a", 7.5, "3"), rated("b", 8.0, "2")],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            }
        ],
        {
            "Rankings": [("p", ("a", "b"), {"scores": (7.5, 8)})],
            "Preferences": [("p", ("b", "a"), {"preference": 1})],
            "Prompts": [("p", (), {})],
        },
    ),
    ("oasst", TREE, TREE_RECORDS),
    ("oasst trees", [{"message_tree_id": "a", "tree_state": "ready_for_export", "prompt": nested("a")}], TREE_RECORDS),
    (
        "hh-rlhf",
        [
            {
                "chosen": "\n\nHuman: hi\n\nAssistant: oh\n\nHuman: more\n\nAssistant: a",
                "rejected": "\n\nHuman: hi\n\nAssistant: oh\n\nHuman: more\n\nAssistant: b",
            }
        ],
        {"Preferences": [(MORE, ("a", "b"), {"preference": 1})], "Prompts": [(MORE, (), {})]},
    ),
    (
        "shp",
        [
            {
                "post_id": "x",
                "domain": "askacademia_train",
                "upvote_ratio": 0.99,
                "history": "p",
                "c_root_id_A": "q",
                "c_root_id_B": "r",
                "created_at_utc_A": 1,
                "created_at_utc_B": 2,
                "score_A": votes,
                "score_B": 7,
                "human_ref_A": "a",
                "human_ref_B": "b",
                "labels": label,
                "seconds_difference": 1.0,
                "score_ratio": 2.0,
            }
            for votes, label in ((3, 0), (7, 0))
        ],
        {
            "Preferences": [("p", ("b", "a"), {"preference": 1}), ("p", ("a", "b"), {"preference": 0.5})],
            "Rankings": [("p", ("a", "b"), {"scores": (3, 7)}), ("p", ("a", "b"), {"scores": (7, 7)})],
            "Prompts": [("p", (), {})] * 2,
        },
    ),
    (
        "webgpt",
        [
            {
                "question": {"dataset": "eli5", "id": "x", "full_text": "p"},
                "quotes_0": {"title": ["t"]},
                "answer_0": "a",
                "tokens_0": {"prefix": [1]},
                "score_0": -0.5,
                "quotes_1": {"title": ["t"]},
                "answer_1": "b",
                "tokens_1": {"prefix": [1]},
                "score_1": 0.5,
            }
        ],
        {
            "Preferences": [("p", ("b", "a"), {"preference": 1})],
            "Rankings": [("p", ("a", "b"), {"scores": (-0.5, 0.5)})],
            "Prompts": [("p", (), {})],
        },
    ),
    (
        "safe-rlhf",
        [
            {
                "prompt": "p",
                "response_0": "a",
                "response_1": "b",
                "prompt_source": "x",
                "is_response_0_safe": True,
                "is_response_1_safe": False,
                "better_response_id": 1,
                "safer_response_id": 0,
            }
        ],
        {"Preferences": [("p", ("b", "a"), {"preference": 1})], "Rankings": [("p", ("a", "b"), {"scores": (0, 1)})]},
    ),
    (
        "arena",
        [
            {
                "question_id": "x",
                "model_a": "m",
                "model_b": "n",
                "winner": winner,
                "judge": "j",
                "conversation_a": talk("hi", "a"),
                "conversation_b": talk("hi", "b"),
                "turn": 1,
                "anony": True,
                "language": "English",
                "tstamp": 1.0,
                "openai_moderation": {"flagged": False},
                "toxic_chat_tag": {"roberta-large": {"flagged": False}},
            }
            for winner in ("model_b", "tie (bothbad)")
        ],
        {
            "Preferences": [(HI, ("a", "b"), {"preference": 0}), (HI, ("a", "b"), {"preference": 0.5})],
            "Prompts": [(HI, (), {})] * 2,
        },
    ),
    (
        "ultrainteract",
        [
            {
                "task": "Math_CoT",
                "dataset": "gsm8k",
                "trajectory": [
                    {"from": "user", "value": "hi"},
                    {"from": "assistant", "value": "oh"},
                    {"from": "user", "value": "more"},
                ],
                "chosen": "a",
                "rejected": "b",
                "id": "x",
                "parent_id": "y",
            }
        ],
        {"Preferences": [(MORE, ("a", "b"), {"preference": 1})], "Prompts": [(MORE, (), {})]},
    ),
]
