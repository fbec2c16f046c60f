"""Adapters that `peft` wrote give its logits here, and ours give ours there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peft as peft_package
import pytest
import torch

from alignjax.cli import adapter_folders
from alignjax.config import ConfigError, fn
from alignjax.models import huggingface, lora, peft, transformer
from alignjax.types import Model, Params
from tests.support.published import theirs, written
from tests.support.tiny import difference

TOKENS = np.random.default_rng(0).integers(3, 37, (2, 9))
EVERYTHING = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Params]:
    folder = written("llama2", tmp_path_factory.getbasetemp())
    model = transformer(huggingface.config_of(folder))
    return model, huggingface.load(folder, model)


def logits(model: Model, params: Params) -> Any:
    assert model.extend is not None
    valid = jnp.ones(TOKENS[:, None].shape, bool)
    hidden, _, _ = jax.jit(model.extend)(params, None, jnp.asarray(TOKENS[:, None], jnp.int32), valid)
    return model.heads["lm"].apply(params, hidden)[:, 0]


def their_logits(network: Any) -> Any:
    with torch.no_grad():
        return network(torch.as_tensor(TOKENS)).logits.numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": EVERYTHING, "use_rslora": True, "rank_pattern": {"down_proj": 2}},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"target_modules": ["q_proj", "o_proj"], "rank_pattern": {"layers.0.self_attn.q_proj": 5},
                 "alpha_pattern": {"o_proj": 2, "1.self_attn.q_proj": 11}},
                {"target_modules": r".*\.1\..*(v|up)_proj", "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
                {"target_modules": ["k_proj", "down_proj"], "layers_to_transform": [1]},
                {"target_modules": "all-linear", "exclude_modules": ["gate_proj"]},
                {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "input_layernorm", "norm"]},
            )
        ),
    ],
    ids=["some", "all_rank_stabilised", "patterns", "regex", "layers", "all_linear", "whole"],
)  # fmt: skip
def test_theirs_give_their_logits_here(options: dict[str, Any], ours: tuple[Model, Params], tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = peft_package.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    network = peft_package.get_peft_model(theirs("llama2"), settings).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "modules_to_save" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    network.save_pretrained(tmp_path)
    model, params = ours
    found = peft.load(tmp_path, model.config)
    adapted = lora.adapt(params, found.adapters, alpha=found.alpha, rank_stabilised=found.rank_stabilised)
    expected = their_logits(network)
    np.testing.assert_allclose(logits(model, adapted), expected, atol=2e-4)
    assert np.abs(expected - np.asarray(logits(model, params))).max() > 0.1


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_ours_give_our_logits_there(rank_stabilised: bool, ours: tuple[Model, Params], tmp_path: Path) -> None:
    """Also read back, here, they are the same bits."""
    model, params = ours
    fresh = lora.init(jax.random.key(0), params, rank=2)
    small = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), fresh)
    folder = tmp_path / "adapters"
    left = peft.save(small, model.config, folder, alpha=6.0, rank_stabilised=rank_stabilised, base="somewhere")
    assert left == []
    network = peft_package.PeftModel.from_pretrained(theirs("llama2"), folder).eval()
    expected = logits(model, lora.adapt(params, small, alpha=6.0, rank_stabilised=rank_stabilised))
    np.testing.assert_allclose(their_logits(network), expected, atol=2e-4)
    found = peft.load(folder, model.config)
    assert difference(found.adapters, small) == 0
    assert found[1:] == (6.0, rank_stabilised)
    again = fn(peft.start, folder=str(folder), config=model.config)(jax.random.key(1), params)
    assert difference(again, small) == 0
    with pytest.raises(ConfigError, match="there already and not empty"):
        peft.save(small, model.config, folder, alpha=6.0)


FUSED = {
    "gpt_neox": ["query_key_value", "dense", "dense_4h_to_h"],
    "phi3": ["qkv_proj", "gate_up_proj", "o_proj"],
    "cohere2": ["q_proj", "v_proj", "down_proj"],  # heads whose numbers take turns
    "mixtral": ["q_proj", "o_proj"],
    "gpt_oss": ["k_proj", "o_proj"],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FUSED)
def test_families_whose_matrices_lie_otherwise(case: str, tmp_path: Path) -> None:
    """Theirs give their logits here and are written again as they were; ours, of other ranks and with the parts of a
    matrix apart, give our logits there, and read back they are the same products."""
    torch.manual_seed(0)
    folder = written(case, tmp_path)
    model = transformer(huggingface.config_of(folder))
    params = huggingface.load(folder, model)
    settings = peft_package.LoraConfig(
        r=3, lora_alpha=5, init_lora_weights=False, task_type="CAUSAL_LM", target_modules=FUSED[case],
        alpha_pattern={FUSED[case][0]: 4},
    )  # fmt: skip
    network = peft_package.get_peft_model(theirs(case), settings).eval()
    network.save_pretrained(tmp_path / "theirs")
    found = peft.load(tmp_path / "theirs", model.config)
    adapted = logits(model, lora.adapt(params, found.adapters, alpha=found.alpha))
    np.testing.assert_allclose(adapted, their_logits(network), atol=2e-4)
    assert np.abs(np.asarray(adapted) - logits(model, params)).max() > 0.1
    peft.save(found.adapters, model.config, tmp_path / "again", alpha=found.alpha)
    again = peft_package.PeftModel.from_pretrained(theirs(case), tmp_path / "again").eval()
    assert {c.r for c in again.peft_config.values()} == {3}
    np.testing.assert_allclose(their_logits(again), adapted, atol=2e-4)

    targets = "q|k|v|o" if model.config.experts else "q|v|o|gate|up|down"
    fresh = lora.init(jax.random.key(0), params, rank=2, targets=targets)
    small = jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), fresh)
    assert peft.save(small, model.config, tmp_path / "ours", alpha=6.0, rank_stabilised=True) == []
    there = peft_package.PeftModel.from_pretrained(theirs(case), tmp_path / "ours").eval()
    expected = logits(model, lora.adapt(params, small, alpha=6.0, rank_stabilised=True))
    np.testing.assert_allclose(their_logits(there), expected, atol=3e-4)
    back = peft.load(tmp_path / "ours", model.config)
    read = lora.adapt(params, back.adapters, alpha=back.alpha, rank_stabilised=back.rank_stabilised)
    np.testing.assert_allclose(logits(model, read), expected, atol=2e-4)


@pytest.mark.slow
def test_what_was_trained_whole_goes_along(ours: tuple[Model, Params], tmp_path: Path) -> None:
    """A head and norms of the layers are what peft calls modules_to_save; read back they are the same bits."""
    model, params = ours
    small = lora.init(jax.random.key(0), params, rank=2, targets="q|down", whole=r"heads\.lm\..*|layers\.mlp_norm")
    small = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), small)
    assert peft.save(small, model.config, tmp_path / "adapters", alpha=3.0) == []
    network = peft_package.PeftModel.from_pretrained(theirs("llama2"), tmp_path / "adapters").eval()
    expected = logits(model, lora.adapt(params, small, alpha=3.0))
    np.testing.assert_allclose(their_logits(network), expected, atol=2e-4)
    assert difference(peft.load(tmp_path / "adapters", model.config).adapters, small) == 0


def test_what_has_no_place_there_is_named(ours: tuple[Model, Params], tmp_path: Path) -> None:
    model, params = ours
    small = {**lora.init(jax.random.key(0), params, rank=2, targets="q"), "heads": {"value": {"bias": jnp.zeros(1)}}}
    assert peft.save(small, model.config, tmp_path / "adapters", alpha=1.0) == ["heads/value/bias"]


def broken(folder: Path, model: Model, params: Params, **settings: Any) -> None:
    peft.save(lora.init(jax.random.key(0), params, rank=2, targets="q"), model.config, folder, alpha=1.0)
    path = folder / peft.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_adapters_that_are_not_finite_are_refused(ours: tuple[Model, Params], tmp_path: Path, number: float) -> None:
    model, params = ours
    adapters = jax.tree.map(np.array, lora.init(jax.random.key(0), params, rank=2, targets="q"))
    adapters["layers"]["q"]["b"][1, 1, 0] = number
    peft.save(adapters, model.config, tmp_path / "x", alpha=1.0)
    with pytest.raises(ConfigError, match=r"layers.1.self_attn.q_proj.lora_B.weight has numbers that are not finite"):
        peft.load(tmp_path / "x", model.config)


def test_pickled_adapters_are_called_that(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"only as pickle \(adapter_model.bin\), which runs code"):
        adapter_folders.hash_of(tmp_path)


def test_what_is_not_read_is_said(ours: tuple[Model, Params], tmp_path: Path) -> None:
    model, params = ours
    for number, (settings, message) in enumerate(
        [
            ({"use_dora": True}, "use_dora is true, which is not built; only false or null is read"),
            ({"peft_type": "IA3"}, 'peft_type is "IA3"'),
            ({"init_lora_weights": "pissa"}, 'init_lora_weights is "pissa"'),
            ({"layers_to_transform": [1]}, r"layers.0.self_attn.q_proj.* belongs to no matrix"),
            ({"layers_to_transform": [-1]}, r"layers_to_transform"),
            ({"target_modules": "(("}, "target_modules of adapters is no pattern"),
            ({"modules_to_save": 3}, "modules_to_save is 3"),
            ({"alora_invocation_tokens": [5, 6]}, r"alora_invocation_tokens is \[5, 6\]"),
            ({"of_next_year": {"a": 1}}, "of_next_year is .* not known here"),
            ({"lora_alpha": None}, "lora_alpha is null; it must be a finite float32 number above 0"),
            ({"lora_alpha": float("inf")}, "lora_alpha is Infinity"),
            ({"r": 0}, "r is 0; it must be a whole number from 1"),
            ({"r": 5}, "has rank 2 and 2, and adapter_config.json says 5"),
            ({"rank_pattern": {"q_proj": 7}}, "says 7"),
            ({"rank_pattern": {"q_proj": "2"}}, 'rank_pattern.q_proj is "2"'),
            ({"target_modules": ["q_proj", "o_proj"]}, "has no adapters of o_proj"),
        ]
    ):
        broken(tmp_path / str(number), model, params, **settings)
        with pytest.raises(ConfigError, match=message):
            peft.load(tmp_path / str(number), model.config)
    folder = tmp_path / "whole"
    broken(folder, model, params)
    for sizes, message in (
        ({"layers": 3}, r"has no base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"),
        ({"layers": 1}, r"layers.1.self_attn.q_proj.lora_A.weight belongs to no matrix"),
        ({"width": 20, "head_dim": 5 * 4}, r"is for a matrix \[16, 16\], and this model's is \[20, 80\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            peft.load(folder, type(model.config)(**{**vars(model.config), **sizes}))
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json"):
        peft.load(tmp_path, model.config)
