"""Both streams as one batch: their caches merged, and the hooks that mix their logits.

`generate()` sees one row per answer; the model runs it once per stream. Knows neither what prompts
say nor how an answer is chosen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor

from ..models.lvlm import Lvlm
from ..models.prefix import Layers
from .caches import ROOM, RoomyLayer, cache_of_layers
from .reading import ReadStream, overflow

Mix = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(logits with the evidence, logits without it or None) -> logits to choose from; all (..., V)."""


@dataclass
class Rows:
    """The streams merged into one batch, ready for the last prompt token.

    input_ids: (1, N), what `generate` sees. offsets: position of a row's token minus its index.
    mask: (S, N), 0 on the left padding of a shorter stream, or None where none is padded.
    lent: the prefix that the positive stream shares, as views of the cache's first row.
    """

    cache: DynamicCache
    streams: int
    input_ids: torch.Tensor
    offsets: torch.Tensor
    mask: torch.Tensor | None
    lent: Layers

    @classmethod
    def of(cls, lvlm: Lvlm, read: list[ReadStream]) -> Rows:
        """Merge what was read of each stream, layer by layer, so that no token is held twice.

        Empties `read`. The shared prefix then lies in this cache: call `give_back` afterwards.
        """
        device = lvlm.device
        prompts = [one.prompt for one in read]
        longest = max(prompt.length for prompt in prompts)
        pads = [longest - prompt.length for prompt in prompts]
        layers: list[RoomyLayer] = []
        lent = read[0].shared
        for index in reversed(range(len(read[0].own))):  # so that the last is freed, and popped
            keys, values = (merge_layer(read, index, part, pads, longest - 1) for part in (0, 1))
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
        cache = cache_of_layers(layers)
        return cls(cache, len(prompts), input_ids.to(device), offsets.to(device), mask, lent)

    def give_back(self) -> None:
        """Copy the shared prefix out of the cache, so that the cache can be freed."""
        for index in reversed(range(len(self.lent))):
            keys, values = self.lent[index]
            self.lent[index] = keys.clone(), values.clone()
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


def merge_layer(
    read: list[ReadStream], index: int, part: int, pads: list[int], length: int
) -> torch.Tensor:
    """(S, H_kv, length + room, D): a layer's keys (part 0) or values (1) of every stream."""
    sample = read[0].own[index][part]
    merged = sample.new_zeros(len(read), sample.shape[1], length + ROOM, sample.shape[3])
    for row, (one, pad) in enumerate(zip(read, pads, strict=True)):
        for tensor in one.parts(index, part):
            merged[row, :, pad : pad + tensor.shape[2]] = tensor[0]
            pad += tensor.shape[2]
    return merged


class TwoStreams:
    """Context manager: inside, the model runs the row once per stream and returns mixed logits.

    The hooks act only on this model in this thread and are removed on any exit.
    observe: called at every step with the token that `generate` chose at the step before, (1,),
    and with z+ and z-, (1, V) float32, z- None without a second stream.
    repetition_penalty: the library's, on z+; z- changes by as much as z+. So the difference that
    the evidence makes stays as it is, and what is plausible is judged as the model alone would.
    On the mixed logits the penalty would come too late: what it favours may be cut off by then.
    """

    def __init__(
        self,
        lvlm: Lvlm,
        rows: Rows,
        mix: Mix,
        observe: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], None],
        repetition_penalty: float = 1.0,
    ) -> None:
        self._lvlm, self._rows, self._mixed = lvlm, rows, mix
        self._penalised = None
        if repetition_penalty != 1:
            self._penalised = RepetitionPenaltyLogitsProcessor(repetition_penalty)
        self._ids = rows.input_ids  # and then what was generated
        self._mrope = hasattr(lvlm.body, "get_rope_index")
        self._observe = observe

    def __enter__(self) -> TwoStreams:
        self._thread = threading.get_ident()
        model = self._lvlm.model
        self._hooks = [
            model.register_forward_pre_hook(self._expand, with_kwargs=True),
            model.register_forward_hook(self._mix),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _expand(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        if threading.get_ident() != self._thread:
            return None
        ids = self._fed = kwargs["input_ids"]
        past = kwargs[self._lvlm.cache_name].get_seq_length()
        count = ids.shape[1]
        self._ids = torch.cat([self._ids[:, :past], ids], dim=1)
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
        if not mixed.amax(-1).isfinite().all():
            raise overflow(self._lvlm)
        self._observe(self._fed[:, -1], positive, negative)
        output.logits = mixed[:, None]
        return output
