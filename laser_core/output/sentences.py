"""What is said of a result, one sentence each, in every place. Knows no file and no view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nodes import this when ComfyUI starts, before torch is needed
    from ..results import Answer, Checked, Evidence, Finding, Look, Picked


def answer_text(text: str) -> str:
    return text or "(an empty answer)"


def count_line(tokens: int, thoughts: int) -> str:
    """How many tokens were written, and how many of them were thoughts."""
    of_thoughts = f", {thoughts} of them thoughts" if thoughts else ""
    return f"{tokens} token{'s' * (tokens != 1)}{of_thoughts}"


def plain_line(text: str) -> str:
    """The model's answer without the method."""
    return f"plain model: {answer_text(text)}"


def window_line(box: Sequence[int], share: float) -> str:
    """box: (x1, y1, x2, y2) in pixels; share: of the evidence in it, 0..1."""
    x1, y1, x2, y2 = box
    return f"{x2 - x1} x {y2 - y1} px at ({x1}, {y1}), {share:.0%} of the evidence"


def describe_evidence(evidence: Evidence) -> str:
    """Where a picture's evidence comes from."""
    reason = evidence.choice.reason if evidence.choice else "evidence from a mask"
    if not evidence.degenerate:
        return reason
    if evidence.choice is None:
        return "nothing found (the mask is empty): the whole picture is taken"
    return f"nothing found: the whole picture is taken ({reason})"


def describe_looks(looks: Sequence[Look], believed: int) -> str:
    """How sure the model was after each reading, and which one the answer is read from.

    "" where nothing was compared.
    """
    if looks[0].certainty is None:
        return ""
    read = [f"{_look_name(look)} {look.certainty:.0%}" for look in looks]
    if len(looks) == 1:
        return f"sure of its first word without looking closer: {read[0]}"
    chosen = _look_name(looks[believed])
    return f"sure of its first word: {', '.join(read)}; answered from the {chosen}"


def _look_name(look: Look) -> str:
    if not look.windows:
        return "whole picture"
    sizes = " and ".join(f"{box.width} x {box.height}" for box in look.windows)
    return f"window of {sizes} px"


def describe_answer(answer: Answer) -> str:
    """An answer, its length, its time, why it stopped early and what else to know of it."""
    seconds = answer.seconds_reading + answer.seconds_decoding
    count = count_line(len(answer.tokens), answer.thought_tokens)
    stop = "" if answer.stop_reason == "end of answer" else f", stopped at {answer.stop_reason}"
    if answer.stop_reason == "max tokens":
        stop += ": raise max_tokens for the rest"
    said = f"{answer_text(answer.text)} ({count} in {seconds:.1f} s{stop})"
    return "; ".join((said, *answer.notes))


def describe_finding(finding: Finding) -> str:
    """What was found of a phrase, and how sure the model is."""
    asked = finding.phrase
    if finding.name not in (finding.phrase, ""):
        asked = f"{finding.phrase} {finding.name}"
    said = f"{asked}: {'found' if finding.found else 'not found'} ({finding.score:.0%})"
    boxes = "; ".join(
        f"{box.width} x {box.height} px at ({box.x1}, {box.y1})" for box in finding.boxes
    )
    return ", ".join(filter(None, [said, boxes, finding.note]))


def describe_pick(picked: Picked) -> str:
    """Which candidate was picked, and by how much."""
    shares = ", ".join(f"{share:.0%}" for share in picked.shares)
    if picked.index is None:
        return f"{picked.phrase}: none of the candidates ({picked.score:.0%})"
    return (
        f"{picked.phrase}: candidate {picked.index} ({picked.score:.0%}); shares of the "
        f"candidates, in order: {shares}"
    )


def describe_check(checked: Checked, unsure: bool) -> str:
    """The options with their probabilities, the likeliest first."""
    pairs = sorted(
        zip(checked.probabilities, checked.options, strict=True), key=lambda pair: -pair[0]
    )
    said = ", ".join(f"{option} {probability:.0%}" for probability, option in pairs)
    return f"{said} (unsure)" if unsure else said
