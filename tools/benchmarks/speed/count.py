"""What a way costs, counted rather than timed: tokens, floating-point operations, memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from laser_core.models.chat import Prompt
from laser_core.models.lvlm import Lvlm

MB = 1e6


@contextmanager
def decoder_tokens(lvlm: Lvlm) -> Iterator[list[int]]:
    """Rows x tokens that the decoder is given inside the block, call by call."""
    counted: list[int] = []

    def note(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds")
        given = kwargs["input_ids"] if given is None else given
        counted.append(given.shape[0] * given.shape[1])

    hook = lvlm.model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield counted
    finally:
        hook.remove()


def prefill_tokens(lvlm: Lvlm, run: Callable[[], Any]) -> int:
    """Tokens a run with an answer of one token gives the decoder: all its prompts."""
    with decoder_tokens(lvlm) as counted:
        run()
    return sum(counted)


ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


def _attention_flops(kernel: Any) -> Callable[..., int]:
    """The counter of an attention kernel's multiplications and additions: q k^T, and that by v.

    A causal square counts half: those products are needed, the others are not.
    """
    names = [argument.name for argument in kernel.default._schema.arguments]
    place = names.index("is_causal") - 3  # of the arguments after query, key and value

    def count(query: tuple, key: tuple, value: tuple, *args: Any, **kwargs: Any) -> int:
        batch, heads, rows, dim = query
        columns = key[2]
        causal = kwargs.get("is_causal", args[place] if len(args) > place else False)
        pairs = rows * (rows + 1) // 2 if causal and rows == columns else rows * columns
        return 2 * batch * heads * pairs * (dim + value[3])

    return count


def flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of a run: matrix products, convolutions, attention."""
    kernels = [getattr(torch.ops.aten, name) for name in ATTENTION]
    known = {kernel: _attention_flops(kernel) for kernel in kernels}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return counter.get_total_flops()


@dataclass(frozen=True)
class Counts:
    """What one way's answers cost, from short ones: counting slows a run down many times.

    prefill_tokens: of all its prompts; short: operations of answers of 1, 2 and 3 tokens.
    """

    prefill_tokens: int
    short: tuple[int, int, int]

    @classmethod
    def of(cls, lvlm: Lvlm, answer: Callable[[int], Any]) -> Counts:
        """Count `answer`, a function of the answer's length in tokens."""
        with decoder_tokens(lvlm) as read:
            one = flops(lambda: answer(1))
        return cls(sum(read), (one, flops(lambda: answer(2)), flops(lambda: answer(3))))

    def operations(self, tokens: int) -> int:
        """Of an answer of `tokens` tokens: exact, as each attends to one more than the last."""
        one, two, three = self.short
        growth = three - 2 * two + one
        return one + (tokens - 1) * (two - one) + (tokens - 1) * (tokens - 2) // 2 * growth


@dataclass(frozen=True)
class Arithmetic:
    """A decoder's floating-point operations from its shape alone.

    weights: parameters of the layers' matrices; head: of the language head; width: query heads x
    head size, summed over layers.
    """

    weights: int
    head: int
    width: int

    @classmethod
    def of(cls, lvlm: Lvlm) -> Arithmetic:
        layers = [m for m in lvlm.model.get_decoder().modules() if isinstance(m, torch.nn.Linear)]
        width = sum(module.o_proj.in_features for module in lvlm.attention_modules)
        return cls(
            sum(layer.weight.numel() for layer in layers),
            lvlm.model.get_output_embeddings().weight.numel(),
            width,
        )

    def read(self, new: int, past: int = 0) -> int:
        """`new` tokens after `past` others, without the language head."""
        pairs = new * past + new * (new + 1) // 2
        return 2 * self.weights * new + 4 * self.width * pairs

    def answer(self, past: int, tokens: int) -> int:
        """One stream's answer: the last prompt token and all answer tokens but the last."""
        return sum(self.read(1, past + step) + 2 * self.head for step in range(tokens))


@dataclass(frozen=True)
class Floor:
    """The least arithmetic of the plain answer and of the whole method.

    Every prompt's tokens once, but what two prompts have in common once for both; each picture's
    vision pass once; both streams' answers.
    """

    plain: int
    laser: int

    @property
    def ratio(self) -> float:
        return self.laser / self.plain


def floor_of(
    lvlm: Lvlm,
    asked: Prompt,
    free: Prompt,
    streams: tuple[Prompt, Prompt],
    tokens: int,
    vision: Callable[[Any], int],
) -> Floor:
    """The floor for these prompts. vision: operations of a picture's vision pass."""
    cost = Arithmetic.of(lvlm)
    whole = asked.pictures[0]
    last = asked.length - 1
    plain = vision(whole) + cost.read(last) + cost.answer(last, tokens)
    prefix = asked.prefix_length
    laser = vision(whole) + cost.read(prefix)
    laser += sum(cost.read(one.length - prefix, prefix) for one in (asked, free))
    seen, before = [asked], [whole]
    for stream in streams:
        last = stream.length - 1
        common = min(last, max(shared_tokens(stream, other) for other in seen))
        laser += cost.read(last - common, common) + cost.answer(last, tokens)
        new = [one for one in stream.pictures if not any(one is other for other in before)]
        laser += sum(vision(picture) for picture in new)
        seen.append(stream)
        before += new
    return Floor(plain, laser)


def shared_tokens(one: Prompt, other: Prompt) -> int:
    """Leading tokens that mean the same in both: up to the first other word or picture."""
    shorter = min(one.length, other.length)
    differs = (one.input_ids[0, :shorter] != other.input_ids[0, :shorter]).nonzero()
    common = int(differs[0]) if len(differs) else shorter
    pictures = zip(one.pictures, other.pictures, one.spans, strict=False)
    for mine, its, span in pictures:
        if mine is not its and span.start < common:
            return span.start
    return common


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """Most tensor memory that a run holds beyond what was held before it.

    On a GPU from the allocator; on the CPU from the profiler's record of every allocation, which
    unlike the process's size does not depend on what the system's allocator kept from before.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
