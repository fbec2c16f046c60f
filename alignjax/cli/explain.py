"""`alignjax explain`: what a config does with its data, in words and as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from alignjax import outside
from alignjax.cli.catalogue import summary
from alignjax.cli.config_file import load
from alignjax.cli.data_flow import Flow, Moved, Part, as_words, first_paragraph, flow_of, formulas, numbers
from alignjax.cli.explain_flags import Explain
from alignjax.cli.flow_picture import picture
from alignjax.config import ConfigError, Experiment, Fn, Pipeline, check_known
from alignjax.outside import writing
from alignjax.workspace import Workspace, whole_file

WIDTH = 118


def explain(flags: Explain, arguments: Sequence[str]) -> int:
    """Prints, and with --to draws, the flow of data through CONFIG[:MODE].

    Args:
        flags: The flags of `alignjax explain`.
        arguments: Overrides of the config, as words of a command line.

    Returns:
        The exit status.

    Raises:
        ConfigError: The config cannot be meant, has no such step, or the file is no .svg or exists.
    """
    if flags.to is not None and flags.to.suffix != ".svg":
        raise ConfigError(f"--to {flags.to}: the picture is an SVG; name a file that ends in .svg")
    if flags.to is not None and flags.to.exists():
        raise ConfigError(f"{flags.to} exists already; name a new file")
    loaded = load(flags.config, arguments, flags=("step", "to", "traceback", "help"))
    steps = loaded.config.steps if isinstance(loaded.config, Pipeline) else {"": loaded.config}
    if flags.step is not None:
        check_known(flags.step, steps, f"{flags.config} has no step {flags.step!r}")
        steps = {flags.step: steps[flags.step]}
    console, workspace = outside.console(soft_wrap=True), Workspace(loaded.default_run_dir)
    flows: dict[str, Flow | Fn] = {}
    for name, step in steps.items():
        flows[name] = flow_of(step, workspace.of(name)) if isinstance(step, Experiment) else step
        for line in described(name, flows[name]):
            console.print(line)
    if flags.to is not None:
        with writing(flags.to, "name a file in a folder that you may write to"), whole_file(flags.to) as file:
            file.write(picture(flows).encode())
    return 0


def described(name: str, flow: Flow | Fn) -> Iterator[str]:
    """Yields the lines that describe a step of a pipeline.

    Args:
        name: Its name; "" for an experiment by itself.
        flow: Its flow, or the job that it is.
    """
    title = f"== {name}: " if name else "== "
    if isinstance(flow, Fn):
        yield f"{title}a job, {flow.name}: {summary(flow.function)}"
        yield ""
        return
    experiment, algorithm = flow.experiment, flow.experiment.algorithm
    passes = algorithm.epochs * algorithm.minibatches
    each = "" if passes == 1 else f", {passes} optimizer steps each"
    yield f"{title}{experiment.steps} iterations{each}, seed {experiment.seed}"
    yield from _wrapped(f"source  {as_words(flow.source.function)}", "  ")
    yield from _wrapped(f"gives {_fields(flow.source)}", "    ")
    for part in flow.stages:
        yield from _part("stage", part, [(part.function, summary(part.function.function))])
    for part in flow.losses:
        yield from _part("loss ", part, formulas(part.function))
    for role in flow.roles:
        yield from _role(role)
    yield ""


def _fields(part: Part) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in part.adds.items()) or "nothing new"


def _part(kind: str, part: Part, functions: list[tuple[Fn, str]]) -> Iterator[str]:
    """A stage or loss: its words and numbers, what it reads, what it adds or logs."""
    for place, (function, words) in enumerate(functions):
        head = f"{kind}   {part.name}" if place == 0 else f"  of {function.name}"
        yield from _wrapped(f"{head}: {words or first_paragraph(function.function) or function.name}", "  ")
        if listed := numbers(function):
            yield from _wrapped(", ".join(listed), "    ")
    roles = f"; role{'s' * (len(part.roles) > 1)} {', '.join(part.roles)}" if part.roles else ""
    yield from _wrapped(f"reads {', '.join(part.reads) or 'nothing of the batch'}{roles}", "    ")
    if kind == "stage":
        yield from _wrapped(f"adds {_fields(part)}", "    ")
    if part.logs:
        yield from _wrapped(f"logs {', '.join(part.logs)}", "    ")


def _role(role: Moved) -> Iterator[str]:
    size = f"{role.size:,} numbers, " if role.size else ""
    how = "learns by " if role.learns else "" if role.by[:1] == ("frozen",) else "moves by "
    yield from _wrapped(f"role    {role.name}: {size}starts as {role.start}; {how}{'; '.join(role.by)}", "  ")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ")
