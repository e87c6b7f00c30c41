"""Both streams as one batch: their caches merged, and the hooks that mix their logits.

`generate()` sees one row per answer; the model runs it once per stream. Several answers are more
rows of the same batch. Knows neither what prompts say nor how an answer is chosen.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..models.lvlm import Lvlm
from ..models.prefix import Layers, State
from .caches import (
    ROOM,
    RoomyLayer,
    cache_of_layers,
    copied,
    keep_rows,
    merged_states,
    state_layer,
    zero_rows,
)
from .few_calls import KEPT_STEPS, steps_in_place
from .fixed_step import FixedStep, in_buckets
from .reading import ReadStream

Mix = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(logits with the evidence, logits without it or None) -> logits to choose from; all (..., V)."""


@dataclass
class Rows:
    """The streams of one or several answers merged into one batch, ready for the last prompt token.

    Of B answers with S streams each: first the rows of every answer's first stream, and so on.
    input_ids: (B, N), what `generate` sees. offsets: position of a row's token minus its index.
    mask: (B * S, N), 0 on the left padding of what is shorter, or None where none is padded.
    lent: of each answer the prefix that its positive stream shares, as views of the cache's rows.
    step: what runs a token, where the cache is of a fixed size.
    """

    cache: DynamicCache
    streams: int
    input_ids: torch.Tensor
    offsets: torch.Tensor
    mask: torch.Tensor | None
    lent: list[Layers]
    step: FixedStep | None

    @classmethod
    def of(
        cls, lvlm: Lvlm, answers: Sequence[list[ReadStream]], most: int, in_place: bool = True
    ) -> Rows:
        """Merge what was read of each stream, layer by layer, so that no token is held twice.

        Empties what was read. The shared prefixes then lie in this cache: call `give_back`
        afterwards. answers: as many streams of each. most: the tokens that are expected to follow.
        in_place: whether steps may run over caches of a fixed size.
        """
        device, streams = lvlm.device, len(answers[0])
        read = [one[stream] for stream in range(streams) for one in answers]
        prompts = [one.prompt for one in read]
        longest = max(prompt.length for prompt in prompts)
        pads = [longest - prompt.length for prompt in prompts]
        lent = [one[0].shared for one in answers]
        step = _fixed_step(lvlm, read, len(answers), longest + most) if in_place else None
        layers = _merged(lvlm, read, pads, lent, step)
        # generate() only counts these: the cache holds all but the last.
        input_ids = torch.cat(
            [
                torch.nn.functional.pad(ids, (longest - ids.shape[1], 0), value=int(ids[0, 0]))
                for ids in (prompt.input_ids for prompt in prompts[: len(answers)])
            ]
        )
        deltas = torch.tensor([prompt.delta for prompt in prompts])
        offsets = deltas - torch.tensor(pads)
        mask = None
        if any(pads):
            mask = torch.arange(longest)[None] >= torch.tensor(pads)[:, None]
            mask = mask.long().to(device)
        rows = cls(
            cache_of_layers(layers),
            streams,
            input_ids.to(device),
            offsets.to(device),
            mask,
            lent,
            step,
        )
        if step:
            positions = rows.position_ids(longest - 1, 1, lvlm.mrope)
            step.begin(longest - 1, torch.tensor(pads, device=device), positions)
            rows.cache = step.cache
        return rows

    def give_back(self) -> None:
        """Copy the shared prefixes out of the cache, so that the cache can be freed."""
        for index in reversed(range(max(map(len, self.lent), default=0))):
            for shared in filter(None, self.lent):
                shared[index] = copied(shared[index])
            if not self.step:
                self.cache.layers.pop()

    def keep(self, answers: list[int]) -> None:
        """Go on with these answers alone, by their index; of a cache that grows."""
        for shared in filter(None, self.lent):
            shared[:] = map(copied, shared)
        self.lent = []
        count = len(self.offsets) // self.streams
        chosen = [stream * count + index for stream in range(self.streams) for index in answers]
        rows = torch.tensor(chosen, device=self.offsets.device)
        keep_rows(self.cache, rows)
        self.offsets = self.offsets[rows]
        self.mask = None if self.mask is None else self.mask[rows]

    def position_ids(self, first: int, count: int, mrope: bool) -> torch.Tensor:
        """(R, count) positions of the tokens at indices from `first` on, or (3, R, count)."""
        index = torch.arange(first, first + count, device=self.offsets.device)
        positions = index + self.offsets[:, None]
        return positions.expand(3, -1, -1) if mrope else positions

    def attention_mask(self, total: int) -> torch.Tensor | None:
        """(R, total) padding mask over `total` tokens, or None."""
        if self.mask is None:
            return None
        return torch.nn.functional.pad(self.mask, (0, total - self.mask.shape[1]), value=1)


def _merged(
    lvlm: Lvlm,
    read: list[ReadStream],
    pads: list[int],
    lent: list[Layers],
    step: FixedStep | None,
) -> list[Any]:
    """A cache's layers, of all streams; empties what was read. In a step's own, where there is one.

    lent: become views of the first rows.
    """
    length = pads[0] + read[0].prompt.length - 1
    layers: list[Any] = []
    for index in reversed(range(len(read[0].own))):  # so that the last is freed, and popped
        if index in lvlm.state_layers:
            states = [State(*one.own.pop()) for one in read]
            layers.insert(0, state_layer(merged_states(states)))
            continue
        samples = read[0].own[index]
        if step:
            keys, values = step.buffers(index, *samples)
        else:
            keys, values = (zero_rows(sample, len(read), length + ROOM) for sample in samples)
            layers.insert(0, RoomyLayer(keys, values, length))
        for part, merged in enumerate((keys, values)):
            merge_layer(read, index, part, pads, merged)
        for one in read:
            one.own.pop()
        for row, shared in enumerate(lent):
            if shared:
                held = slice(pads[row], pads[row] + shared[index][0].shape[2])
                shared[index] = keys[row, None, :, held], values[row, None, :, held]
    return layers


def _fixed_step(lvlm: Lvlm, read: list[ReadStream], answers: int, tokens: int) -> FixedStep | None:
    """What runs steps in place over caches of this many tokens, where the device gains from it.

    The one whose graph was kept, if it serves.
    """
    held = sum(part.nbytes / part.shape[2] for layer in read[0].own for part in layer)
    streams = len(read)
    if not steps_in_place(lvlm, round(held * streams / answers * in_buckets(tokens))):
        return None
    for kept in lvlm.steps:
        if isinstance(kept, FixedStep) and kept.serves(streams, tokens):
            lvlm.steps.remove(kept)
            return kept
    # Room first: at most one for each number of streams is kept
    others = [kept for kept in lvlm.steps if getattr(kept, "streams", 0) != streams]
    lvlm.steps = others[: KEPT_STEPS - 1]
    return FixedStep(lvlm, streams, tokens)


def merge_layer(
    read: list[ReadStream], index: int, part: int, pads: list[int], merged: torch.Tensor
) -> None:
    """Put a layer's keys (part 0) or values (1) of every stream into `merged`, (R, H_kv, N, D)."""
    for row, (one, pad) in enumerate(zip(read, pads, strict=True)):
        for tensor in one.parts(index, part):
            merged[row, :, pad : pad + tensor.shape[2]] = tensor[0]
            pad += tensor.shape[2]


class TwoStreams:
    """Context manager: inside, the model runs a row once per stream and returns mixed logits.

    The hooks act only on this model in this thread and are removed on any exit.
    broken: (B,) whether any scores so far were not finite; None before the first step.
    observe: called at every step with the tokens that `generate` chose at the step before, (B,),
    and with the mixed logits, z+ and z-, (B, V) float32, z- None without a second stream.
    repetition_penalty: the library's, on z+; z- changes by as much as z+. So the difference that
    the evidence makes stays as it is, and what is plausible is judged as the model alone would.
    On the mixed logits the penalty would come too late: what it favours may be cut off by then.
    """

    def __init__(
        self,
        lvlm: Lvlm,
        rows: Rows,
        mix: Mix,
        observe: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], None],
        repetition_penalty: float = 1.0,
    ) -> None:
        self._lvlm, self._rows, self._mixed = lvlm, rows, mix
        self._penalised = None
        if repetition_penalty != 1:
            self._penalised = RepetitionPenaltyLogitsProcessor(repetition_penalty)
        self._ids = rows.input_ids  # and then what was generated
        self.broken: torch.Tensor | None = None
        self._observe = observe
        self._here = [*range(len(rows.input_ids))]  # the answers that the model still runs
        self._ended: torch.Tensor | None = None  # (B,)

    def leave(self, ended: Sequence[bool]) -> None:
        """Leave out answers that have ended once they are half of those that the model runs.

        Their keys are copied then, which a smaller share would not be worth; a step in place keeps
        its rows. What stands in their place is not to be read.
        """
        self._ended = torch.tensor(ended, device=self._ids.device)
        going = [index for index in self._here if not ended[index]]
        if going and 2 * len(going) <= len(self._here) and not self._rows.step:
            self._rows.keep([self._here.index(index) for index in going])
            self._here = going

    def __enter__(self) -> TwoStreams:
        self._thread = threading.get_ident()
        model: Any = self._lvlm.model
        self._own_forward = vars(model).get("forward")
        if self._rows.step:
            model.forward = self._stepping(model.forward, self._rows.step)
        self._hooks = [
            model.register_forward_pre_hook(self._expand, with_kwargs=True),
            model.register_forward_hook(self._mix),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._rows.step:
            model: Any = self._lvlm.model
            del model.forward
            if self._own_forward is not None:
                model.forward = self._own_forward

    def _stepping(self, forward: Callable, step: FixedStep) -> Callable:
        """A step in place instead of the model's own, as `generate` calls it."""

        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return forward(*args, **kwargs)
            logits = step(kwargs["input_ids"].repeat(self._rows.streams, 1))
            output: Any = CausalLMOutputWithPast(logits=logits[:, None])
            output[self._lvlm.cache_name] = step.cache
            return output

        return run

    def _expand(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        if threading.get_ident() != self._thread:
            return None
        ids = self._fed = kwargs["input_ids"]
        past = kwargs[self._lvlm.cache_name].get_seq_length()
        count = ids.shape[1]
        if self._penalised:
            self._ids = torch.cat([self._ids[:, :past], ids], dim=1)
        if self._rows.step:  # which knows the rest
            return None
        kwargs = {
            **kwargs,
            "input_ids": self._running(ids).repeat(self._rows.streams, 1),
            "position_ids": self._rows.position_ids(past, count, self._lvlm.mrope),
            "attention_mask": self._rows.attention_mask(past + count),
        }
        return args, kwargs

    def _mix(self, model: Any, args: tuple, output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return None
        rows = self._in_places(output.logits[:, -1].float()).split(len(self._ids))
        positive, negative = rows[0], rows[1] if self._rows.streams == 2 else None
        if self._penalised:
            positive = self._penalised(self._ids, rows[0])
            negative = None if negative is None else negative + (positive - rows[0])
        mixed = self._mixed(positive, negative)
        # No step waits to see whether it is: who reads `broken` does, at the end
        broken = ~mixed.amax(-1).isfinite()
        mixed = mixed.masked_fill(broken[:, None], 0.0)  # of which the library can sample
        if self._ended is not None:  # what follows an answer says nothing of it
            broken = broken & ~self._ended
        self.broken = broken if self.broken is None else self.broken | broken
        self._observe(self._fed[:, -1], mixed, positive, negative)
        output.logits = mixed[:, None]
        return output

    def _running(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, n) -> of the answers that the model still runs."""
        return ids if len(ids) == len(self._here) else ids[self._here]

    def _in_places(self, rows: torch.Tensor) -> torch.Tensor:
        """Of the answers that run -> (B * S, V), with nothing in the others' places."""
        if len(self._here) == len(self._ids):
            return rows
        every = rows.new_zeros(self._rows.streams, len(self._ids), rows.shape[1])
        every[:, self._here] = rows.unflatten(0, (self._rows.streams, -1))
        return every.flatten(0, 1)
