"""Results as large as they get, as the nodes would send them, with files in a ComfyUI's temp."""

import secrets
from pathlib import Path

import torch
from PIL import Image

from tests.nodes.pack import part


def many_layers(temp: Path, layers: int, side: int, pictures: int) -> tuple[dict, list[int]]:
    """(VAQ Layer Select's `ui`, sizes of its files in bytes)."""
    results, geometry = part("laser_core.results"), part("laser_core.geometry")
    generator = torch.Generator().manual_seed(0)
    size = (1920, 1280)
    grid = geometry.Grid(side, side, geometry.Box(0, 0, *size))
    photograph = Image.effect_noise(size, 60).convert("RGB")
    views = []
    with _files_in(temp) as files:
        for _ in range(pictures):
            maps = torch.rand(layers, side, side, generator=generator) ** 8
            vaq = torch.rand(layers, generator=generator)
            heads = torch.zeros(layers, 1).long()
            weights, numbers = {int(vaq.argmax()): 1.0}, tuple(range(layers))
            choice = results.LayerChoice(
                int(vaq.argmax()), vaq, heads, weights, "", numbers, count=layers
            )
            evidence = results.Evidence(maps[choice.layer], grid, size, choice)
            views.append(part("nodes.views").vaq_view(photograph, evidence, maps, choice, False))
    return part("nodes.runtime").ui([], laser_vaq=views), [path.stat().st_size for path in files]


def long_answer(temp: Path, tokens: int, pictures: int) -> tuple[dict, list[int]]:
    """(VAT Decode's `ui`, sizes of its files in bytes)."""
    results = part("laser_core.results")
    others = tuple(
        results.Alternative(f" word{index}", index, 0.1, 0.123456, 0.0123456) for index in range(5)
    )
    records = tuple(
        results.TokenRecord(f" word{index}", index, index % 9 - 3.5, 0.5, 0.5, 0.5, 0.25, others)
        for index in range(tokens)
    )
    text = "".join(record.text for record in records)
    answer = results.Answer(text, records, "max tokens")
    with _files_in(temp) as files:
        views = [part("nodes.views").token_view(answer) for _ in range(pictures)]
    return part("nodes.runtime").ui([], laser_tokens=views), [path.stat().st_size for path in files]


class _files_in:
    """Has the views write into another ComfyUI's temp folder; gives the files."""

    def __init__(self, temp: Path) -> None:
        self.temp, self.files, self.views = temp, [], part("nodes.views")

    def __enter__(self) -> list[Path]:
        self.temp.mkdir(exist_ok=True)
        self.before, self.views.temp_file = self.views.temp_file, self._place
        return self.files

    def __exit__(self, *_: object) -> None:
        self.views.temp_file = self.before

    def _place(self, suffix: str) -> tuple[str, dict[str, str]]:
        path = self.temp / f"laser_{secrets.token_hex(8)}{suffix}"
        self.files.append(path)
        return str(path), {"filename": path.name, "subfolder": "", "type": "temp"}
