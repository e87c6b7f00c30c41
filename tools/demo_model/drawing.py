"""Scenes to pictures: batched on any device, and one picture of any size on a CPU.

A layer is one texture placed in a scene: (texture, x, y, side, turn, flipped). Every texture is
held at sizes a factor 1.41 apart, and the smallest that is not below the size shown is sampled.
Knows nothing of questions or models.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .scenes import BACKGROUNDS, MOST_THINGS, WHOLE, Scene
from .textures import TAG_PX, TAG_STYLES, tag_textures, thing_texture
from .things import LOOKS

MOST_LAYERS = 2 * MOST_THINGS  # things and tags
THING_PX = 128  # of textures for pictures as small as the models see
LARGE_THING_PX = 256  # the sprites' own size
_TEXTURES = len(LOOKS) + TAG_STYLES * 100
_NUMBER_OF = {look: number for number, look in enumerate(LOOKS)}
_NO_LEVEL = 1e9  # the size of a level that a texture does not have


class Atlas:
    """Textures in one image with their places: all, or those of `only` (indices of layers)."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        thing_px: int = THING_PX,
        tag_px: int = THING_PX // 2,
        only: Sequence[int] | None = None,
    ) -> None:
        indices = range(_TEXTURES) if only is None else sorted(only)
        things = [index for index in indices if index < len(LOOKS)]
        tags = [index for index in indices if index >= len(LOOKS)]
        width = 12 * (thing_px + 2)
        levels = max(len(_level_sides(side)) for side in (thing_px, tag_px))
        places = np.zeros((3, _TEXTURES, levels), np.float32)
        places[0] = _NO_LEVEL
        images: list[torch.Tensor] = []
        for members, side in ((things, thing_px), (tags, tag_px)):
            if members:
                textures = torch.from_numpy(np.stack([_texture(index, side) for index in members]))
                textures = textures.to(device).permute(0, 3, 1, 2).float() / 255
                top = sum(image.shape[1] for image in images)
                images.append(_sheet(textures, members, width, top, places))
        self.image = torch.cat(images, 1)[None].contiguous()
        self.size, self.left, self.top = torch.from_numpy(places).to(device)
        self.backgrounds = torch.from_numpy(_background_textures()).to(device)[:, None]
        self.device = self.image.device


def _level_sides(side: int) -> list[int]:
    sides = [side]
    while sides[-1] > 7:
        sides.append(round(side / 2 ** (len(sides) / 2)))
    return sides


def _texture(index: int, side: int) -> np.ndarray:
    if index < len(LOOKS):
        return thing_texture(*LOOKS[index], side)
    texture = tag_textures()[divmod(index - len(LOOKS), 100)].astype(np.float32)
    whole = TAG_PX // side
    texture = texture.reshape(side, whole, side, whole, 4).mean((1, 3)) + 0.5
    return texture.astype(np.uint8)


def _sheet(
    textures: torch.Tensor, members: list[int], width: int, top: int, places: np.ndarray
) -> torch.Tensor:
    """(4, rows, width) with textures (N, 4, side, side) at all sizes; notes where each lies."""
    sides = _level_sides(textures.shape[-1])
    columns = width // (sides[0] + 2)
    height = sum(side + 2 for side in sides)
    sheet = torch.zeros(4, -(-len(members) // columns) * height, width, device=textures.device)
    below = 1
    for level, side in enumerate(sides):
        small = textures
        if side != sides[0]:
            small = F.interpolate(textures, (side, side), mode="bicubic", antialias=True)
        for slot, member in enumerate(members):
            row, column = divmod(slot, columns)
            y, x = row * height + below, column * (sides[0] + 2) + 1
            sheet[:, y : y + side, x : x + side] = small[slot].clamp(0, 1)
            places[:, member, level] = side, x, top + y
        below += side + 2
    return sheet


def layers_of(scene: Scene) -> list[tuple[float, ...]]:
    """A scene's layers in painting order."""
    layers = []
    for thing in scene.things:
        texture = _NUMBER_OF[thing.name, thing.colour]
        layers.append((texture, thing.x, thing.y, thing.side, thing.turn, float(thing.flipped)))
        if thing.tag is not None:
            tag = thing.tag
            texture = len(LOOKS) + tag.style * 100 + tag.number
            layers.append((texture, tag.x, tag.y, tag.side, 0.0, 0.0))
    return layers


def draw(
    atlas: Atlas,
    layers: torch.Tensor,
    backgrounds: torch.Tensor,
    views: torch.Tensor,
    side: int,
    oversample: float = 1.5,
    paint=None,
) -> torch.Tensor:
    """(B, 3, side, side) float32 in 0..1 of views (B, 3) of scenes.

    layers: (B, N, 6), zeros where a scene has fewer. backgrounds: (B, 16). oversample: drawn so
    many times larger, then reduced with antialiasing as image processors do. paint: what paints a
    layer, for a compiled `paint_layer`.
    """
    pixels = round(side * oversample)
    x, y = _centres(views, pixels)
    canvas = paint_background(atlas, backgrounds, x, y)
    for layer in layers.transpose(0, 1).contiguous():
        places = (atlas.image, atlas.size, atlas.left, atlas.top)
        canvas = (paint or paint_layer)(canvas, *places, layer, x, y)
    if pixels != side:
        canvas = F.interpolate(canvas, (side, side), mode="bicubic", antialias=True)
    return canvas.clamp(0, 1)


def picture(scene: Scene, side: int) -> Image.Image:
    """The whole scene, RGB, `side` pixels a side, drawn on the CPU from the largest textures."""
    layers = torch.tensor(layers_of(scene))
    only = {int(texture) for texture in layers[:, 0]}
    atlas = Atlas(thing_px=LARGE_THING_PX, tag_px=TAG_PX, only=sorted(only))
    x, y = _centres(torch.tensor([WHOLE]), side)
    canvas = paint_background(atlas, torch.tensor([scene.background]), x, y)
    for layer in layers:
        reach = 0.75 * float(layer[3])  # a little more than half the diagonal
        columns, rows = (
            slice(max(0, int((centre - reach) * side)), int((centre + reach) * side) + 1)
            for centre in layer[1:3].tolist()
        )
        part = (..., rows, columns)
        places = (atlas.image, atlas.size, atlas.left, atlas.top)
        canvas[part] = paint_layer(
            canvas[part], *places, layer[None], x[:, columns], y[:, rows], pixel=1 / side
        )
    pixels = (canvas[0].clamp(0, 1).permute(1, 2, 0) * 255).round().byte()
    return Image.fromarray(pixels.numpy())


def _centres(views: torch.Tensor, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, pixels) each: x and y in the scene of the pixels' centres."""
    steps = (torch.arange(pixels, device=views.device) + 0.5) / pixels
    return views[:, 0:1] + views[:, 2:3] * steps, views[:, 1:2] + views[:, 2:3] * steps


def paint_background(
    atlas: Atlas, backgrounds: torch.Tensor, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """(B, 3, rows, columns) of `scenes.sample_background`'s numbers (B, 16)."""
    first, second, tint = (backgrounds[:, i : i + 3, None, None] for i in (0, 3, 6))
    angle, scale, down, right, turn = (backgrounds[:, i, None, None] for i in (9, 11, 13, 12, 14))
    strength = backgrounds[:, 15, None, None, None]
    across, along = x[:, None, :] - 0.5, y[:, :, None] - 0.5
    slope = (0.5 + 0.75 * (angle.cos() * across + angle.sin() * along)).clamp(0, 1)[:, None]
    u = (turn.cos() * across + turn.sin() * along) * scale + right
    v = (turn.cos() * along - turn.sin() * across) * scale + down
    # Reflected coordinates keep the sampling inside the texture.
    grid = (torch.stack([u, v], -1) * 2 % 4 - 2).abs() - 1
    texture = F.grid_sample(
        atlas.backgrounds[backgrounds[:, 10].long()],
        grid,
        padding_mode="border",
        align_corners=False,
    )
    return (first + (second - first) * slope + strength * (1 + tint) * texture).clamp(0, 1)


def paint_layer(
    canvas: torch.Tensor,
    image: torch.Tensor,
    size: torch.Tensor,
    left: torch.Tensor,
    top: torch.Tensor,
    layer: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    pixel: float | None = None,
) -> torch.Tensor:
    """The canvas (B, 3, rows, columns) with a layer (B, 6) on each; a side of 0 paints nothing.

    image, size, left, top: of the atlas. x (B, columns), y (B, rows): the pixels' centres, which
    lie `pixel` apart. A function of tensors alone, so that it can be compiled.
    """
    height, width = image.shape[2:]
    batch, _, rows, columns = canvas.shape
    texture, centre_x, centre_y, side, turn, flipped = layer.unbind(1)
    texture, safe = texture.long(), side.clamp(min=1e-4)
    shown_px = safe / (pixel or (x[:, 1] - x[:, 0]))
    sizes = size[texture]
    large_enough = (sizes >= 0.98 * shown_px[:, None]) & (sizes < _NO_LEVEL / 10)
    level = (large_enough.sum(1).clamp(min=1) - 1)[:, None]
    texels, u0, v0 = (t[texture].gather(1, level)[..., None] for t in (size, left, top))
    across = ((x - centre_x[:, None]) / safe[:, None])[:, None, :]
    along = ((y - centre_y[:, None]) / safe[:, None])[:, :, None]
    cosine, sine = turn.cos()[:, None, None], turn.sin()[:, None, None]
    u = (cosine * across + sine * along) * (1 - 2 * flipped)[:, None, None]
    v = cosine * along - sine * across
    edge = 0.5 + 0.5 / texels
    outside = (u.abs() > edge) | (v.abs() > edge) | (side < 1e-3)[:, None, None]
    u = (u0 + (u + 0.5) * texels) * (2 / width) - 1
    v = (v0 + (v + 0.5) * texels) * (2 / height) - 1
    grid = torch.stack([torch.where(outside, -9.0, u), v], -1)
    sampled = F.grid_sample(image, grid.view(1, batch * rows, columns, 2), align_corners=False)
    sampled = sampled.view(4, batch, rows, columns).transpose(0, 1)
    return canvas * (1 - sampled[:, 3:]) + sampled[:, :3]


@functools.cache
def _background_textures() -> np.ndarray:
    """(`BACKGROUNDS`, 256, 256) float32 of mean 0 and deviation 1, which repeat without a seam."""
    rng, n = np.random.default_rng(11), 256
    frequencies = np.fft.fftfreq(n) * n
    fy, fx = np.meshgrid(frequencies, frequencies, indexing="ij")
    yy, xx = np.meshgrid(np.arange(n) / n, np.arange(n) / n, indexing="ij")

    def scaled(texture: np.ndarray) -> np.ndarray:
        return (texture - texture.mean()) / texture.std()

    def noise(power: float, wide: float = 1.0, high: float = 1.0, least: float = 1.0) -> np.ndarray:
        frequency = np.sqrt((fx * wide) ** 2 + (fy * high) ** 2)
        gain = np.where(frequency > least - 0.5, np.maximum(frequency, 1) ** -power, 0)
        return scaled(np.fft.ifft2(np.fft.fft2(rng.standard_normal((n, n))) * gain).real)

    def wood() -> np.ndarray:
        rings = np.sin(2 * np.pi * (rng.integers(5, 12) * yy + 0.35 * noise(2.2)))
        return rings + 0.4 * noise(1.0, 0.15, 1.6)

    def tiles() -> np.ndarray:
        count = int(rng.integers(3, 9))
        waves = np.sin(2 * np.pi * count * xx) * np.sin(2 * np.pi * count * yy)
        return np.tanh(4 * waves) + 0.3 * noise(1.2)

    def stripes() -> np.ndarray:
        waves = np.sin(2 * np.pi * rng.integers(4, 14) * xx)
        return np.tanh(3 * waves) + 0.3 * noise(1.2)

    kinds = (
        lambda: noise(1.6),  # clouds
        wood,
        lambda: noise(1.0, 2.5, 0.4, 4),  # grass
        tiles,
        lambda: np.abs(noise(1.8)) ** 0.6 + 0.15 * noise(0.7),  # marble
        stripes,
        lambda: np.maximum(noise(2.6, least=3), 0.4),  # blots
        lambda: noise(0.6, least=6),  # sand
    )
    textures = [scaled(kinds[index % len(kinds)]()) for index in range(BACKGROUNDS)]
    return np.clip(np.stack(textures), -2.5, 2.5).astype(np.float32)
