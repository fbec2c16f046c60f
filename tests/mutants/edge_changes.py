"""Mutants of what comes from outside and what is said to people: tokenizers, templates, numbers, files, rows, flows."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

PUBLISHED, TURNS, TEMPLATES = (
    f"tests/data/test_{name}.py" for name in ("published_tokenizers", "turns", "chat_templates")
)

EDGE = (
    Mutant(
        "tokens that only the settings name are not added",
        "data/text/special_tokens.py",
        "and (present or mark not in MARKS):",
        "and present:",
        (f"{PUBLISHED}::test_tokens_that_only_the_settings_name_are_added_with_the_ids_of_transformers",),
    ),
    Mutant(
        "spaces of a BPE model are taken for stray ones",
        "data/text/special_tokens.py",
        "bool(cleans_up and (pieces or cleans_bpe))",
        "bool(cleans_up)",
        (f"{PUBLISHED}::test_spaces_before_punctuation_go_as_in_transformers",),
    ),
    Mutant(
        "an empty list of tools is none",
        "data/text/chat.py",
        "{{% if tools is not none +%}}",
        "{{% if tools +%}}",
        (f"{TEMPLATES}::test_of_several_templates_that_of_tools_is_taken_where_a_row_has_tools",),
    ),
    Mutant(
        "the start of a word is a number",
        "cli/number_words.py",
        "form.fullmatch(word)",
        "form.match(word)",
        ("tests/test_overrides.py::test_a_whole_number_is_written_in_plain_digits",),
    ),
    Mutant(
        "any other file is the one that a run began with",
        "train/named_files.py",
        "old in files and contents_of(new) == files[old]",
        "old in files and bool(contents_of(new))",
        ("tests/train/test_run_record.py::test_a_config_names_files_by_what_they_hold",),
    ),
    Mutant(
        "completions of one score must differ, not those of two",
        "data/datasets/records.py",
        "if scores[i] != scores[j]]",
        "if scores[i] == scores[j]]",
        (
            "tests/data/test_conversations.py"
            "::test_lists_with_two_alike_of_different_scores_are_skipped_where_they_are_cut",
        ),
    ),
    Mutant(
        "a turn that is written otherwise later is taken for one that is not",
        "data/text/template_worker.py",
        "if not whole.startswith(starts[-1] + rest[:stop]):",
        "if not whole:",
        (f"{TURNS}::test_a_turn_that_is_written_otherwise_later_is_a_row_of_its_own",),
    ),
    Mutant(
        "the end of an earlier turn is not learned",
        "data/datasets/framing.py",
        "(first, last + len(mark) * item.ends[0][0].startswith(mark, last))",
        "(first, last)",
        (f"{TURNS}::test_each_turn_is_learned_from_its_prompt_to_its_end",),
    ),
    Mutant(
        "what a stage passes on counts as read",
        "cli/data_flow.py",
        "strict=True) if id(value) in used]",
        "strict=True)]",
        ("tests/test_explain.py::test_a_part_reads_what_its_numbers_are_made_of",),
    ),
)
