"""Tiny models that recite: each token is followed by one that was decided on, whatever was asked.

Knows `tiny.build` and `Lvlm`; knows no step of the method.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from laser_core.models.families import chat_template_of
from laser_core.models.lvlm import Lvlm
from tools.testbed.tiny import build

Link = tuple[str, str, float]  # a token, one that may follow it, its score

BEGINS = "{{ '<|im_start|>assistant\\n' }}"  # ChatML's answer

SCALE = 8.0  # of the logits: a score of 3 is one of 24


def chain(words: Sequence[str], first: str = "\n") -> list[Link]:
    """Each word after the one before it, and the first after `first`."""
    return [(one, other, 3.0) for one, other in zip([first, *words], words, strict=False)]


def reciting_lvlm(
    links: Iterable[Link],
    *,
    template_end: str = BEGINS,
    tokens: Sequence[str] = (),
    kind: str = "qwen3_vl",
) -> Lvlm:
    """A model whose next token depends on the last one alone, by `links`.

    template_end: the end of its ChatML template, before the answer. tokens: to add to its
    tokenizer.
    """
    tiny = build(kind)
    tokenizer, model = tiny.tokenizer, tiny.model
    tokenizer.add_tokens(list(tokens))
    model.resize_token_embeddings(len(tokenizer))
    index = tokenizer.convert_tokens_to_ids
    with torch.no_grad():
        for name, weight in model.named_parameters():  # nothing is added to what comes in
            if "language_model" in name and ("o_proj" in name or "down_proj" in name):
                weight.zero_()
        table = model.get_input_embeddings().weight
        noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
        table.copy_(torch.nn.functional.normalize(noise, dim=-1) * SCALE)
        head = model.get_output_embeddings().weight.zero_()
        for one, following, score in links:
            head[index(following)] += table[index(one)] / SCALE * score
    template = chat_template_of(tiny.config, tokenizer)
    assert template.count(BEGINS) == 1
    template = template.replace(BEGINS, template_end)
    return Lvlm(model, tokenizer, tiny.image_processor, chat_template=template)
