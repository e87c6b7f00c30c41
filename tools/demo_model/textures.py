"""Textures: the things in their colours with a soft shadow, and number tags.

A texture is premultiplied RGBA. Things are made from `sprites/` (see the notice there), tags are
cut from `sprites/tags.webp`. Knows nothing of scenes.
"""

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from .things import NAMES

SPRITES = Path(__file__).resolve().parent / "sprites"
TAG_STYLES = 5  # rows of tags.webp, which has a column for each number
TAG_PX = 128
_FRAMED = 0.96  # of the texture is the sprite; the shadow may need the rest

# Hue of each colour, and the saturation and brightness that the thing's middle takes.
_HUES = {"red": 0.985, "orange": 0.075, "yellow": 0.15, "green": 0.36, "blue": 0.58,
         "purple": 0.74, "pink": 0.90, "black": 0.6}  # fmt: skip
_SATURATIONS = {"pink": 0.42, "black": 0.12, "green": 0.75, "purple": 0.65}
_VALUES = {"red": 0.86, "orange": 0.98, "yellow": 0.98, "green": 0.66, "blue": 0.86,
           "purple": 0.62, "pink": 0.98, "black": 0.22}  # fmt: skip


@functools.cache
def opaque_boxes() -> dict[str, tuple[float, float, float, float]]:
    """By thing the box (x1, y1, x2, y2) of what is opaque, in shares of its texture."""
    found = {}
    for name in NAMES:
        with Image.open(SPRITES / f"{name}.webp") as sprite:
            opaque = np.asarray(sprite.convert("RGBA"))[..., 3] > 100
        rows, columns = (np.flatnonzero(opaque.any(axis)) for axis in (1, 0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / len(opaque)
        found[name] = tuple((0.5 + (box - 0.5) * _FRAMED).tolist())
    return found


@functools.lru_cache(maxsize=256)
def thing_texture(name: str, colour: str | None, side_px: int) -> np.ndarray:
    """(side_px, side_px, 4) uint8."""
    with Image.open(SPRITES / f"{name}.webp") as sprite:
        rgba = sprite.convert("RGBA")
    inner = round(rgba.width * _FRAMED)
    framed = Image.new("RGBA", rgba.size)
    framed.paste(
        rgba.resize((inner, inner), Image.Resampling.LANCZOS), ((rgba.width - inner) // 2,) * 2
    )
    pixels = np.asarray(framed, np.float32) / 255
    pixels = _with_shadow(pixels if colour is None else _recoloured(pixels, colour))
    filtered = Image.Resampling.BOX if side_px < len(pixels) else Image.Resampling.BICUBIC
    planes = [
        np.asarray(Image.fromarray(plane).resize((side_px, side_px), filtered))
        for plane in np.moveaxis(pixels.astype(np.float32), -1, 0)
    ]
    return np.clip(np.stack(planes, -1) * 255 + 0.5, 0, 255).astype(np.uint8)


@functools.cache
def tag_textures() -> np.ndarray:
    """(styles, 100, `TAG_PX`, `TAG_PX`, 4) uint8."""
    with Image.open(SPRITES / "tags.webp") as sheet:
        pixels = np.asarray(sheet.convert("RGBA"), np.float32)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    pixels = np.concatenate([colours * alpha / 255, alpha], -1) + 0.5
    rows = pixels.astype(np.uint8).reshape(TAG_STYLES, TAG_PX, 100, TAG_PX, 4)
    return np.moveaxis(rows, 2, 1)


def _with_shadow(rgba: np.ndarray) -> np.ndarray:
    """Premultiplied, over a soft shadow a little below."""
    side, alpha = len(rgba), rgba[..., 3]
    moved = np.roll(alpha, (round(0.02 * side), round(0.008 * side)), (0, 1))
    blurred = Image.fromarray((moved * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(0.018 * side)
    )
    shadow = 0.38 * np.asarray(blurred, np.float32) / 255
    total = alpha + shadow * (1 - alpha)
    return np.concatenate([rgba[..., :3] * alpha[..., None], total[..., None]], -1)


def _recoloured(rgba: np.ndarray, colour: str) -> np.ndarray:
    """With the commonest hue and its neighbours turned into another colour."""
    hue, saturation, value = np.moveaxis(_hsv_of(rgba[..., :3]), -1, 0)
    opaque = rgba[..., 3] > 0.5
    weight = opaque * (saturation > 0.25) * saturation
    counts = np.histogram(hue, 36, (0, 1), weights=weight)[0]
    counts = counts + np.roll(counts, 1) + np.roll(counts, -1)
    commonest = (counts.argmax() + 0.5) / 36
    off = (hue - commonest + 0.5) % 1 - 0.5
    mask = np.clip((0.14 - np.abs(off)) / 0.03, 0, 1) * np.clip((saturation - 0.12) / 0.1, 0, 1)
    sure = (mask > 0.9) & opaque
    hsv = (
        (_HUES[colour] + 0.4 * off) % 1,
        np.clip(saturation * _SATURATIONS.get(colour, 0.88) / np.median(saturation[sure]), 0, 1),
        np.clip(value * _VALUES[colour] / np.median(value[sure]), 0, 1),
    )
    mask = mask[..., None]
    colours = rgba[..., :3] * (1 - mask) + _rgb_of(*hsv) * mask
    return np.concatenate([colours, rgba[..., 3:]], -1)


def _hsv_of(rgb: np.ndarray) -> np.ndarray:
    value, low = rgb.max(-1), rgb.min(-1)
    chroma = value - low
    red, green, blue = np.moveaxis(rgb, -1, 0)
    safe = np.where(chroma > 0, chroma, 1)
    sixths = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    saturation = np.where(value > 0, chroma / np.where(value > 0, value, 1), 0)
    return np.stack([sixths / 6, saturation, value], -1)


def _rgb_of(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    steps = ((n + hue * 6) % 6 for n in (5, 3, 1))
    return np.stack(
        [value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1) for k in steps], -1
    )
