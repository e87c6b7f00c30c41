"""Both streams as one batch: their caches merged, and the hooks that mix their logits.

`generate()` sees one row per answer; the model runs it once per stream. Knows neither what prompts
say nor how an answer is chosen.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..models.lvlm import Lvlm
from ..models.prefix import Layers, State
from .caches import ROOM, RoomyLayer, cache_of_layers, merged_states, state_layer
from .few_calls import KEPT_STEPS, steps_in_place
from .fixed_step import FixedStep, in_buckets
from .reading import ReadStream

Mix = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(logits with the evidence, logits without it or None) -> logits to choose from; all (..., V)."""


@dataclass
class Rows:
    """The streams merged into one batch, ready for the last prompt token.

    input_ids: (1, N), what `generate` sees. offsets: position of a row's token minus its index.
    mask: (S, N), 0 on the left padding of a shorter stream, or None where none is padded.
    lent: the prefix that the positive stream shares, as views of the cache's first row. step: what
    runs a token, where the cache is of a fixed size.
    """

    cache: DynamicCache
    streams: int
    input_ids: torch.Tensor
    offsets: torch.Tensor
    mask: torch.Tensor | None
    lent: Layers
    step: FixedStep | None

    @classmethod
    def of(cls, lvlm: Lvlm, read: list[ReadStream], answer: int, in_place: bool = True) -> Rows:
        """Merge what was read of each stream, layer by layer, so that no token is held twice.

        Empties `read`. The shared prefix then lies in this cache: call `give_back` afterwards.
        answer: the tokens that are expected to follow the prompts. in_place: whether steps may run
        over caches of a fixed size.
        """
        device = lvlm.device
        prompts = [one.prompt for one in read]
        longest = max(prompt.length for prompt in prompts)
        pads = [longest - prompt.length for prompt in prompts]
        layers: list[Any] = []
        lent = read[0].shared
        step = _fixed_step(lvlm, read, longest + answer) if in_place else None
        for index in reversed(range(len(read[0].own))):  # so that the last is freed, and popped
            if index in lvlm.state_layers:
                states = [State(*one.own.pop()) for one in read]
                layers.insert(0, state_layer(merged_states(states)))
                continue
            samples = [read[0].own[index][part] for part in (0, 1)]
            if step:
                keys, values = step.buffers(index, *samples)
            else:
                keys, values = (_zeros(sample, len(read), longest - 1 + ROOM) for sample in samples)
            for part, merged in enumerate((keys, values)):
                merge_layer(read, index, part, pads, merged)
            if not step:
                layers.insert(0, RoomyLayer(keys, values, longest - 1))
            for one in read:
                one.own.pop()
            if lent:
                held = slice(pads[0], pads[0] + lent[index][0].shape[2])
                lent[index] = keys[:1, :, held], values[:1, :, held]
        ids = prompts[0].input_ids
        # generate() only counts these: the cache holds all but the last.
        input_ids = torch.nn.functional.pad(ids, (pads[0], 0), value=int(ids[0, 0]))
        deltas = torch.tensor([prompt.delta for prompt in prompts])
        offsets = deltas - torch.tensor(pads)
        mask = None
        if any(pads):
            mask = torch.arange(longest)[None] >= torch.tensor(pads)[:, None]
            mask = mask.long().to(device)
        rows = cls(
            cache_of_layers(layers),
            len(prompts),
            input_ids.to(device),
            offsets.to(device),
            mask,
            lent,
            step,
        )
        if step:
            mrope = prompts[0].position_ids.ndim == 3
            positions = rows.position_ids(longest - 1, 1, mrope)
            step.begin(longest - 1, torch.tensor(pads, device=device), positions)
            rows.cache = step.cache
        return rows

    def give_back(self) -> None:
        """Copy the shared prefix out of the cache, so that the cache can be freed."""
        for index in reversed(range(len(self.lent))):
            keys, values = self.lent[index]
            if not isinstance(self.lent[index], State):  # which was copied
                self.lent[index] = keys.clone(), values.clone()
            if not self.step:
                self.cache.layers.pop()

    def position_ids(self, first: int, count: int, mrope: bool) -> torch.Tensor:
        """(S, count) positions of the tokens at indices from `first` on, or (3, S, count)."""
        index = torch.arange(first, first + count, device=self.offsets.device)
        positions = index + self.offsets[:, None]
        return positions.expand(3, -1, -1) if mrope else positions

    def attention_mask(self, total: int) -> torch.Tensor | None:
        """(S, total) padding mask over `total` tokens, or None."""
        if self.mask is None:
            return None
        return torch.nn.functional.pad(self.mask, (0, total - self.mask.shape[1]), value=1)


def _fixed_step(lvlm: Lvlm, read: list[ReadStream], tokens: int) -> FixedStep | None:
    """What runs steps in place over caches of this many tokens, where the device gains from it.

    The one whose graph was kept, if it serves.
    """
    held = sum(part.nbytes / part.shape[2] for layer in read[0].own for part in layer)
    streams = len(read)
    if not steps_in_place(lvlm, round(held * streams * in_buckets(tokens))):
        return None
    for kept in lvlm.steps:
        if isinstance(kept, FixedStep) and kept.serves(streams, tokens):
            lvlm.steps.remove(kept)
            return kept
    # Room first: at most one for each number of streams is kept
    others = [kept for kept in lvlm.steps if getattr(kept, "streams", 0) != streams]
    lvlm.steps = others[: KEPT_STEPS - 1]
    return FixedStep(lvlm, streams, tokens)


def _zeros(like: torch.Tensor, streams: int, length: int) -> torch.Tensor:
    return like.new_zeros(streams, like.shape[1], length, like.shape[3])


def merge_layer(
    read: list[ReadStream], index: int, part: int, pads: list[int], merged: torch.Tensor
) -> None:
    """Put a layer's keys (part 0) or values (1) of every stream into `merged`, (S, H_kv, N, D)."""
    for row, (one, pad) in enumerate(zip(read, pads, strict=True)):
        for tensor in one.parts(index, part):
            merged[row, :, pad : pad + tensor.shape[2]] = tensor[0]
            pad += tensor.shape[2]


class TwoStreams:
    """Context manager: inside, the model runs the row once per stream and returns mixed logits.

    The hooks act only on this model in this thread and are removed on any exit.
    broken: (1,) whether any scores so far were not finite; None before the first step.
    observe: called at every step with the token that `generate` chose at the step before, (1,),
    and with the mixed logits, z+ and z-, (1, V) float32, z- None without a second stream.
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
        self._mrope = hasattr(lvlm.body, "get_rope_index")
        self._observe = observe

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
            logits = step(kwargs["input_ids"])
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
            "input_ids": ids.repeat(self._rows.streams, 1),
            "position_ids": self._rows.position_ids(past, count, self._mrope),
            "attention_mask": self._rows.attention_mask(past + count),
        }
        return args, kwargs

    def _mix(self, model: Any, args: tuple, output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return None
        rows = output.logits[:, -1].float().split(1)
        positive, negative = rows[0], rows[1] if self._rows.streams == 2 else None
        if self._penalised:
            positive = self._penalised(self._ids, rows[0])
            negative = None if negative is None else negative + (positive - rows[0])
        mixed = self._mixed(positive, negative)
        # No step waits to see whether it is: `check` does, at the end
        broken = ~mixed.amax(-1).isfinite()
        self.broken = broken if self.broken is None else self.broken | broken
        mixed = mixed.masked_fill(broken[:, None], 0.0)  # of which the library can sample
        self._observe(self._fed[:, -1], mixed, positive, negative)
        output.logits = mixed[:, None]
        return output
