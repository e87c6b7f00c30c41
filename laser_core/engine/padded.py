"""Several prompts as one batch: the shorter are padded on the left, and a mask hides the padding.

What runs side by side ask to have read is read together here. Knows prompts and what the decoder
holds of them; knows no question and no picture's size.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..models.chat import Prompt, Stream
from ..models.lvlm import Lvlm
from ..models.prefix import DecoderInputs, Layers, Prefix, State
from ..pictures import PictureInputs
from .caches import cache_of, cut, layers_of, merged_states, of_row, repeated, zero_rows
from .few_calls import pads
from .masks import Masks
from .reading import (
    Check,
    ReadStream,
    continues,
    first_token_certainty,
    forward,
    known_prefix,
    read_stream,
    recorded,
    row_of,
)
from .together import ask, in_batches, its_own_error


def read_streams(
    lvlm: Lvlm, streams: Sequence[Stream], *, certainty: bool = False, check: Check | None = None
) -> list[ReadStream]:
    """As `reading.read_stream` reads each; together with what runs beside this one have read."""
    return ask(_read_all, _Reading(lvlm, streams, certainty, check))


@dataclass
class _Reading:
    lvlm: Lvlm
    streams: Sequence[Stream]
    certainty: bool
    check: Check | None


def _read_all(asked: list[_Reading]) -> list[list[ReadStream] | Exception]:
    every = [(one, stream) for one in asked for stream in one.streams]
    parts: Iterator[Any] = iter(in_batches(_read_some, every, _kind_and_length))
    each = [[next(parts) for _ in one.streams] for one in asked]
    return [next((part for part in own if isinstance(part, Exception)), own) for own in each]


def _kind_and_length(member: tuple[_Reading, Stream]) -> tuple[Hashable, int]:
    one, stream = member
    lvlm, prompt = one.lvlm, stream.prompt
    on = continues(stream)
    shapes = shapes_of(lvlm, prompt.pictures)
    # No last token can be taken off a state again
    if len(shapes) > 1 or (one.certainty and lvlm.state_layers):
        return id(stream), prompt.length
    places = tuple((span.start, span.stop) for span in prompt.spans)
    sizes = None if pads(lvlm, on) else (prompt.length, prompt.prefix_length, places)
    return (on, one.certainty, sizes, shapes), prompt.length


def _read_some(members: list[tuple[_Reading, Stream]]) -> list[ReadStream | Exception]:
    [(one, stream), *others] = members
    lvlm, certainty = one.lvlm, one.certainty
    if not others:
        return [
            its_own_error(partial(read_stream, lvlm, stream, certainty=certainty, check=one.check))
        ]
    for check in dict.fromkeys(one.check for one, _ in members if one.check):
        check()
    prefixes: list[Prefix | None] = [None] * len(members)
    if continues(stream):
        read_prefixes([(one.lvlm, stream.prompt) for one, stream in members])
        prefixes = [one.lvlm.prefix for one, _ in members]
    prompts = [stream.prompt for _, stream in members]
    tails = [
        Tail.of(prompt, prompt.length - (not certainty), prefix)
        for prompt, prefix in zip(prompts, prefixes, strict=True)
    ]
    read = read_tails(lvlm, tails)
    sure: list[Any] = [None] * len(members)
    if certainty:
        sure = [its_own_error(partial(first_token_certainty, lvlm, one.hidden[-1])) for one in read]
    return [
        certain if isinstance(certain, Exception) else _as_read(stream, prefix, one, certain)
        for (_, stream), prefix, one, certain in zip(members, prefixes, read, sure, strict=True)
    ]


def _as_read(
    stream: Stream, prefix: Prefix | None, read: ReadTail, certainty: float | None
) -> ReadStream:
    shared, inputs = (prefix.layers, prefix.inputs) if prefix else ([], [])
    prompt = stream.prompt
    own = cut(read.layers, 0, prompt.length - 1 - (prompt.prefix_length if prefix else 0))
    return ReadStream(prompt, shared, own, inputs + read.inputs, certainty, stream.note)


def read_prefixes(prompts: Sequence[tuple[Lvlm, Prompt]]) -> None:
    """The prefixes of prompts whose models do not remember them, as one batch."""
    missing = {
        id(lvlm): (lvlm, prompt) for lvlm, prompt in prompts if known_prefix(lvlm, prompt) is None
    }
    if not missing:
        return
    lvlms, first = zip(*missing.values(), strict=True)
    for lvlm in lvlms:
        lvlm.prefix = None
    tails = [Tail.of(prompt, prompt.prefix_length) for prompt in first]
    for lvlm, prompt, read in zip(lvlms, first, read_tails(lvlms[0], tails), strict=True):
        lvlm.prefix = Prefix(prompt.prefix_key, read.layers, read.inputs)


def shapes_of(lvlm: Lvlm, pictures: Sequence[PictureInputs]) -> frozenset[torch.Size]:
    """One for pictures that can be one call of the tower, which takes any number of patches."""
    end = lvlm.family.pixel_axis or None  # the last, where patches lie along it
    return frozenset(picture.tensors["pixel_values"].shape[2:end] for picture in pictures)


@dataclass
class Tail:
    """What a row of a batch reads.

    ids: (1, S); positions: (1, S) or (3, 1, S). pictures: whose tokens are among them, in order;
    spans: of all its text's pictures. held: what the decoder holds of the `past` tokens before.
    kept: of how many of its first tokens layers and inputs are wanted; None: of all.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    pictures: Sequence[PictureInputs]
    spans: Sequence[slice]
    held: Layers
    past: int
    kept: int | None = None

    @classmethod
    def of(cls, prompt: Prompt, stop: int, prefix: Prefix | None = None) -> Tail:
        """A prompt's tokens up to `stop`, without those of its prefix where that is held."""
        start, held = (prompt.prefix_length, prefix.layers) if prefix else (0, [])
        ids, positions = prompt.input_ids[:, start:stop], prompt.position_ids[..., start:stop]
        return cls(ids, positions, prompt.pictures_in(start, stop), prompt.spans, held, start)

    @property
    def length(self) -> int:
        return self.ids.shape[1]


@dataclass
class ReadTail:
    """A row without its padding. hidden: (S, D). Of the tokens that are kept, layers: its own keys
    and values, views of the batch's; inputs: what the decoder was called with."""

    hidden: torch.Tensor
    layers: Layers
    inputs: DecoderInputs


def read_tails(lvlm: Lvlm, tails: Sequence[Tail], mask: Masks | None = None) -> list[ReadTail]:
    """One forward of all rows and their pictures.

    mask: (B, 1, S, N); None: what the family lets a token see, and padding is hidden. Where nothing
    may be padded, all rows are of one shape.
    """
    longest = max(tail.length for tail in tails)
    past = max(tail.past for tail in tails)
    before = [longest - tail.length for tail in tails]
    filler = int(lvlm.image_token_id == 0)  # any token but a picture's
    ids = torch.cat([_padded(tail.ids, longest, filler) for tail in tails])
    positions = torch.cat([_padded(tail.positions, longest, 0) for tail in tails], dim=-2)
    if mask is None and (any(before) or any(tail.past != past for tail in tails)):
        seen = torch.zeros(len(tails), past + longest, dtype=torch.long)
        for row, tail in enumerate(tails):
            seen[row, past - tail.past : past] = 1
            seen[row, past + before[row] :] = 1
        mask = seen.to(lvlm.device)
    cache = cache_of(lvlm, _continued(tails, past))
    pictures = [picture for tail in tails for picture in tail.pictures]
    calls: DecoderInputs = []
    with recorded(lvlm, calls):
        tensors = _tensors_of(lvlm, pictures)
        hidden = forward(lvlm, cache, ids, positions, tensors, mask, tails[0].spans)
    layers = layers_of(cache)
    found = []
    for row, tail in enumerate(tails):
        pad = before[row]
        stop = longest if tail.kept is None else pad + tail.kept
        inputs = [row_of(call, row, pad, stop, tail.past) for call in calls]
        found.append(ReadTail(hidden[row, pad:], cut(of_row(layers, row), pad, stop), inputs))
    return found


def _padded(tensor: torch.Tensor, length: int, value: int) -> torch.Tensor:
    pad = length - tensor.shape[-1]
    return torch.nn.functional.pad(tensor, (pad, 0), value=value) if pad else tensor


def _continued(tails: Sequence[Tail], past: int) -> Layers:
    """What the rows continue, (B, H_kv, past, D) of every layer; each row's at the right."""
    first = tails[0].held
    if all(tail.held is first for tail in tails):
        return repeated(first, len(tails))

    def joined(own: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = zero_rows(own[0], len(own), past)
        for row, tensor in zip(rows, own, strict=True):
            row[:, past - tensor.shape[2] :] = tensor[0]
        return rows

    return [
        merged_states([State(*one) for one in own])
        if isinstance(own[0], State)
        else (joined([keys for keys, _ in own]), joined([values for _, values in own]))
        for own in zip(*(tail.held for tail in tails), strict=True)
    ]


def _tensors_of(lvlm: Lvlm, pictures: Sequence[PictureInputs]) -> dict[str, torch.Tensor]:
    """As the model's forward takes several pictures."""
    if not pictures:
        return {}
    every = [picture.tensors for picture in pictures]
    axis = {"pixel_values": lvlm.family.pixel_axis}
    return {
        name: torch.cat(_of_equal_tiles([one[name] for one in every]), axis.get(name, 0))
        for name in every[0]
    }


def _of_equal_tiles(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """(1, tiles, ...) as LLaVA-NeXT has it, with empty tiles behind, which the model leaves out."""
    if parts[0].ndim != 5:
        return parts
    most = max(part.shape[1] for part in parts)
    pad = [0] * 7
    return [torch.nn.functional.pad(part, (*pad, most - part.shape[1])) for part in parts]
