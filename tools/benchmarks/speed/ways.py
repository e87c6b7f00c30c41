"""Three ways to the same answer: the plain model, the peers' way, and this project's.

`peers` is our re-implementation of how published codes of the method and its neighbours work:
every layer's N x N attention weights returned, each prompt from scratch, two decoding loops.
Attention follows ViCrop (arXiv 2502.17422, github.com/saccharomycetes/mllms_know, run.py): its
LLaVA is eager throughout, vision tower and answers included; its Qwen2.5-VL keeps the library's
kernel, and only the decoder is eager, while weights are asked for. The baseline is not padded:
every picture is prepared once, the language head sees one token a forward, and one branch's
weights are cut down to a row before the next branch is read (ViCrop's Qwen2.5-VL keeps both).
What is not a forward (contrast, layer, window, blocking) is this project's code in every way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from laser_core import pipeline
from laser_core.models.chat import Prompt, Stream
from laser_core.models.lvlm import Lvlm
from laser_core.pictures import PictureInputs
from laser_core.results import AttentionMaps, Location
from laser_core.settings import LaserSettings
from laser_core.steps.answer_input import (
    make_negative_stream,
    make_plain_stream,
    make_positive_stream,
)
from laser_core.steps.counterfactual import make_counterfactual
from laser_core.steps.crop import place_windows
from laser_core.steps.decode import decode
from laser_core.steps.vaq import contrast, make_evidence, select_layer
from tools.testbed.reference import library_inputs

KEPT_LIMIT = 9e9  # bytes of attention weights that a machine without a GPU is asked to keep


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
    return lvlm.answer_prompt([inputs], question, settings)


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
    """This project's pipeline, with nothing of the picture cached from before.

    The graph of a step, where there is one, is kept between answers, as it is for a user.
    """
    lvlm.prefix = None
    result = pipeline.answer(lvlm, picture, question, settings)
    choice = result.location.evidence.choice
    layer = choice.layer if choice else None
    return Outcome(layer, [token.token_id for token in result.answer.tokens])


@torch.inference_mode()
def plain_in_steps(
    lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings
) -> Outcome:
    """The plain model's answer, read and decoded by this project."""
    lvlm.prefix = None
    stream = make_plain_stream(lvlm, picture, question, settings)
    found = decode(lvlm, stream, None, settings.decode)
    return Outcome(None, [token.token_id for token in found.tokens])


@torch.inference_mode()
def peers(lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings) -> Outcome:
    """All attention weights returned, every prompt from scratch, two loops."""
    with peers_attention(lvlm):
        return _peers(lvlm, picture, question, settings)


def peers_attention(lvlm: Lvlm) -> AbstractContextManager[None]:
    """The kernels that published codes run: eager throughout on LLaVA, the library's on Qwen-VL."""
    return nullcontext() if lvlm.family.native_resolution else eager(lvlm, "vision_config")


@contextmanager
def eager(lvlm: Lvlm, *more: str) -> Iterator[None]:
    """The decoder, and the model's other parts named, attend eagerly inside the block."""
    before, parts = lvlm.attention, ("", "text_config", *more)
    lvlm.model.set_attn_implementation(dict.fromkeys(parts, "eager"))
    try:
        yield
    finally:
        lvlm.model.set_attn_implementation(before)


def _peers(lvlm: Lvlm, picture: Image.Image, question: str, settings: LaserSettings) -> Outcome:
    inputs = lvlm.encode(picture, settings.prompt.framing)
    maps = eager_maps(lvlm, inputs, question, settings)
    contrasted = contrast(maps, settings.contrast)
    choice = select_layer(contrasted, settings.layer, lvlm.band)
    found = make_evidence(contrasted, choice, maps)
    placement = place_windows(found, settings.crop)
    located = Location(picture, inputs, question, settings, maps, found, placement)
    streams = both_streams(lvlm, located)
    loops = [_Loop(lvlm, stream.prompt) for stream in streams]
    alpha, beta = settings.decode.alpha, settings.decode.beta
    tokens: list[int] = []
    while True:
        with_evidence, without = (loop.logits for loop in loops)
        if not tokens:
            first = (with_evidence, without)
        mixed = with_evidence + alpha * (with_evidence - without)
        likely = with_evidence.softmax(-1)
        mixed[likely < beta * likely.max()] = float("-inf")
        tokens.append(int(mixed.argmax()))
        if len(tokens) == settings.decode.max_tokens:
            return Outcome(choice.layer, tokens, maps, first)
        for loop in loops:
            loop.step(tokens[-1])


def both_streams(lvlm: Lvlm, found: Location) -> tuple[Stream, Stream]:
    """The prompts with and without the evidence, prepared and not read."""
    positive = make_positive_stream(lvlm, found)
    blocked = make_counterfactual(found, lvlm.mean_colour)
    return positive, make_negative_stream(lvlm, found, positive.prompt, blocked)


def eager_maps(
    lvlm: Lvlm, inputs: PictureInputs, question: str, settings: LaserSettings
) -> AttentionMaps:
    """Both branches' maps of an encoded picture, from every layer's whole attention."""
    gh = inputs.grid.rows
    with_query, without_query = (
        rearrange(eager_rows(lvlm, prompt), "l h (gh gw) -> l h gh gw", gh=gh)
        for prompt in lvlm.branch_prompts(inputs, question, settings.prompt)
    )
    return AttentionMaps(with_query, without_query, inputs.grid, inputs.picture_size)


def peers_fit(lvlm: Lvlm, tokens: int) -> bool:
    """Whether there is memory for the peers' reading of a prompt of `tokens` tokens.

    On a GPU within half of what is free: the rest is for a layer's own scores and softmax, and
    for the vision tower's.
    """
    if lvlm.device.type != "cuda":
        return kept_bytes(lvlm, tokens) <= KEPT_LIMIT
    free = torch.cuda.mem_get_info(lvlm.device)[0]
    free += torch.cuda.memory_reserved(lvlm.device) - torch.cuda.memory_allocated(lvlm.device)
    return kept_bytes(lvlm, tokens) <= free / 2


def kept_bytes(lvlm: Lvlm, tokens: int) -> int:
    """Size of every layer's attention over a prompt of `tokens` tokens, one branch's."""
    text = lvlm.model.config.get_text_config()
    heads = text.num_hidden_layers * text.num_attention_heads
    return lvlm.dtype.itemsize * heads * tokens**2


def eager_attention(lvlm: Lvlm, prompt: Prompt) -> tuple[torch.Tensor, ...]:
    """Every layer's (1, H, N, N) weights over one prompt."""
    inputs = on_device(lvlm, library_inputs(lvlm, prompt))
    with eager(lvlm):
        return lvlm.body(**inputs, output_attentions=True, use_cache=True).attentions


def eager_rows(lvlm: Lvlm, prompt: Prompt) -> torch.Tensor:
    """(L, H, N) float32 on the CPU: the last token over the first picture's map tokens."""
    attentions, keys = eager_attention(lvlm, prompt), prompt.map_spans[0]
    return torch.stack([layer[0, :, -1, keys].float().cpu() for layer in attentions])


def on_device(lvlm: Lvlm, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(lvlm.device) for name, tensor in inputs.items()}


class _Loop:
    """One stream's decoding loop with its own cache."""

    def __init__(self, lvlm: Lvlm, prompt: Prompt) -> None:
        self._lvlm, self._next = lvlm, prompt.length + prompt.delta
        self._forward(on_device(lvlm, library_inputs(lvlm, prompt)))

    def step(self, token: int) -> None:
        lvlm = self._lvlm
        position = torch.tensor([[self._next]], device=lvlm.device)
        if hasattr(lvlm.body, "get_rope_index"):
            position = position.expand(3, 1, 1)
        ids = torch.tensor([[token]], device=lvlm.device)
        self._next += 1
        held = {lvlm.cache_name: self._cache}
        self._forward({"input_ids": ids, "position_ids": position, **held})

    def _forward(self, inputs: dict[str, Any]) -> None:
        model = self._lvlm.model
        output = model.model(**inputs, use_cache=True)
        self._cache = output[self._lvlm.cache_name]
        # Not by logits_to_keep: Qwen2-VL of transformers 4.57 runs the head on every token
        self.logits = model.get_output_embeddings()(output.last_hidden_state[0, -1]).float()
