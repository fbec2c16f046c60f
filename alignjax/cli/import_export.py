"""`alignjax import` and `alignjax export`: published checkpoints in and out."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from alignjax import outside
from alignjax.cli.adapter_folders import added, base_of, export_adapters, hash_of, is_adapters, model_with_head
from alignjax.cli.config_file import reload, run_folder
from alignjax.cli.flags import Export, Import
from alignjax.cli.model_card import model_card
from alignjax.cli.open_model import (
    TOKENIZER,
    config_of_import,
    dataset_of,
    experiments_in,
    policy_of_run,
    record_of_import,
)
from alignjax.config import ConfigError, DataError, Experiment
from alignjax.content_hashes import forget_hashes
from alignjax.data import Dataset, Tokenizer, special_ids, tokenizer_of
from alignjax.data.prepared import chat_of
from alignjax.data.text.tokenizers import tokenizer_file
from alignjax.gguf_files import is_gguf
from alignjax.models import TransformerConfig, huggingface, lora, parameter_count, peft, transformer
from alignjax.models.huggingface.folders import CONFIG, new_folder
from alignjax.outside import user_path
from alignjax.roles import AdaptersOf, CopyOf, Restored, unwrapped
from alignjax.train import checkpoint
from alignjax.train.checkpoint.checksums import in_units, tree_bytes
from alignjax.train.run_record import FILE, config_hash, config_json, versions
from alignjax.train.state import restored_params
from alignjax.types import Role
from alignjax.workspace import DOWNLOAD_AGAIN, Workspace, read_json, write_json

# Keys of a config.json that are no architecture and go with the weights all the same.
IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
BESIDE = (*IDS, "max_position_embeddings")
GENERATION = "generation_config.json"  # where transformers' generate and vLLM look for what ends a completion
TEMPLATE = "chat_template.jinja"
CARD = "README.md"
# In training a tokenizer of ours put BOS in front by its id, and the template had no marks to write.
OWN_MARKS = "{{ bos_token }}{% set bos_token = '' %}{% set eos_token = '' %}\n"
GIGABYTE = 1_000_000_000


def import_folder(flags: Import) -> int:
    """Checks a folder of published weights, writes it as a checkpoint, and returns the exit status.

    Args:
        flags: The flags of `alignjax import`.

    Raises:
        ConfigError: Before anything is read: what `huggingface.check` finds, or a disk without room.
    """
    # The folder is made beside its place and has its name at the end. It holds one step of one role, and a record like
    # a run's, from which `export` knows the architecture again.
    named, to, role = user_path(flags.source), user_path(flags.to), flags.role
    if flags.verify:
        forget_hashes()
    small = is_adapters(named)
    if flags.base is not None and not small:
        raise ConfigError(f"--base is for a folder of adapters, and {named} has no adapter_config.json")
    source = base_of(named, flags.base) if small else named
    dtype = flags.dtype or huggingface.dtype_of(source)
    config = huggingface.config_of(source, param_dtype=dtype)
    model = model_with_head(named, source, dtype) if small else transformer(config)
    huggingface.check(source, model)
    adapters = peft.load(named, model.config) if small else None
    like = jax.eval_shape(model.init, jax.random.key(0))
    published, _ = huggingface.config_in(source)
    held = huggingface.pretrained(source).numbers
    say = outside.console(stderr=True, soft_wrap=True)
    what = (published["architectures"][0], f"{parameter_count(model):,} parameters", held or dtype)
    say.print(f"{source}: {', '.join(what)}{f', with {named} added' if small else ''}", markup=False)
    tokenizer = named if small and _has_tokenizer(named) else _tokenizer_files(source)
    with new_folder(to, tree_bytes(like)) as part:
        with say.status("reading") as status:
            params = huggingface.load(source, model, report_progress=_progress(status, "reading"))
            if adapters is not None:
                params = added(params, adapters)
            status.update("writing")
            beside = {key: published[key] for key in BESIDE if key in published}
            record = _record(source, role, model, beside, held, named if small else None)
            with checkpoint.writing(part, keep=1) as writer:
                checkpoint.save(writer, 0, {"roles": {role: params}}, record)
        write_json(part / FILE, record)
        (part / TOKENIZER).mkdir()
        _copy_tokenizer(tokenizer, part / TOKENIZER)
    print(
        f"{to}: role {role!r}, {in_units(tree_bytes(like))}. Start from it with roles.restored({str(to)!r}, {role!r})"
    )
    return 0


def _record(
    source: Path, role: str, model: Any, beside: dict[str, Any], held: str | None, adapters: Path | None
) -> dict[str, Any]:
    """Makes a config.json like that of a run, with the role's model and where it came from."""
    imported = {"folder": str(source), "fingerprint": huggingface.fingerprint(source), "beside": beside}
    imported |= {"numbers": held} if held else {}
    imported |= {"adapters": str(adapters), "adapters_fingerprint": hash_of(adapters)} if adapters else {}
    config = {"imported": imported, "algorithm": {"roles": {role: {"model": config_json(model)}}}}
    return {"config": config, "hash": config_hash(config), "versions": versions(), "git": None}


def _progress(status: Any, doing: str) -> Callable[[str, int, int], None]:
    return lambda name, number, of: status.update(f"{doing} {name} ({number + 1} of {of})")


def _tokenizer_files(source: Path) -> Path:
    """The folder with the tokenizer's files: the source itself, or what a GGUF file becomes."""
    return tokenizer_file(source).parent if is_gguf(source) else source


def _copy_tokenizer(source: Path, to: Path) -> None:
    for name in huggingface.TOKENIZER_FILES:
        if (source / name).is_file() and not (to / name).exists():
            shutil.copyfile(source / name, to / name)


# --------------------------------------------------------------------------------------------------------------- export


class Exported(NamedTuple):
    """What is written: params, their configuration, further keys of config.json, the tokenizer or its folder, and the
    chat template that they were trained with."""

    params: Any
    config: TransformerConfig
    extra: dict[str, Any]
    tokenizer: Path | Tokenizer | None
    template: str = ""


def export(flags: Export) -> int:
    """Writes a role's weights as a folder that `transformers` loads, and returns the exit status.

    Args:
        flags: The flags of `alignjax export`.

    Raises:
        ConfigError: The role or a family for its model is missing, or the tokenizer is not the model's.
        CheckpointError: Nothing was trained.
    """
    # Whatever may fail is looked up before the first byte is written, because the weights are the slow part.
    if flags.adapters:
        return _export_adapters(flags)
    source, to = user_path(flags.source), user_path(flags.to)
    tokenizer = None if flags.tokenizer is None else _tokenizer_files(user_path(flags.tokenizer))
    if tokenizer is not None and not _has_tokenizer(tokenizer):
        raise ConfigError(f"{flags.tokenizer} has no tokenizer.json or tokenizer.model")
    record = record_of_import(source)
    exported = _of_run(flags.source, flags.role) if record is None else _of_import(source, record, flags.role)
    head = flags.head or next((name for name in ("reward", "classes") if name in exported.config.outputs), "lm")
    if tokenizer is not None:
        exported = _with_tokenizer(exported, tokenizer)
    ids = _ids(exported.extra)
    dtype = flags.dtype or _dtype_of(exported.params)
    root, step = (source, None) if record is not None else run_folder(flags.source)
    card = model_card(root, to.name, flags.role, head, step=step)

    def beside(part: Path) -> None:
        _write_tokenizer(exported.tokenizer, part)
        (part / CARD).write_text(card, encoding="utf-8")
        if exported.template and _has_tokenizer(part):
            (part / TEMPLATE).write_text(exported.template, encoding="utf-8")
        if head == "lm" and "eos_token_id" in ids:
            _write_generation(part / GENERATION, ids)

    say = outside.console(stderr=True, soft_wrap=True)
    with say.status("writing") as status:
        left = huggingface.save(
            exported.params,
            exported.config,
            to,
            head=head,
            dtype=dtype,
            shard_bytes=int(flags.shard_gb * GIGABYTE),
            # What is not known is said to be none: left out, it would be the id of the family's own tokenizer.
            extra={**(dict.fromkeys(IDS) if ids else {}), **exported.extra},
            beside=beside,
            report_progress=_progress(status, "writing"),
        )
    for sentence in _left_out(left, to, flags.source, exported.extra, head):
        say.print(sentence, markup=False)
    print(f"{flags.to}: {huggingface.read_json(to / CONFIG)['architectures'][0]}, {dtype}")
    return 0


def _left_out(left: list[str], to: Path, source: str, extra: Mapping[str, Any], head: str) -> Iterator[str]:
    """What an exported folder has not, in sentences."""
    if left:
        yield f"left out, having no place there: {', '.join(left)}"
    if not _has_tokenizer(to):
        ids = "" if "eos_token_id" in extra else ", nor token ids"
        yield f"no tokenizer is written, because {source} names none{ids}; give a folder that has one with --tokenizer"
    elif head == "lm" and "eos_token_id" not in _ids(extra):
        yield "no token is known to end a text (eos): what is generated ends at its greatest length"


def _export_adapters(flags: Export) -> int:
    """`alignjax export --adapters`. Raises ConfigError for flags that say something of whole weights."""
    beside = {"--dtype": flags.dtype, "--head": flags.head, "--tokenizer": flags.tokenizer}
    if unused := [name for name, value in beside.items() if value is not None]:
        raise ConfigError(f"--adapters writes the factors alone, in float32; leave out {', '.join(unused)}")
    to = user_path(flags.to)
    left = export_adapters(flags.source, to, flags.role)
    root, step = run_folder(flags.source)
    card = model_card(root, to.name, flags.role, "lm", step=step, adapters=True)
    with outside.writing(to / CARD, "make room there"):
        (to / CARD).write_text(card, encoding="utf-8")
    if left:
        print(f"left out, having no place there: {', '.join(left)}", file=sys.stderr)
    print(f"{flags.to}: adapters of {flags.role!r}, as peft loads them")
    return 0


def _dtype_of(params: Any) -> str:
    """The dtype of all params, or float32, which holds each of several."""
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    return "bfloat16" if dtypes == {"bfloat16"} else "float32"


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / f"tokenizer.{form}").is_file() for form in ("json", "model"))


def _write_tokenizer(tokenizer: Path | Tokenizer | None, part: Path) -> None:
    """Writes the files of a tokenizer: those of a folder, or those that transformers needs to load one of ours."""
    if isinstance(tokenizer, Path):
        _copy_tokenizer(tokenizer, part)
    elif tokenizer is not None:
        tokenizer.published().save(part / "tokenizer.json")
        marks = {name: getattr(tokenizer, name) for name in ("pad", "bos", "eos")}
        tokens = {f"{mark}_token": None if i is None else tokenizer.backend.id_to_token(i) for mark, i in marks.items()}
        tokens |= {"clean_up_tokenization_spaces": tokenizer.cleans_up}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens}
        write_json(part / "tokenizer_config.json", settings)


def _ids(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in IDS if config.get(key) is not None}


def _with_tokenizer(exported: Exported, folder: Path) -> Exported:
    """Exports with the tokenizer of a folder: its files, and its token ids, which config.json beside it may know too.
    Raises ConfigError where the model has no such token."""
    ids = _ids(read_json(folder / CONFIG, DOWNLOAD_AGAIN) or {})
    for name, (first, *more) in special_ids(folder).items():
        if (last := max((first, *more))) >= exported.config.vocab:
            raise ConfigError(
                f"{folder}: its {name} token is number {last}, and the model has {exported.config.vocab} tokens: this "
                "is the tokenizer of another model"
            )
        ends = dict.fromkeys((first, *more, *(_listed(ids.get("eos_token_id")) if name == "eos" else ())))
        ids[f"{name}_token_id"] = first if len(ends) == 1 else list(ends)
    extra = {key: value for key, value in exported.extra.items() if key not in IDS} | ids
    return exported._replace(extra=extra, tokenizer=folder)


def _listed(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _write_generation(path: Path, ids: dict[str, Any]) -> None:
    """Writes the token ids where generation is configured. What a copied file says stays, and so may more tokens end a
    completion than `ids` say, but not fewer."""
    copied = read_json(path, DOWNLOAD_AGAIN) or {}
    ends = list(dict.fromkeys((*_listed(copied.get("eos_token_id")), *_listed(ids["eos_token_id"]))))
    write_json(path, {**ids, **copied, "eos_token_id": _one_or_list(ends)})


def _of_import(folder: Path, record: dict[str, Any], role: str) -> Exported:
    config = config_of_import(folder, record, role)
    params = {"heads": {}, **checkpoint.restore_role(folder, role)}
    return Exported(params, config, record["config"]["imported"]["beside"], folder / TOKENIZER)


def _of_run(source: str, role: str) -> Exported:
    """Exports a role of a run, adapters added to the weights they adapt."""
    root, step = run_folder(source)
    config = reload(root).config
    experiment, workspace = policy_of_run(root, config, step, role)
    roles = experiment.algorithm.roles
    model = roles[role].model
    if model is None or not isinstance(model.config, TransformerConfig):
        raise ConfigError(f"role {role!r} runs on no transformer, so there is nothing to export")
    huggingface.config_json(model.config)  # before the weights are read
    params = lora.merged(restored_params(workspace.folder, experiment.algorithm, role))
    earlier = {name: step.algorithm.roles for name, step in experiments_in(config).items()}
    exported = Exported(params, model.config, *_tokenizer(experiment, workspace, _first_start(roles, role, earlier)))
    return _trained_with(exported, experiment, workspace)


def _tokenizer(
    experiment: Experiment, workspace: Workspace, start: Any
) -> tuple[dict[str, Any], Path | Tokenizer | None]:
    """Finds token ids and the tokenizer: of the folder that the role started from, published or imported, else of the
    data it was trained on."""
    if isinstance(start, Restored) and (record := record_of_import(folder := workspace.find(start.stage))) is not None:
        return record["config"]["imported"]["beside"], folder / TOKENIZER
    if isinstance(start, huggingface.Pretrained) and (folder := user_path(start.folder)).exists():
        published, _ = huggingface.config_in(folder)
        return {key: published[key] for key in BESIDE if key in published}, _tokenizer_files(folder)
    try:
        dataset = dataset_of(experiment)
    except ConfigError:  # trained on numbers or on recorded rows: `export` says that there is no tokenizer
        return {}, None
    tokenizer = tokenizer_of(dataset, workspace)
    ids = {"pad_token_id": tokenizer.pad, "bos_token_id": tokenizer.bos, "eos_token_id": _one_or_list(tokenizer.ends)}
    return _ids(ids), _tokenizer_folder(dataset) or tokenizer


def _one_or_list(ends: Sequence[int]) -> int | list[int]:
    return ends[0] if len(ends) == 1 else list(ends)


def _trained_with(exported: Exported, experiment: Experiment, workspace: Workspace) -> Exported:
    """Exports also what a role was trained with: all tokens that end a completion, and the chat template."""
    try:
        dataset = dataset_of(experiment)
        tokenizer = tokenizer_of(dataset, workspace)
    except (
        ConfigError,
        DataError,
    ):  # no tokenizer's data, or data that is gone: then the tokenizer's folder says it all
        return exported
    ends = dict.fromkeys((*_listed(exported.extra.get("eos_token_id")), *tokenizer.ends))
    extra = {**exported.extra, "eos_token_id": _one_or_list(list(ends))}
    chat = chat_of(dataset, workspace)
    own = tokenizer.backend.encode_special_tokens
    return exported._replace(extra=extra, template=OWN_MARKS * own + chat.template if chat.trained else "")


def _first_start(roles: Mapping[str, Role], role: str, earlier: Mapping[str | None, Mapping[str, Role]]) -> Any:
    """Follows a role to the start of its weights: through what it copies, adapts or continues from an earlier step."""
    start = unwrapped(roles[role].start)
    if isinstance(start, (CopyOf, AdaptersOf)):
        return _first_start(roles, start.role, earlier)
    if isinstance(start, Restored) and start.role in earlier.get(start.stage, {}):
        return _first_start(earlier[start.stage], start.role, earlier)
    return start


def _tokenizer_folder(dataset: Dataset) -> Path | None:
    """The folder of a published tokenizer that a dataset is written with, if it is one."""
    while isinstance(dataset.tokenizer, Dataset):
        dataset = dataset.tokenizer
    folder = user_path(dataset.tokenizer) if dataset.tokenizer else None
    return folder if folder is not None and (folder / "tokenizer_config.json").is_file() else None
