"""Find: where the things are that phrases name, and whether they are there at all.

The picture is read once for all phrases; then each thing is looked at in windows of its map, which
makes its map finer and the model surer. A phrase that is a question ("what is left of the tree?")
is answered first, and the answer is looked for. Our addition to the paper (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from .. import pipeline
from ..geometry import Grid, Window, whole_picture
from ..models.grounding import boxes_on_picture
from ..models.image_processors import token_side_px
from ..models.lvlm import Lvlm
from ..output.heat import heat_map
from ..output.masks import box_of, cleaned_mask, peaks
from ..pictures import PictureInputs, to_picture
from ..progress import Progress, as_one_stage
from ..results import Evidence, Finding
from ..settings import DecodeSettings, FindSettings, LaserSettings
from ..steps.answer_input import make_plain_stream, tokens_of_crop
from ..steps.crop import place_windows
from ..steps.decode import decode
from ..steps.presence import Seen, read_presence
from ..steps.vaq import contrast, make_evidence, select_layer

PRESENT = 0.5
"""A thing is found where the model says "yes" with at least this share of "yes" and "no"."""
QUESTION_MARKS = ("?", "\uff1f", "\u061f")  # Latin, full-width, Arabic
POINTS, NEGATIVE_POINTS = 3, 3  # at most, of a thing
WRITTEN_TOKENS = 512  # of an answer with boxes: about 12 of them


def find(
    lvlm: Lvlm,
    picture: Any,
    phrases: Sequence[str],
    settings: LaserSettings = LaserSettings(),
    finding: FindSettings = FindSettings(),
    progress: Progress | None = None,
) -> list[Finding]:
    """What each phrase names on a picture (PIL, NumPy or tensor), in order.

    At most `looks` windows of each map are read, until the model is as sure as `adaptive` asks. The
    score is the mean of what it says of the whole picture and of the best window. Raises ValueError
    without a phrase, for finder "model" with a family that writes no boxes, and as the steps do.
    """
    if not phrases or not all(phrase.strip() for phrase in phrases):
        raise ValueError("write what to find, one phrase a line: there is none, or one is empty")
    writes = lvlm.family.grounding is not None
    if finding.finder == "model" and not writes:
        raise ValueError(
            f"choose finder 'attention': {lvlm.name} writes no boxes, or what its numbers mean is "
            "not known"
        )
    picture = to_picture(picture)
    inputs = lvlm.encode(picture, settings.prompt.framing)
    names = [_name(lvlm, picture, phrase, settings, progress) for phrase in phrases]
    asked = [name for name in dict.fromkeys(names) if name]
    seen = read_presence(lvlm, inputs, asked, settings.prompt, progress) if asked else []
    on_whole = dict(zip(asked, seen, strict=True))
    found = []
    for index, (phrase, name) in enumerate(zip(phrases, names, strict=True)):
        part = _part(progress, index, len(phrases))
        if name:
            whole = on_whole[name]
            found.append(_look(lvlm, picture, inputs, phrase, name, whole, settings, finding, part))
        else:
            found.append(_unanswered(picture, inputs, phrase))
    return found


def _part(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Whatever is reported while one phrase is looked at stands where that phrase does."""
    return None if progress is None else lambda *_: progress("looking closer", done, total)


def _name(
    lvlm: Lvlm, picture: Image.Image, phrase: str, settings: LaserSettings, progress: Any
) -> str:
    """What to look for: the phrase, or the answer to it where it is a question."""
    if not phrase.rstrip().endswith(QUESTION_MARKS):
        return phrase.strip()
    brief = settings.answer.instruction or lvlm.locate_instruction
    short = replace(settings, answer=replace(settings.answer, instruction=brief))
    stage = as_one_stage(progress, "answering plainly")
    return pipeline.answer(lvlm, picture, phrase, short, progress=stage).answer.text.strip(" .")


def _look(
    lvlm: Lvlm,
    picture: Image.Image,
    inputs: PictureInputs,
    phrase: str,
    name: str,
    whole: Seen,
    settings: LaserSettings,
    finding: FindSettings,
    progress: Progress | None,
) -> Finding:
    """One phrase, from what was seen of it on the whole picture."""
    evidence, best = _evidence(whole, settings), whole.presence
    closer: Evidence | None = None
    looked: Window | None = None
    for window in _windows(evidence, settings):
        seen = read_window(lvlm, picture, inputs, name, window, settings, progress)
        if looked is None or seen.presence > best:
            closer = _on_picture(_evidence(seen, settings), window, picture.size)
            best, looked = seen.presence, window
        if best >= settings.decode.adaptive:
            break
    score = (whole.presence + best) / 2
    nowhere = torch.zeros(picture.height, picture.width)
    result = Finding(
        phrase,
        name,
        whole.presence,
        score,
        score >= PRESENT,
        evidence,
        closer,
        looked,
        nowhere,
        nowhere > 0,
    )
    if not result.found:
        return result
    written: list[Window] = []
    if finding.finder == "both" and not lvlm.family.grounding:
        result = replace(result, note=f"{lvlm.name} writes no boxes: found by attention")
    elif finding.finder != "attention":
        written = _written_boxes(lvlm, inputs, name, settings, progress)
        if not written:
            result = replace(result, note=f"{lvlm.name} wrote no box of it")
    if finding.finder == "model" and not written:
        return replace(result, found=False)
    return _outlined(result, written, finding)


def _windows(evidence: Evidence, settings: LaserSettings) -> tuple[Window, ...]:
    """Where to look closer: none that is the whole picture, none where nothing was found."""
    if evidence.degenerate:
        return ()
    crop = replace(settings.crop, windows=settings.answer.looks)
    windows = place_windows(evidence, crop).windows
    return tuple(one for one in windows if one != whole_picture(evidence.picture_size))


def read_window(
    lvlm: Lvlm,
    picture: Image.Image,
    inputs: PictureInputs,
    name: str,
    window: Window,
    settings: LaserSettings,
    progress: Progress | None = None,
) -> Seen:
    """A phrase on a window of the picture, which is read alone. inputs: the picture's."""
    crop = picture.crop(window)
    tokens = tokens_of_crop(inputs, crop, 1, settings)
    encoded = lvlm.encode(crop, settings.prompt.framing, tokens)
    return read_presence(lvlm, encoded, [name], settings.prompt, progress)[0]


def _evidence(seen: Seen, settings: LaserSettings) -> Evidence:
    """Steps 3-6."""
    contrasted = contrast(seen.maps, settings.contrast)
    choice = select_layer(contrasted, settings.layer, seen.maps.band)
    return make_evidence(contrasted, choice, seen.maps)


def _on_picture(evidence: Evidence, window: Window, size: tuple[int, int]) -> Evidence:
    """A window's evidence as the picture's: its grid covers the window alone."""
    grid, inside = evidence.grid, Window(0, 0, window.width, window.height)
    rows, columns = (torch.tensor(shares) for shares in grid.shares_inside(inside))
    shown = evidence.map * (rows[:, None] * columns[None]).to(evidence.map)  # not its padding
    view = grid.view.shift(window.x1, window.y1)
    return Evidence(shown, Grid(grid.rows, grid.columns, view), size, evidence.choice)


def _outlined(result: Finding, written: Sequence[Window], finding: FindSettings) -> Finding:
    """The finding with heat, mask, boxes and points; in the boxes the model wrote, if it did."""
    heat = joined_heat(result.evidence, result.closer)
    if written:
        if finding.finder == "both":
            written = sorted(written, key=result.evidence.share_in, reverse=True)  # stable
        boxes = tuple(written)
        mask = torch.zeros_like(result.mask)
        mask[boxes[0].y1 : boxes[0].y2, boxes[0].x1 : boxes[0].x2] = True
    else:
        mask = cleaned_mask(heat, finding.mask_share)
        box = box_of(mask)
        boxes = () if box is None else (box,)
    points = peaks(heat, mask, POINTS, max((result.closer or result.evidence).grid.cell_size))
    if written and (finding.finder == "model" or not points):
        points = (((boxes[0].x1 + boxes[0].x2) // 2, (boxes[0].y1 + boxes[0].y2) // 2),)
    return replace(
        result,
        found=bool(boxes),
        heat=heat,
        mask=mask,
        boxes=boxes,
        points=points,
        negative_points=_elsewhere(result.evidence, boxes),
    )


def joined_heat(whole: Evidence, closer: Evidence | None) -> torch.Tensor:
    """(H, W), 0..1: the mean of both maps, each by its own sum.

    The closer map tells where the thing is, the whole one how far it goes: the mean of the two
    outlines it better than either (docs/results.md).
    """
    heat = heat_map(whole)
    if closer is not None and not closer.degenerate:
        near = heat_map(closer)
        heat = heat / heat.sum() + near / near.sum()
    return heat / heat.max() if heat.max() > 0 else heat


def _elsewhere(whole: Evidence, boxes: Sequence[Window]) -> tuple[tuple[int, int], ...]:
    """Where else the model looked: peaks off the boxes and half their sides around them."""
    heat = heat_map(whole)
    off = torch.ones(heat.shape, dtype=torch.bool)
    for box in boxes:
        across, down = box.width // 2, box.height // 2
        off[max(box.y1 - down, 0) : box.y2 + down, max(box.x1 - across, 0) : box.x2 + across] = (
            False
        )
    return peaks(heat, off, NEGATIVE_POINTS, 2 * max(whole.grid.cell_size), least=0.2)


def _written_boxes(
    lvlm: Lvlm,
    inputs: PictureInputs,
    name: str,
    settings: LaserSettings,
    progress: Progress | None,
) -> list[Window]:
    """The boxes that the model itself writes for a phrase, in its order."""
    grounding = lvlm.family.grounding
    assert grounding is not None
    asked = replace(settings, answer=replace(settings.answer, instruction=""))
    stream = make_plain_stream(lvlm, inputs, grounding.prompt.format(name), asked)
    greedy = DecodeSettings(max_tokens=WRITTEN_TOKENS, alpha=0.0)
    answer = decode(lvlm, stream, None, greedy, progress).text
    side = token_side_px(lvlm.image_processor)
    return [box for box, _ in boxes_on_picture(answer, grounding, inputs, side)]


def _unanswered(picture: Image.Image, inputs: PictureInputs, phrase: str) -> Finding:
    """Of a question that the model answered with nothing."""
    grid = inputs.grid
    nothing = Evidence(torch.zeros(grid.rows, grid.columns), grid, picture.size)
    nowhere = torch.zeros(picture.height, picture.width)
    note = "the question got no answer"
    return Finding(
        phrase, "", 0.0, 0.0, False, nothing, None, None, nowhere, nowhere > 0, note=note
    )
