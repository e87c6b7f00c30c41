"""Where VAE Encode cut a crop: it keeps the middle, in multiples of 8. Knows sizes alone."""

from __future__ import annotations

BLOCK_PX = 8
PLAIN_SCALES = [quarter / 4 for quarter in range(1, 33)]

Size = tuple[int, int]


def uncut(crop: Size, window: Size) -> tuple[Size, Size]:
    """(part, whole): the crop, resized to `part`, is the middle of `whole`, which is the window's.

    A crop that was cut may have been enlarged before or after, by any scale common to its sides;
    a plain scale is likelier than another. Where nothing was cut, part and whole are the crop.
    """
    if all(0 <= side - cut < BLOCK_PX for cut, side in zip(crop, window, strict=True)):
        return crop, window
    kept = _cut(window)
    for scale in PLAIN_SCALES:
        whole = _scaled(window, scale)
        if _cut(whole) == crop:
            return crop, whole
        if _scaled(kept, scale) == crop:
            return kept, window
    if _alike(crop, window):
        return crop, crop
    if _alike(crop, kept):
        return kept, window
    least = max(cut / side for cut, side in zip(crop, window, strict=True))
    whole = _scaled(window, least)
    return crop, whole if _cut(whole) == crop else crop


def _cut(size: Size) -> Size:
    return size[0] // BLOCK_PX * BLOCK_PX, size[1] // BLOCK_PX * BLOCK_PX


def _scaled(size: Size, scale: float) -> Size:
    return round(size[0] * scale), round(size[1] * scale)


def _alike(one: Size, other: Size) -> bool:
    """Whether `one` is `other` at a common scale, each side rounded to a whole pixel."""
    if 0 in other:
        return False
    pairs = list(zip(one, other, strict=True))
    return max((a - 0.5) / b for a, b in pairs) <= min((a + 0.5) / b for a, b in pairs)
