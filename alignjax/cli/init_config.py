"""`alignjax init`: a short config for a person's own model and rows, to be run as it is and then changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from string import Template

from alignjax import data as data_sets
from alignjax.cli.config_file import load
from alignjax.cli.flags import Init
from alignjax.cli.inspect_rows import check_read_by
from alignjax.config import ConfigError, DataError
from alignjax.models import huggingface
from alignjax.outside import user_path, writing
from alignjax.workspace import whole_file

USUAL_LENGTH = 512  # tokens of a prompt, and of a completion, where the model has room for both
NAMES = {"sft": "sft_config.py", "dpo": "dpo_config.py", "reward": "reward_config.py", "online": "online_config.py"}

_HEAD = Template('''"""$title, made by `alignjax init $kind`.

    alignjax train $file --dry-run     # what it would be: roles, sizes, bytes
    alignjax train $file
    alignjax train $file --help        # every value below is a flag too: --steps 20
    $then
"""

from alignjax import algorithms$modules
from alignjax.config import Experiment, fn
from alignjax.data import $dataset, $source
from alignjax.models import huggingface, transformer
from alignjax.train.optimizers import adamw

MODEL = $model
# Rows in any known layout; `alignjax data inspect $file` shows some as the model will see them.
DATA = $dataset(path=$data, tokenizer=MODEL)
$before

def get_config():
    model = transformer(huggingface.config_of(MODEL$heads))
    algorithm = algorithms.$recipe(
        model,$options
        start=huggingface.pretrained(MODEL),
        optimizer=fn(adamw, learning_rate=$rate),
        microbatches=1,  # more of them need less memory
    )
    source = fn(
        $source,
        dataset=DATA,
        batch_size=$batch,
        prompt_length=$length,  # tokens; what does not fit is skipped, and counted
        long_prompts="skip",$completions
    )
    return Experiment(algorithm, source, steps=100)
''')

_COMPLETIONS = """
        completion_length={length},
        long_completions="skip","""

_REWARD = '''

def reward(prompts, completions, **columns):
    """A number for each completion; columns of the rows come by their names. This one likes short answers: write yours.
    None is no opinion. Completions of conversations are lists of messages."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [-len(text) / 100 for text in texts]
'''

_TALK = "alignjax chat runs/{stem}  # the trained policy answers"
_KINDS = {
    "sft": {
        "title": "Supervised fine-tuning on the answers of rows", "modules": "", "dataset": "Instructions",
        "source": "instructions", "recipe": "sft", "options": "", "heads": "", "rate": "1e-5", "batch": "8",
        "before": "", "then": _TALK,
    },
    "dpo": {
        "title": "Direct preference optimization (arXiv:2305.18290) on pairs", "modules": "", "dataset": "Preferences",
        "source": "preferences", "recipe": "dpo",
        "options": "\n        beta=0.1,  # how strongly it is held to where it began",
        "heads": "", "rate": "1e-6", "batch": "8", "before": "", "then": _TALK,
    },
    "reward": {
        "title": "A reward model (arXiv:2203.02155) from pairs", "modules": "", "dataset": "Preferences",
        "source": "preferences", "recipe": "reward_model", "options": "", "heads": ', outputs=("reward",)',
        "rate": "1e-5", "batch": "8", "before": "",
        "then": "alignjax export runs/{stem} --role reward --to my_reward_model",
    },
    "online": {
        "title": "Policy gradient with a reward in plain Python, on the policy's own samples",
        "modules": ", stages", "dataset": "Prompts", "source": "prompts", "recipe": "rloo",
        "options": "\n        reward=fn(stages.text_reward, function=reward),"
        "\n        n=4,  # samples of a prompt, each against the mean of the others"
        "\n        tau=0.05,  # the pull to where it began, in units of the reward per nat"
        "\n        max_tokens={length},",
        "heads": "", "rate": "1e-6", "batch": "4", "before": _REWARD, "then": _TALK,
    },
}  # fmt: skip


def init(flags: Init) -> int:
    """Writes a config, loads it once, and returns the exit status.

    Args:
        flags: The flags of `alignjax init`.

    Raises:
        ConfigError: The model or the data cannot be used, the rows do not fit the kind, or the file is there already;
            nothing is written then.
        DataError: The rows cannot be read, or fit no layout.
    """
    model, data = user_path(flags.model).absolute(), user_path(flags.data).absolute()
    to = flags.to or Path(NAMES[flags.kind])
    if not str(to).isprintable() or set(str(to)) & {'"', "\\"}:
        raise ConfigError(f"--to is {str(to)!r}; name a file without quotes, backslashes and what cannot be printed")
    if os.path.exists(to):  # where Path.exists raises for a name that is too long, this says no
        raise ConfigError(f"{to} is there already; name another file with --to")
    if to.suffix != ".py":
        raise ConfigError(f"--to is {to}; a config is a .py file")
    if not os.path.exists(data):
        raise ConfigError(f"there is no {data}; name the file or folder of your rows with --data")
    check_rows(flags.kind, str(data))
    longest = huggingface.positions_of(model)
    text = config_text(flags.kind, str(model), str(data), to, min(USUAL_LENGTH, (longest or 2 * USUAL_LENGTH) // 2))
    with writing(to, "name another file with --to"), whole_file(to) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # of names that are not UTF-8, as Python writes them
    try:
        load(str(to))
    except BaseException:
        to.unlink()
        raise
    print(f"{to}: {_KINDS[flags.kind]['title']}. Next: alignjax train {to} --dry-run")
    return 0


def check_rows(kind: str, path: str) -> None:
    """Checks that the first rows of a file are of the dataset that a kind of config reads.

    Args:
        kind: A key of NAMES.
        path: Where the rows are.

    Raises:
        ConfigError: They are of others; the kinds that fit them are named.
        DataError: They cannot be read, or fit no layout.
    """
    try:
        check_read_by(path, getattr(data_sets, _KINDS[kind]["dataset"]))
    except DataError:
        raise
    except ConfigError as error:
        fitting = [
            other for other in NAMES if _KINDS[other]["dataset"] != _KINDS[kind]["dataset"] and _fits(other, path)
        ]
        advice = f"alignjax init {' or '.join(fitting)} fits them" if fitting else "no kind of config fits them"
        raise ConfigError(f"{error}. {advice}; `alignjax data inspect {path}` shows the rows") from None


def _fits(kind: str, path: str) -> bool:
    try:
        check_read_by(path, getattr(data_sets, _KINDS[kind]["dataset"]))
    except ConfigError:
        return False
    return True


def config_text(kind: str, model: str, data: str, file: Path, length: int) -> str:
    """Returns the text of a config.

    Args:
        kind: A key of NAMES.
        model: Where the model is.
        data: Where the rows are.
        file: The file that it will stand in.
        length: Tokens of a prompt, and of a completion.
    """
    words = {name: text.replace("{length}", str(length)) for name, text in _KINDS[kind].items()}
    completions = "" if words["source"] == "prompts" else _COMPLETIONS.format(length=length)
    words["then"] = words["then"].format(stem=file.stem)
    places = {
        "model": json.dumps(model, ensure_ascii=False),
        "data": json.dumps(data, ensure_ascii=False),
        "file": str(file),
        "length": str(length),
    }
    return _HEAD.substitute(words, kind=kind, completions=completions, **places)
