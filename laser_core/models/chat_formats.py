"""How chats are written: templates of the supported families, and user texts made harmless.

The templates are for model folders that have none: Jinja, as their authors published the formats;
pictures first, then the text. Each takes messages whose content is a string or a list of
{"type": "image"} and {"type": "text", "text": ...} parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

THOUGHT_BEGIN, THOUGHT_END = "<think>", "</think>"
"""What thinking models write around their thoughts, before the answer."""

TURN_MARKS = (
    *(THOUGHT_BEGIN, THOUGHT_END),
    *("USER:", "ASSISTANT:", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"),
    *("<image>", "<video>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|video|>", "<answer>", "</answer>"),
    *("<|begin_of_box|>", "<|end_of_box|>", "/nothink"),
    *("</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"),
    *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    *("<|turn>", "<turn|>", "<|image>", "<image|>", "<|channel>", "<channel|>"),
)
"""What the formats below and their relatives write between turns, as tokens or as bare text."""

BREAK = "\N{ZERO WIDTH SPACE}"


def plain_text(text: str, control_tokens: Iterable[str] = ()) -> str:
    """`text`, in which an invisible character breaks every control token and turn mark.

    The tokenizer then reads their characters one by one, as it reads any others. An exact way
    exists only for special tokens, and not in every tokenizer: "USER:" and "[INST]" are ordinary
    text that the model was tuned to obey. Other text does not change by a byte. Only half
    characters, which no tokenizer takes, become "?".
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    marks = "|".join(map(re.escape, {*TURN_MARKS, *control_tokens}))
    # After the first character of each, looked ahead for: two that overlap are both broken
    return re.sub(f"(?i)(?=(?:{marks}))(.)", rf"\1{BREAK}", text, flags=re.DOTALL)


_MACROS = """
{%- macro text(message) -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro pictures(message, placeholder) -%}
{%- if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ placeholder }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

VICUNA = (
    _MACROS
    + r"""
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}{{ message['role'].upper() + ': ' }}{%- endif -%}
{{- pictures(message, '<image>\n') -}}
{%- if text(message) -%}{{ text(message) + ' ' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""
)
"""LLaVA-1.5: `USER: <image>\nquestion ASSISTANT:`."""

MISTRAL = (
    _MACROS
    + r"""
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- '<<SYS>>\n' + text(message) + '\n<</SYS>>\n\n' -}}
{%- elif message['role'] == 'user' -%}
{{- '[INST] ' + pictures(message, '<image>\n') + text(message) + ' [/INST]' -}}
{%- else -%}{{ ' ' + text(message) + '</s> ' }}{%- endif -%}
{%- endfor -%}
"""
)
"""LLaVA-NeXT on Mistral: `[INST] <image>\nquestion [/INST]`."""

LLAVA_CHATML = (
    _MACROS
    + r"""
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{{- pictures(message, '<image>\n') + text(message) + '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
)
"""LLaVAs on Yi and Qwen."""

LLAVA_LLAMA3 = (
    _MACROS
    + r"""
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}
{{- pictures(message, '<image>\n') + text(message) + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
"""
)
"""LLaVAs on Llama 3."""

CHATML = (
    _MACROS
    + r"""
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' and default_system -%}
{{- '<|im_start|>system\n' + default_system + '<|im_end|>\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{{- pictures(message, '<|vision_start|><|image_pad|><|vision_end|>') + text(message) -}}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
)
"""Qwen3-VL: no system prompt of its own."""

QWEN3_5_CHATML = (
    CHATML
    + r"""
{%- if add_generation_prompt -%}
{{- '<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n' -}}
{%- endif -%}
"""
)
"""Qwen3.5: as Qwen3-VL, and a thought that is opened, or closed at once."""

MINICPM = QWEN3_5_CHATML.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")
"""MiniCPM-V 4.6: as Qwen3.5, with other marks around pictures, which depend on their slices."""

GLM = (
    _MACROS
    + r"""
{{- '[gMASK]<sop>' -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\n' -}}
{{- pictures(message, '<|begin_of_image|><|image|><|end_of_image|>') + text(message) -}}
{%- if message['role'] == 'user' and enable_thinking is false -%}{{ '/nothink' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\n' + ('<think></think>\n' if enable_thinking is false else '') -}}
{%- endif -%}
"""
)
"""GLM-4.5V and GLM-4.6V: told not to think at the end of the turn."""

QWEN2_CHATML = "{%- set default_system = 'You are a helpful assistant.' -%}" + CHATML
"""Qwen2-VL and Qwen2.5-VL."""

GEMMA3 = (
    _MACROS
    + r"""
{{- bos_token -}}
{%- set system = messages[0] if messages[0]['role'] == 'system' else none -%}
{%- for message in messages if message['role'] != 'system' -%}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' -}}
{%- if loop.first and system -%}{{ text(system) + '\n\n' }}{%- endif -%}
{{- pictures(message, '<start_of_image>') + text(message) | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""
)
"""Gemma 3: the system prompt begins the first turn."""

GEMMA4 = (
    _MACROS
    + r"""
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' -}}
{{- pictures(message, '<|image|>') + text(message) | trim + '<turn|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|turn>model\n' }}{%- endif -%}
"""
)
"""Gemma 4, as it answers without thinking first."""
