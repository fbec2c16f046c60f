"""`alignjax import ADAPTERS --base WEIGHTS`, `export --adapters`, what an exported folder says of itself, and bfloat16
that stays bfloat16."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import peft as peft_package
import pytest
import torch
import transformers
from safetensors import safe_open

from alignjax.cli import config_file, main
from alignjax.models import huggingface
from alignjax.train import checkpoint
from alignjax.train.run_record import config_json
from alignjax.train.state import create_state
from alignjax.workspace import Workspace, write_json
from tests.models.test_huggingface_commands import CONFIG, tensors_of
from tests.support.published import theirs, written

pytestmark = pytest.mark.slow


def adapters_of(case: str, folder: Path, labels: int | None = None, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = "SEQ_CLS" if labels else "CAUSAL_LM"
    settings = peft_package.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, task_type=kind, **options)
    network = peft_package.get_peft_model(theirs(case, labels=labels), settings).eval()
    network.save_pretrained(folder)
    return network


def test_adapters_are_imported_and_exported_whole(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What comes out is what peft merges."""
    base = written("llama3", root)
    network = adapters_of("llama3", tmp_path / "small", target_modules=["q_proj", "up_proj"])
    words = ["import", str(tmp_path / "small"), "--to", str(tmp_path / "own")]
    assert main(words) == 2
    assert "name the weights that they were trained on" in capsys.readouterr().err
    assert main(["import", str(base), "--base", str(base), "--to", str(tmp_path / "own")]) == 2
    assert "has no adapter_config.json" in capsys.readouterr().err
    assert main([*words, "--base", str(base)]) == 0
    assert main(["export", str(tmp_path / "own"), "--to", str(tmp_path / "out")]) == 0
    merged, out = network.merge_and_unload().state_dict(), tensors_of(tmp_path / "out")
    for name, tensor in out.items():
        np.testing.assert_allclose(tensor.numpy(), merged[name].numpy(), atol=1e-6, err_msg=name)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license:  # fill in" in card
    assert f"{base.name}, with the adapters in {tmp_path / 'small'} added" in card.replace("\\", "")


def test_a_reward_model_of_adapters_keeps_its_head(root: Path, tmp_path: Path) -> None:
    """The base is a language model, and the head lies among the adapters."""
    network = adapters_of("llama2", tmp_path / "small", labels=1, target_modules=["v_proj"])
    base = tmp_path / "base"
    language = transformers.LlamaForCausalLM(network.config)
    language.model.load_state_dict(theirs("llama2", labels=1).model.state_dict())
    language.save_pretrained(base)
    assert main(["import", str(tmp_path / "small"), "--base", str(base), "--to", str(tmp_path / "own")]) == 0
    assert main(["export", str(tmp_path / "own"), "--to", str(tmp_path / "out")]) == 0
    ours = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = torch.tensor([[5, 9, 11, 30], [7, 8, 3, 4]])
    with torch.no_grad():
        np.testing.assert_allclose(ours(tokens).logits, network(tokens).logits, atol=1e-5)


def test_adapters_of_a_run_are_exported_for_peft(root: Path, tmp_path: Path) -> None:
    base, file, run = written("llama3", root), tmp_path / "config.py", tmp_path / "run"
    file.write_text(CONFIG.replace("FOLDER", repr(str(base))))
    loaded = config_file.load(str(file))
    config_file.remember(loaded, run)
    write_json(run / "config.json", {"config": config_json(loaded.config), "versions": {"alignjax": "0"}})
    state = create_state(loaded.config.algorithm, 0, Workspace(run))
    trees = {**state.roles, "policy": jax.tree.map(lambda leaf: leaf + 0.1, state.roles["policy"])}
    with checkpoint.writing(run, keep=1) as writer:
        checkpoint.save(writer, 1, {"roles": trees}, {})
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
    assert main(["export", str(run), "--adapters", "--to", str(tmp_path / "small")]) == 0
    network = peft_package.PeftModel.from_pretrained(theirs("llama3"), tmp_path / "small").eval()
    merged, out = network.merge_and_unload().state_dict(), tensors_of(tmp_path / "out")
    for name, tensor in out.items():
        np.testing.assert_allclose(tensor.numpy(), merged[name].numpy(), atol=1e-6, err_msg=name)
    card = (tmp_path / "small" / "README.md").read_text()
    for part in (
        'library_name: "peft"',
        f"base_model:  # fill in: {base.name}",
        "alignjax train config.py",
        "loss `sft`",
    ):
        assert part in card, part
    assert main(["export", str(run), "--adapters", "--dtype", "float32", "--to", str(tmp_path / "x")]) == 2
    assert main(["export", str(run), "--adapters", "--role", "base", "--to", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def test_bfloat16_stays_bfloat16(root: Path, tmp_path: Path) -> None:
    """Byte for byte through import, checkpoint and export, and no copy of twice the size on the way."""
    folder = written("llama3", root, dtype="bfloat16")
    assert main(["import", str(folder), "--to", str(tmp_path / "own")]) == 0
    params = checkpoint.restore_role(tmp_path / "own", "policy")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    weights = (folder / "model.safetensors").stat().st_size
    stored = sum(path.stat().st_size for path in (tmp_path / "own" / "checkpoints").rglob("*") if path.is_file())
    assert stored < 2 * weights + 60_000
    assert main(["export", str(tmp_path / "own"), "--to", str(tmp_path / "out")]) == 0
    with (
        safe_open(folder / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "out" / "model.safetensors", "pt") as after,
    ):
        assert {*after.keys()} == {*before.keys()} - {"lm_head.weight"}
        for name in after.keys():  # noqa: SIM118
            one, other = (file.get_tensor(name).view(torch.int16) for file in (before, after))
            assert torch.equal(one, other), name
    assert main(["import", str(folder), "--dtype", "float32", "--to", str(tmp_path / "wide")]) == 0
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(checkpoint.restore_role(tmp_path / "wide", "policy"))} == {
        "float32"
    }
    mixed = written("llama3", root)
    assert huggingface.dtype_of(mixed) == "float32"
