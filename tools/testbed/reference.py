"""Slow, obvious answers to compare the fast paths with: whole prompts from scratch, no cache.

Knows the library's own forward and the formulas of the paper; knows nothing of capture, caches,
batches or hooks of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from laser_core.models.chat import Prompt
from laser_core.models.lvlm import Lvlm
from laser_core.settings import DecodeSettings


def library_inputs(
    lvlm: Lvlm, prompt: Prompt, answer: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """What a user of the library would pass to forward() or generate(): no positions, no cache."""
    ids = torch.cat([prompt.input_ids, torch.tensor([list(answer)]).long()], dim=1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    names = prompt.pictures[0].tensors
    for name in names:
        parts = [picture.tensors[name] for picture in prompt.pictures]
        tiles = max(part.shape[1] for part in parts) if parts[0].ndim == 5 else 0
        if tiles:  # LLaVA-NeXT pads pictures of fewer tiles with zeros
            parts = [
                torch.nn.functional.pad(part, (0, 0, 0, 0, 0, 0, 0, tiles - part.shape[1]))
                for part in parts
            ]
        inputs[name] = torch.cat(parts, lvlm.family.pixel_axis if name == "pixel_values" else 0)
    inputs["pixel_values"] = inputs["pixel_values"].to(lvlm.dtype)
    inputs |= lvlm.token_types(ids)
    if hasattr(lvlm.body, "rope_deltas"):
        lvlm.body.rope_deltas = None  # the library keeps the last prompt's
    return inputs


@torch.no_grad()
def next_logits(lvlm: Lvlm, prompt: Prompt, answer: list[int]) -> torch.Tensor:
    """(V,) float32 logits of the token after `answer`, everything computed from scratch."""
    output = lvlm.model(**library_inputs(lvlm, prompt, answer), use_cache=False)
    return output.logits[0, -1].float()


def eager_rows(lvlm: Lvlm, prompt: Prompt, answer: Sequence[int] = ()) -> torch.Tensor:
    """(L, H, N): the last token over the first picture's map tokens, by eager attention."""
    tokens = prompt.pictures[0].map_tokens
    return eager_maps(lvlm, prompt, answer)[-1][..., : tokens.stop - tokens.start]


@torch.no_grad()
def eager_maps(lvlm: Lvlm, prompt: Prompt, answer: Sequence[int] = ()) -> torch.Tensor:
    """(S, L, H, N): every token over the map tokens of all pictures, by eager attention."""
    implementation = lvlm.attention
    lvlm.model.set_attn_implementation("eager")
    try:
        inputs = library_inputs(lvlm, prompt, answer)
        output = lvlm.model(**inputs, output_attentions=True, use_cache=False)
    finally:
        lvlm.model.set_attn_implementation(implementation)
    keys = [
        span.start + torch.arange(picture.map_tokens.start, picture.map_tokens.stop)
        for span, picture in zip(prompt.spans, prompt.pictures, strict=True)
    ]
    layers = torch.stack([layer[0] for layer in output.attentions])  # (L, H, S, S)
    return layers[..., torch.cat(keys)].permute(2, 0, 1, 3).float()


def two_loops(
    lvlm: Lvlm,
    positive: Prompt,
    negative: Prompt,
    alpha: float,
    steps: int,
    choose: Callable[[torch.Tensor], int] = lambda scores: int(scores.argmax()),
    beta: float = DecodeSettings().beta,
    penalty: float = 1.0,
) -> tuple[list[int], list[tuple[torch.Tensor, torch.Tensor]]]:
    """VAT as the paper writes it: (token ids, (z+, z-) per token).

    penalty: what scores of tokens that were there are divided by, or multiplied below 0, in z+
    where it is not compared with z-.
    """
    answer: list[int] = []
    logits = []
    for _ in range(steps):
        with_evidence = next_logits(lvlm, positive, answer)
        without = next_logits(lvlm, negative, answer)
        own = with_evidence.clone()
        for token in {*positive.input_ids[0].tolist(), *answer}:
            own[token] = own[token] * penalty if own[token] < 0 else own[token] / penalty
        scores = own + alpha * (with_evidence - without)
        if beta:
            likely = own.softmax(-1)
            scores[likely < beta * likely.max()] = float("-inf")
        logits.append((with_evidence, without))
        answer.append(choose(scores))
        if answer[-1] == lvlm.model.generation_config.eos_token_id:
            break
    return answer, logits
