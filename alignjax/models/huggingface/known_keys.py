"""The keys that a config.json may have: those that are read, notes that change no number, and those that change one
unless they are at the value named here. Whatever else stands in the file is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypedDict

from alignjax.config import ConfigError
from alignjax.json_shapes import check_shape, shown
from alignjax.models.huggingface.families import Family
from alignjax.ranges import Count, Natural, NonNegative, Positive, Share

# Token ids are read where tokenizers are; the rest is about training elsewhere, sampling, or how the file was made.
NOTES = frozenset((
    "transformers_version", "dtype", "torch_dtype", "initializer_range", "use_cache", "return_dict", "use_return_dict",
    "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "problem_type", "_name_or_path",
    "attention_dropout", "hidden_dropout", "classifier_dropout", "pretraining_tp", "max_position_embeddings",
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens",
    "suppress_tokens", "cache_implementation", "tokenizer_class", "prefix", "finetuning_task", "task_specific_params",
    "torchscript", "use_bfloat16", "tf_legacy_loss", "remove_invalid_values", "is_decoder", "name_or_path",
    "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "_flash_attn_2_enabled",
    "_sliding_window_pattern", "attn_implementation", "router_aux_loss_coef", "output_router_logits",
    "temperature", "top_k", "top_p", "typical_p", "do_sample", "num_beams", "num_beam_groups", "diversity_penalty",
    "max_length", "min_length", "length_penalty", "repetition_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "early_stopping", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "exponential_decay_length_penalty", "unsloth_fixed", "unsloth_version",
    "max_sequence_length", "model_max_length", "max_new_tokens", "is_llama_config", "transformers.js_config",
    "gradient_checkpointing", "neftune_noise_alpha", "keys_to_ignore_at_inference", "_attn_implementation_internal",
    "use_flash_attention", "summary_type", "embd_pdrop", "resid_pdrop", "hidden_dropout_prob",
    "attention_probs_dropout_prob",
))  # fmt: skip
# What would change numbers, with the values at which it does not; keys that a family reads are not looked up here.
HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "quantization_config": (None,), "use_bidirectional_attention": (None, False), "auto_map": (None, {}),
    "attn_logit_softcapping": (None,), "final_logit_softcapping": (None,), "attention_bias": (None, False),
    "mlp_bias": (None, False), "qkv_bias": (None, False), "o_bias": (None, False), "use_qk_norm": (None, False),
    "qk_norm": (None, False), "qk_layernorm": (None, False), "clip_qkv": (None,), "use_mrope": (None, False),
    "partial_rotary_factor": (None, 1.0), "rope_interleaved": (None, False), "sliding_window": (None,),
    "use_sliding_window": (None, False), "layer_types": (None,), "num_experts": (None, 0), "pruned_heads": (None, {}),
    "is_encoder_decoder": (None, False), "add_cross_attention": (None, False), "tie_encoder_decoder": (None, False),
    "cross_attention_hidden_size": (None,), "head_dim": (None,), "query_pre_attn_scalar": (None,),
    "embedding_multiplier": (None, 1.0), "residual_multiplier": (None, 1.0), "attention_multiplier": (None,),
    "logits_scaling": (None, 1.0), "logit_scale": (None, 1.0), "multi_query": (None, False),
    "is_causal": (None, True), "lm_head_bias": (None, False), "interpolate_factor": (None, 1),
    "full_attn_mod": (None, 1),
}  # fmt: skip
_OUTLINE = ("model_type", "architectures", "num_labels", "id2label", "label2id")
# An older name that a newer key of the family stands for.
_OLDER = {"hidden_activation": ("hidden_act",)}
# Beside the text model, in the config.json of a model with images.
OF_IMAGES = frozenset((
    "text_config", "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index",
    "boi_token_id", "eoi_token_id", "image_token_id",
))  # fmt: skip


class Keys(TypedDict, total=False):
    """The types and ranges of what is read; null means what a missing key does."""

    model_type: str
    architectures: list[str] | None
    num_labels: Count | None
    id2label: dict[str, Any] | None
    vocab_size: Count | None
    hidden_size: Count | None
    intermediate_size: Count | None
    num_hidden_layers: Count | None
    num_attention_heads: Count | None
    num_key_value_heads: Count | None
    head_dim: Count | None
    hidden_act: str
    hidden_activation: str | None
    rms_norm_eps: Positive
    rope_theta: Positive | None
    rope_local_base_freq: Positive
    rope_scaling: dict[str, Any] | None
    rope_parameters: dict[str, Any] | None
    tie_word_embeddings: bool | None
    sliding_window: Count | None
    sliding_window_pattern: Count
    max_window_layers: Natural
    use_sliding_window: bool | None
    layer_types: list[str] | None
    attention_bias: bool | None
    mlp_bias: bool | None
    query_pre_attn_scalar: Positive
    final_logit_softcapping: Positive | None
    attn_logit_softcapping: Positive | None
    max_position_embeddings: Count | None
    original_max_position_embeddings: Count
    partial_rotary_factor: Share
    no_rope_layers: list[int] | None
    no_rope_layer_interval: Count
    num_experts: Count
    num_experts_per_tok: Count
    moe_intermediate_size: Count
    norm_topk_prob: bool
    swiglu_limit: Positive
    swiglu_alpha: Positive
    use_parallel_residual: bool
    embedding_multiplier: Positive
    residual_multiplier: Positive
    attention_multiplier: Positive
    logits_scaling: Positive
    logit_scale: Positive


class Note(TypedDict):
    """What is no part of a TransformerConfig, and is compared with the lengths of a run."""

    max_position_embeddings: Count | None


class Rope(TypedDict, total=False):
    """Of a rope_scaling or rope_parameters, or of one kind of layers in it."""

    rope_type: str
    type: str
    rope_theta: Positive
    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Count
    max_position_embeddings: Count
    partial_rotary_factor: Share
    attention_factor: Positive
    beta_fast: Positive
    beta_slow: Positive
    mscale: Positive
    mscale_all_dim: Positive
    truncate: bool
    llama_4_scaling_beta: NonNegative
    short_factor: list[Positive]
    long_factor: list[Positive]


def check_keys(
    raw: Mapping[str, Any], where: Any, read: Collection[str], notes: Collection[str], harmless: Mapping[str, Any]
) -> None:
    """Checks that a settings file says nothing that is not understood.

    Args:
        raw: The settings.
        where: What an error message begins with.
        read: The keys that are read.
        notes: Keys that change no number, whatever they say.
        harmless: For each of the others the values at which it changes none.

    Raises:
        ConfigError: It says something else; the message names the key and its value.
    """
    for key, value in raw.items():
        if key in read or key in notes:
            continue
        if key not in harmless:
            raise ConfigError(
                f"{where}: {key} is {shown(value)}, a key that is not known here and may change the numbers; take it "
                "out of the file if it is only a note"
            )
        if value not in harmless[key]:
            only = " or ".join(map(shown, harmless[key]))
            raise ConfigError(f"{where}: {key} is {shown(value)}, which is not built; only {only} is read")


def check_config(raw: Mapping[str, Any], family: Family, where: Any) -> None:
    """Checks the keys of a family's config.json. Raises ConfigError: one is unknown, of another type, out of its range,
    or would change the numbers and is not built."""
    older = {name for key in family.defaults for name in _OLDER.get(key, ())}
    window = raw.get("sliding_window", family.defaults.get("sliding_window"))
    harmless = {**HARMLESS, **family.harmless, "sliding_window_size": (None, window)}  # Gemma 2 writes it twice
    packed = raw.get("quantization_config")
    if family.mxfp4 and isinstance(packed, dict) and packed.get("quant_method") == "mxfp4":
        notes = ("modules_to_not_convert", "dequantize")
        check_keys(packed, f"{where}: quantization_config", ("quant_method",), notes, {})
        raw = {key: value for key, value in raw.items() if key != "quantization_config"}
    check_keys(raw, where, {*family.defaults, *_OUTLINE, *older}, NOTES.union(family.notes), harmless)
    known = {key: value for key, value in raw.items() if key in family.defaults or key in _OUTLINE}
    check_shape(known, Keys, where, "download it again")
