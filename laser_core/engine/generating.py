"""An answer token by token, from one stream or from two side by side.

Uses the library's own `generate()`, which sees one answer. Two hooks let the model run one row for
each stream, positive above negative, and return the mixed logits. Sampling, stopping and streaming
are the library's, unchanged. Does not know how the logits are mixed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..models.chat import Prompt, Stream
from ..models.chat_formats import THOUGHT_BEGIN, THOUGHT_END
from ..models.lvlm import Lvlm
from ..progress import THINKING, OnText, Progress
from ..results import Answer
from ..settings import DecodeSettings
from .few_calls import steps_in_place, streams_as_batch
from .kernels import heads_as_rows
from .reading import ReadStream, alike, overflow, read_blocked, read_stream, read_together
from .thoughts import Thoughts
from .token_records import Recorder, text_of_tokens
from .token_rows import TokenRows, Watch
from .two_streams import Mix, Rows, TwoStreams


def generate(
    lvlm: Lvlm,
    positive: Stream | ReadStream,
    negative: Stream | Callable[[], Stream] | None,
    mix: Mix,
    settings: DecodeSettings,
    progress: Progress | None,
    on_text: OnText | None,
    watch: Watch | None,
    options: dict[str, Any],
) -> Answer:
    """The answer decoded from what `mix` makes of both streams' logits.

    options: for the library's `generate`. The rest is as in `steps.decode.decode`.
    """
    started, penalty = time.perf_counter(), _repetition_penalty(lvlm, settings)
    shared = positive.shared_prefix if isinstance(positive, Stream) else bool(positive.shared)
    looked = TokenRows(lvlm, positive.prompt, watch, shared) if watch else None
    streams = _read_streams(lvlm, positive, negative, settings, progress)
    lengths = tuple(stream.prompt.length for stream in streams)
    thoughts = Thoughts(lvlm, positive.prompt, _most_thoughts(lvlm, positive.prompt, settings))
    try:
        expected = settings.max_tokens + thoughts.limit * bool(thoughts.open)
        rows = Rows.of(lvlm, streams, expected, in_place=looked is None)
    except BaseException:
        lvlm.release()  # the prefix now lives in the merged batch: drop it
        raise
    del streams  # with what the decoder was fed
    read = time.perf_counter()
    recorder = Recorder(lvlm)
    both = TwoStreams(lvlm, rows, mix, recorder.observe, penalty)
    length, most = rows.input_ids.shape[1], settings.max_tokens
    watcher = _Watcher(lvlm, length, both, most, thoughts, progress, on_text)
    try:
        noting = looked.noting(0, length - lengths[0]) if looked else nullcontext()
        with heads_as_rows(lvlm), both, noting:
            token_ids = _library_generate(lvlm, rows, settings, watcher, options)
        if both.broken is not None and bool(both.broken.any()):
            raise overflow(lvlm)
        records = recorder.records(token_ids)
    finally:
        try:
            rows.give_back()
        except BaseException:
            lvlm.release()
            raise
    if rows.step and rows.step.has_graph and not rows.step.grown:
        lvlm.steps.insert(0, rows.step)
    refused = rows.step.refused if rows.step else ""
    if rows.step and not rows.step.for_now:
        lvlm.graph_refused = refused
    no_graph = _NO_GRAPH if looked and steps_in_place(lvlm, 0) else ""
    notes = positive.note, _note_on(thoughts, settings), _note_of(refused), no_graph
    return Answer(
        text=text_of_tokens(lvlm, token_ids[thoughts.count :]),
        tokens=tuple(records),
        stop_reason=_stop_reason(lvlm, token_ids, thoughts, settings),
        thoughts=_thought_text(lvlm, token_ids[: thoughts.count]),
        thought_tokens=thoughts.count,
        notes=tuple(filter(None, notes)),
        prompt_tokens=lengths,
        seconds_reading=read - started,
        seconds_decoding=time.perf_counter() - read,
        maps=looked.maps(len(token_ids)) if looked else None,
    )


_NO_GRAPH = (
    "leave the tokens' maps out for answers up to three times as fast: with them, steps are not "
    "repeated as a graph"
)


def _check_length(lvlm: Lvlm, prompt: Prompt, settings: DecodeSettings) -> None:
    """Raise ValueError for a prompt that leaves no room for the answer."""
    length, limit = prompt.length, lvlm.context_length
    if length + settings.max_tokens > limit:
        raise ValueError(
            f"choose fewer windows, answer input 'crop' or a smaller max_tokens: the prompt has "
            f"{length} tokens, the answer up to {settings.max_tokens}, and the model takes {limit}"
        )


def _most_thoughts(lvlm: Lvlm, prompt: Prompt, settings: DecodeSettings) -> int:
    """Tokens that thoughts may take: as many as asked for, where the context has room for them."""
    room = lvlm.context_length - prompt.length - settings.max_tokens
    return min(settings.max_thinking_tokens, room)


def _most_tokens(thoughts: Thoughts, settings: DecodeSettings) -> int:
    """More than there can be: where an answer begins, and so ends, the watcher knows."""
    return thoughts.limit + 2 * len(thoughts.closing) + settings.max_tokens


def _read_streams(
    lvlm: Lvlm,
    positive: Stream | ReadStream,
    negative: Stream | Callable[[], Stream] | None,
    settings: DecodeSettings,
    progress: Progress | None,
) -> list[ReadStream]:
    """The streams with their keys and values, read one after the other: half a batch's peak memory.

    As a batch where the device gains from it and both are read in any case.

    Only the first, where there is no other or it is as sure as settings.adaptive asks.
    """
    # Of a thought, the first word is as sure for any question
    thinks = lvlm.chat.opens_thought(positive.prompt)
    adaptive = settings.adaptive > 0 and negative is not None and not thinks
    total = 1 if negative is None else 2
    read: list[ReadStream] = []

    def report() -> None:
        if progress:
            progress("reading the evidence", len(read), total)

    _check_length(lvlm, positive.prompt, settings)
    if negative is not None and not adaptive and isinstance(positive, Stream):
        negative = negative() if callable(negative) else negative
        pair = [positive, negative]
        tokens = len(pair) * positive.prompt.length
        if not negative.blocked and alike(pair) and streams_as_batch(lvlm, tokens):
            _check_length(lvlm, negative.prompt, settings)
            read += read_together(lvlm, pair, report)
            report()
            return read
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
    """Reports each token as it comes; what the callbacks raise ends `generate`.

    Ends the answer at its own limit, which thoughts do not count towards.
    """

    lvlm: Lvlm
    prompt_length: int
    streams: TwoStreams
    max_tokens: int
    thoughts: Thoughts
    progress: Progress | None
    on_text: OnText | None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new, thoughts = input_ids[0, self.prompt_length :], self.thoughts
        if thoughts.open is not False:  # else no step waits for its token
            thoughts.follow(new.tolist())
        answered = len(new) - thoughts.count
        if self.progress:
            most = thoughts.limit if thoughts.count else 0
            thought = thoughts.count if thoughts.open else most
            self.progress("answering", thought + answered, most + self.max_tokens)
        if self.on_text and thoughts.open:
            self.on_text(THINKING + _thought_text(self.lvlm, new.tolist()))
        elif self.on_text:
            self.on_text(text_of_tokens(self.lvlm, new[thoughts.count :].tolist()))
        if answered < self.max_tokens and self.streams.broken is not None:
            return self.streams.broken
        return torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _library_generate(
    lvlm: Lvlm,
    rows: Rows,
    settings: DecodeSettings,
    watcher: _Watcher,
    options: dict[str, Any],
) -> list[int]:
    """The answer's token ids from the library's `generate`."""
    model: Any = lvlm.model  # not every model has the library's `generate`; those of families do
    length = rows.input_ids.shape[1]
    sampling = settings.temperature > 0
    ends, thoughts = end_tokens(lvlm), watcher.thoughts
    config = GenerationConfig(
        max_new_tokens=_most_tokens(thoughts, settings),
        do_sample=sampling,
        temperature=settings.temperature if sampling else 1.0,
        top_p=settings.top_p if sampling else 1.0,
        top_k=settings.top_k if sampling else 50,
        eos_token_id=ends or None,
        pad_token_id=next(iter(ends), 0),  # any will do: what follows an answer is cut off
    )
    stopping = StoppingCriteriaList([*options.pop("stopping_criteria", ()), watcher])
    processors = LogitsProcessorList([*options.pop("logits_processor", ()), thoughts])
    with _own_random_state(), _no_rope_deltas(lvlm), _only(config, model):
        torch.manual_seed(settings.seed)  # the answer's own
        output = model.generate(
            input_ids=rows.input_ids,
            attention_mask=torch.ones_like(rows.input_ids),
            **{lvlm.cache_name: rows.cache},
            stopping_criteria=stopping,
            logits_processor=processors,
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


def _stop_reason(
    lvlm: Lvlm, token_ids: list[int], thoughts: Thoughts, settings: DecodeSettings
) -> str:
    if thoughts.open:
        return "unfinished thought"
    if token_ids[-1] in end_tokens(lvlm):
        return "end of answer"
    answered = len(token_ids) - thoughts.count
    return "max tokens" if answered >= settings.max_tokens else "stopping criteria"


def _thought_text(lvlm: Lvlm, token_ids: list[int]) -> str:
    """What a thought's tokens say, without the marks around it."""
    text = text_of_tokens(lvlm, token_ids)
    return text.removeprefix(THOUGHT_BEGIN).removesuffix(THOUGHT_END).strip()


def _note_on(thoughts: Thoughts, settings: DecodeSettings) -> str:
    """What a user should know of the thoughts, a sentence, or ""."""
    if thoughts.open:
        return "the model ended within its thoughts: there is no answer"
    if not thoughts.cut_off or not settings.max_thinking_tokens:  # none were asked for
        return ""
    longer = "raise max_thinking_tokens for longer ones"
    if thoughts.limit < settings.max_thinking_tokens:
        longer = "the model's context has no room for longer ones"
    return f"the thoughts were cut off after {thoughts.limit} tokens: {longer}"


def _note_of(refused: str) -> str:
    """That steps are no graph from here on, a sentence, or ""."""
    if not refused:
        return ""
    return (
        "update the GPU's driver and PyTorch, or free its memory, for answers up to three times as "
        f"fast: it refused to repeat a step ({refused})"
    )


def _repetition_penalty(lvlm: Lvlm, settings: DecodeSettings) -> float:
    """What makes tokens less likely that were there before: the setting's, or the folder's."""
    if settings.repetition_penalty:
        return settings.repetition_penalty
    own = lvlm.model.generation_config.repetition_penalty
    own = 1.0 if own is None else own  # newer versions of the library leave it open
    if type(own) not in (int, float) or not 0 < own < math.inf:
        raise ValueError(
            f"fix generation_config.json of {lvlm.name}, or set repetition_penalty: its own, "
            f"{own!r}, is no number above 0"
        )
    return float(own)


def end_tokens(lvlm: Lvlm) -> list[int]:
    """Those that end an answer: the folder's, and the one that ends the tokenizer's turns."""
    end = lvlm.model.generation_config.eos_token_id
    ends = [] if end is None else list(end) if isinstance(end, (list, tuple)) else [end]
    if not all(type(token) is int for token in ends):
        raise ValueError(
            f"fix generation_config.json of {lvlm.name}: its eos_token_id {end!r} is no token"
        )
    turn = lvlm.tokenizer.eos_token_id
    return ends if turn is None or turn in ends else [*ends, turn]
