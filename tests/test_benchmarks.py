"""The parts of the benchmarks' table, on a problem too small to measure anything, with our side alone."""

import dataclasses
import json
import sys

import jax
import pytest

from alignjax.models import TransformerConfig, transformer
from benchmarks import ours, peers, results, scaling, worker
from benchmarks.sizes import SIZES, Sizes

FOUND = {"samples": [0.5, 0.25, 1.0], "seconds": 0.5, "compile_seconds": {"total": 2.0}, "rss_bytes": 3_000_000_000}
FACTS = {
    "kind": "peers",
    "size": "small",
    "sizes": {**dataclasses.asdict(SIZES["small"]), "parameters": SIZES["small"].parameters},
    "device": "A machine",
    "huge_pages": False,
    "date": "2000-01-01",
    "command": "python -m benchmarks.peers",
    "versions": {"ours": {"jax": "1"}, "torch_peer": {"torch": "2"}},
    "machine": {"matmul_gflops": 1000.0, "memory_gb_per_s": 10.0, "cached_gb_per_s": 20.0},
    "works": {
        "dpo_update": {"ours": FOUND, "torch_peer": {"failed": "out of memory"}},
        "sampling": {"ours": FOUND, "torch_peer": {**FOUND, "seconds": 2.0}},
    },
}


@pytest.fixture(scope="module")
def run():
    """A run of the real table: processes, forks, checks, figures."""
    options = peers.arguments(["--size", "tiny", "--alone", "--repeats", "3", "--warmup", "0", "--only", "sampling"])
    return peers.measure(options, [row for row in peers.ROWS if row.name == "sampling"])


@pytest.mark.slow
def test_a_run_measures_our_side_alone(run):
    assert run["works"].keys() == {"sampling"}
    assert run["works"]["sampling"].keys() == {"ours"}
    figures = results.figures(run)["sampling"]["ours"]
    assert figures["rounds"] == 3
    assert figures["least"] <= figures["seconds"] <= figures["most"]
    assert figures["tokens_per_s"] * figures["seconds"] == pytest.approx(SIZES["tiny"].tokens("sampling"))
    assert figures["compile_s"] > 0
    assert 0.05 < figures["peak_gb"] < 4
    assert json.loads(json.dumps(run)) == run


@pytest.mark.slow
def test_results_are_written_from_what_was_kept(run, tmp_path):
    results.save({**run, "command": "a command"}, tmp_path)
    results.save(FACTS, tmp_path)
    once = (tmp_path / "RESULTS.md").read_text()
    results.save(FACTS, tmp_path)  # again, in the place of the former
    assert (tmp_path / "RESULTS.md").read_text() == once
    assert once.count("\n## ") == 2
    assert "## A machine: small, float32" in once
    assert "failed: out of memory" in once
    assert "| `sampling` | TRL / transformers | 2 (0.25 - 1) | 4.00 | 512 |" in once


def test_a_failure_is_printed_with_its_row(capsys):
    rows = [row for row in peers.ROWS if row.work in FACTS["works"] and row.peer == "torch_peer"]
    assert peers.table(rows, FACTS) == {"sampling": 4.0}
    assert "torch_peer failed: out of memory" in capsys.readouterr().out


def test_a_side_that_does_other_work_fails():
    tiny = SIZES["tiny"]
    assert peers.wrong(tiny, "sampling", {"tokens": tiny.tokens("sampling")}) is None
    assert "tokens" in peers.wrong(tiny, "sampling", {"tokens": 3})
    assert "0.5" in peers.wrong(tiny, "dpo_update", {"loss": 0.5}, first=True)
    assert peers.wrong(tiny, "dpo_update", {"loss": 0.5}) is None
    assert peers.wrong(tiny, "dpo_update", {"failed": "killed"}) == "killed"


@pytest.mark.slow
def test_the_grpo_row_is_the_recipe_from_the_reference_on():
    """Advantages of a group add up to 0 where all samples are as long and ratios are 1, and the KL is 0."""
    call = ours.prepare("grpo_step", SIZES["tiny"])
    assert abs(call()["loss"]) < 1e-6
    assert abs(call()["loss"]) > 1e-9  # of a policy that has moved


@pytest.mark.slow
def test_an_impossible_problem_is_reported_by_the_process_that_meets_it():
    sizes = dataclasses.replace(SIZES["tiny"], heads=16)  # heads of one number cannot be turned
    side = worker.Side("ours", sys.executable)
    side.ready()
    seconds, why = scaling.timed(side, "sampling", sizes, 1)
    assert seconds is None
    assert "head_dim" in why
    assert "failed" in side.prepare("no such work", dataclasses.asdict(sizes))  # the side lives on
    side.close()


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_of_the_model(name):
    sizes = SIZES[name]
    config = TransformerConfig(
        vocab=sizes.vocabulary, width=sizes.width, layers=sizes.layers, heads=sizes.heads, mlp=sizes.mlp
    )
    leaves = jax.tree.leaves(jax.eval_shape(transformer(config).init, jax.random.key(0)))
    assert sum(leaf.size for leaf in leaves) == sizes.parameters


def test_flops_of_a_forward_are_those_that_xla_counts():
    """In the limit of one layer (XLA counts a loop's body once), a prompt of one token and wide matrices."""
    sizes = Sizes(width=512, layers=1, heads=4, mlp=1024, vocabulary=2048, prompt=1, completion=64)
    model = transformer(
        TransformerConfig(vocab=sizes.vocabulary, width=sizes.width, layers=1, heads=sizes.heads, mlp=sizes.mlp)
    )

    def forward(params, tokens):
        hidden = model.extend(params, None, tokens, tokens >= 0)[0]
        return model.heads["lm"].apply(params, hidden)

    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, 1, sizes.prompt + sizes.completion), "int32")
    counted = jax.jit(forward).lower(params, tokens).cost_analysis()["flops"]
    assert counted == pytest.approx(sizes.forward_flops(1, shared=True), rel=0.1)


def test_slopes_of_powers():
    assert scaling.slope([(size, 3.0 * size**1.5) for size in (2, 4, 16)]) == pytest.approx(1.5)
    assert scaling.slope([(2, 1.0)]) is None
