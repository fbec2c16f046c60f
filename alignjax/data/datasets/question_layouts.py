"""Layouts of questions with their answers or solutions, and of conversations that have a form of their own."""

from __future__ import annotations

from alignjax.data.datasets import layout_fields as one
from alignjax.data.datasets.layout_fields import columns
from alignjax.data.datasets.row_layout import Layout, any_of, serves
from alignjax.data.datasets.row_shapes import ANY, shapes

TEXT, OBJECT, TALK = shapes("text", "transcript"), shapes("object"), shapes("talk")

_OTHERS = ("prompt", "messages", "conversations", "instruction", "question", "problem", "completion", "chosen")

ASKED_AND_TALKED = (
    Layout(
        "question and response",
        {"question": TEXT, "response": TEXT},
        serves(one.orca, "Instructions", "Prompts"),
        "prompt from `question`, completion from `response`",
    ),
    Layout(
        "verl",
        {"prompt": ANY, "reward_model": ANY},
        serves(one.verl, "Prompts"),
        "prompt from `prompt`, what is right from `reward_model.ground_truth`",
    ),
    Layout(
        "problem and answer",
        any_of("problem answer"),
        serves(columns(prompt="problem", answer="answer"), "Prompts"),
        "prompt from `problem`, what is right from `answer`",
        absent=("messages",),
    ),
    Layout(
        "problem and solution",
        any_of("problem solution"),
        serves(columns(prompt="problem", completion="solution"), "Instructions"),
        "prompt from `problem`, completion from `solution`",
        absent=("messages",),
    ),
    Layout(
        "openr1",
        {**any_of("problem solution answer"), "messages": TALK},
        {"Prompts": columns(prompt="problem", answer="answer"), "Instructions": one.talk},
        "prompt from `problem`, what is right from `answer`; completions from the last turn of `messages`",
    ),
    Layout(
        "numinamath",
        {**any_of("problem solution"), "messages": TALK},
        {"Instructions": one.talk, "Prompts": one.talk_or_prompt},
        "last turn from `messages`, prompt from those before",
    ),
    Layout(
        "openmathinstruct2",
        any_of("problem generated_solution expected_answer"),
        {
            "Instructions": columns(prompt="problem", completion="generated_solution"),
            "Prompts": columns(prompt="problem", answer="expected_answer"),
        },
        "prompt from `problem`, completion from `generated_solution`, what is right from `expected_answer`",
    ),
    Layout(
        "query and response",
        {"query": TEXT, "response": TEXT},
        serves(columns(prompt="query", completion="response"), "Instructions", "Prompts"),
        "prompt from `query`, completion from `response`",
        absent=_OTHERS,
    ),
    Layout(
        "squad",
        {"question": TEXT, "context": TEXT, "answers": OBJECT},
        serves(one.squad, "Instructions", "Prompts"),
        "prompt from `context` and `question`, completion, or what is right, from the first `text` of `answers`",
    ),
    Layout(
        "wildchat",
        {"conversation": TALK},
        {"Instructions": one.wild_chat, "Prompts": one.wild_chat_prompt},
        "last turn from `conversation`, prompt from those before",
        absent=_OTHERS,
    ),
    Layout(
        "capybara",
        {"conversation": shapes("objects")},
        {"Instructions": one.capybara, "Prompts": one.capybara_prompt},
        "last turn from `output` of the last of `conversation`, prompt from `input` and `output` of those before",
        absent=_OTHERS,
    ),
    Layout(
        "lima",
        {"conversations": shapes("texts")},
        {"Instructions": one.lima, "Prompts": one.lima_prompt},
        "turns from `conversations`, by turns of the user and the assistant, the last one learned",
    ),
    Layout(
        "xlam",
        {"query": TEXT, "answers": ANY, "tools": ANY},
        serves(one.xlam, "Instructions", "Prompts"),
        "prompt from `query`, calls from `answers`",
    ),
    Layout(
        "glaive",
        {"system": TEXT, "chat": TEXT},
        {"Instructions": one.glaive, "Prompts": one.glaive_prompt},
        "turns from the marks USER, ASSISTANT and FUNCTION RESPONSE of `chat`, after `system`",
        absent=_OTHERS,
    ),
)

ANSWERED = (
    Layout(
        "question and answer",
        any_of("question answer"),
        {
            "Prompts": columns(prompt="question", answer="answer"),
            "Instructions": columns(prompt="question", completion="answer"),
            "Gsm8k": dict,
        },
        "prompt from `question`, what is right from `answer`, behind #### where it has that",
    ),
)
