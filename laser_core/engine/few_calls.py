"""Whether a device is asked in few large calls or in many small ones. Runs nothing.

A GPU waits for calls: a forward that reads more tokens hardly takes longer there. A CPU pays for
each token, and memory is what an answer runs out of on both. Decides from device and sizes alone.
"""

from __future__ import annotations

from torch.nn import ModuleList

from ..models.lvlm import Lvlm

STEP_BYTES = 2 * 2**30
"""Most memory of an answer's caches that a step works on in place; side by side, of each."""

KEPT_STEPS = 2
"""Most steps that are kept with their graph: of a plain answer, and of one of two streams."""

MASKED_TOKENS = 2048
"""Most tokens of a forward under a free-form mask, which takes kernels that are slower for many.

Timed with up to 1,324; what more would take, was not.
"""

MOST_PICTURES = 16
"""Most pictures that are answered side by side: more would hardly read the weights less often."""

LEAST_FILLED = 0.5
"""Least share of a batch's longest row that its others have: the rest would be padding."""


def waits_for_calls(lvlm: Lvlm) -> bool:
    """Whether the model is on a device that works while it is being asked for more."""
    return lvlm.device.type != "cpu"


def bytes_held_for_rows(lvlm: Lvlm) -> int:
    """What layers may hold until their rows are computed together: keys in float32, and queries.

    On a CPU what fits its caches: there larger products gain nothing, and memory counts.
    """
    return 128 * 2**20 if waits_for_calls(lvlm) else 8 * 2**20


def one_forward_for_branches(lvlm: Lvlm, tokens: int) -> bool:
    """Whether the picture and both branches' texts, `tokens` in all, are read in one forward.

    One H200, bf16, a LLaVA of 7B, 620 tokens: 53 ms instead of 67. On a CPU the mask would cost
    more than the second call.
    """
    return waits_for_calls(lvlm) and tokens <= MASKED_TOKENS


def streams_as_batch(lvlm: Lvlm, tokens: int) -> bool:
    """Whether both streams' prompts, `tokens` in all, are read as one batch.

    One H200, bf16, a LLaVA of 7B: 50 ms instead of two times 30. Larger ones would not gain, and
    their memory doubles.
    """
    return waits_for_calls(lvlm) and tokens <= 2 * MASKED_TOKENS


def pictures_at_once(taken_bytes: int, free_bytes: int) -> int:
    """How many pictures are answered side by side, where one took `taken_bytes`.

    A quarter of what is free stays so: pictures differ, and a batch's mask is as wide as its
    prompts. A CPU counts no memory, so there it is one at a time: reading takes as long for each
    token as before, and padding is computed too. One thread, the speed benchmark's LLaVA, four
    pictures: 11.2 s instead of 11.0 for answers of 4 tokens, 12.2 instead of 13.1 for 20.
    """
    return max(1, min(MOST_PICTURES, round(0.75 * free_bytes) // taken_bytes))


def pads(lvlm: Lvlm, continued: bool) -> bool:
    """Whether rows of a batch may differ in length.

    continued: what a cache holds already; padding then lies within a row, too. A sliding window
    would count it as tokens, and flash attention looks for it on the left alone. A state would
    take it for tokens anywhere, and pictures whose tokens see each other would each want a mask of
    their own.
    """
    if lvlm.state_layers or lvlm.whole_pictures:
        return False
    return not continued or (not lvlm.has_sliding_window and takes_masks(lvlm))


def takes_masks(lvlm: Lvlm) -> bool:
    """Whether the decoder's kernel takes a free-form mask."""
    return lvlm.attention in ("sdpa", "eager")


def tokens_at_once(lvlm: Lvlm, least: int) -> int:
    """Most tokens that continue a cache in one forward, whose mask is as wide as the cache."""
    return max(least, MASKED_TOKENS) if waits_for_calls(lvlm) else least


def steps_in_place(lvlm: Lvlm, cache_bytes: int) -> bool:
    """Whether an answer's caches have a fixed size, so that its steps can be one CUDA graph.

    One H200, bf16, a LLaVA of 7B: 6.9 ms a token instead of 20.9, two streams 7.2 instead of 24.3.
    A CPU would read the room that is not used yet. Quantized and offloaded weights call what cannot
    be captured; so do experts that are modules of their own, as the tokens say which are called. A
    model on several devices has no one place to write to. The rehearsal of a graph would move a
    state on.
    """
    if not has_graphs(lvlm) or lvlm.graph_refused or cache_bytes > STEP_BYTES:
        return False
    devices = {parameter.device for parameter in lvlm.model.parameters()}
    lists = (name for name, one in lvlm.model.named_modules() if isinstance(one, ModuleList))
    plain = len(devices) == 1 and not getattr(lvlm.model, "is_quantized", False)
    called_one_by_one = any(name.endswith(".experts") for name in lists)
    return plain and lvlm.attention == "sdpa" and not (lvlm.state_layers or called_one_by_one)


def equal_windows_together(lvlm: Lvlm) -> bool:
    """Whether vision windows of equal size are one call of the kernel."""
    return waits_for_calls(lvlm)


def has_graphs(lvlm: Lvlm) -> bool:
    return lvlm.device.type == "cuda"
