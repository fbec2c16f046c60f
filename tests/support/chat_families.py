"""Chat templates of the shapes that families of published models have, written for the tests, and their tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers, trainers


class Family(NamedTuple):
    """A template, the special tokens it writes, which of them the tokenizer calls bos and eos, and the turn's end."""

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    end: str
    system: bool = True  # whether it takes a system message


_MARKED = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

_INSTRUCTED = """{%- if messages[0].role == 'system' %}
    {%- set lead = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}{%- set rest = messages[1:] %}
{%- else %}{%- set lead = '' %}{%- set rest = messages %}{%- endif %}
{%- for m in rest %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must take turns') }}{%- endif %}
    {%- if m.role == 'user' %}
        {{- bos_token + '[INST] ' + ((lead + m.content) if loop.first else m.content).strip() + ' [/INST]' }}
    {%- else %}{{- ' ' + m.content.strip() + ' ' + eos_token }}{%- endif %}
{%- endfor %}"""

_LATE_SYSTEM = """{%- set rest = messages[1:] if messages[0].role == 'system' else messages %}
{{- bos_token }}
{%- for m in rest %}
    {%- if m.role == 'user' %}
        {%- if loop.last and messages[0].role == 'system' %}
            {{- '[INST] ' + messages[0].content + '\\n\\n' + m.content + '[/INST]' }}
        {%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}
    {%- else %}{{- ' ' + m.content | trim + eos_token }}{%- endif %}
{%- endfor %}"""

_HEADERS = """{%- set ns = namespace(first=true) %}
{%- for m in messages %}
    {%- set text = '<|head|>' + m.role + '<|head_end|>\\n\\n' + m.content | trim + '<|eot|>' %}
    {%- if ns.first %}{%- set text = bos_token + text %}{%- set ns.first = false %}{%- endif %}
    {{- text }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|head_end|>\\n\\n' }}{%- endif %}"""

_DEFAULT_SYSTEM = """{%- for m in messages %}
{%- if loop.first and m.role != 'system' %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

_THINKING = """{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}{%- set said = m.content %}
        {%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
        {%- elif '</think>' in said %}
            {%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' + said.lstrip('\\n') }}
        {%- else %}{{- said }}{%- endif %}
    {%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content }}{%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

_MODEL_ROLE = """{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{%- endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}{%- endif %}
    {{- '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim + '<turn_end>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\\n' }}{%- endif %}"""

_EARLY_SYSTEM = """{{ bos_token }}
{%- set lead = (messages[0].content + '\\n\\n') if messages[0].role == 'system' else '' %}
{%- for m in (messages[1:] if lead else messages) %}
    {{- '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (lead if loop.first else '') }}
    {{- m.content | trim + '<turn_end>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\\n' }}{%- endif %}"""

_PLAIN_ROLES = """{% for m in messages %}
{{ '<|' + m.role + '|>\\n' + m.content + eos_token }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}"""

_TWO_ENDS = """{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

_TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n' + tools | map('tojson') | join('\\n') + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' %}{% generation %}{{- m.content or '' }}
    {%- for call in m.tool_calls or [] %}{{- '<call>' + call.function | tojson + '</call>' }}{%- endfor %}
    {{- '<|im_end|>' }}{% endgeneration %}
    {%- else %}{{- m.content + '<|im_end|>' }}{%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

_CHAT = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_TURNS = ("<turn>", "<turn_end>", "<bos>", "<eos>")
_HEADS = ("<|begin|>", "<|head|>", "<|head_end|>", "<|eot|>", "<|end_of_text|>")
_ROLES = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>")

FAMILIES = {
    "chatml": Family(_MARKED, _CHAT, None, "<|im_end|>", "<|im_end|>"),
    "llama2": Family(_INSTRUCTED, ("<s>", "</s>"), "<s>", "</s>", "</s>"),
    "llama3": Family(_HEADERS, _HEADS, "<|begin|>", "<|end_of_text|>", "<|eot|>"),
    "mistral": Family(_LATE_SYSTEM, ("<s>", "</s>"), "<s>", "</s>", "</s>", system=False),
    "qwen2": Family(_DEFAULT_SYSTEM, _CHAT, None, "<|im_end|>", "<|im_end|>"),
    "qwen3": Family(_THINKING, _CHAT, None, "<|im_end|>", "<|im_end|>"),
    "gemma2": Family(_MODEL_ROLE, _TURNS, "<bos>", "<eos>", "<turn_end>", system=False),
    "gemma3": Family(_EARLY_SYSTEM, _TURNS, "<bos>", "<eos>", "<turn_end>"),
    "zephyr": Family(_PLAIN_ROLES, ("<s>", "</s>"), "<s>", "</s>", "</s>"),
    "phi": Family(_TWO_ENDS, _ROLES, None, "<|endoftext|>", "<|end|>"),
    "tools": Family(_TOOLS, _CHAT, None, "<|endoftext|>", "<|im_end|>"),
}

LEARNED_FROM = [
    "user assistant system model thinks and says hello, what is two and two? It is four. [INST] [/INST]",
    "<<SYS>>\nBe brief.\n<</SYS>>\n\nWhy is the sky blue?\n\n<think>\n\n</think>\n\nBecause of the air.",
] * 4


def write_tokenizer(folder: Path, family: Family, metaspace: bool = False) -> Path:
    """Writes a small tokenizer with the special tokens of a family and its template, as models are published.

    Args:
        folder: The folder to write into.
        family: The family.
        metaspace: Whether it is of SentencePiece's kind, with a space before the text, and not of bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend = hf.Tokenizer(models.BPE(unk_token="<unk>") if metaspace else models.BPE())
    kinds = (pre_tokenizers.Metaspace, decoders.Metaspace) if metaspace else (None, None)
    backend.pre_tokenizer = kinds[0](prepend_scheme="first") if metaspace else pre_tokenizers.ByteLevel(False)
    backend.decoder = kinds[1](prepend_scheme="first") if metaspace else decoders.ByteLevel()
    alphabet = [chr(k) for k in range(33, 127)] + ["\n", "é", "—"] if metaspace else pre_tokenizers.ByteLevel.alphabet()
    named = ["<unk>"] if metaspace else []
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=named, show_progress=False, min_frequency=2
    )
    # line by line, so that no token reaches over a line break and with it over the border of a prompt
    backend.train_from_iterator([line for text in LEARNED_FROM for line in text.split("\n")], trainer)
    backend.add_special_tokens([hf.AddedToken(token, special=True, normalized=False) for token in family.special])
    backend.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": family.bos, "eos_token": family.eos, "chat_template": family.template}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
