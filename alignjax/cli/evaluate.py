"""The words of `alignjax evaluate`, `report` and `generate`: what is done with a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Run the evaluation step of a finished run again and rebuild its report."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """Run folder of `alignjax train`."""
    step: str = "evaluate"
    """Name of the pipeline's evaluation step."""

    def __call__(self, extra: Sequence[str]) -> int:
        from alignjax.commands.evaluate import evaluate  # noqa: PLC0415

        return evaluate(self.run_dir, self.step, extra)


@dataclasses.dataclass(frozen=True)
class Report:
    """Rebuild report.html and report.md from what a run folder holds, and print the table."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """Run folder of `alignjax train`."""

    def __call__(self) -> int:
        from alignjax.commands.evaluate import report  # noqa: PLC0415

        return report(self.run_dir)


@dataclasses.dataclass(frozen=True)
class Generate:
    """Answer prompts with a trained policy: one per line of a file, or typed in."""

    run_dir: Annotated[Positional[str], arg(metavar="RUN_DIR[/STEP]")]
    """Run folder of `alignjax train`; of a pipeline, the step whose checkpoint speaks (the last one if not given)."""
    role: str = "policy"
    """The role that speaks."""
    prompt_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """Text file with one prompt a line, or JSONL with a "prompt" field; - is standard input."""
    temperature: float = 1.0
    """Softmax temperature; 0 takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this probability; 1 keeps all."""
    max_tokens: int = 64
    """Longest completion, in tokens."""
    n: int = 1
    """Completions of a prompt."""
    seed: int = 0
    """Seed of the samples."""
    format: Literal["text", "json"] = "text"
    """Text for people, or one JSON object a line."""

    def __call__(self) -> int:
        from alignjax.commands.generate import generate  # noqa: PLC0415

        return generate(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
