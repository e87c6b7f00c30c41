"""Where the tokens of an answer looked: the widget that asks, a mask, and what a view draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .runtime import DrawsWhatIsConnected, in_comfyui
from .views import token_map_view

if TYPE_CHECKING:
    from PIL import Image

    from ..laser_core.results import Answer
    from ..laser_core.settings import LaserSettings

MAP_OF_TOKENS = {
    "map_of_tokens": (
        "STRING",
        {
            "default": "",
            "advanced": True,  # a click in the view fills it in
            "tooltip": "The tokens whose map token_map gives: '3' or '3-5', counted from 1, or "
            "words of the answer. Or click them in the view, which then shows where the model "
            "looked as it wrote each token. Empty: all of them if token_map is connected, else no "
            "maps, which is faster on a GPU.",
        },
    )
}
TOKEN_MAP = "token_map"
TOKEN_MAP_TOOLTIP = (
    "Where the model looked as it wrote the tokens of map_of_tokens, as a mask of the picture's "
    "size: 1 where it looked most. One per picture; empty where an answer has no such token."
)


class TokenMapOutput:
    """The masks and views of a node's answers; masks are None where no node takes them.

    node: with TOKEN_MAP among its DRAWN. count, size: of its pictures, (width, height). Raises
    ValueError for numbers of no token.
    """

    def __init__(
        self,
        node: DrawsWhatIsConnected,
        node_id: str | None,
        text: str,
        count: int,
        size: tuple[int, int],
    ) -> None:
        import torch

        from ..laser_core.output.token_maps import check_span

        check_span(text)
        taken = node.draws(node_id, TOKEN_MAP)
        self.asked = bool(text.strip()) or (taken and in_comfyui())
        self._given, self._text = text.strip(), text.strip() or "1-"
        self.masks = torch.zeros(count, size[1], size[0]) if taken else None
        self.views: list[dict[str, Any] | None] = []

    def add(self, answer: Answer, picture: Image.Image, settings: LaserSettings) -> str:
        """The next answer, and the picture that its maps lie on. Returns what to say of it."""
        from ..laser_core.output.token_maps import span_of, token_map

        if answer.maps is None:
            self.views.append(None)
            return ""
        span = span_of(answer, self._text)
        if self.masks is not None:
            self.masks[len(self.views)] = token_map(answer, span, settings)
        view = token_map_view(picture, answer, settings)
        self.views.append(view and {**view, "asked": self._given, "span": (span.start, span.stop)})
        return "" if span else f"token_map is empty: the answer has no tokens {self._text!r}"
