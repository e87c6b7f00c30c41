"""Three ways to the same answer: the plain model, the peers' way, and this project's.

`peers` is our own honest re-implementation of how published implementations of the method and
its neighbours work: eager attention with every layer's N x N weights returned, each prompt from
scratch, and two decoding loops. It shares this project's arithmetic for everything that is not
a forward (contrast, layer, window, blocking), so that only the forwards differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from laser_core import pipeline
from laser_core.answer_input import negative_stream, positive_stream
from laser_core.counterfactual import block, evidence_patches, patch_mask
from laser_core.crop import place_windows
from laser_core.lvlm import Lvlm, Prompt
from laser_core.results import AttentionMaps
from laser_core.settings import LaserSettings
from laser_core.vaq import contrast, evidence, select_layer
from tests.core.reference import library_inputs


@dataclass(frozen=True)
class Outcome:
    """layer: the one chosen; tokens: the answer's ids; of the peers' way, for comparison, the maps
    too, and logits: (z+, z-) of the first token."""

    layer: int | None
    tokens: list[int]
    maps: AttentionMaps | None = None
    logits: tuple[torch.Tensor, torch.Tensor] | None = None


def prompt_of(lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings) -> Prompt:
    """The chat that the plain model reads."""
    inputs = lvlm.encode(picture, settings.prompt.framing)
    return lvlm.prompt(
        [inputs], lvlm.question_text(question, settings.prompt), settings.prompt.system
    )


@torch.inference_mode()
def plain(lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings) -> Outcome:
    """The library's own generate()."""
    prompt = prompt_of(lvlm, picture, question, settings)
    return Outcome(None, generated(lvlm, [prompt], settings.decode.max_tokens)[0])


def generated(lvlm: Lvlm, prompts: list[Prompt], tokens: int) -> list[list[int]]:
    """The library's greedy answers of exactly `tokens` tokens, prompts of one length at once."""
    parts = [on_device(lvlm, library_inputs(lvlm, prompt)) for prompt in prompts]
    inputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    output = lvlm.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return output[:, prompts[0].length :].tolist()


@torch.inference_mode()
def ours(lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings) -> Outcome:
    """This project's pipeline, with nothing cached from before."""
    lvlm.release()
    result = pipeline.answer(lvlm, picture, question, settings)
    choice = result.location.choice
    return Outcome(choice.layer, [token.token_id for token in result.answer.tokens])


@torch.inference_mode()
def peers(lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings) -> Outcome:
    """Eager attention, every prompt from scratch, two loops."""
    implementation = lvlm.attention
    lvlm.model.set_attn_implementation("eager")
    try:
        return _peers(lvlm, picture, question, settings)
    finally:
        lvlm.model.set_attn_implementation(implementation)


def _peers(lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings) -> Outcome:
    maps = eager_maps(lvlm, picture, question, settings)
    contrasted = contrast(maps, settings.contrast)
    found = evidence(contrasted, select_layer(contrasted, settings.layer), maps)
    windows = place_windows(found, settings.crop).windows
    patches = evidence_patches(found, settings.counterfactual, windows)
    mask = patch_mask(patches, found, settings.counterfactual)
    blocked = block(picture, mask, settings.counterfactual, lvlm.mean_colour)
    looks = windows, question, settings
    positive = positive_stream(lvlm, picture, *looks)
    negative = negative_stream(lvlm, positive, blocked, mask, *looks)
    loops = [_Loop(lvlm, stream.prompt) for stream in (positive, negative)]
    alpha, beta, tokens = settings.decode.alpha, settings.decode.beta, []
    while True:
        with_evidence, without = (loop.logits for loop in loops)
        if not tokens:
            first = (with_evidence, without)
        mixed = with_evidence + alpha * (with_evidence - without)
        likely = with_evidence.softmax(-1)
        mixed[likely < beta * likely.max()] = float("-inf")
        tokens.append(int(mixed.argmax()))
        if len(tokens) == settings.decode.max_tokens:
            return Outcome(found.choice.layer, tokens, maps, first)
        for loop in loops:
            loop.step(tokens[-1])


def eager_maps(
    lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings
) -> AttentionMaps:
    """Both branches' maps from every layer's whole attention, as the peers keep it."""
    inputs = lvlm.encode(picture, settings.prompt.framing)
    prompts = both_prompts(lvlm, inputs, question, settings)
    attentions = [eager_attention(lvlm, prompt) for prompt in prompts]  # all of it, at once
    gh = inputs.grid.rows
    maps = [
        rearrange(last_rows(one, prompt), "l h (gh gw) -> l h gh gw", gh=gh)
        for one, prompt in zip(attentions, prompts, strict=True)
    ]
    return AttentionMaps(*maps, inputs.grid, inputs.picture_size)


def both_prompts(lvlm: Lvlm, inputs: Any, question: str, settings: LaserSettings) -> list[Prompt]:
    """The chats with and without the question."""
    prompts = settings.prompt
    texts = (lvlm.question_text(question, prompts), lvlm.query_free_text(prompts))
    return [lvlm.prompt([inputs], text, prompts.system) for text in texts]


def eager_attention(lvlm: Lvlm, prompt: Prompt) -> tuple[torch.Tensor, ...]:
    """Every layer's (1, H, N, N); the model must be in eager mode."""
    inputs = on_device(lvlm, library_inputs(lvlm, prompt))
    return lvlm.model(**inputs, output_attentions=True, use_cache=True).attentions


def last_rows(attentions: tuple[torch.Tensor, ...], prompt: Prompt) -> torch.Tensor:
    """(L, H, N) float32 on the CPU: the last token over the first picture's map tokens."""
    first, tokens = prompt.spans[0].start, prompt.pictures[0].map_tokens
    keys = slice(first + tokens.start, first + tokens.stop)
    return torch.stack([layer[0, :, -1, keys].float().cpu() for layer in attentions])


def on_device(lvlm: Lvlm, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(lvlm.device) for name, tensor in inputs.items()}


class _Loop:
    """One stream's decoding loop with its own cache."""

    def __init__(self, lvlm: Lvlm, prompt: Prompt) -> None:
        self._lvlm, self._next = lvlm, prompt.length + prompt.delta
        output = lvlm.model(**on_device(lvlm, library_inputs(lvlm, prompt)), use_cache=True)
        self._cache = output.past_key_values
        self.logits = output.logits[0, -1].float()

    def step(self, token: int) -> None:
        lvlm = self._lvlm
        position = torch.tensor([[self._next]], device=lvlm.device)
        if hasattr(lvlm.model.model, "get_rope_index"):
            position = position.expand(3, 1, 1)
        output = lvlm.model(
            input_ids=torch.tensor([[token]], device=lvlm.device),
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next += 1
        self.logits = output.logits[0, -1].float()
