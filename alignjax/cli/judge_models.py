"""`alignjax evaluate WHERE --data FILE --judge MODULE:FUNCTION`: a person's function compares the answers of two
models."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignjax.asking import Question, TextRow, answered, calls, check_named, check_parameters
from alignjax.cli.config_file import imported
from alignjax.cli.flags import Evaluate
from alignjax.cli.generate import ROWS, batch_of, fitting_ids, sampled
from alignjax.cli.open_model import has_own_dtype, open_model
from alignjax.cli.prompt_files import Row, read_prompts
from alignjax.config import ConfigError, fn, nearest
from alignjax.evaluate.intervals import interval
from alignjax.outside import user_path, visible
from alignjax.sampling import Filters, Sampling
from alignjax.stages import text_judge

TIE = 1e-6  # how near to 1/2 a probability is a tie


def judge_models(flags: Evaluate, arguments: Sequence[str]) -> int:
    """Samples the answers of two models to the prompts of a file, asks the judge about each pair, and prints the win
    rate with its interval over prompts.

    Args:
        flags: The flags of `alignjax evaluate`.
        arguments: Words that no flag has taken; there may be none.

    Returns:
        The exit status.

    Raises:
        ConfigError: A flag is missing or cannot be meant, the judge cannot be found, or a model cannot be opened.
        RewardError: The judge failed.
    """
    # What can be refused is refused before a model is opened; models are open one after the other, since each may fill
    # the memory. The same keys draw both samples: a model against itself is level on every prompt.
    if arguments:
        raise ConfigError(f"alignjax evaluate --judge takes no overrides, and got {' '.join(arguments)}")
    if flags.judge is None or flags.data is None:
        raise ConfigError("a judge and prompts go together: --data FILE --judge MODULE:FUNCTION")
    if flags.out is not None and flags.out.exists():
        raise ConfigError(f"{flags.out} exists; name a new file with --out")
    function = found_function(flags.judge)
    check_named(function, f"--judge {flags.judge}")
    rows = read_prompts(flags.data, flags.system)
    if not rows:
        raise ConfigError(f"{flags.data} holds no prompts")
    check_parameters(function, list(dict.fromkeys(name for row in rows for name in row.beside)), str(flags.data))
    other_role = flags.against_role or ("policy" if flags.against else "reference")
    if flags.against is None and other_role == flags.role:
        raise ConfigError(f"role {other_role!r} against itself; name another with --against-role, or --against WHERE")
    if flags.dtype is not None and all(map(has_own_dtype, (str(flags.run_dir), flags.against or str(flags.run_dir)))):
        raise ConfigError(f"--dtype {flags.dtype}: no published weights are compared, and others have their own dtype")
    first_line, first = _answers(flags, str(flags.run_dir), flags.role, rows)
    second_line, second = _answers(flags, flags.against or str(flags.run_dir), other_role, rows)
    questions = [
        Question(_text_row(number, row, [one, two]), (0, 1))
        for number, row in enumerate(rows)
        for one, two in zip(first[number], second[number], strict=True)
    ]
    asked = fn(text_judge, function=function, both_orders=not flags.one_order)
    with calls() as caller:
        said = [line[0] for line in answered(caller, asked, questions, None, flags.out)]
    _print(flags, (first_line, second_line), np.reshape(said, (len(rows), flags.n)))
    return 0


def _print(flags: Evaluate, lines: tuple[str, str], said: np.ndarray) -> None:
    """Prints the win rate over prompts from P(first is better) [prompts,n], NaN for no opinion."""
    known = ~np.isnan(said)
    judged = known.any(axis=1)
    print(f"{visible(lines[0])}\nagainst {visible(lines[1])}")
    if not judged.any():
        print(f"{flags.judge} has no opinion on any of {len(said):,} prompts")
        return
    means = np.where(known, said, 0).sum(axis=1)[judged] / known.sum(axis=1)[judged]
    rate, ties = interval(means), np.mean(np.abs(said[known] - 0.5) <= TIE)
    print(
        f"win rate {100 * rate['mean']:.1f} % (95 % interval {100 * rate['low']:.1f} to {100 * rate['high']:.1f}) over "
        f"{rate['n']:,} prompts, by {flags.judge}{' in one order' if flags.one_order else ''}"
    )
    print(f"ties {100 * ties:.1f} %; no opinion on {int((~judged).sum()):,} of {len(said):,} prompts")


def _answers(
    flags: Evaluate, where: str, role: str, rows: Sequence[Row]
) -> tuple[str, list[list[tuple[str, list[int]]]]]:
    """The line that says what was opened, and n answers to each prompt: text and token ids."""
    opened = open_model(where, role, None if has_own_dtype(where) else flags.dtype)
    print(opened.introduction, file=sys.stderr)
    ids = fitting_ids(flags, opened, rows)
    sampling = Sampling(flags.n, flags.max_tokens, filters=Filters(flags.temperature, None, None), stop=opened.stops)
    answers: list[list[tuple[str, list[int]]]] = []
    for start in range(0, len(ids), ROWS):
        some = ids[start : start + ROWS]
        batch = batch_of(some, start, opened.tokenizer)
        made = jax.device_get(
            sampled((("policy", opened.model),), {"policy": opened.params}, batch, jax.random.key(flags.seed), sampling)
        )
        for tokens, valid in zip(made.tokens[: len(some)], made.valid, strict=False):
            completions = [one[there].tolist() for one, there in zip(tokens, valid, strict=True)]
            answers.append([(opened.tokenizer.decode(each), each) for each in completions])
    return opened.line, answers


def _text_row(number: int, row: Row, answers: Sequence[tuple[str, list[int]]]) -> TextRow:
    """A prompt with two answers: messages where the prompt is messages."""
    texts: list[Any] = [text for text, _ in answers]
    if not isinstance(row.prompt, str):
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    return TextRow(number, row.prompt, texts, [ids for _, ids in answers], dict(row.beside))


def found_function(where: str) -> Callable[..., Any]:
    """Returns the function that MODULE:FUNCTION or FILE.py:FUNCTION names.

    Args:
        where: What a person wrote; a module is looked for in the working folder first, then among what is installed.

    Raises:
        ConfigError: There is no such file, module or function.
    """
    module_name, colon, name = where.rpartition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"--judge is {where!r}; write module:function or file.py:function")
    beside = Path(*module_name.split(".")).with_suffix(".py") if not module_name.endswith(".py") else None
    file = user_path(module_name) if beside is None else beside
    if file.is_file():
        module = imported(file)
    elif beside is None:
        raise ConfigError(f"--judge: there is no file {file.absolute()}")
    else:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise ConfigError(f"--judge: there is no module {module_name!r}, nor a file {beside}") from None
    if not hasattr(module, name):
        options = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ConfigError(f"--judge: {module_name} has no function {name!r}.{nearest(name, options)}")
    return getattr(module, name)
