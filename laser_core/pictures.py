"""Any picture or mask in, upright RGB pictures and tensors out.

Knows PIL, NumPy and ComfyUI's tensors (IMAGE (B, H, W, C), MASK (B, H, W), float 0..1); knows no
model and no setting. Everything after this module sees PIL pictures in mode RGB and float32 masks.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError

from .geometry import Grid

WHITE = (255, 255, 255)

# Floats above this are values from 0 to 255, and no overshoot of 0..1 (resampling, HDR).
_LARGEST_OVERSHOOT = 2.0
_BLOCK_VALUES = 1 << 20  # converted at a time


@dataclass(frozen=True)
class PictureInputs:
    """One picture as a model takes it.

    tensors: what forward() takes, a batch of one picture: pixel_values and, by family,
    image_sizes or image_grid_thw. token_count: visual tokens the prompt must hold for it.
    map_tokens: which of those form the grid, row by row. grid: rows, columns and view in float
    pixels of the original picture. picture_size: its (width, height). digest: equal exactly for
    pictures that one model takes alike. tiles: which tokens show it at a higher resolution, row by
    row with a further one at each row's end, and their grid; None where none do. written: see
    `layouts.Layout`.
    """

    tensors: dict[str, torch.Tensor]
    token_count: int
    map_tokens: slice
    grid: Grid
    picture_size: tuple[int, int]
    digest: str
    tiles: tuple[slice, Grid] | None = None
    written: str = ""


def check_mask(mask: torch.Tensor, picture: Image.Image) -> None:
    """Raise ValueError unless a mask (H, W) has the picture's size."""
    if mask.shape != (picture.height, picture.width):
        raise ValueError(
            f"resize the mask to the picture: it is {mask.shape[-1]}x{mask.shape[0]} but the "
            f"picture is {picture.width}x{picture.height}"
        )


def to_picture(value: Any) -> Image.Image:
    """Any picture a user may have, as a new upright RGB picture.

    value: one of
      - a PIL picture of any mode: EXIF orientation applied, transparency laid on white, the first
        frame of an animation. White of wide greys: 65535 for I;16; for I and F,
        the first of 1 (F only), 255, 65535 that no pixel exceeds, else the picture's maximum.
      - a NumPy array (H, W) or (H, W, 1|3|4): bool, uint8, uint16 or float 0..1.
      - a tensor (H, W, 1|3|4) or (1, H, W, 1|3|4), as ComfyUI's IMAGE: float 0..1, clamped.

    Raises ValueError for another type, shape or number format, for an empty picture, for a batch
    of several and for values that are not finite.
    """
    if isinstance(value, Image.Image):
        return _from_pil(value)
    if isinstance(value, np.ndarray):
        return _from_array(value)
    if isinstance(value, torch.Tensor):
        return _from_array(_array_of_image(value), clamped=True)
    raise ValueError(
        f"pass a PIL picture, a NumPy array or an IMAGE tensor (read_picture opens files): "
        f"the picture is of type {type(value).__name__}"
    )


def read_picture(path: str | os.PathLike, content: bytes | None = None) -> Image.Image:
    """The picture in a file, as `to_picture` gives it.

    content: the file's, where it is not on this disk. Raises ValueError when there is no such file,
    when it is no picture or when it is damaged.
    """
    try:
        with _decoded(path if content is None else io.BytesIO(content)) as opened:
            return to_picture(opened)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"check the path: there is no file {os.fspath(path)!r}") from error
    except PermissionError as error:
        raise ValueError(f"allow reading {os.fspath(path)!r}: access was denied") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"choose a picture file (PNG, JPEG, WebP, ...): {os.fspath(path)!r} is not one"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"make {os.fspath(path)!r} smaller: {error}") from error
    except (OSError, SyntaxError, EOFError) as error:  # what Pillow's decoders raise
        raise ValueError(
            f"save the picture again: {os.fspath(path)!r} is truncated or damaged ({error})"
        ) from error


def _decoded(path: str | os.PathLike | io.BytesIO) -> Image.Image:
    """The opened and decoded file. Raises OSError where decoders raise other types."""
    try:
        opened = Image.open(path)
        opened.load()
    except (RuntimeError, ValueError) as error:  # of AVIF; of PPM and DDS
        raise OSError(str(error)) from error
    return opened


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """A picture as ComfyUI's IMAGE: (1, H, W, 3) float32, 0..1."""
    pixels = np.array(picture.convert("RGB"), dtype=np.float32)
    pixels /= 255
    return rearrange(torch.from_numpy(pixels), "h w c -> 1 h w c")


def to_mask(value: Any, size: tuple[int, int]) -> torch.Tensor:
    """A mask for a picture of `size` (width, height), as an (H, W) float32 tensor 0..1 on the CPU.

    value: a MASK tensor or NumPy array (H, W) or (1, H, W), bool, uint8, uint16 or float 0..1
    (clamped), or a PIL picture without transparency, read as grey: white counts, black does not.

    Raises ValueError for another type or shape, for a size other than the picture's, for values
    that are not finite and for a mask that is zero everywhere.
    """
    mask = _mask_array(value)
    height, width = mask.shape
    if (width, height) != tuple(size):
        raise ValueError(
            f"resize the mask, or leave it unconnected: it is {width}x{height} but the picture is "
            f"{size[0]}x{size[1]}"
        )
    if not np.isfinite(mask).all():
        raise ValueError("fix the mask, or leave it unconnected: it holds NaN or infinity")
    mask = np.clip(mask, 0.0, 1.0)
    if not mask.any():
        raise ValueError(
            f"paint something on the mask, or leave it unconnected: all {width}x{height} pixels "
            f"are zero"
        )
    return torch.from_numpy(mask.astype(np.float32))


def _from_pil(image: Image.Image) -> Image.Image:
    if min(image.size) == 0:
        raise ValueError(f"pass a picture that has pixels: this one is {_size_text(image.size)}")
    image = _first_frame_upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_array(_wide_grey_bytes(image))
    try:
        if image.has_transparency_data:
            return _on_white(image.convert("RGBA"))
        return image.convert("RGB")
    except ValueError as error:  # La always, LAB with an older Pillow
        raise ValueError(f"save the picture as RGB: its mode is {image.mode} ({error})") from error


def _first_frame_upright(image: Image.Image) -> Image.Image:
    """A copy of the first frame, EXIF orientation applied; the caller's frame is restored."""
    if not getattr(image, "is_animated", False):
        return _upright(image)
    frame = image.tell()
    try:
        image.seek(0)
        return _upright(image)
    finally:
        image.seek(frame)


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # so that the decoder's errors are raised here and not in the next line
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # A broken EXIF block raises almost anything (struct.error, SyntaxError, TypeError, ...).
        # The pixels are good.
        return image.copy()


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (*WHITE, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _wide_grey_bytes(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 from the grey modes of more than 8 bits; `to_picture` documents their white."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("fix the picture: its pixels hold NaN or infinity")
    whites = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    largest = values.max()
    white = next((white for white in whites if largest <= white), largest)
    return np.rint(np.clip(values / white, 0.0, 1.0) * 255).astype(np.uint8)


def _array_of_image(tensor: torch.Tensor) -> np.ndarray:
    """(H, W, C) array from an IMAGE tensor of one picture."""
    if tensor.ndim == 4 and tensor.shape[0] > 1:
        raise ValueError(
            f"pass the pictures one by one, as picture[i]: this is a batch of {tensor.shape[0]}"
        )
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = rearrange(tensor, "1 h w c -> h w c")
    if tensor.ndim != 3:
        raise ValueError(_layout_error(tensor.shape))
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _from_array(array: np.ndarray, clamped: bool = False) -> Image.Image:
    """A picture from (H, W) or (H, W, 1|3|4). clamped: floats above 1 are cut, not refused."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(_layout_error(array.shape))
    if array.size == 0:
        raise ValueError(f"pass a picture that has pixels: its shape is {tuple(array.shape)}")
    pixels = _bytes_of(array, clamped)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = rearrange(pixels, "h w 1 -> h w")
    image = Image.fromarray(np.ascontiguousarray(pixels))  # L, RGB or RGBA
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _bytes_of(array: np.ndarray, clamped: bool) -> np.ndarray:
    """The array's values as uint8, 0..255."""
    if array.dtype == np.uint8:
        return array
    pixels = np.empty(array.shape, dtype=np.uint8)
    # Some rows at a time: 8000 x 8000 pixels would take gigabytes in float64
    rows = max(1, _BLOCK_VALUES * len(array) // array.size)
    for start in range(0, len(array), rows):
        values = _unit_range(array[start : start + rows], "picture")
        if not np.isfinite(values).all():
            raise ValueError("fix the picture: its pixels hold NaN or infinity")
        if not clamped and values.max() > _LARGEST_OVERSHOOT:
            raise ValueError(
                f"divide the picture by 255, or pass it as uint8: floats go from 0 to 1, these "
                f"reach {values.max():g}"
            )
        pixels[start : start + rows] = np.rint(np.clip(values, 0.0, 1.0) * 255)
    return pixels


def _unit_range(array: np.ndarray, what: str) -> np.ndarray:
    """float64, 1 for white, from any of the number formats that have a white."""
    kind = array.dtype.kind, array.dtype.itemsize
    if kind[0] == "f" or kind == ("b", 1):
        return array.astype(np.float64)
    if kind in (("u", 1), ("u", 2)):
        return array.astype(np.float64) / np.iinfo(array.dtype).max
    raise ValueError(
        f"convert the {what} to uint8, uint16 or float 0..1: its values are {array.dtype}"
    )


def _mask_array(value: Any) -> np.ndarray:
    """(H, W) float64 from any form of mask."""
    if isinstance(value, Image.Image):
        if value.has_transparency_data:
            raise ValueError(
                f"pass one channel as the mask, such as mask.getchannel('A'): its mode is "
                f"{value.mode}, with transparency"
            )
        value = np.asarray(to_picture(value).convert("L"))
    elif isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    elif not isinstance(value, np.ndarray):
        raise ValueError(
            f"pass a MASK tensor, a NumPy array or a PIL picture as the mask: it is of type "
            f"{type(value).__name__}"
        )
    if value.ndim == 3 and value.shape[0] == 1:
        value = rearrange(value, "1 h w -> h w")
    if value.ndim == 3:
        raise ValueError(f"pass the masks one by one: this is a batch of {value.shape[0]}")
    if value.ndim != 2:
        raise ValueError(
            f"arrange the mask as (height, width), as in ComfyUI: its shape is {tuple(value.shape)}"
        )
    return _unit_range(value, "mask")


def _layout_error(shape: tuple[int, ...]) -> str:
    return (
        f"arrange the picture as (height, width, channels) with 1, 3 or 4 channels, as in ComfyUI: "
        f"its shape is {tuple(shape)}"
    )


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
