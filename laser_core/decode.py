"""Step 10, VAT: decode by the difference between the streams with and without the evidence.

Rides on the library's own `generate()`: it sees one batch of answers, while two hooks let the
model run twice the rows, positive above negative, and hand back the mixed logits. Sampling,
beams, stopping and streaming are the library's and work unchanged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from .lvlm import Lvlm
from .prefill import Layers, Progress, Stream, read_blocked, read_stream
from .results import Alternative, Answer, TokenRecord
from .settings import DecodeSettings
from .turns import one_at_a_time

TOP_ALTERNATIVES = 5
RESCORED_TOKENS = 16  # tokens per forward when beams are scored afterwards: bounds the logits kept

OnText = Callable[[str], None]
"""Called with the whole answer so far after each token; it may raise to interrupt."""


@one_at_a_time
@torch.inference_mode()
def decode(
    lvlm: Lvlm,
    positive: Stream,
    negative: Stream | None = None,
    settings: DecodeSettings = DecodeSettings(),
    progress: Progress | None = None,
    on_text: OnText | None = None,
    **generate_options: Any,
) -> Answer:
    """The answer decoded from s_t = z+ + alpha (z+ - z-) (Eqs. 10-11).

    positive, negative: prompts with and without the evidence. With alpha 0 or no negative stream,
    plain decoding: the second stream is not computed. A negative stream with blocked tokens must
    have the positive's prompt. generate_options: for the library's `generate()`, such as a
    streamer, stopping_criteria or logits_processor; they see the positive rows and mixed logits.
    """
    started = time.perf_counter()
    streams = [positive] if negative is None or settings.alpha == 0 else [positive, negative]
    _check_length(lvlm, streams, settings)
    layers = _read_streams(lvlm, streams, progress)
    read = time.perf_counter()
    rows = _Rows.of(lvlm, streams, layers)
    del layers
    with _TwoStreams(lvlm, rows, settings) as two:
        watcher = _Watcher(lvlm, rows.input_ids.shape[1], settings.max_tokens, progress, on_text)
        token_ids = _generate(lvlm, rows, settings, watcher, generate_options)
        records = two.records(token_ids)
    if not records:
        records = _rescore(lvlm, rows, token_ids, settings)
    return Answer(
        text=lvlm.tokenizer.decode(token_ids, skip_special_tokens=True).strip(),
        tokens=tuple(records),
        stop_reason=_stop_reason(lvlm, token_ids, settings),
        prompt_tokens=tuple(stream.prompt.length for stream in streams),
        seconds_reading=read - started,
        seconds_decoding=time.perf_counter() - read,
    )


def _check_length(lvlm: Lvlm, streams: list[Stream], settings: DecodeSettings) -> None:
    """Raise ValueError for prompts that leave no room for the answer."""
    prompt, limit = max(stream.prompt.length for stream in streams), lvlm.context_length
    if prompt + settings.max_tokens > limit:
        raise ValueError(
            f"choose fewer windows, answer input 'crop' or a smaller max_tokens: the prompt has "
            f"{prompt} tokens, the answer up to {settings.max_tokens}, and the model takes {limit}"
        )


def mix_logits(
    positive: torch.Tensor, negative: torch.Tensor | None, alpha: float, beta: float
) -> torch.Tensor:
    """s_t = z+ + alpha (z+ - z-), (..., V) float32, implausible tokens at -inf (Eqs. 10-11)."""
    mixed = positive if negative is None else positive + alpha * (positive - negative)
    if beta > 0:
        # + ln(beta): the plausibility cut-off p >= beta max p, in logits.
        least = positive.amax(-1, keepdim=True) + math.log(beta)
        mixed = mixed.masked_fill(positive < least, float("-inf"))
    return mixed


def _read_streams(lvlm: Lvlm, streams: list[Stream], progress: Progress | None) -> list[Layers]:
    """Keys and values of each stream, one after the other: half the peak of a batch of two."""

    def report(done: int) -> None:
        if progress:
            progress("reading the evidence", done, len(streams))

    report(0)
    layers, inputs = read_stream(lvlm, streams[0])
    read = [layers]
    for stream in streams[1:]:
        report(1)
        blocked = bool(stream.blocked)
        read.append(read_blocked(lvlm, stream, inputs) if blocked else read_stream(lvlm, stream)[0])
    report(len(streams))
    return read


class _Cache(DynamicCache):
    """Rows [positive beams | negative beams]: beam search reorders both halves alike."""

    streams = 1

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        count = len(beam_idx)
        shifted = [beam_idx + stream * count for stream in range(self.streams)]
        super().reorder_cache(torch.cat(shifted))


@dataclass
class _Rows:
    """The streams merged into one batch, ready for the last prompt token.

    input_ids: (1, N), what `generate` sees. offsets: position of a row's token minus its index.
    mask: (S, N), 0 on the left padding of a shorter stream, or None where none is padded.
    """

    cache: _Cache
    input_ids: torch.Tensor
    offsets: torch.Tensor
    mask: torch.Tensor | None

    @classmethod
    def of(cls, lvlm: Lvlm, streams: list[Stream], layers: list[Layers]) -> _Rows:
        device = lvlm.device
        lengths = [stream.prompt.length for stream in streams]
        longest = max(lengths)
        pads = [longest - length for length in lengths]
        cache = _Cache()
        cache.streams = len(streams)
        for index in range(len(layers[0])):
            keys, values = (
                torch.cat(
                    [
                        _padded(layer[index][part], pad)
                        for layer, pad in zip(layers, pads, strict=True)
                    ]
                )
                for part in (0, 1)
            )
            cache.update(keys, values, index)
            for layer in layers:
                layer[index] = None  # freed layer by layer: the peak is one copy and a layer
        ids = streams[0].prompt.input_ids
        # generate() only counts these: the cache holds all but the last.
        input_ids = torch.nn.functional.pad(ids, (pads[0], 0), value=int(ids[0, 0]))
        deltas = torch.tensor([stream.prompt.delta for stream in streams])
        offsets = deltas - torch.tensor(pads)
        mask = None
        if any(pads):
            mask = torch.arange(longest)[None] >= torch.tensor(pads)[:, None]
            mask = mask.long().to(device)
        return cls(cache, input_ids.to(device), offsets.to(device), mask)

    def position_ids(self, first: int, count: int, beams: int, mrope: bool) -> torch.Tensor:
        """(S * beams, count) positions of the tokens at indices from `first` on, or (3, ...)."""
        index = torch.arange(first, first + count, device=self.offsets.device)
        positions = (index + self.offsets[:, None]).repeat_interleave(beams, 0)
        return positions.expand(3, -1, -1) if mrope else positions

    def attention_mask(self, total: int, beams: int) -> torch.Tensor | None:
        """(S * beams, total) padding mask over `total` tokens, or None."""
        if self.mask is None:
            return None
        mask = torch.nn.functional.pad(self.mask, (0, total - self.mask.shape[1]), value=1)
        return mask.repeat_interleave(beams, 0)


def _padded(tensor: torch.Tensor, pad: int) -> torch.Tensor:
    """Zeros on the left of the token axis of (1, H_kv, N, D)."""
    return torch.nn.functional.pad(tensor, (0, 0, pad, 0)) if pad else tensor


class _TwoStreams:
    """Context manager: inside, the model runs every row once per stream and returns mixed logits.

    The hooks act only on this model and are removed on any exit. Without beams it also notes a
    record per token, since row 0 is then the answer.
    """

    def __init__(self, lvlm: Lvlm, rows: _Rows, settings: DecodeSettings) -> None:
        self._lvlm, self._rows, self._settings = lvlm, rows, settings
        self._streams = rows.cache.streams
        self._mrope = hasattr(lvlm.model.model, "get_rope_index")
        self._pending: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._records: list[TokenRecord] = []

    def __enter__(self) -> _TwoStreams:
        model = self._lvlm.model
        self._hooks = [
            model.register_forward_pre_hook(self._expand, with_kwargs=True),
            model.register_forward_hook(self._mix),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._pending = None

    def records(self, token_ids: list[int]) -> list[TokenRecord]:
        """A record for each token of the answer; empty with beams."""
        if self._settings.beams == 1 and len(self._records) < len(token_ids):
            self._note(token_ids[-1])
        return self._records

    def _expand(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        ids = kwargs["input_ids"]
        if self._pending is not None:
            self._note(int(ids[0, -1]))
        past = kwargs["past_key_values"].get_seq_length()
        beams, count = ids.shape
        kwargs = {
            **kwargs,
            "input_ids": ids.repeat(self._streams, 1),
            "position_ids": self._rows.position_ids(past, count, beams, self._mrope),
            "attention_mask": self._rows.attention_mask(past + count, beams),
        }
        return args, kwargs

    def _mix(self, model: Any, args: tuple, output: Any) -> Any:
        rows = output.logits[:, -1].float().chunk(self._streams)
        positive, negative = rows[0], rows[1] if self._streams == 2 else None
        mixed = mix_logits(positive, negative, self._settings.alpha, self._settings.beta)
        if self._settings.beams == 1:
            self._pending = positive[0], None if negative is None else negative[0]
        output.logits = mixed[:, None]
        return output

    def _note(self, token: int) -> None:
        before = self._records[-1].token_id if self._records else None
        record = _record(self._lvlm, token, before, *self._pending, self._settings)
        self._records.append(record)


@dataclass
class _Watcher(StoppingCriteria):
    """Reports each token as it comes; what the callbacks raise ends `generate`."""

    lvlm: Lvlm
    prompt_length: int
    max_tokens: int
    progress: Progress | None
    on_text: OnText | None
    _done: int = field(default=0, init=False)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self._done += 1
        if self.progress:
            self.progress("answering", self._done, self.max_tokens)
        if self.on_text:
            answer = input_ids[0, self.prompt_length :]
            self.on_text(self.lvlm.tokenizer.decode(answer, skip_special_tokens=True).strip())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _generate(
    lvlm: Lvlm,
    rows: _Rows,
    settings: DecodeSettings,
    watcher: StoppingCriteria,
    options: dict[str, Any],
) -> list[int]:
    """The answer's token ids from the library's `generate`."""
    model, length = lvlm.model, rows.input_ids.shape[1]
    beams = settings.beams
    cache = rows.cache
    if beams > 1:
        cache = _Cache()
        cache.streams = rows.cache.streams
        for index, layer in enumerate(rows.cache.layers):
            keys, values = (t.repeat_interleave(beams, 0) for t in (layer.keys, layer.values))
            cache.update(keys, values, index)
    if hasattr(model.model, "rope_deltas"):
        # Older Qwen code reads this while it prepares inputs; the hook's positions then replace it.
        model.model.rope_deltas = torch.zeros(beams, 1, dtype=torch.long, device=lvlm.device)
    sampling = settings.temperature > 0
    # Everything a model's own generation config may set is given here: it would win otherwise.
    arguments = {
        "max_new_tokens": settings.max_tokens,
        "do_sample": sampling,
        "temperature": settings.temperature if sampling else 1.0,
        "top_p": settings.top_p if sampling else 1.0,
        "top_k": settings.top_k if sampling else 50,
        "num_beams": beams,
        "num_return_sequences": 1,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "typical_p": 1.0,
        "no_repeat_ngram_size": 0,
        "use_cache": True,
        "return_dict_in_generate": False,
        "pad_token_id": _pad_token(lvlm),
    }
    stopping = StoppingCriteriaList([*options.pop("stopping_criteria", ()), watcher])
    with _own_random_state():  # the seed is the answer's own
        torch.manual_seed(settings.seed)
        output = model.generate(
            input_ids=rows.input_ids,
            attention_mask=torch.ones_like(rows.input_ids),
            past_key_values=cache,
            stopping_criteria=stopping,
            **arguments,
            **options,
        )
    return _trimmed(lvlm, output[0, length:].tolist())


def _own_random_state() -> AbstractContextManager:
    """Restores afterwards every generator that `torch.manual_seed` sets."""
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is None or not accelerator.is_available():
        return torch.random.fork_rng(devices=[])
    kind = accelerator.current_accelerator().type
    devices = range(accelerator.device_count())
    return torch.random.fork_rng(devices=devices, device_type=kind)


def _stop_reason(lvlm: Lvlm, token_ids: list[int], settings: DecodeSettings) -> str:
    if token_ids[-1] in _end_tokens(lvlm):
        return "end of answer"
    return "max tokens" if len(token_ids) >= settings.max_tokens else "stopping criteria"


def _end_tokens(lvlm: Lvlm) -> list[int]:
    end = lvlm.model.generation_config.eos_token_id
    return [] if end is None else list(end) if isinstance(end, (list, tuple)) else [end]


def _pad_token(lvlm: Lvlm) -> int | None:
    """Any token will do: nothing is padded in an answer of one row, but `generate` asks for it."""
    pad = lvlm.model.generation_config.pad_token_id
    return pad if pad is not None else next(iter(_end_tokens(lvlm)), None)


def _trimmed(lvlm: Lvlm, token_ids: list[int]) -> list[int]:
    """Up to and with the first end token: a beam shorter than the others is padded."""
    ends = set(_end_tokens(lvlm))
    for index, token in enumerate(token_ids):
        if token in ends:
            return token_ids[: index + 1]
    return token_ids


def _rescore(
    lvlm: Lvlm, rows: _Rows, token_ids: list[int], settings: DecodeSettings
) -> list[TokenRecord]:
    """Records of a finished answer, for beam search: its tokens once more, several a forward."""
    records: list[TokenRecord] = []
    fed = torch.tensor([[int(rows.input_ids[0, -1]), *token_ids[:-1]]], device=lvlm.device)
    mrope = hasattr(lvlm.model.model, "get_rope_index")
    head, streams = lvlm.model.get_output_embeddings(), rows.cache.streams
    for first in range(0, len(token_ids), RESCORED_TOKENS):
        chunk = fed[:, first : first + RESCORED_TOKENS]
        past, count = rows.cache.get_seq_length(), chunk.shape[1]
        kwargs = {}
        if lvlm.takes_token_types:
            kwargs["mm_token_type_ids"] = torch.zeros_like(chunk).int().repeat(streams, 1)
        hidden = lvlm.model.model(
            input_ids=chunk.repeat(streams, 1),
            position_ids=rows.position_ids(past, count, 1, mrope),
            attention_mask=rows.attention_mask(past + count, 1),
            past_key_values=rows.cache,
            use_cache=True,
            **kwargs,
        ).last_hidden_state
        logits = head(hidden).float()
        for step, token in enumerate(token_ids[first : first + RESCORED_TOKENS]):
            negative = logits[1, step] if streams == 2 else None
            before = records[-1].token_id if records else None
            records.append(_record(lvlm, token, before, logits[0, step], negative, settings))
    return records


def _record(
    lvlm: Lvlm,
    token: int,
    before: int | None,
    positive: torch.Tensor,
    negative: torch.Tensor | None,
    settings: DecodeSettings,
) -> TokenRecord:
    """What both streams thought of a token; positive, negative: (V,) float32 logits."""
    mixed = mix_logits(positive, negative, settings.alpha, settings.beta).softmax(-1)
    with_evidence = positive.softmax(-1)
    without = None if negative is None else negative.softmax(-1)
    top = mixed.topk(min(TOP_ALTERNATIVES, len(mixed)))
    alternatives = tuple(
        Alternative(
            text=_token_text(lvlm, index, before),
            token_id=index,
            probability=float(probability),
            probability_with=float(with_evidence[index]),
            probability_without=None if without is None else float(without[index]),
        )
        for probability, index in zip(top.values, top.indices.tolist(), strict=True)
    )
    return TokenRecord(
        text=_token_text(lvlm, token, before),
        token_id=token,
        logit_with=float(positive[token]),
        logit_without=None if negative is None else float(negative[token]),
        probability=float(mixed[token]),
        probability_with=float(with_evidence[token]),
        probability_without=None if without is None else float(without[token]),
        alternatives=alternatives,
    )


def _token_text(lvlm: Lvlm, token: int, before: int | None) -> str:
    """The text a token adds, with its leading space, which decoders drop at the start of a text."""
    if before is None:
        return lvlm.tokenizer.decode([token])
    start = lvlm.tokenizer.decode([before])
    both = lvlm.tokenizer.decode([before, token])
    return both[len(start) :] if both.startswith(start) else lvlm.tokenizer.decode([token])
