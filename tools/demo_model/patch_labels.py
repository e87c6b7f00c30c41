"""Throw-away labels: what each patch of a view shows, and heads that learn to say it.

They teach the tower to see before there are questions. Also after the projector every patch is
pulled towards the words for what it shows. Nothing of this is exported, and where the decoder
attends is not taught.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .network import Network
from .questions import VOCABULARY
from .things import COLOURS, NAMES

IGNORED = -100
NO_DIGIT = 10
_NO_NUMBER = 100
_BACKGROUND_WEIGHT, _NO_TAG_WEIGHT = 0.25, 0.1  # most patches show neither thing nor tag


def patch_labels(boxes: torch.Tensor, views: torch.Tensor, grid: int) -> tuple[torch.Tensor, ...]:
    """Thing, tens, ones and colour of each patch, (B, grid * grid) int64 each.

    boxes (B, things, 11) of `batches`, views (B, 3). Thing 0 is background; digit `NO_DIGIT` is no
    tag; `IGNORED` where it cannot be known.
    """
    edges = torch.arange(grid + 1, device=boxes.device) / grid
    x, y = (views[:, axis, None] + views[:, 2:3] * edges for axis in (0, 1))
    patch_area = (views[:, 2] / grid).square()[:, None, None, None]

    def covered(box: torch.Tensor) -> torch.Tensor:
        """(B, things, 4) -> (B, things, patches): what they share, of the smaller of both."""
        low, high = box[..., None, :2], box[..., None, 2:]
        wide = _shared(low[..., 0], high[..., 0], x)
        tall = _shared(low[..., 1], high[..., 1], y)
        area = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]))[..., None, None]
        smaller = torch.minimum(area, patch_area).clamp(min=1e-9)
        return (tall[..., :, None] * wide[..., None, :] / smaller).flatten(2)

    is_thing, has_tag = boxes[..., 0:1] >= 0, boxes[..., 5:6] >= 0
    share, nearest = (covered(boxes[..., 1:5]) * is_thing).max(1)
    centre = (boxes[..., 6:8] + boxes[..., 8:10]) / 2
    in_x, in_y = (
        (centre[..., axis, None] >= line[:, None, :-1])
        & (centre[..., axis, None] < line[:, None, 1:])
        for axis, line in ((0, x), (1, y))
    )
    tagged, owner = ((in_y[..., :, None] & in_x[..., None, :]).flatten(2) & has_tag).float().max(1)
    tagged = tagged > 0
    at_edge = (covered(boxes[..., 6:10]) * has_tag).amax(1) > 0.1

    shown = torch.where(tagged, owner, nearest)  # a patch with a tag's middle shows its owner
    known = tagged | (share > 0.5)
    thing = boxes[..., 0].gather(1, shown).long() + 1
    thing = torch.where(known, thing, torch.where(share > 0.06, IGNORED, 0))
    colour = boxes[..., 10].gather(1, shown).long()
    colour = torch.where((thing > 0) & (colour >= 0), colour, IGNORED)
    number = boxes[..., 5].gather(1, owner).long()
    none = torch.where(at_edge, IGNORED, NO_DIGIT)
    tens, ones = (torch.where(tagged, digit, none) for digit in (number // 10, number % 10))
    return thing, tens, ones, colour


def _shared(low: torch.Tensor, high: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """(B, things, 1) ends of intervals, (B, grid + 1) edges -> (B, things, grid) shared lengths."""
    edges = edges[:, None]
    return (torch.minimum(high, edges[..., 1:]) - torch.maximum(low, edges[..., :-1])).clamp(min=0)


class PatchHeads(nn.Module):
    """Reads labels off the tower's features, and compares projected patches with words."""

    def __init__(self, features_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features_width)
        sizes = (len(NAMES) + 1, NO_DIGIT + 1, NO_DIGIT + 1, len(COLOURS))
        self.heads = nn.ModuleList(nn.Linear(features_width, size) for size in sizes)
        self.scale = nn.Parameter(torch.tensor(8.0))
        words = {
            "thing_words": ["nothing", *NAMES],
            "number_words": [*map(str, range(_NO_NUMBER)), "nothing"],
            "colour_words": COLOURS,
        }
        for name, some in words.items():
            self.register_buffer(name, torch.tensor([VOCABULARY[word] for word in some]), False)

    def loss(
        self,
        network: Network,
        features: torch.Tensor,
        projected: torch.Tensor,
        labels: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Of both; features and projected (B, patches, width), labels of `patch_labels`."""
        thing, tens, ones, colour = labels
        weights = (
            torch.where(thing == 0, _BACKGROUND_WEIGHT, 1.0),
            *[torch.where(tens == NO_DIGIT, _NO_TAG_WEIGHT, 1.0)] * 2,
            torch.ones_like(thing, dtype=torch.float32),
        )
        loss = torch.zeros((), device=features.device)
        for share, logits, label, weight in zip(
            (1.0, 1.5, 1.5, 0.5), self._logits(features), labels, weights, strict=True
        ):
            loss = loss + share * _weighted(logits, label, weight)
        number = torch.where(tens == NO_DIGIT, _NO_NUMBER, tens * 10 + ones)
        number = torch.where(tens < 0, IGNORED, number)
        likeness = F.normalize(projected.float(), dim=-1), F.normalize(network.embed, dim=-1)
        for words, label, weight in (
            (self.thing_words, thing, weights[0]),
            (self.number_words, number, weights[1]),
            (self.colour_words, colour, weights[3]),
        ):
            logits = self.scale * likeness[0] @ likeness[1][words].T
            loss = loss + 0.5 * _weighted(logits, label, weight)
        return loss

    @torch.no_grad()
    def right(
        self, features: torch.Tensor, labels: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of the patches on things, and on tags, whose thing or number is right."""
        said = [logits.argmax(-1) for logits in self._logits(features)]
        on_thing = labels[0] > 0
        on_tag = (labels[1] >= 0) & (labels[1] < NO_DIGIT)
        number = (said[1] == labels[1]) & (said[2] == labels[2])
        things = ((said[0] == labels[0]) & on_thing).sum() / on_thing.sum().clamp(min=1)
        return things, (number & on_tag).sum() / on_tag.sum().clamp(min=1)

    def _logits(self, features: torch.Tensor) -> list[torch.Tensor]:
        normed = self.norm(features)
        return [head(normed).float() for head in self.heads]


def _weighted(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    weights = torch.where(labels == IGNORED, 0.0, weights).flatten()
    return (losses * weights).sum() / weights.sum().clamp(min=1)
