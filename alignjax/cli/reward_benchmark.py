"""`alignjax evaluate WHERE --rewards FILE`: reward models and pairwise judges of a run on rows whose best completion is
known."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from alignjax import data, outside, scoring
from alignjax.cli.config_file import reload, run_folder
from alignjax.cli.flags import Evaluate
from alignjax.cli.inspect_rows import told_reader
from alignjax.cli.open_model import dataset_of, experiments_in
from alignjax.cli.plain_attention import runnable_here
from alignjax.config import ConfigError, Experiment
from alignjax.data.datasets.chat_files import ChatFile
from alignjax.data.datasets.conversations import conversation
from alignjax.data.datasets.file_sets import file_set
from alignjax.data.datasets.framing import Tokens
from alignjax.data.datasets.parsed_files import RowParser, Tally, records_of
from alignjax.data.datasets.records import Record, ended, tokens_of
from alignjax.data.datasets.row_files import KINDS, blocks_of, kind_of
from alignjax.data.prepared import Dataset, chat_of, tokenizer_of
from alignjax.data.sources.batch_layout import pad_left, pad_right, prompt_ids
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.evaluate.judge_statistics import KnownRow, agreements, statistics
from alignjax.numerics import last_valid
from alignjax.outside import visible, visible_json
from alignjax.pair_layout import HEADS as READINGS, all_pairs, pair_logits
from alignjax.train import checkpoint
from alignjax.train.state import restored_params
from alignjax.types import Array, Batch, Model, Params
from alignjax.workspace import Workspace

SUBSET = "subset"  # the column that says which part of a benchmark a row belongs to
ROWS = 8  # scored at once
BUCKET = 64  # tokens are padded to a multiple of it, so that few programs serve a file
HEADS = {"reward": "reward"} | {head: reading for reading, head in READINGS.items()}  # head of a judge -> how it reads


class Judge(NamedTuple):
    """A role that judges: its name, its head, its network and weights."""

    name: str
    head: str
    model: Model
    params: Params


class Encoded(NamedTuple):
    """Token ids of a prompt and of its completions."""

    prompt: list[int]
    completions: list[list[int]]


def reward_benchmark(flags: Evaluate, arguments: Sequence[str]) -> int:
    """Scores the rows of a file by all reward models and pairwise judges of a run, and prints what they are worth.

    Args:
        flags: The flags of `alignjax evaluate`.
        arguments: Overrides of the config.

    Returns:
        The exit status.

    Raises:
        ConfigError: The run has no such role, or the file no rows to rank.
        DataError: The file is damaged, or its rows fit no layout.
    """
    if flags.data is not None or flags.judge is not None or flags.against is not None:
        raise ConfigError("--rewards FILE measures judges; leave out --data, --judge and --against")
    root, step = run_folder(str(flags.run_dir))
    experiment, workspace = _with_judges(root, reload(root, arguments).config, step, flags.role)
    dataset, tally, records = _read(str(flags.rewards), dataset_of(experiment), workspace)
    tokenizer = tokenizer_of(dataset_of(experiment), workspace)
    rows, encoded = zip(*[_known(*each) for each in _encoded(records, dataset, tokenizer)], strict=True)
    judges = _judges(experiment, workspace, flags.role)
    logits = {judge.name: _scored(judge, encoded, tokenizer) for judge in judges}
    outcome = {
        "file": str(flags.rewards), "run": str(workspace.folder), "rows": len(rows),
        "prompts": len({row.prompt for row in rows}), "layouts": dict(tally.layouts), "skipped": tally.sentence(),
        "judges": {
            judge.name: {
                "head": judge.head, **statistics(rows, logits[judge.name], pairwise=judge.head != "reward")
            }
            for judge in judges
        },
        "agreement": agreements(rows, logits),
    }  # fmt: skip
    print(visible_json(json.dumps(outcome, ensure_ascii=False))) if flags.format == "json" else _show(outcome)
    return 0


# --------------------------------------------------------------------------------------------------------------- roles


def _heads(experiment: Experiment, role: str) -> dict[str, str]:
    """The roles of an experiment that judge, and the head of each; `role` alone, unless it is "policy"."""
    models = {name: each.model for name, each in experiment.algorithm.roles.items() if each.model is not None}
    named = {role: models[role]} if role != "policy" and role in models else models if role == "policy" else {}
    heads = {name: next((head for head in HEADS if head in model.heads), "") for name, model in named.items()}
    return {name: head for name, head in heads.items() if head}


def _with_judges(root: Path, config: Any, step: str | None, role: str) -> tuple[Experiment, Workspace]:
    """The last step of a run with a checkpoint and a role that judges; or the step that was named."""
    steps = experiments_in(config)
    some = {name: each for name, each in steps.items() if step in (None, name) and _heads(each, role)}
    if not some:
        which = f"role {role!r} of {root} does not judge" if role != "policy" else f"no role of {root} judges"
        roles = sorted({name for each in steps.values() for name in each.algorithm.roles})
        raise ConfigError(
            f"{which}: there is no reward model (head 'reward') and no preference model (head 'preference' or "
            f"'embedding') in {'its steps' if step is None else f'step {step!r}'}; its roles are {', '.join(roles)}"
        )
    done = [name for name in some if checkpoint.steps(Workspace(root, name).folder)]
    if not done:
        raise ConfigError(f"{root} has not trained {', '.join(name or 'its reward model' for name in some)} yet")
    return runnable_here(some[done[-1]])[0], Workspace(root, done[-1])


def _judges(experiment: Experiment, workspace: Workspace, role: str) -> list[Judge]:
    judges = []
    for name, head in _heads(experiment, role).items():
        model = experiment.algorithm.roles[name].model
        assert model is not None  # `_heads` has seen it
        judges.append(Judge(name, head, model, restored_params(workspace.folder, experiment.algorithm, name)))
    return judges


# ---------------------------------------------------------------------------------------------------------------- rows


def _read(what: str, run: Dataset, workspace: Workspace) -> tuple[ChatFile, Tally, list[Record]]:
    """The rows of a file as lists to rank, written as the rows that the run learned from: texts are messages where all
    of those were. Lists where the layout has them, else pairs."""
    _, layout, _ = told_reader(what)
    kind = next((kind for kind in (data.Rankings, data.Preferences) if kind.__name__ in layout.reads), None)
    if kind is None:
        raise ConfigError(
            f"{what} has the {layout.name} layout ({layout.said}), in which nothing is better than something else"
        )
    shared = {field.name for field in dataclasses.fields(Dataset)} | {"chat_template", "thinking"}
    settings: dict[str, Any] = {
        name: getattr(run, name) for name in shared - {"tokenizer", "vocab_size"} if hasattr(run, name)
    }
    settings["tokenizer"] = run.tokenizer or run
    dataset = kind(path=what, test_fraction=0.0, keep=(SUBSET,), **settings)
    only = chat_of(run, workspace).only

    def parse(row: Any) -> list[Record]:
        made = dataset.with_columns(row)
        return [_as_messages(each) if only and not each.chats else each for each in made]

    parser, tally, records = RowParser(parse, dataset.finisher(), dataset.together), Tally(), []
    columns = None if dataset.columns() is None else dataset.columns_read
    for path in file_set(what, "--rewards").files.values():
        sort = kind_of(path)
        tally.unit = KINDS[sort].unit
        records += records_of(path, blocks_of(path, sort, columns), parser, tally)
    if not records:
        raise ConfigError(f"{what} holds no rows that can be ranked: {tally.sentence() or 'it is empty'}")
    return dataset, tally, records


def _as_messages(record: Record) -> Record:
    """A record of texts as one of messages."""
    asked = [{"role": "user", "content": record.prompt}]
    answers = [(text, "a completion") for text in record.completions]
    return dataclasses.replace(record, **conversation(asked, "prompt", answers, {}))


def _encoded(
    records: Sequence[Record], dataset: Dataset, tokenizer: Tokenizer
) -> Iterator[tuple[Record, Tokens, list[list[int]], list[int]]]:
    """Each record with its prompt, the token ids of its completions, and those of its prompt in the frame."""
    prefix, suffix = tokenizer.encode(dataset.prefix), tokenizer.encode(dataset.suffix)
    for record, (prompt, completions) in zip(records, tokens_of(records, tokenizer)[0], strict=True):
        most = len(prompt.ids) + len(prefix) + len(suffix) + 1
        whole = [*prompt.ids] if len(prompt.parts) else prompt_ids(prompt.ids, prefix, suffix, tokenizer.opening, most)
        yield record, prompt, [ended(each, tokenizer) for each in completions], whole


def _known(record: Record, prompt: Tokens, completions: list[list[int]], whole: list[int]) -> tuple[KnownRow, Encoded]:
    grades = record.scores or (record.preference, 1 - record.preference)
    lengths = np.array([len(each) for each in completions])
    subset = str(record.meta.get("columns", {}).get(SUBSET) or "all")
    return KnownRow(record.prompt, subset, np.asarray(grades, np.float64), lengths), Encoded(whole, completions)


# -------------------------------------------------------------------------------------------------------------- scores


@functools.partial(jax.jit, static_argnames=("model", "head", "separator"))
def _logits(model: Model, params: Params, batch: Batch, head: str, separator: int) -> Array:
    """Log-odds of every pair of a batch [B,M]."""
    context = scoring.context({"judge": model}, {"judge": params})
    assert batch.tokens is not None
    assert batch.valid is not None
    pairs = all_pairs(batch.tokens.shape[1])
    if head != "reward":
        return pair_logits(context, batch, role="judge", pairs=pairs, reading=HEADS[head], separator=separator)
    reward = last_valid(context.score("judge:reward", batch)["judge:reward"], batch.valid)
    first, second = np.array(pairs).T
    return reward[:, first] - reward[:, second]


def _scored(judge: Judge, rows: Sequence[Encoded], tokenizer: Tokenizer) -> list[np.ndarray]:
    """The log-odds [K,K] of every row. Rows of one shape are scored together, few at a time."""
    shapes: dict[tuple[int, int, int], list[int]] = {}
    for number, row in enumerate(rows):
        longest = max(map(len, row.completions))
        prompt, completion = (BUCKET * math.ceil(max(length, 1) / BUCKET) for length in (len(row.prompt), longest))
        shapes.setdefault((len(row.completions), prompt, completion), []).append(number)
    matrices: dict[int, np.ndarray] = {}
    for shape, numbers in shapes.items():
        for start in range(0, len(numbers), ROWS):
            some = numbers[start : start + ROWS]
            batch = _batch([rows[number] for number in some], shape, tokenizer.pad)
            said = jax.device_get(_logits(judge.model, judge.params, batch, judge.head, tokenizer.sep))
            for number, each in zip(some, said, strict=False):
                matrix = np.zeros((shape[0], shape[0]))
                matrix[np.triu_indices(shape[0], 1)] = each
                matrices[number] = matrix - matrix.T
    lost = sum(not np.isfinite(matrix).all() for matrix in matrices.values())
    if lost:
        raise ConfigError(
            f"role {judge.name!r} says of {lost:,} rows what is no finite number; its weights are damaged"
        )
    return [matrices[number] for number in range(len(rows))]


def _batch(rows: Sequence[Encoded], shape: tuple[int, int, int], pad: int) -> Batch:
    """Rows of one shape (K, P, T), the first repeated until there are ROWS."""
    rows = [*rows, *[rows[0]] * (ROWS - len(rows))]
    prompts = [pad_left(row.prompt, shape[1], pad) for row in rows]
    completions = [[pad_right(each, shape[2], pad) for each in row.completions] for row in rows]
    tokens, valid = (jnp.asarray(np.array([[each[k] for each in row] for row in completions])) for k in (0, 1))
    prompt, prompt_valid = (jnp.asarray(np.stack(part)) for part in zip(*prompts, strict=True))
    return Batch(prompt=prompt, prompt_valid=prompt_valid, tokens=tokens, valid=valid, mask=valid.astype(jnp.float32))


# --------------------------------------------------------------------------------------------------------------- shown


def _percent(rate: Mapping[str, Any] | None) -> str:
    return "" if rate is None else f"{100 * rate['mean']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def _number(rate: Mapping[str, Any] | None) -> str:
    return "" if rate is None else f"{rate['mean']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})"


def _show(outcome: Mapping[str, Any]) -> None:
    # A column for each judge; a line that none of them has anything to say in is left out.
    console = outside.console()
    counted = f"{outcome['rows']:,} rows of {outcome['prompts']:,} prompts in {outcome['file']}"
    print(visible(f"{outcome['run']}: {counted}{'; skipped ' * bool(outcome['skipped'])}{outcome['skipped']}"))
    judges = outcome["judges"]
    lines: list[tuple[str, Any]] = [("accuracy", lambda each: _percent(each["accuracy"]))]
    subsets = next(iter(judges.values()))["subsets"]
    if len(subsets) > 1:
        lines += [(f"  {name}", lambda each, name=name: _percent(each["subsets"][name])) for name in subsets]
        lines += [("  mean of subsets", lambda each: _percent(each["mean_of_subsets"]))]
    lines += [
        ("first place is right (lists)", lambda each: _percent(each["best"])),
        ("ties", lambda each: _percent(each["ties"])),
        ("calibration error", lambda each: _percent(each["calibration_error"])),
        ("nats between better and worse", lambda each: _number(each["gap"])),
        ("nats between equals", lambda each: _number(each["gap_of_equals"])),
        ("takes the longer one", lambda each: _percent(each["length"]["takes_longer"])),
        ("the longer one is better", lambda each: _percent(each["length"]["longer_is_better"])),
        ("accuracy where it is longer", lambda each: _percent(each["length"]["accuracy_if_longer"])),
        ("accuracy where it is shorter", lambda each: _percent(each["length"]["accuracy_if_shorter"])),
        ("correlation with length", lambda each: _number(each["length"]["correlation"])),
        ("triples that go round", lambda each: _percent(each["intransitive"])),
    ]
    table = Table("(95 % interval over prompts)", *judges)
    for name, said in lines:
        cells = [said(each) for each in judges.values()]
        if any(cells):
            table.add_row(name, *cells)
    console.print(table)
    for both, rate in outcome["agreement"].items():
        console.print(f"{both}: agree on {_percent(rate)} of pairs")
