"""`alignjax explain`: what it says of a config is what the config's run does."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import jax
import pytest

from alignjax.cli import main
from alignjax.cli.config_file import imported, load
from alignjax.cli.data_flow import flow_of
from alignjax.cli.explain import described
from alignjax.cli.flow_picture import picture
from alignjax.config import Experiment, Pipeline
from alignjax.train.resolve import resolve
from alignjax.train.run_record import config_json
from alignjax.train.step import abstract_experience, make_update
from alignjax.tree_names import leaves_by_name
from alignjax.types import Mean
from alignjax.workspace import Workspace
from tests.support.commands import ROOT

CONFIGS = ROOT / "configs"
# What docs/healthy.md speaks of: `reward_NAME` is the reward of any name.
WORDS = re.findall(r"`([\w/]+)`", (ROOT / "docs" / "healthy.md").read_text())
ON_THE_PAGE = re.compile(
    "|".join(word.rpartition("/")[2].replace("NAME", r"\w+") for word in WORDS if word != "loss/NAME")
)
NOWHERE = Workspace(Path("runs/nowhere"))


def step_of(where: str, step: str) -> Experiment:
    config = load(str(CONFIGS / where)).config
    assert isinstance(config, Pipeline)
    made = config.steps[step]
    assert isinstance(made, Experiment)
    return made


def by_name(parts):
    return {part.name: part for part in parts}


@pytest.fixture(scope="module")
def online():
    return flow_of(step_of("quickstart.py:tiny", "online_ipo"), NOWHERE)


def test_a_part_reads_what_its_numbers_are_made_of(online):
    """Samples are the policy's, labels the judge's, log-probs the reference's, which a loss is given."""
    stages, (loss,) = by_name(online.stages), online.losses
    assert {name: part.roles for name, part in stages.items()} == {
        "generate": ("policy",),
        "prefer": ("preference",),
        "reference": ("reference",),
    }
    assert loss.roles == ("policy",)
    assert {"preference", "logps.reference", "mask"} <= {*loss.reads}
    assert "logps.sampler" not in loss.reads  # only passed on
    assert "example_id" in stages["generate"].reads
    assert "example_id" not in loss.reads


def test_only_the_policy_learns(online):
    assert [role.name for role in online.roles if role.learns] == ["policy"]
    assert online.roles[0].name == "policy"
    assert all(role.by == ("frozen",) for role in online.roles[1:])


@pytest.mark.parametrize(
    ("where", "step"), [("quickstart.py:tiny", "ipo_md"), ("online.py:ppo-tiny", "ppo"), ("losses.py:bco-tiny", "bco")]
)
def test_shapes_and_metrics_are_those_of_the_run(where, step):
    experiment = step_of(where, step)
    flow, resolved = flow_of(experiment, NOWHERE), resolve(experiment, NOWHERE)
    algorithm = resolved.experiment.algorithm
    made, logged = abstract_experience(algorithm, resolved.bare_state, resolved.spec)
    added: dict[str, str] = {}
    for part in (flow.source, *flow.stages):
        added |= part.adds
    assert added == {name: f"[{','.join(map(str, leaf.shape))}]" for name, leaf in leaves_by_name(made, ".").items()}
    _, learned = jax.eval_shape(make_update(algorithm), resolved.bare_state, made)
    logs = {name for part in (*flow.stages, *flow.losses) for name in part.logs}
    beside = {name for name in learned if name == "loss" or name.startswith("gradient_norm/")}
    assert logs == {*logged, *learned} - beside


def test_what_is_not_computed_with_is_not_read():
    """Of a loss of the test's own, which reads one role of two and one field of many."""

    def bare(context, batch):
        return Mean.of(batch.mask * jax.tree.leaves(context.state["policy"])[0].sum()), {}

    experiment = step_of("quickstart.py:tiny", "online_ipo")
    changed = dataclasses.replace(experiment.algorithm, losses={"bare": bare})
    (loss,) = flow_of(dataclasses.replace(experiment, algorithm=changed), NOWHERE).losses
    assert (loss.reads, loss.roles) == (("mask",), ("policy",))


def test_the_command_prints_and_draws(capsys, tmp_path):
    to = tmp_path / "a folder to come" / "flow.svg"
    words = ["explain", str(CONFIGS / "quickstart.py:tiny"), "--step", "online_ipo", "--to", str(to)]
    assert main([*words, "--online_ipo.algorithm.losses.pair.tau", "0.37"]) == 0
    out = capsys.readouterr().out
    assert "(margin - (2p-1) / (2 tau))^2" in out
    assert "tau = 0.37" in out
    assert "sft: " not in out, "one step alone was asked for"
    drawn = ET.fromstring(to.read_text())
    texts = " ".join(element.text or "" for element in drawn.iter() if element.tag.endswith("text"))
    assert all(words in texts for words in ("stage generate", "loss pair: ipo", "role reference", "tau = 0.37"))
    assert "http" not in to.read_text().replace("http://www.w3.org/2000/svg", ""), "it loads nothing"
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", "online_ip"], "Did you mean 'online_ipo'?"),
        (["--to", "flow.png"], "name a file that ends in .svg"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said, capsys):
    assert main(["explain", str(CONFIGS / "quickstart.py:tiny"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_mode_of_every_config_is_explained_and_every_metric_on_the_page_of_metrics(file):
    """Steps that modes share are explained once."""
    if file.name == "smollm2.py":
        pytest.importorskip("vaderSentiment")
    seen = set()
    for mode in ("tiny",) if file.name == "smollm2.py" else imported(file).MODES:  # its full mode fetches weights
        config = load(f"{file}:{mode}").config
        for name, step in config.steps.items() if isinstance(config, Pipeline) else [("", config)]:
            if (key := json.dumps(config_json(step), sort_keys=True)) in seen:
                continue
            seen.add(key)
            flow = flow_of(step, NOWHERE.of(name)) if isinstance(step, Experiment) else step
            assert [*described(name, flow)]
            ET.fromstring(picture({name: flow}))
            if isinstance(step, Experiment):
                assert any(role.learns for role in flow.roles) == bool(step.algorithm.losses)
                assert all(loss.roles for loss in flow.losses)
                logged = {name.rpartition("/")[2] for part in flow.stages for name in part.logs}
                logged |= {name.rpartition("/")[2] for part in flow.losses for name in part.logs if name[:5] != "loss/"}
                assert not {name for name in logged if not ON_THE_PAGE.fullmatch(name)}, (
                    "say in docs/healthy.md what it is"
                )
