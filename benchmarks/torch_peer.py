"""TRL and transformers at their own work: one training step without its logging, `generate` with its cache."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import trl
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from benchmarks.sizes import Sizes

DEVICE = "cpu" if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu" else "cuda"
END = 2
Call = Callable[[], dict[str, Any]]


def versions() -> dict[str, str]:
    return {module.__name__: module.__version__ for module in (torch, transformers, trl)}


def device_bytes() -> int | None:
    return None if DEVICE == "cpu" else torch.cuda.max_memory_allocated()


def _wait() -> None:
    if DEVICE != "cpu":
        torch.cuda.synchronize()


def _config(sizes: Sizes, **settings: Any) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        tie_word_embeddings=False,
        **settings,
    )


def _model(sizes: Sizes, kind: Any = transformers.LlamaForCausalLM, **settings: Any) -> transformers.PreTrainedModel:
    """Random weights; scaled-dot-product attention, the default."""
    torch.manual_seed(0)
    return kind(_config(sizes, **settings)).to(DEVICE, getattr(torch, sizes.dtype))


def _saved(sizes: Sizes, folder: str) -> transformers.PreTrainedModel:
    """The same read from a folder, from which a trainer can read its reference too."""
    _model(sizes).save_pretrained(folder)
    dtype = getattr(torch, sizes.dtype)
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE)


def _tokenizer(sizes: Sizes, end: int) -> transformers.PreTrainedTokenizerFast:
    """Word <i> is token i, with one token more than the model can say: as an end token it makes every row full."""
    words = {f"<{i}>": i for i in range(sizes.vocabulary + 1)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<3>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<0>", bos_token="<1>", unk_token="<3>", eos_token=f"<{end}>"
    )


def _words(ids: torch.Tensor) -> str:
    return " ".join(f"<{i}>" for i in ids.tolist())


def _ids(sizes: Sizes, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts [rows, P] and two answers to each [rows, 2, T]. Answers end with END, or a trainer would append it."""
    torch.manual_seed(1)
    prompts = torch.randint(4, sizes.vocabulary, (rows, sizes.prompt))
    answers = torch.randint(4, sizes.vocabulary, (rows, 2, sizes.completion))
    answers[..., -1] = END
    return prompts, answers


def _pairs(sizes: Sizes, rows: int) -> datasets.Dataset:
    """Text pairs of exactly the sizes."""
    prompts, answers = _ids(sizes, rows)
    return datasets.Dataset.from_dict(
        {
            "prompt": [_words(prompt) for prompt in prompts],
            "chosen": [" " + _words(answer[0]) for answer in answers],
            "rejected": [" " + _words(answer[1]) for answer in answers],
        }
    )


def _settings(sizes: Sizes, rows: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": rows,
        "gradient_checkpointing": False,  # with it TRL would run the forward twice and switch the cache off
        "bf16": False,  # no automatic casts: the weights have the dtype that is computed in
        "use_cpu": DEVICE == "cpu",
        "learning_rate": sizes.learning_rate,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
    }


def _step(trainer: Any) -> Call:
    """What the trainer's inner loop does for one batch: step(forward, backward), optimizer, gradients to zero."""
    batch = next(iter(trainer.get_train_dataloader()))
    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # set by the loop that we stand in for
    model = trainer.model
    model.train()

    def call() -> dict[str, float]:
        loss = trainer.training_step(model, batch, None)
        optimizer.step()
        optimizer.zero_grad()
        _wait()
        return {"loss": float(loss)}

    return call


def _dpo(sizes: Sizes, precomputed: bool = False, loss_type: str = "sigmoid") -> Call:
    model = _model(sizes)
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=None if precomputed else copy.deepcopy(model),
        args=trl.DPOConfig(
            **_settings(sizes, sizes.pairs),
            beta=sizes.beta,
            loss_type=[loss_type],
            max_length=None,
            precompute_ref_log_probs=precomputed,
        ),
        train_dataset=_pairs(sizes, sizes.pairs),
        processing_class=_tokenizer(sizes, END),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape == (2 * sizes.pairs, sizes.prompt + sizes.completion)
    assert int(batch["completion_mask"].sum()) == 2 * sizes.pairs * sizes.completion
    return _step(trainer)


def _reward(sizes: Sizes) -> Call:
    prompts, answers = _ids(sizes, sizes.pairs)
    columns = {
        name: [[*prompt, *answer[side]] for prompt, answer in zip(prompts.tolist(), answers.tolist(), strict=True)]
        for side, name in enumerate(("chosen_ids", "rejected_ids"))
    }
    trainer = trl.RewardTrainer(
        model=_model(sizes, transformers.LlamaForSequenceClassification, num_labels=1),
        args=trl.RewardConfig(**_settings(sizes, sizes.pairs), max_length=None),
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=_tokenizer(sizes, END),
    )
    shape = next(iter(trainer.get_train_dataloader()))["input_ids"].shape
    assert shape == (2 * sizes.pairs, sizes.prompt + sizes.completion)
    return _step(trainer)


def _sampling(sizes: Sizes) -> Call:
    model = _model(sizes).eval()
    torch.manual_seed(1)
    prompts = torch.randint(4, sizes.vocabulary, (sizes.rows, sizes.prompt)).to(DEVICE)
    mask = torch.ones_like(prompts)
    config = transformers.GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=sizes.completion,
        pad_token_id=0,
        eos_token_id=None,
        use_cache=True,
    )

    def call() -> dict[str, int]:
        with torch.no_grad():
            output = model.generate(input_ids=prompts, attention_mask=mask, generation_config=config)
        _wait()
        return {"tokens": sizes.rows * (output.shape[1] - sizes.prompt)}

    return call


def _judge(sizes: Sizes) -> Callable[..., list[float]]:
    """The trivial reward: the first token. The tokenizer's end token cannot be said, so that every row is full."""

    def judge(completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert all(len(ids) == sizes.completion for ids in completion_ids)
        return [float(ids[0]) for ids in completion_ids]

    return judge


def _online(sizes: Sizes) -> Call:
    trainer = OnlineDPOTrainer(
        model=_model(sizes),
        reward_funcs=_judge(sizes),
        args=OnlineDPOConfig(
            **_settings(sizes, sizes.online),
            beta=[sizes.beta],
            max_new_tokens=sizes.completion,
            max_length=1024,
            temperature=1.0,
        ),
        train_dataset=_pairs(sizes, sizes.online).select_columns(["prompt"]),
        processing_class=_tokenizer(sizes, sizes.vocabulary),
    )
    assert trainer.generation_config.use_cache
    return _step(trainer)


def _grpo(sizes: Sizes) -> Call:
    """One update per group of samples, with the KL to a reference (which TRL leaves out unless it is asked)."""
    folder = tempfile.mkdtemp()
    trainer = trl.GRPOTrainer(
        model=_saved(sizes, folder),
        reward_funcs=_judge(sizes),
        args=trl.GRPOConfig(
            **_settings(sizes, sizes.groups * sizes.samples),
            num_generations=sizes.samples,
            max_completion_length=sizes.completion,
            steps_per_generation=1,
            beta=sizes.beta,
            loss_type="grpo",
            temperature=1.0,
        ),
        train_dataset=_pairs(sizes, sizes.groups).select_columns(["prompt"]),
        processing_class=_tokenizer(sizes, sizes.vocabulary),
    )
    shutil.rmtree(folder)
    assert trainer.ref_model is not None
    assert trainer.generation_config.use_cache is not False
    return _step(trainer)


def prepare(work: str, sizes: Sizes) -> Call:
    if DEVICE == "cpu":
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    makers = {
        "dpo_update": _dpo,
        "dpo_update_precomputed": lambda sizes: _dpo(sizes, precomputed=True),
        "ipo_update": lambda sizes: _dpo(sizes, loss_type="ipo"),
        "reward_step": _reward,
        "sampling": _sampling,
        "online_step": _online,
        "grpo_step": _grpo,
    }
    return makers[work](sizes)
