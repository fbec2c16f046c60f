"""The flags of `alignjax serve`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from alignjax.cli.flags import Behavior
from alignjax.ranges import Count, Number, Range


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serve a model behind OpenAI's API: /v1/completions, /v1/chat/completions, /v1/models, /tokenize. There is no
    authentication, so it listens to this machine alone unless told otherwise. With --behavior NAME its options are
    further flags, as of `alignjax generate`: --behavior dera --lambda 1.5 --reference WHERE2.

    Attributes:
        where: Run folder of `alignjax train` (of a pipeline, also the step), what `import` wrote, a folder of published
            weights, or a .gguf file.
        role: The role that speaks, of a run or an import.
        host: The address to listen at; 0.0.0.0 lets other machines ask.
        port: The port; 0 takes a free one.
        name: Under which name the model is asked; that of its folder if not given.
        slots: Sequences that are extended together; further ones wait for a slot.
        max_length: The most tokens of a prompt with its completion; the model's own, at most 4096, if not given.
        dtype: What published weights are computed in; float32 if not given.
        behavior: How WHERE and other models combine, token by token; `alignjax list --kind sampler` names them.
        steer: Control vector for WHERE, a .gguf file as repeng and `steering.write_control_vector` write it.
        strength: Factor of the control vector, 1 if not given; negative to steer the other way.
    """

    runs: ClassVar[str] = "serve.serve"
    where: Annotated[Positional[str], arg(metavar="WHERE")]
    role: str = "policy"
    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8000
    name: str | None = None
    slots: Count = 8
    max_length: Annotated[int, Range(2, 2**31 - 1)] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    behavior: Behavior = None
    steer: Annotated[Path | None, arg(metavar="FILE")] = None
    strength: Annotated[Number | None, arg(metavar="S")] = None
