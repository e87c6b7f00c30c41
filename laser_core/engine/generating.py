"""An answer token by token, from one stream or from two side by side.

Uses the library's own `generate()`, which sees one answer. Two hooks let the model run one row for
each stream, positive above negative, and return the mixed logits. Sampling, stopping and streaming
are the library's, unchanged. Does not know how the logits are mixed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ..models.chat import Prompt, Stream
from ..models.lvlm import Lvlm
from ..progress import OnText, Progress
from ..results import Answer
from ..settings import DecodeSettings
from .kernels import heads_as_rows
from .reading import ReadStream, read_blocked, read_stream
from .token_records import Recorder, text_of_tokens
from .two_streams import Mix, Rows, TwoStreams


def generate(
    lvlm: Lvlm,
    positive: Stream | ReadStream,
    negative: Stream | Callable[[], Stream] | None,
    mix: Mix,
    settings: DecodeSettings,
    progress: Progress | None,
    on_text: OnText | None,
    options: dict[str, Any],
) -> Answer:
    """The answer decoded from what `mix` makes of both streams' logits.

    options: for the library's `generate`. The rest is as in `steps.decode.decode`.
    """
    started = time.perf_counter()
    streams = _read_streams(lvlm, positive, negative, settings, progress)
    lengths = tuple(stream.prompt.length for stream in streams)
    try:
        rows = Rows.of(lvlm, streams)
    except BaseException:
        lvlm.release()  # the prefix now lives in the merged batch: drop it
        raise
    del streams  # with what the decoder was fed
    read = time.perf_counter()
    recorder = Recorder(lvlm, mix)
    try:
        with heads_as_rows(lvlm), TwoStreams(lvlm, rows, mix, recorder.observe):
            prompt = rows.input_ids.shape[1]
            watcher = _Watcher(lvlm, prompt, settings.max_tokens, progress, on_text)
            token_ids = _library_generate(lvlm, rows, settings, watcher, options)
        records = recorder.records(token_ids)
    finally:
        try:
            rows.give_back()
        except BaseException:
            lvlm.release()
            raise
    return Answer(
        text=text_of_tokens(lvlm, token_ids),
        tokens=tuple(records),
        stop_reason=_stop_reason(lvlm, token_ids, settings),
        prompt_tokens=lengths,
        seconds_reading=read - started,
        seconds_decoding=time.perf_counter() - read,
    )


def _check_length(lvlm: Lvlm, prompt: Prompt, settings: DecodeSettings) -> None:
    """Raise ValueError for a prompt that leaves no room for the answer."""
    length, limit = prompt.length, lvlm.context_length
    if length + settings.max_tokens > limit:
        raise ValueError(
            f"choose fewer windows, answer input 'crop' or a smaller max_tokens: the prompt has "
            f"{length} tokens, the answer up to {settings.max_tokens}, and the model takes {limit}"
        )


def _read_streams(
    lvlm: Lvlm,
    positive: Stream | ReadStream,
    negative: Stream | Callable[[], Stream] | None,
    settings: DecodeSettings,
    progress: Progress | None,
) -> list[ReadStream]:
    """The streams with their keys and values, read one after the other: half a batch's peak memory.

    Only the first, where there is no other or it is as sure as settings.adaptive asks.
    """
    adaptive = settings.adaptive > 0 and negative is not None
    total = 1 if negative is None else 2
    read: list[ReadStream] = []

    def report() -> None:
        if progress:
            progress("reading the evidence", len(read), total)

    _check_length(lvlm, positive.prompt, settings)
    if isinstance(positive, Stream):
        read.append(read_stream(lvlm, positive, certainty=adaptive, check=report))
    else:
        read.append(replace(positive, own=[*positive.own]))  # its maker may use it again
    certainty = read[0].certainty
    sure = adaptive and certainty is not None and certainty >= settings.adaptive
    if negative is None or sure:
        total = 1
        report()
        return read
    negative = negative() if callable(negative) else negative
    _check_length(lvlm, negative.prompt, settings)
    if negative.blocked:
        read.append(read_blocked(lvlm, negative, read[0], report))
    else:
        read[0].inputs = []  # only blocked tokens ask for them
        read.append(read_stream(lvlm, negative, check=report))
    report()
    return read


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
            self.on_text(text_of_tokens(self.lvlm, input_ids[0, self.prompt_length :].tolist()))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _library_generate(
    lvlm: Lvlm,
    rows: Rows,
    settings: DecodeSettings,
    watcher: StoppingCriteria,
    options: dict[str, Any],
) -> list[int]:
    """The answer's token ids from the library's `generate`."""
    model: Any = lvlm.model  # not every model has the library's `generate`; those of families do
    length = rows.input_ids.shape[1]
    sampling = settings.temperature > 0
    ends = _end_tokens(lvlm)
    config = GenerationConfig(
        max_new_tokens=settings.max_tokens,
        do_sample=sampling,
        temperature=settings.temperature if sampling else 1.0,
        top_p=settings.top_p if sampling else 1.0,
        top_k=settings.top_k if sampling else 50,
        eos_token_id=ends or None,
        pad_token_id=next(iter(ends), 0),  # any will do: what follows an answer is cut off
    )
    stopping = StoppingCriteriaList([*options.pop("stopping_criteria", ()), watcher])
    with _own_random_state(), _no_rope_deltas(lvlm), _only(config, model):
        torch.manual_seed(settings.seed)  # the answer's own
        output = model.generate(
            input_ids=rows.input_ids,
            attention_mask=torch.ones_like(rows.input_ids),
            **{lvlm.cache_name: rows.cache},
            stopping_criteria=stopping,
            generation_config=config,
            **options,
        )
    return output[0, length:].tolist()


@contextmanager
def _only(config: GenerationConfig, model: Any) -> Iterator[None]:
    """Inside, the model has no generation config: `generate` would merge it into ours."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _no_rope_deltas(lvlm: Lvlm) -> Iterator[None]:
    """Older Qwen code reads these while it prepares inputs; our positions then replace its own.

    Afterwards there are none, as before a model's first prompt: the library works them out again.
    """
    body: Any = lvlm.body
    if not hasattr(body, "rope_deltas"):
        yield
        return
    body.rope_deltas = torch.zeros(1, 1, dtype=torch.long, device=lvlm.device)
    try:
        yield
    finally:
        body.rope_deltas = None


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
    """Those that end an answer: the folder's, and the one that ends the tokenizer's turns."""
    end = lvlm.model.generation_config.eos_token_id
    ends = [] if end is None else list(end) if isinstance(end, (list, tuple)) else [end]
    if not all(type(token) is int for token in ends):
        raise ValueError(
            f"fix generation_config.json of {lvlm.name}: its eos_token_id {end!r} is no token"
        )
    turn = lvlm.tokenizer.eos_token_id
    return ends if turn is None or turn in ends else [*ends, turn]
