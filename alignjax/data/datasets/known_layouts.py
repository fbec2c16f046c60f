"""Layouts of rows that are known: an entry each. `docs/data.md` has them as a table, and says how to add one."""

from __future__ import annotations

from alignjax.data.datasets import layout_fields as one, list_fields as several, message_trees
from alignjax.data.datasets.layout_fields import columns
from alignjax.data.datasets.question_layouts import ANSWERED, ASKED_AND_TALKED
from alignjax.data.datasets.row_layout import Layout, Reading, any_of, serves
from alignjax.data.datasets.row_shapes import ANY, shapes


def _lists(read: Reading) -> dict[str, Reading]:
    """What serves lists, and pairs out of them."""
    return {"Rankings": read, "Preferences": several.in_pairs(read)}


def _pairs(read: Reading) -> dict[str, Reading]:
    """Likewise, of lists of two."""
    return {"Preferences": several.in_pairs(read), "Rankings": read}


TEXT, OBJECT, OBJECTS = shapes("text", "transcript"), shapes("object"), shapes("objects")
TALK, TRANSCRIPT, FROM = shapes("talk"), shapes("transcript"), shapes("from_talk")
ANSWER = shapes(
    but="list talk talks texts from_talk from_reply"
)  # an answer, or what is no other layout's: it is refused
_SIDES = ("chosen", "rejected")
_SCORES = tuple(name for names in one.SCORES for name in names)
# Columns that hold a prompt under another name: where one stands beside two texts, what these share is no prompt.
_ASKED = ("instruction", "input", "question", "query", "problem", "context", "conversations", "conversation")
_PROMPT = serves(columns(prompt="prompt"), "Prompts")

_TREES = {
    "Rankings": message_trees.rankings,
    "Preferences": several.in_pairs(message_trees.rankings),
    "Instructions": message_trees.instructions,
    "Thumbs": message_trees.thumbs,
    "Prompts": message_trees.prompts,
}
_OTHERS = ("prompt", "messages", "conversations", "instruction", "question", "problem", "completion", "chosen")

LAYOUTS = (
    # As TRL has them
    Layout("prompt", any_of("prompt"), _PROMPT, "prompt from `prompt`"),
    Layout(
        "prompt and answer",
        {"prompt": ANY, "answer": shapes("text", "number")},
        serves(columns(prompt="prompt", answer="answer"), "Prompts"),
        "prompt from `prompt`, what is right from `answer`",
    ),
    Layout(
        "prompt and completion",
        any_of("prompt completion"),
        serves(columns(prompt="prompt", completion="completion"), "Instructions"),
        "prompt from `prompt`, completion from `completion`",
    ),
    Layout(
        "text",
        {"text": TEXT},
        serves(one.plain_text, "Instructions"),
        "all of `text`, after no prompt",
        absent=_OTHERS,
    ),
    Layout(
        "messages",
        any_of("messages"),
        {"Instructions": one.talk, "Prompts": one.talk_or_prompt},
        "last turn from `messages`, prompt from those before",
        absent=("prompt",),
    ),
    Layout(
        "prompt, chosen and rejected",
        {"prompt": ANY, "chosen": ANSWER, "rejected": ANSWER},
        serves(one.pair, "Preferences"),
        "prompt from `prompt`, answers from `chosen` and `rejected`",
        more=_SCORES,
    ),
    Layout(
        "two conversations",
        dict.fromkeys(_SIDES, TALK),
        serves(one.two_talks, "Preferences", "Prompts"),
        "prompt from what `chosen` and `rejected` share, answers from their last turns",
        absent=("prompt",),
        more=_SCORES,
    ),
    Layout(
        "two texts",
        dict.fromkeys(_SIDES, shapes("text")),
        serves(one.two_texts, "Preferences", "Prompts"),
        "prompt from the words that `chosen` and `rejected` begin with, answers from the rest",
        absent=("prompt", "messages", "prompt_chosen", "prompt_rejected", *_ASKED),
    ),
    Layout(
        "prompt, completions and scores",
        any_of("prompt completions scores"),
        _lists(several.ranked),
        "prompt from `prompt`, completions with `scores`",
    ),
    Layout(
        "prompt, completion and label",
        any_of("prompt completion label"),
        serves(columns(prompt="prompt", completion="completion", label="label"), "Thumbs"),
        "prompt from `prompt`, completion from `completion`, good or bad from `label`",
    ),
    Layout(
        "stepwise",
        any_of("prompt completions labels"),
        serves(one.stepwise, "Thumbs"),
        "prompt from `prompt`, steps from `completions`, each with those before it judged by its one of `labels`",
    ),
    # Published sets and the tools of others
    Layout(
        "ultrachat_200k",
        {"prompt": shapes(but="talk"), "messages": TALK},
        serves(one.talk_and_prompt, "Instructions"),
        "last turn from `messages`, prompt from those before",
    ),
    Layout(
        "ultrafeedback_binarized",
        {"prompt": ANY, "chosen": TALK, "rejected": TALK},
        serves(one.two_talks_and_prompt, "Preferences"),
        "prompt from what `chosen` and `rejected` share, answers from their last turns; equal `score_*` are a tie",
        more=_SCORES,
    ),
    Layout(
        "messages, chosen and rejected",
        {"messages": TALK, "chosen": ANSWER, "rejected": ANSWER},
        serves(columns(prompt="messages", chosen="chosen", rejected="rejected"), "Preferences", "Prompts"),
        "prompt from `messages`, answers from `chosen` and `rejected`",
        absent=("prompt",),
    ),
    Layout(
        "sharegpt",
        {"conversations": FROM},
        {"Instructions": one.share_gpt, "Prompts": one.share_gpt_prompt},
        "last turn from `conversations`, prompt from those before",
        absent=("kto_tag",),
    ),
    Layout(
        "conversations",
        {"conversations": TALK},
        {
            "Instructions": lambda row: one.talk(row, "conversations"),
            "Prompts": lambda row: one.talk_or_prompt(row, "conversations"),
        },
        "last turn from `conversations`, prompt from those before",
    ),
    Layout(
        "sharegpt pairs",
        {"conversations": FROM, **dict.fromkeys(_SIDES, shapes("from_reply", "from_talk", "text"))},
        serves(one.share_gpt_answers, "Preferences", "Prompts"),
        "prompt from `conversations`, answers from `chosen` and `rejected`",
    ),
    Layout(
        "conversations, chosen and rejected",
        {"conversations": TALK, **dict.fromkeys(_SIDES, shapes("reply", "text"))},
        serves(columns(prompt="conversations", chosen="chosen", rejected="rejected"), "Preferences", "Prompts"),
        "prompt from `conversations`, answers from `chosen` and `rejected`",
    ),
    Layout(
        "sharegpt thumbs",
        {"conversations": FROM, "kto_tag": ANY},
        serves(one.share_gpt_answers, "Thumbs", "Prompts"),
        "last turn from `conversations`, prompt from those before, good or bad from `kto_tag`",
    ),
    Layout(
        "alpaca",
        any_of("instruction output"),
        serves(one.alpaca, "Instructions", "Prompts"),
        "prompt from `instruction` and `input`, completion from `output`",
        more=("input", "context"),
    ),
    Layout(
        "alpaca pairs",
        {"instruction": TEXT, "chosen": ANSWER, "rejected": ANSWER},
        serves(one.alpaca, "Preferences", "Prompts"),
        "prompt from `instruction` and `input`, answers from `chosen` and `rejected`",
        more=("input", "context"),
    ),
    Layout(
        "alpaca thumbs",
        any_of("instruction output kto_tag"),
        serves(one.alpaca, "Thumbs"),
        "prompt from `instruction` and `input`, completion from `output`, good or bad from `kto_tag`",
        more=("input", "context"),
    ),
    Layout(
        "instruction and response",
        any_of("instruction response"),
        serves(one.alpaca, "Instructions", "Prompts"),
        "prompt from `instruction` and `context`, completion from `response`",
        more=("context", "input"),
    ),
    Layout(
        "openai preferences",
        {"input": OBJECT, "preferred_output": ANY, "non_preferred_output": ANY},
        serves(one.openai_pair, "Preferences", "Prompts"),
        "prompt from `input.messages`, answers from `preferred_output` and `non_preferred_output`",
    ),
    Layout(
        "helpsteer2",
        {"prompt": TEXT, "response": TEXT, **any_of("helpfulness correctness coherence complexity verbosity")},
        {**_pairs(several.help_steer_2), "Prompts": several.help_steer_2_prompt},
        "prompt from `prompt`, responses from the `response` of rows with one prompt, scores from `helpfulness`",
        group=lambda row: row["prompt"],
        score="helpfulness",
    ),
    Layout(
        "helpsteer2 preferences",
        {"prompt": TEXT, **any_of("response_1 response_2 preference_strength")},
        {**_pairs(several.help_steer_2_pair), "Prompts": several.help_steer_2_pair},
        "prompt from `prompt`, answers from `response_1` and `response_2`, who is better from `preference_strength`",
    ),
    Layout(
        "helpsteer3",
        any_of("context response1 response2 overall_preference"),
        {**_pairs(several.help_steer_3), "Prompts": several.help_steer_3},
        "prompt from `context`, answers from `response1` and `response2`, who is better from `overall_preference`",
    ),
    Layout(
        "rewardbench2",
        {"prompt": ANY, "chosen": shapes("texts", "list"), "rejected": shapes("texts", "list")},
        {"Preferences": several.reward_bench_2, "Rankings": several.reward_bench_2_list},
        "prompt from `prompt`, right answers from `chosen` and wrong ones from `rejected`",
    ),
    Layout(
        "nectar",
        {"prompt": TEXT, "answers": OBJECTS},
        {**_lists(several.nectar), "Prompts": several.nectar},
        "prompt from `prompt`, completions from `answers`, scores from minus their `rank`",
    ),
    Layout(
        "ultrafeedback",
        {"instruction": TEXT, "completions": OBJECTS},
        {**_lists(several.ultra_feedback), "Prompts": lambda row, _: {"prompt": row["instruction"]}},
        "prompt from `instruction`, completions with scores from `completions`",
        score="overall_score",
    ),
    Layout(
        "oasst",
        any_of("message_id message_tree_id text role"),
        _TREES,
        "prompts and replies from the `text` of the messages of one tree, scores from minus their `rank`, or `labels`",
        more=("parent_id", "rank", "deleted", "labels"),
        group=lambda row: row["message_tree_id"],
        score="rank",
    ),
    Layout(
        "oasst trees",
        {"message_tree_id": ANY, "prompt": OBJECT},
        _TREES,
        "prompts and replies from the messages within `prompt`, scores from minus their `rank`, or `labels`",
        score="rank",
    ),
    Layout(
        "hh-rlhf",
        dict.fromkeys(_SIDES, TRANSCRIPT),
        serves(one.two_transcripts, "Preferences", "Prompts"),
        "prompt from the turns that `chosen` and `rejected` share, answers from their last turns",
        absent=("prompt",),
    ),
    Layout(
        "shp",
        any_of("history human_ref_A human_ref_B labels score_A score_B"),
        {**_pairs(several.shp), "Prompts": columns(prompt="history")},
        "prompt from `history`, answers from `human_ref_A` and `human_ref_B`, scores from `score_A` and `score_B`",
    ),
    Layout(
        "webgpt",
        any_of("question answer_0 answer_1 score_0 score_1"),
        {**_pairs(several.web_gpt), "Prompts": several.web_gpt},
        "prompt from `question`, answers from `answer_0` and `answer_1`, scores from `score_0` and `score_1`",
    ),
    Layout(
        "safe-rlhf",
        any_of("prompt response_0 response_1 better_response_id"),
        _pairs(several.safe_rlhf),
        "prompt from `prompt`, answers from `response_0` and `response_1`, who is better from `better_response_id`",
        more=("safer_response_id",),
        score="better_response_id",
    ),
    Layout(
        "arena",
        {"conversation_a": TALK, "conversation_b": TALK, "winner": ANY},
        serves(one.arena, "Preferences", "Prompts"),
        "prompt from what `conversation_a` and `conversation_b` share, answers from the rest, who wins from `winner`",
    ),
    Layout(
        "ultrainteract",
        {"trajectory": FROM, "chosen": TEXT, "rejected": TEXT},
        serves(one.ultra_interact, "Preferences", "Prompts"),
        "prompt from `trajectory`, answers from `chosen` and `rejected`",
    ),
    Layout(
        "stack exchange",
        {"question": TEXT, "answers": OBJECTS},
        {**_lists(several.stack_exchange), "Prompts": columns(prompt="question")},
        "prompt from `question`, completions from the `text` of `answers`, scores from their `pm_score`",
    ),
    Layout(
        "question, chosen and rejected",
        {"question": TEXT, "chosen": ANSWER, "rejected": ANSWER},
        serves(one.orca, "Preferences", "Prompts"),
        "prompt from `question`, answers from `chosen` and `rejected`",
    ),
    *ASKED_AND_TALKED,
    # What datasets of one kind of row read
    *ANSWERED,
    Layout(
        "prompt and response",
        any_of("prompt response"),
        {"Instructions": columns(prompt="prompt", completion="response"), "Judgements": dict},
        "prompt from `prompt`, completion from `response`",
        more=("judgement",),
    ),
    Layout(
        "two prompts",
        any_of("prompt_chosen chosen prompt_rejected rejected"),
        serves(dict, "JointPreferences"),
        "prompts from `prompt_chosen` and `prompt_rejected`, answers from `chosen` and `rejected`",
        more=("prompt",),
    ),
    Layout(
        "e-mails",
        any_of("email_body subject_line"),
        serves(dict, "Aeslc"),
        "prompt from `email_body`, completion from `subject_line`",
    ),
    Layout(
        "transcripts",
        any_of("chosen rejected"),
        serves(dict, "HelpfulHarmless"),
        "prompt from the turns that `chosen` and `rejected` share, answers from their last turns",
        absent=("prompt",),
    ),
    Layout(
        "annotations",
        any_of("instruction output_1 output_2 preference"),
        serves(dict, "AlpacaEval"),
        "prompt from `instruction`, answers from `output_1` and `output_2`, who is better from `preference`",
        more=("dataset", "generator_1", "generator_2"),
    ),
)
