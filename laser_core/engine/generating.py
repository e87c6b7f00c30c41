"""An answer token by token, from one stream or from two side by side.

Uses the library's own `generate()`, which sees one row for each answer. Two hooks let the model run
one row for each stream, positive above negative, and return the mixed logits. Sampling, stopping
and streaming are the library's, unchanged. Answers of runs side by side are written together, if
none samples: the library has one random state for all rows. Does not know how the logits are mixed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
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
from ..results import Answer, TokenRecord
from ..settings import DecodeSettings
from .few_calls import steps_in_place, streams_as_batch
from .kernels import heads_as_rows
from .padded import read_streams
from .reading import ReadStream, overflow, read_blocked
from .thoughts import EachThoughts, Thoughts
from .together import ask, in_batches
from .token_records import Recorder, text_of_tokens
from .token_rows import TokenRows, Watch
from .two_streams import Mix, Rows, TwoStreams

_READING = "reading the evidence"
_NO_GRAPH = (
    "leave the tokens' maps out for answers up to three times as fast: with them, steps are not "
    "repeated as a graph"
)


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
    started = time.perf_counter()
    streams = _read_streams(lvlm, positive, negative, settings, progress)

    def check() -> None:
        if progress:
            progress(_READING, len(streams), len(streams))

    looked = None
    if watch:
        looked = TokenRows(lvlm, streams[0], watch, check)
        check()
    lengths = tuple(stream.prompt.length for stream in streams)
    thoughts = Thoughts(lvlm, positive.prompt, _most_thoughts(lvlm, positive.prompt, settings))
    read = time.perf_counter()
    wanted = _Wanted(lvlm, streams, mix, settings, thoughts, looked, progress, on_text, options)
    token_ids, records, refused = ask(_write_all, wanted, late=True)
    no_graph = _NO_GRAPH if looked and steps_in_place(lvlm, 0) else ""
    notes = positive.note, _note_on(thoughts, settings), _note_on_graph(refused), no_graph
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


@dataclass
class _Wanted:
    """An answer to write: its streams as they were read, which writing empties, and the rest of
    what `generate` takes. looked: what notes where it looks, which it does alone."""

    lvlm: Lvlm
    streams: list[ReadStream]
    mix: Mix
    settings: DecodeSettings
    thoughts: Thoughts
    looked: TokenRows | None
    progress: Progress | None
    on_text: OnText | None
    options: dict[str, Any]


_Written = tuple[list[int], list[TokenRecord], str]
"""Token ids, a record for each, and why no graph could be made of a step, or ""."""


def _write_all(wanted: list[_Wanted]) -> list[_Written | Exception]:
    return in_batches(_write, wanted, _kind_and_length)


def _kind_and_length(one: _Wanted) -> tuple[Hashable, int]:
    """What answers that are written together have in common."""
    lengths = [stream.prompt.length for stream in one.streams]
    if one.settings.temperature > 0 or one.options or one.looked:
        return id(one), max(lengths)
    return (one.settings, len(lengths)), max(lengths)


def _write(wanted: Sequence[_Wanted]) -> list[_Written | Exception]:
    """Answers of equal settings and numbers of streams, token by token, a batch's row for each."""
    lvlm, settings, looked = wanted[0].lvlm.shared, wanted[0].settings, wanted[0].looked
    penalty, length = _repetition_penalty(lvlm, settings), wanted[0].streams[0].prompt.length
    most = max(settings.max_tokens + one.thoughts.limit * bool(one.thoughts.open) for one in wanted)
    try:
        rows = Rows.of(lvlm, [one.streams for one in wanted], most, in_place=looked is None)
    except BaseException:
        _release(wanted)  # the prefix now lives in the merged batch: drop it
        raise
    for one in wanted:
        one.streams.clear()  # with what the decoder was fed
    recorder = Recorder(lvlm)
    both = TwoStreams(lvlm, rows, wanted[0].mix, recorder.observe, penalty)
    longest = rows.input_ids.shape[1]
    watcher = _Watcher(lvlm, longest, both, wanted, settings.max_tokens)
    try:
        noting = looked.noting(0, longest - length) if looked else nullcontext()
        with heads_as_rows(lvlm), both, noting:
            output = _library_generate(lvlm, rows, settings, watcher, wanted[0].options)
        answers = [row[:end] for row, end in zip(output, watcher.ends, strict=True)]
        broken = [False] * len(wanted) if both.broken is None else both.broken.tolist()
        records = recorder.records(answers)
    finally:
        try:
            rows.give_back()
        except BaseException:
            _release(wanted)
            raise
    if rows.step and rows.step.has_graph and not rows.step.grown:
        lvlm.steps.insert(0, rows.step)
    refused = rows.step.refused if rows.step else ""
    if rows.step and not rows.step.for_now:
        lvlm.graph_refused = refused
    return [
        overflow(lvlm) if bad else (token_ids, own, refused)
        for bad, token_ids, own in zip(broken, answers, records, strict=True)
    ]


def _release(wanted: Sequence[_Wanted]) -> None:
    for one in wanted:
        one.lvlm.release()
    wanted[0].lvlm.shared.release()


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
    """Both streams; only the first, where there is no other or it is as sure as `adaptive` asks.

    Read one after the other, with half a batch's peak memory; as a batch where the device gains
    from it and both are read in any case.
    """
    # Of a thought, the first word is as sure for any question
    thinks = lvlm.chat.opens_thought(positive.prompt)
    adaptive = settings.adaptive > 0 and negative is not None and not thinks
    total = 1 if negative is None else 2
    read: list[ReadStream] = []

    def report() -> None:
        if progress:
            progress(_READING, len(read), total)

    _check_length(lvlm, positive.prompt, settings)
    if negative is not None and not adaptive and isinstance(positive, Stream):
        negative = negative() if callable(negative) else negative
        if not negative.blocked and streams_as_batch(lvlm, 2 * positive.prompt.length):
            _check_length(lvlm, negative.prompt, settings)
            read += read_streams(lvlm, [positive, negative], check=report)
            report()
            return read
    if isinstance(positive, Stream):
        read += read_streams(lvlm, [positive], certainty=adaptive, check=report)
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
        read += read_streams(lvlm, [negative], check=report)
    report()
    return read


class _Watcher(StoppingCriteria):
    """Reports each token as it comes; what the callbacks raise ends `generate`.

    Ends an answer at its own limit, which thoughts do not count towards.
    ends: of each answer, how many of its tokens are its own; None for all.
    """

    def __init__(
        self,
        lvlm: Lvlm,
        prompt_length: int,
        streams: TwoStreams,
        wanted: Sequence[_Wanted],
        max_tokens: int,
    ) -> None:
        self._lvlm, self._prompt_length, self._streams = lvlm, prompt_length, streams
        self._wanted, self._max_tokens = wanted, max_tokens
        self.ends: list[int | None] = [None] * len(wanted)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new, broken = input_ids[:, self._prompt_length :], self._streams.broken
        assert broken is not None  # a token was chosen from some scores
        full = [
            end is None and self._report(one, own)
            for one, own, end in zip(self._wanted, new, self.ends, strict=True)
        ]
        if len(full) == 1:  # no step waits for its token
            return torch.ones_like(broken) if full[0] else broken
        ended = [
            end is not None or limit or bad or token in end_tokens(self._lvlm)
            for end, limit, bad, token in zip(
                self.ends, full, broken.tolist(), new[:, -1].tolist(), strict=True
            )
        ]
        for index, over in enumerate(ended):
            if over and self.ends[index] is None:
                self.ends[index] = new.shape[1]
        self._streams.leave(ended)
        return torch.tensor(ended, device=broken.device)

    def _report(self, one: _Wanted, new: torch.Tensor) -> bool:
        """Whether these tokens of an answer are as many as it may have."""
        thoughts = one.thoughts
        if thoughts.open is not False:  # else no step waits for its token
            thoughts.follow(new.tolist())
        answered = len(new) - thoughts.count
        if one.progress:
            most = thoughts.limit if thoughts.count else 0
            thought = thoughts.count if thoughts.open else most
            one.progress("answering", thought + answered, most + self._max_tokens)
        if one.on_text and thoughts.open:
            one.on_text(THINKING + _thought_text(self._lvlm, new.tolist()))
        elif one.on_text:
            one.on_text(text_of_tokens(self._lvlm, new[thoughts.count :].tolist()))
        return answered >= self._max_tokens

    @property
    def thoughts(self) -> list[Thoughts]:
        return [one.thoughts for one in self._wanted]


def _library_generate(
    lvlm: Lvlm,
    rows: Rows,
    settings: DecodeSettings,
    watcher: _Watcher,
    options: dict[str, Any],
) -> list[list[int]]:
    """Token ids from the library's `generate`, for each answer as many as for the longest."""
    model: Any = lvlm.model  # not every model has the library's `generate`; those of families do
    length = rows.input_ids.shape[1]
    sampling = settings.temperature > 0
    ends, thoughts = end_tokens(lvlm), watcher.thoughts
    config = GenerationConfig(
        max_new_tokens=max(_most_tokens(one, settings) for one in thoughts),
        do_sample=sampling,
        temperature=settings.temperature if sampling else 1.0,
        top_p=settings.top_p if sampling else 1.0,
        top_k=settings.top_k if sampling else 50,
        eos_token_id=ends or None,
        pad_token_id=next(iter(ends), 0),  # any will do: what follows an answer is cut off
    )
    stopping = StoppingCriteriaList([*options.pop("stopping_criteria", ()), watcher])
    processors = LogitsProcessorList([*options.pop("logits_processor", ()), EachThoughts(thoughts)])
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
    return output[:, length:].tolist()


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


def _note_on_graph(refused: str) -> str:
    """That steps are no graph from here on, a sentence, or ""."""
    if not refused:
        return ""
    return (
        "update PyTorch, transformers and the GPU's driver, or free its memory, for answers up to "
        f"three times as fast: the GPU refused to repeat a step ({refused})"
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
