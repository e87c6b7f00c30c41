"""A chat as token ids, with every picture's tokens located. Knows tokenizers; never weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .families import PictureInputs

_PROBE = "LASERPROBE"  # a text that no template writes


@dataclass(frozen=True)
class Prompt:
    """One chat with its pictures, as the model takes it.

    input_ids: (1, N) on the CPU. spans: the tokens of each picture, in order.
    position_ids: (1, N), or (3, 1, N) with M-RoPE. delta: the token at index n >= N has position
    n + delta.
    """

    input_ids: torch.Tensor
    pictures: tuple[PictureInputs, ...]
    spans: tuple[slice, ...]
    position_ids: torch.Tensor
    delta: int

    @property
    def length(self) -> int:
        return self.input_ids.shape[1]

    @property
    def prefix_length(self) -> int:
        """Tokens up to the end of the first picture: the same with and without the question."""
        return self.spans[0].stop

    @property
    def suffix_length(self) -> int:
        """Tokens behind the prefix."""
        return self.length - self.prefix_length

    @property
    def prefix_key(self) -> tuple:
        """Equal for two prompts exactly when their prefixes are the same to the model."""
        return tuple(self.input_ids[0, : self.prefix_length].tolist()), self.pictures[0].digest


def _template(found: Any, name: str) -> str:
    """One template: of several, by name or as older files list them, the one named default."""
    if isinstance(found, list):
        found = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, str):
        raise ValueError(
            f"mend the chat template of {name}: it is neither a text nor texts with a default"
        )
    return found


@dataclass(frozen=True)
class Stream:
    """A prompt to decode from.

    shared_prefix: continue from the cached prefix, computing it if need be; for prompts that
    begin with the picture itself. blocked: indices of picture tokens whose embeddings are
    replaced by the mean of their picture's.
    """

    prompt: Prompt
    shared_prefix: bool = False
    blocked: tuple[int, ...] = ()
