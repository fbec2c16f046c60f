"""The words of `alignjax import` and `alignjax export`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Import:
    """Check a folder of published weights (config.json, safetensors) completely and write it as a checkpoint.

    Families: Llama 2 and 3, Mistral, Qwen2, Qwen2.5, Qwen3, Gemma 2, Gemma 3 text, and their sequence classifiers. A
    config can also start a role from such a folder as it is: huggingface.pretrained(FOLDER)."""

    source: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Folder with config.json and model.safetensors, in one file or several with their index."""
    to: Annotated[Path, arg(metavar="DIR")]
    """New folder for the checkpoint; roles.restored(DIR, ROLE) starts there."""
    role: str = "policy"
    """Name of the role that has the weights."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the numbers in the checkpoint: the param_dtype of the model that will start there."""

    def __call__(self) -> int:
        from alignjax.commands.checkpoints import import_folder  # noqa: PLC0415

        return import_folder(self.source, self.to, self.role, self.dtype)


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a role's weights as config.json and safetensors, with the tokenizer's files: a folder that transformers
    loads. Adapters are added to the weights they adapt."""

    source: Annotated[Positional[str], arg(metavar="RUN_DIR[/STEP]")]
    """Run folder of `alignjax train` (of a pipeline, the step; the last one if not given), or what `import` wrote."""
    to: Annotated[Path, arg(metavar="DIR")]
    """New folder."""
    role: str = "policy"
    """The role to write."""
    head: Literal["lm", "reward", "classes"] | None = None
    """lm writes a causal language model, reward and classes a sequence classifier; if not given, a classifier where the
    model has such a head."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the numbers in the files."""
    shard_gb: float = 5.0
    """Largest size of a file, in gigabytes; so much is also held in memory."""
    tokenizer: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder whose tokenizer files are copied; if not given, the role's or its data's own."""

    def __call__(self) -> int:
        from alignjax.commands.checkpoints import export  # noqa: PLC0415

        return export(self.source, self.to, self.role, self.head, self.dtype, self.shard_gb, self.tokenizer)
