"""TRL and transformers at their own work: one training step without its logging, `generate` with its cache."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import trl
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from benchmarks.sizes import SIZES

torch.set_num_threads(2)


def versions() -> dict[str, str]:
    return {module.__name__: module.__version__ for module in (torch, transformers, trl)}


def _model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=SIZES.vocabulary,
        hidden_size=SIZES.width,
        intermediate_size=SIZES.mlp,
        num_hidden_layers=SIZES.layers,
        num_attention_heads=SIZES.heads,
        num_key_value_heads=SIZES.heads,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)  # float32, scaled-dot-product attention


END = 2


def _tokenizer(end: int) -> transformers.PreTrainedTokenizerFast:
    """Word <i> is token i, with one token more than the model can say: as an end token it makes every row full."""
    words = {f"<{i}>": i for i in range(SIZES.vocabulary + 1)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<3>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<0>", bos_token="<1>", unk_token="<3>", eos_token=f"<{end}>"
    )


def _words(ids: torch.Tensor) -> str:
    return " ".join(f"<{i}>" for i in ids.tolist())


def _pairs(rows: int) -> datasets.Dataset:
    """Text pairs of exactly the sizes; completions end with END, or the trainer would append it."""
    torch.manual_seed(1)
    prompts = torch.randint(4, SIZES.vocabulary, (rows, SIZES.prompt))
    answers = torch.randint(4, SIZES.vocabulary, (rows, 2, SIZES.completion))
    answers[..., -1] = END
    return datasets.Dataset.from_dict(
        {
            "prompt": [_words(prompt) for prompt in prompts],
            "chosen": [" " + _words(answer[0]) for answer in answers],
            "rejected": [" " + _words(answer[1]) for answer in answers],
        }
    )


def _settings(rows: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": rows,
        "gradient_checkpointing": False,  # with it TRL would run the forward twice and switch the cache off
        "bf16": False,
        "use_cpu": True,
        "learning_rate": SIZES.learning_rate,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
    }


def _step(trainer: Any, batch: Any) -> Callable[[], dict[str, float]]:
    """What the trainer's inner loop does for one batch: step(forward, backward), optimizer, gradients to zero."""
    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # set by the loop that we stand in for
    model = trainer.model
    model.train()

    def call() -> dict[str, float]:
        loss = trainer.training_step(model, batch)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": float(loss)}

    return call


def _dpo(precomputed: bool) -> Callable[[], dict[str, float]]:
    model = _model()
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=None if precomputed else copy.deepcopy(model),
        args=trl.DPOConfig(
            **_settings(SIZES.pairs), beta=SIZES.beta, max_length=None, precompute_ref_log_probs=precomputed
        ),
        train_dataset=_pairs(SIZES.pairs),
        processing_class=_tokenizer(END),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape == (2 * SIZES.pairs, SIZES.prompt + SIZES.completion)
    assert int(batch["completion_mask"].sum()) == 2 * SIZES.pairs * SIZES.completion
    return _step(trainer, batch)


def _sampling() -> Callable[[], dict[str, int]]:
    model = _model().eval()
    torch.manual_seed(1)
    prompts = torch.randint(4, SIZES.vocabulary, (SIZES.rows, SIZES.prompt))
    mask = torch.ones_like(prompts)
    config = transformers.GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=SIZES.completion,
        pad_token_id=0,
        eos_token_id=None,
        use_cache=True,
    )

    def call() -> dict[str, int]:
        with torch.no_grad():
            output = model.generate(input_ids=prompts, attention_mask=mask, generation_config=config)
        return {"tokens": SIZES.rows * (output.shape[1] - SIZES.prompt)}

    return call


def _online() -> Callable[[], dict[str, float]]:
    def judge(completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert all(len(ids) == SIZES.completion for ids in completion_ids)
        return [float(ids[0]) for ids in completion_ids]

    trainer = OnlineDPOTrainer(
        model=_model(),
        reward_funcs=judge,
        args=OnlineDPOConfig(
            **_settings(SIZES.online),
            beta=[SIZES.beta],
            max_new_tokens=SIZES.completion,
            max_length=512,
            temperature=1.0,
        ),
        train_dataset=_pairs(SIZES.online).select_columns(["prompt"]),
        processing_class=_tokenizer(SIZES.vocabulary),
    )
    assert trainer.generation_config.use_cache
    return _step(trainer, next(iter(trainer.get_train_dataloader())))


def prepare(row: str) -> Callable[[], dict[str, Any]]:
    makers = {
        "dpo_update": lambda: _dpo(precomputed=False),
        "dpo_update_precomputed": lambda: _dpo(precomputed=True),
        "sampling": _sampling,
        "online_step": _online,
    }
    return makers[row]()
