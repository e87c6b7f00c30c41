"""How far a training is: first words right on questions about scenes of the development split."""

from collections.abc import Sequence

import torch

from .drawing import MOST_LAYERS, Atlas, draw, layers_of
from .network import Network
from .questions import INSTRUCTION, KINDS, VOCABULARY, encode
from .scenes import SIZES, WHOLE
from .world import held_out_items

SEEN = ("whole picture", "true window", "both")
_AT_ONCE = 105


class ProgressCheck:
    """Asks a network the same questions every time."""

    def __init__(self, network: Network, atlas: Atlas, count: int) -> None:
        self.atlas, device = atlas, atlas.device
        self.items = held_out_items("dev", count)
        layers = torch.zeros(count, MOST_LAYERS, 6)
        for row, item in enumerate(self.items):
            placed = layers_of(item.scene)
            layers[row, : len(placed)] = torch.tensor(placed)
        self.layers = layers.to(device)
        self.backgrounds = torch.tensor([item.scene.background for item in self.items]).to(device)
        windows = [item.window for item in self.items]
        self.views = [torch.tensor(views).to(device) for views in ([WHOLE] * count, windows)]
        prompts = [
            [*encode(f"{item.question} {INSTRUCTION}"), *network.answer_opening]
            for item in self.items
        ]
        tokens = torch.zeros(count, max(map(len, prompts)), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        self.tokens = tokens.to(device)
        self.last = torch.tensor([len(prompt) - 1 for prompt in prompts]).to(device)
        self.truth = torch.tensor([VOCABULARY[item.answer] for item in self.items]).to(device)

    @torch.no_grad()
    def right(self, network: Network) -> dict[str, list[bool]]:
        """By what is seen, of each item whether the first word is right."""
        found: dict[str, list[bool]] = {name: [] for name in SEEN}
        device = self.layers.device.type
        with torch.autocast(device, torch.bfloat16, device == "cuda"):
            for start in range(0, len(self.items), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                scenes = self.layers[part], self.backgrounds[part]
                whole, window = (
                    network.project(
                        network.features(draw(self.atlas, *scenes, views[part], network.shape.side))
                    )
                    for views in self.views
                )
                for name, pictures in zip(SEEN, ([whole], [window], [whole, window]), strict=True):
                    logits = network.first_words(pictures, self.tokens[part], self.last[part])
                    found[name] += (logits.argmax(-1) == self.truth[part]).tolist()
        return found

    def line(self, network: Network) -> str:
        """ "all 55/72/64 | number 18/40/45 | ...": per cent, seen as in `SEEN`."""
        right = self.right(network)
        groups = {"all": [True] * len(self.items)}
        groups |= {kind: [item.type == kind for item in self.items] for kind in KINDS}
        groups |= {size: [item.size_class == size for item in self.items] for size in SIZES}
        shares = (
            f"{group} " + "/".join(f"{_share(right[name], chosen):.0f}" for name in SEEN)
            for group, chosen in groups.items()
            if any(chosen)
        )
        return " | ".join(shares)


def _share(right: Sequence[bool], chosen: Sequence[bool]) -> float:
    kept = [hit for hit, keep in zip(right, chosen, strict=True) if keep]
    return 100 * sum(kept) / len(kept)
