"""Prompts into key-value caches: whole, or continued from the one cached prefix.

Chats with the same system prompt and the same picture begin with the same tokens, and attention is
causal. So the keys and values of these tokens are computed once and kept on the `Lvlm` (one entry).
The question, the query-free branch and the picture + crop streams all continue from them.
A forward here takes at most one picture; several prompts at once are read in engine/padded.py.
What continues a cache is read in stretches: a kernel that starts within a prompt needs a mask, and
one mask for all tokens would be as large as an attention matrix. So is every prompt of a model
whose masks are not the library's, and no stretch cuts a picture whose tokens see each other. The
bodies of Gemma 4's causal sizes make the masks of a call themselves; stretches take rows of them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache

from ..models.chat import Prompt, Stream
from ..models.lvlm import Lvlm
from ..models.prefix import DecoderInputs, Layers, Prefix
from .caches import cache_of, cut, joined, layers_of
from .few_calls import equal_windows_together, tokens_at_once
from .masks import Masks, masks_of_stretch
from .vision_windows import equal_windows_at_once

STRETCH = 512  # most tokens with which the decoder continues a cache in one go, at the least

Check = Callable[[], None]
"""Called before a forward; it may raise to interrupt."""


def known_prefix(lvlm: Lvlm, prompt: Prompt) -> Prefix | None:
    """The prompt's prefix, where the model remembers it."""
    known = lvlm.prefix is not None and lvlm.prefix.key == prompt.prefix_key
    return lvlm.prefix if known else None


def read_prefix(lvlm: Lvlm, prompt: Prompt) -> Prefix:
    """The prompt's prefix, computed or remembered; the model keeps the last one."""
    known = known_prefix(lvlm, prompt)
    if known is None:
        lvlm.prefix = None  # before the new one is computed, so that there are never two
        cache = cache_of(lvlm)
        inputs, _ = extend(lvlm, prompt, cache, prompt.prefix_length)
        known = lvlm.prefix = Prefix(prompt.prefix_key, layers_of(cache), inputs)
    return known


@dataclass
class ReadStream:
    """A stream's prompt as the decoder holds it, without the last token, which starts the answer.

    shared: the part it shares with other streams, kept elsewhere too; own: what follows.
    inputs: what the decoder was called with, for both parts. certainty: probability of the
    likeliest first token of its answer, where that was asked for. note: the stream's.
    """

    prompt: Prompt
    shared: Layers
    own: Layers
    inputs: DecoderInputs
    certainty: float | None = None
    note: str = ""

    def parts(self, layer: int, part: int) -> list[torch.Tensor]:
        """Keys (part 0) or values (1) of a layer, in order."""
        return [layers[layer][part] for layers in (self.shared, self.own) if layers]

    def joined(self) -> Layers:
        """Both parts as one."""
        return joined(self.shared, self.own)


def read_stream(
    lvlm: Lvlm, stream: Stream, *, certainty: bool = False, check: Check | None = None
) -> ReadStream:
    """The stream's prompt, continued from the cached prefix where it may.

    certainty: read the last token too, in the same forward, and note how sure the model is of the
    first answer token. check: called before each forward.
    """
    prompt, shared, inputs = stream.prompt, [], []
    if continues(stream):
        prefix = read_prefix(lvlm, prompt)
        shared, inputs = prefix.layers, prefix.inputs
    cache = cache_of(lvlm, shared)
    # Off a state no last token can be taken again
    at_once, sure = certainty and not lvlm.state_layers, None
    more, hidden = extend(lvlm, prompt, cache, prompt.length - (not at_once), check)
    own = cut(layers_of(cache), 0, -1) if at_once else layers_of(cache)
    if certainty and not at_once:
        _, hidden = extend(lvlm, prompt, cache, prompt.length, check)
    if certainty:
        sure = first_token_certainty(lvlm, hidden[0, -1])
    return ReadStream(prompt, shared, own, inputs + more, sure, stream.note)


def continues(stream: Stream) -> bool:
    """Whether a stream is read from the cached prefix on."""
    # A prefix that ends where the answer begins leaves nothing to read
    return stream.shared_prefix and stream.prompt.suffix_length > 1


def first_token_certainty(lvlm: Lvlm, hidden: torch.Tensor) -> float:
    """Probability of the likeliest token after one with this last hidden state (D,).

    Raises ValueError where the scores overflowed: then the whole reading means nothing.
    """
    logits = lvlm.logits(hidden)
    certainty = float(logits.float().softmax(-1).max())
    if not math.isfinite(certainty):
        raise overflow(lvlm)
    return certainty


def overflow(lvlm: Lvlm) -> ValueError:
    """The error for scores of the next token that are not finite."""
    return ValueError(
        "choose precision bf16 or fp32, or another model: its scores for the next token are not "
        f"finite in {lvlm.dtype}"
    )


def read_blocked(
    lvlm: Lvlm, stream: Stream, unblocked: ReadStream, check: Check | None = None
) -> ReadStream:
    """The stream with its blocked tokens, from what the decoder was fed for the same prompt.

    The vision tower does not run again. The shared part is reused where nothing in it is blocked.
    check: called before each forward.
    """
    prefix = stream.prompt.prefix_length
    spared = bool(unblocked.shared) and min(stream.blocked) >= prefix
    shared = unblocked.shared if spared else []
    cache, start = cache_of(lvlm, shared), 0
    for call in unblocked.inputs:
        length = call["inputs_embeds"].shape[1]
        if not spared or start >= prefix:
            if check:
                check()
            blocked, spans = _blocked_call(stream, call, start), stream.prompt.spans
            _in_stretches(lvlm, lvlm.model.get_decoder(), blocked, cache, spans)
        start += length
    # Without the last token, which the calls hold where the other stream's certainty was read
    own = cut(layers_of(cache), 0, stream.prompt.length - 1 - (prefix if shared else 0))
    return ReadStream(stream.prompt, shared, own, [])


def extend(
    lvlm: Lvlm, prompt: Prompt, cache: DynamicCache, stop: int, check: Check | None = None
) -> tuple[DecoderInputs, torch.Tensor]:
    """Run the prompt's tokens from the end of `cache` to `stop`, at most one picture per forward.

    check: called before each forward. Returns what the decoder was called with, and the last
    forward's hidden states (1, S, D).
    """
    start = cache.get_seq_length()
    ahead = [span.start for span in prompt.spans if start <= span.start < stop]
    edges = [start, *ahead[1:], stop]
    inputs: DecoderInputs = []
    with recorded(lvlm, inputs):
        for first, last in pairwise(edges):
            if check:
                check()
            pictures = prompt.pictures_in(first, last)
            hidden = forward(
                lvlm,
                cache,
                prompt.input_ids[:, first:last],
                prompt.position_ids[..., first:last],
                pictures[0].tensors if pictures else {},
                spans=prompt.spans,
            )
    return inputs, hidden


def forward(
    lvlm: Lvlm,
    cache: DynamicCache,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    picture: Mapping[str, torch.Tensor],
    mask: Masks | None = None,
    spans: Sequence[slice] = (),
) -> torch.Tensor:
    """One forward of the model's body, to hidden states (B, S, D); `cache` grows.

    input_ids: (B, S); position_ids: (B, S) or (3, B, S); mask: (B or 1, 1, S, N), (B, N) of which
    tokens are there, or None: each token sees what the family lets it see. spans: the pictures'
    tokens in the text.
    """
    device = lvlm.device
    stretches: AbstractContextManager[None] = nullcontext()
    if mask is None or (isinstance(mask, torch.Tensor) and mask.ndim == 2):
        stretches = _reading_in_stretches(lvlm, spans)
    if mask is None:
        mask = {} if lvlm.whole_pictures else None  # of each stretch, below
    if position_ids.ndim == 3 and lvlm.family.text_index:
        # Put each token's index in the text before M-RoPE's rows. Without it, code of 4.57 takes a
        # picture's tokens, which share one time, for many packed sequences
        past = cache.get_seq_length()
        index = torch.arange(past, past + input_ids.shape[1]).expand(1, len(input_ids), -1)
        position_ids = torch.cat([index, position_ids])
    kwargs = {name: tensor.to(device) for name, tensor in picture.items()}
    if "pixel_values" in kwargs:
        kwargs["pixel_values"] = kwargs["pixel_values"].to(lvlm.dtype)
    kwargs |= {name: types.to(device) for name, types in lvlm.token_types(input_ids).items()}
    together = picture and equal_windows_together(lvlm)
    with stretches, equal_windows_at_once(lvlm) if together else nullcontext():
        return lvlm.body(
            input_ids=input_ids.to(device),
            position_ids=position_ids.to(device),
            attention_mask=mask,
            **{lvlm.cache_name: cache},
            use_cache=True,
            **kwargs,
        ).last_hidden_state


@contextmanager
def recorded(lvlm: Lvlm, inputs: DecoderInputs) -> Iterator[None]:
    """Inside, notes what the decoder is called with, except the cache and the mask."""
    thread, left_out = threading.get_ident(), (lvlm.cache_name, "attention_mask")

    def note(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == thread:
            inputs.append({name: kwargs[name] for name in kwargs if name not in left_out})

    hook = lvlm.model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _reading_in_stretches(lvlm: Lvlm, spans: Sequence[slice]) -> Iterator[None]:
    """Inside, the decoder reads what continues a cache STRETCH tokens at a time.

    spans: the pictures' tokens in the text.
    """
    decoder = lvlm.model.get_decoder()
    thread, run, own = threading.get_ident(), decoder.forward, vars(decoder).get("forward")

    def forward(*args: Any, **kwargs: Any) -> Any:
        if args or threading.get_ident() != thread:
            return run(*args, **kwargs)
        cache = kwargs.pop(lvlm.cache_name)
        return _in_stretches(lvlm, run, kwargs, cache, spans)

    decoder.forward = forward
    try:
        yield
    finally:
        del decoder.forward
        if own is not None:  # the one that loads offloaded weights
            decoder.forward = own


def _in_stretches(
    lvlm: Lvlm,
    run: Callable[..., Any],
    call: dict[str, Any],
    cache: DynamicCache,
    spans: Sequence[slice],
) -> Any:
    """`run`, the decoder, on `call`: its output for all of the call's tokens; `cache` grows.

    spans: the pictures' tokens in the text.
    """
    length, held = call["inputs_embeds"].shape[1], {lvlm.cache_name: cache}
    start, masked = cache.get_seq_length(), bool(lvlm.whole_pictures)
    # An empty cache needs no mask: kernels know causality. Offloaded weights would be loaded again
    # for each stretch, which takes longer than the mask is worth.
    if not masked and (not start or lvlm.offloaded):
        return run(**call, **held)
    most = length if lvlm.offloaded else tokens_at_once(lvlm, STRETCH)
    outputs = []
    for first, last in pairwise(_edges(start, start + length, most, spans if masked else ())):
        part = _stretch(call, first - start, last - start)
        if masked:
            part["attention_mask"] = masks_of_stretch(lvlm, first, last, spans)
        outputs.append(run(**part, **held))
    hidden = [output.last_hidden_state for output in outputs]
    outputs[-1].last_hidden_state = torch.cat(hidden, dim=1)
    return outputs[-1]


def _edges(start: int, stop: int, most: int, whole: Sequence[slice]) -> list[int]:
    """Where stretches of about `most` tokens begin and end, none within a span of `whole`."""
    edges = [start]
    while edges[-1] < stop:
        end = min(edges[-1] + most, stop)
        cut = next((span for span in whole if span.start < end < span.stop), None)
        if cut:
            end = cut.start if cut.start > edges[-1] else cut.stop
        edges.append(end)
    return edges


_TOKEN_AXIS = {
    "inputs_embeds": 1,
    "position_ids": -1,
    "cache_position": 0,
    "visual_pos_masks": 1,
    "per_layer_inputs": 1,
}


def _stretch(call: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """The decoder call over its tokens from `first` to `last`."""
    part = dict(call)
    for name, axis in _TOKEN_AXIS.items():
        if call.get(name) is not None:
            part[name] = call[name].narrow(axis, first, last - first)
    mask, after = call.get("attention_mask"), call["inputs_embeds"].shape[1] - last
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:  # over what the cache holds, too
        part["attention_mask"] = mask[:, : mask.shape[1] - after]
    elif isinstance(mask, dict):  # as the model's own code makes one for each kind of layer
        part["attention_mask"] = {
            kind: one if one is None else one[:, :, first:last, : one.shape[-1] - after]
            for kind, one in mask.items()
        }
    return _with_deepstack(part, call, lambda row, token: (first <= token) & (token < last))


def row_of(call: dict[str, Any], row: int, first: int, last: int, held: int) -> dict[str, Any]:
    """A batch's decoder call as that of one row, over its tokens from `first` to `last`.

    held: tokens before them in the row's cache.
    """
    part = _stretch(call, first, last)
    for name, axis in _ROW_AXIS.items():
        if part.get(name) is not None:
            part[name] = part[name].narrow(axis, row, 1)
    if part.get("cache_position") is not None:
        part["cache_position"] = part["cache_position"] - part["cache_position"][0] + held

    def inside(of: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        return (of == row) & (first <= token) & (token < last)

    return _with_deepstack(part, call, inside)


_ROW_AXIS = {
    "inputs_embeds": 0,
    "position_ids": -2,
    "visual_pos_masks": 0,
    "per_layer_inputs": 0,
}


def _with_deepstack(part: dict[str, Any], call: dict[str, Any], inside: Callable) -> dict[str, Any]:
    """`part` with the call's features of deeper vision layers: one row for each visual token.

    inside: of tokens (their rows and indices) whether they are the part's.
    """
    deepstack = call.get("deepstack_visual_embeds")
    if deepstack is None:
        return part
    kept = inside(*call["visual_pos_masks"].nonzero(as_tuple=True))
    return {**part, "deepstack_visual_embeds": [layer[kept] for layer in deepstack]}


def _blocked_call(stream: Stream, call: dict[str, Any], start: int) -> dict[str, Any]:
    """The decoder call over tokens from `start` on, with blocked tokens at their picture's mean."""
    embeddings = call["inputs_embeds"].clone()  # (1, S, D)
    stop = start + embeddings.shape[1]
    call = {**call, "inputs_embeds": embeddings}
    deepstack = call.get("deepstack_visual_embeds")
    if deepstack is not None:
        deepstack = call["deepstack_visual_embeds"] = [layer.clone() for layer in deepstack]
    for span in stream.prompt.spans:
        if not start <= span.start < stop:
            continue
        blocked = [index for index in stream.blocked if span.start <= index < span.stop]
        here = slice(span.start - start, span.stop - start)
        embeddings[:, [index - start for index in blocked]] = embeddings[:, here].mean(
            1, keepdim=True
        )
        # Qwen3-VL adds features of its deeper vision layers to the same tokens: (tokens, D).
        for layer in deepstack or ():
            layer[[index - span.start for index in blocked]] = layer.mean(0)
    return call
