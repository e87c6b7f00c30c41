"""What the steps hand to one another: frozen records with names and documented shapes.

L: decoder layers with maps, H: query heads, (gh, gw): the picture's patch grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from PIL import Image

from .geometry import Box, Grid, Window, whole_picture
from .pictures import PictureInputs
from .settings import LaserSettings


@dataclass(frozen=True)
class Band:
    """Where in a decoder layers are searched, and which of its layers have attention maps.

    first, last: depths, as fractions: layer n of N has depth n / (N - 1). numbers: n of each layer
    with maps, ascending; empty: of all. layers: N; 0: as many as have maps. Layers of linear
    attention have none.
    """

    first: float = 0.0
    last: float = 1.0
    numbers: tuple[int, ...] = ()
    layers: int = 0


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of the last prompt token over the picture's patches, in both branches (step 2).

    Of a draft's last token where `read_at` says so.
    with_query, without_query: (L, H, gh, gw) float32 on the CPU, post-softmax.
    grid: how the patches lie on the picture; picture_size: (width, height) in pixels.
    certainty: probability of the likeliest first token after the prompt with the question; None
    where not known.
    band: which layers these are, and where the model's family is searched.
    """

    with_query: torch.Tensor
    without_query: torch.Tensor
    grid: Grid
    picture_size: tuple[int, int]
    certainty: float | None = None
    band: Band = Band()

    @property
    def nbytes(self) -> int:
        return self.with_query.nbytes + self.without_query.nbytes


@dataclass(frozen=True)
class LayerChoice:
    """The layers the evidence comes from (steps 4-5).

    A layer is named by its number in the decoder, counted from 0. layer: the best of them.
    vaq: (L,) scores of all layers with maps, float32. heads: (L, K) the top-K heads of every such
    layer, best first. weights: {layer: weight}, sum 1. reason: one sentence for people.
    numbers: of the layers with maps, ascending. count: of all the decoder's layers.
    picked: {layer: heads} that count in place of the top ones.
    largest: joined by the largest share at each patch, not by weight.
    """

    layer: int
    vaq: torch.Tensor
    heads: torch.Tensor
    weights: dict[int, float]
    reason: str
    numbers: tuple[int, ...]
    count: int
    picked: dict[int, list[int]] = field(default_factory=dict)
    largest: bool = False


@dataclass(frozen=True)
class Evidence:
    """Where the question makes the model look (step 6): map (gh, gw) float32 >= 0, over `grid`.

    choice is None when the map is a mask from elsewhere. A degenerate map is not finite, or all
    zero on the picture (padding beyond it does not count): nothing was found, and the answer is
    read from the whole picture.
    """

    map: torch.Tensor
    grid: Grid
    picture_size: tuple[int, int]
    choice: LayerChoice | None = None

    @property
    def mass(self) -> float:
        """The map's sum over the picture; of a patch, only the part on the picture counts."""
        return self._mass_in(Box(*whole_picture(self.picture_size)))

    def share_in(self, box: Box | Window) -> float:
        """The share of the map's mass that lies in `box`, 0..1; NaN for a degenerate map.

        box: in pixels of the picture; nothing outside the picture counts. Of a patch that the box
        cuts, the part inside counts.
        """
        if self.degenerate:
            return math.nan
        inside = Box(*box).intersect(Box(*whole_picture(self.picture_size)))
        return min(self._mass_in(inside) / self.mass, 1.0)

    def _mass_in(self, box: Box) -> float:
        rows, columns = (
            torch.tensor(shares, dtype=torch.float64) for shares in self.grid.shares_inside(box)
        )
        return float(rows @ self.map.double().cpu() @ columns)

    @property
    def degenerate(self) -> bool:
        return not (math.isfinite(self.mass) and self.mass > 0)


@dataclass(frozen=True)
class Placement:
    """Windows on the picture, best first, and the share of the map's mass in each (step 7)."""

    windows: tuple[Window, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Location:
    """Where the evidence lies: the outcome of steps 1-7, with its picture and question.

    picture: RGB; inputs: the same as encoded. maps: None where a mask from elsewhere is the
    evidence. by_hand: whether the window was given, not placed. look_for: what located in place of
    the question, or "".
    """

    picture: Image.Image
    inputs: PictureInputs
    question: str
    settings: LaserSettings
    maps: AttentionMaps | None
    evidence: Evidence
    placement: Placement
    by_hand: bool = False
    look_for: str = ""

    @property
    def nothing_found(self) -> bool:
        """Whether nothing says where to look: then the windows are the whole picture."""
        return self.evidence.degenerate and not self.by_hand

    @property
    def windows(self) -> tuple[Window, ...]:
        return self.placement.windows


@dataclass(frozen=True)
class Counterfactual:
    """What is hidden from the stream without the evidence (step 8).

    mask: (H, W) float32 0..1 at picture size. picture: with the mask filled, None where the
    model's picture tokens are blocked instead.
    """

    mask: torch.Tensor
    picture: Image.Image | None


@dataclass(frozen=True)
class Alternative:
    """Another possible token: its probability as decoded, with and without the evidence."""

    text: str
    token_id: int
    probability: float
    probability_with: float
    probability_without: float | None


@dataclass(frozen=True)
class TokenRecord:
    """One token of an answer and its scores in each stream (step 10).

    Logits are z+ and z-, after the repetition penalty; probabilities are softmax values. The values
    without the evidence are None where no counterfactual stream ran. alternatives: the likeliest as
    decoded, best first, then those without the evidence that are none of these.
    """

    text: str
    token_id: int
    logit_with: float
    logit_without: float | None
    probability: float
    probability_with: float
    probability_without: float | None
    alternatives: tuple[Alternative, ...]

    @property
    def vat(self) -> float | None:
        """Visual Activation of Tokens: z+ - z- (Eq. 10)."""
        return None if self.logit_without is None else self.logit_with - self.logit_without


@dataclass(frozen=True)
class TokenMaps:
    """Where an answer looks, token by token (docs/method.md).

    rows: (T, L, N) float32 on the CPU: post-softmax attention of the step that wrote each token,
    the mean over each layer's heads. without_query: (L, N), that of the last token of the same
    prompt without the question. The N patches are those of `grids`, one grid after the other,
    each row by row. grids: one for each picture that was read, where it lies on the whole one;
    windows: what that picture shows of the whole one. picture_size: (width, height) of the whole
    one. band: as in `AttentionMaps`.
    """

    rows: torch.Tensor
    without_query: torch.Tensor
    grids: tuple[Grid, ...]
    windows: tuple[Window, ...]
    picture_size: tuple[int, int]
    band: Band

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.without_query.nbytes


@dataclass(frozen=True)
class Answer:
    """An answer with a record per token.

    text: without thoughts. stop_reason: "end of answer", "max tokens", "stopping criteria" or
    "unfinished thought", where there is no answer. thoughts: what the model wrote before the
    answer; thought_tokens: how many of the first tokens these are, marks and all. notes: what a
    user should know of it, a sentence each. prompt_tokens: length of each stream's prompt. Times
    in seconds; side by side with others, until it was there. maps: where each token looked, None
    unless asked for.
    """

    text: str
    tokens: tuple[TokenRecord, ...]
    stop_reason: str
    thoughts: str = ""
    thought_tokens: int = 0
    notes: tuple[str, ...] = ()
    prompt_tokens: tuple[int, ...] = ()
    seconds_reading: float = 0.0
    seconds_decoding: float = 0.0
    maps: TokenMaps | None = None

    @property
    def written(self) -> tuple[TokenRecord, ...]:
        """The tokens without the one that ends the answer."""
        return self.tokens[: len(self.tokens) - (self.stop_reason == "end of answer")]

    @property
    def contrasted(self) -> bool:
        """Whether a stream without the evidence took part."""
        return len(self.prompt_tokens) > 1


@dataclass(frozen=True)
class Look:
    """A reading that could have been the answer.

    windows: what was read; none for the whole picture alone. certainty: probability of the
    likeliest first token; None where nothing was compared.
    """

    windows: tuple[Window, ...]
    certainty: float | None = None


@dataclass(frozen=True)
class Finding:
    """What was found of one phrase on a picture.

    phrase: as asked; name: what was looked for, the answer where the phrase is a question.
    presence: how sure the model is of the whole picture that it is there, 0 to 1. score: the mean
    of that and of the window; found: whether that is enough.
    evidence: on the whole picture. closer: in the window that was looked at, `looked`, in pixels
    of the whole picture; both None where none was. heat: (H, W) float32 0..1, the mean of the two
    maps, each by its own sum. mask: (H, W) bool. boxes: best first. points on the thing, and others
    off it, (x, y) in whole pixels. note: what a user should know of it, a sentence, or "".
    Of what was not found, heat, mask, boxes and points are empty.
    """

    phrase: str
    name: str
    presence: float
    score: float
    found: bool
    evidence: Evidence
    closer: Evidence | None
    looked: Window | None
    heat: torch.Tensor
    mask: torch.Tensor
    boxes: tuple[Window, ...] = ()
    points: tuple[tuple[int, int], ...] = ()
    negative_points: tuple[tuple[int, int], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Candidate:
    """box: around a candidate's mask, None for an empty one. evidence: the mean heat on its area.

    presence: how sure the model is of a crop around it, 0 to 1; 0 where none was read.
    """

    box: Window | None
    evidence: float
    presence: float = 0.0


@dataclass(frozen=True)
class Picked:
    """What a phrase names among candidates.

    name, presence: as in `Finding`. candidates: in the order they came. least: the score that one
    needs to be picked.
    """

    phrase: str
    name: str
    presence: float
    candidates: tuple[Candidate, ...]
    least: float

    @property
    def shares(self) -> list[float]:
        """Each candidate's evidence times its presence, over their sum; 0 where that is 0."""
        weights = [one.evidence * one.presence for one in self.candidates]
        return [weight / sum(weights) if sum(weights) > 0 else 0.0 for weight in weights]

    @property
    def index(self) -> int | None:
        """The candidate of the largest share; None where it is not what the phrase names."""
        meant = self.score >= self.least and max(self.shares) > 0
        return self._best if meant else None

    @property
    def score(self) -> float:
        """0 to 1: the mean of what the model says of the whole picture and of the best crop."""
        return (self.presence + self.candidates[self._best].presence) / 2

    @property
    def margin(self) -> float:
        """How far the best candidate's share lies above the next one's, 0 to 1."""
        first, second, *_ = [*sorted(self.shares, reverse=True), 0.0]
        return first - second

    @property
    def _best(self) -> int:
        return max(range(len(self.candidates)), key=self.shares.__getitem__)


@dataclass(frozen=True)
class Checked:
    """A question with given options (steps 1-9, then their likelihoods).

    log_likelihoods: natural logarithm of each option's probability as the whole answer.
    looks, believed: as in `LaserAnswer`.
    """

    question: str
    options: tuple[str, ...]
    log_likelihoods: tuple[float, ...]
    looks: tuple[Look, ...]
    believed: int

    @property
    def probabilities(self) -> list[float]:
        """Of the options, of sum 1."""
        return torch.tensor(self.log_likelihoods, dtype=torch.float64).softmax(0).tolist()

    @property
    def index(self) -> int:
        """The likeliest option, the first of equals."""
        return max(range(len(self.options)), key=self.probabilities.__getitem__)


@dataclass(frozen=True)
class LaserAnswer:
    """The outcome of the whole method.

    location: with the windows of the look that was believed; the first ones if that was none.
    counterfactual: None where nothing was blocked. plain: the model's answer without the method,
    None unless asked for. looks: what was read, in order; believed: the index of the surest.
    skipped: whether `adaptive` left out the comparison without the evidence.
    """

    answer: Answer
    location: Location
    counterfactual: Counterfactual | None
    plain: Answer | None
    looks: tuple[Look, ...]
    believed: int = 0
    skipped: bool = False

    @property
    def looked_closer(self) -> bool:
        """Whether the answer is read from windows."""
        return bool(self.looks[self.believed].windows)
