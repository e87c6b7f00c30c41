"""The architectures the demo model comes in: one record each says what differs.

The trainer, its two stages and the evaluator read everything of a network from here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from . import forward, network, qwen
from .questions import VOCABULARY


@dataclass(frozen=True)
class Architecture:
    """build: a seed -> the network with its starting weights. tower: its vision transformer.

    projector: the two linear layers from features to the decoder. features: (B, side, side, 3)
    uint8 pictures -> (B, patches, feature_width), the projector's input. decode: the network,
    features and (B, Q, T) tokens -> (B, Q, T, width), see `forward.decode`. answer_opening: the
    token ids between question and answer. knows_places: features tell where their patch lies.
    """

    build: Callable[[int], nn.Module]
    tower: Callable[[nn.Module], nn.Module]
    projector: Callable[[nn.Module], tuple[nn.Linear, nn.Linear]]
    features: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    feature_width: int
    decode: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    answer_opening: tuple[int, ...]
    knows_places: bool


ARCHITECTURES = {
    "llava": Architecture(
        build=network.build_network,
        tower=network.tower_of,
        projector=network.projector_of,
        features=forward.tower_features,
        feature_width=network.WIDTH,
        decode=forward.decode,
        answer_opening=(VOCABULARY["ASSISTANT:"],),
        knows_places=True,
    ),
    "qwen2_5_vl": Architecture(
        build=qwen.build_network,
        tower=qwen.tower_of,
        projector=qwen.projector_of,
        features=qwen.tower_features,
        feature_width=qwen.FEATURE_WIDTH,
        decode=qwen.decode,
        answer_opening=qwen.ANSWER_OPENING,
        knows_places=False,
    ),
}
"""By transformers' model type."""
