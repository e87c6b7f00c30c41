"""What a run found, as plain JSON values and as sentences.

`report` is the one description of a run: the command line prints from it, nodes pass it on.
Its layout is versioned; a field may be added within a version, never changed or removed. The
answers stand at its top as texts, for programs that read one key of it.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..files import to_plain
from ..results import Answer, Evidence, LaserAnswer, Location, Look, TokenRecord
from ..settings import LaserSettings, LoadSettings
from .sentences import answer_text, count_line, describe_looks, plain_line, window_line

if TYPE_CHECKING:
    from ..models.lvlm import Lvlm

SCHEMA, VERSION = "laser-report", 2

# Less than this share of the picture outside the model's view is rounding to whole patches.
LEAST_UNSEEN = 0.001


def report(
    result: LaserAnswer | Location,
    model: Lvlm,
    *,
    load: LoadSettings | None = None,
    files: Sequence[str] = (),
) -> dict[str, Any]:
    """A run as a dict of plain JSON values, in a fixed order.

    result: of `pipeline.answer` or `pipeline.locate`. load: how the model was loaded, if known.
    files: names of what was written. It holds no times, so the same run gives the same bytes. NaN
    and infinity become null.
    """
    answered = result if isinstance(result, LaserAnswer) else None
    location = result.location if isinstance(result, LaserAnswer) else result
    question, settings = location.question, location.settings
    located_by = location.look_for or question
    notes = _notes_on_location(location, answered is not None)
    return _report(
        question,
        {"preset": settings.preset, **settings.to_dict()},
        model,
        locating=model.locating_text(located_by, settings.prompt) if location.maps else None,
        answering=model.answering_text(question, settings.answer) if answered else None,
        answer=answered.answer if answered else None,
        plain=answered.plain if answered else None,
        location=location,
        looks=answered.looks if answered else (),
        notes=notes + _notes_on_answer(answered) if answered else notes,
        load=load,
        files=files,
    )


def report_answer(
    answer: Answer,
    question: str,
    model: Lvlm,
    settings: LaserSettings,
    load: LoadSettings,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """As `report`, for an answer whose evidence came from elsewhere. notes: on that."""
    used = ("prompt", "answer", "decode")
    chosen = {name: group for name, group in settings.to_dict().items() if name in used}
    answering = model.answering_text(question, settings.answer)
    every = [*notes, *_notes_on_decoding(answer, settings)]
    return _report(
        question, chosen, model, answering=answering, answer=answer, notes=every, load=load
    )


def _report(
    question: str,
    settings: dict[str, Any],
    model: Lvlm,
    *,
    locating: str | None = None,
    answering: str | None,
    answer: Answer | None,
    plain: Answer | None = None,
    location: Location | None = None,
    looks: Sequence[Look] = (),
    notes: list[str],
    load: LoadSettings | None,
    files: Sequence[str] = (),
) -> dict[str, Any]:
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "question": question,
        "asked": {"locating": locating, "answering": answering},
        "answer": None if answer is None else answer.text,
        "plain": None if plain is None else plain.text,
        "notes": [*notes, *([model.notice] if model.notice else [])],
        "picture": _picture(location),
        "layer": _layer(location),
        "evidence": _evidence(location),
        "windows": _windows(location),
        "looks": [vars(look) for look in looks],
        "generated": {
            "answer": None if answer is None else _answer(answer),
            "plain": None if plain is None else _answer(plain),
        },
        "model": _model(model),
        "versions": {
            "laser_core": __version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "python": platform.python_version(),
        },
        "settings": {**settings, "load": load.to_dict() if load else None},
        "files": list(files),
    }
    return to_plain(content)


def summary(content: dict[str, Any]) -> list[str]:
    """A report in lines for people, the answer first."""
    lines = []
    answer = content["generated"]["answer"]
    if answer is not None:
        lines.append(answer_text(content["answer"]))
    if content["plain"] is not None:
        lines.append(plain_line(content["plain"]))
    if content["layer"] is not None:
        lines.append(content["layer"]["reason"])
    for window in content["windows"]:
        lines.append(f"window {window_line(window['box'], window['evidence_share'])}")
    if answer is not None and answer["tokens"]:
        count = count_line(len(answer["tokens"]), answer["thought_tokens"])
        lines.append(f"stopped at {answer['stop_reason']}, {count}")
    return lines + [f"note: {note}" for note in content["notes"]]


# ---- sections of the report --------------------------------------------------------------------


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "thoughts": answer.thoughts or None,
        "thought_tokens": answer.thought_tokens,
        "stop_reason": answer.stop_reason,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": [_token(record) for record in answer.tokens],
    }


def _token(record: TokenRecord) -> dict[str, Any]:
    plain = to_plain(record)
    alternatives = plain.pop("alternatives")
    return {**plain, "vat": record.vat, "alternatives": alternatives}


def _picture(location: Location | None) -> dict[str, Any] | None:
    if location is None:
        return None
    width, height = location.picture.size
    unseen = location.evidence.grid.unseen_share((width, height))
    return {"width": width, "height": height, "unseen_share": unseen}


def _layer(location: Location | None) -> dict[str, Any] | None:
    if location is None or location.evidence.choice is None:  # a mask is the evidence: no layer
        return None
    choice = location.evidence.choice
    return {
        "index": choice.layer,
        "count": choice.count,
        "reason": choice.reason,
        "weights": choice.weights,
        "numbers": choice.numbers,
        "vaq": choice.vaq,
        "heads": choice.heads,
        "picked": choice.picked,
    }


def _evidence(location: Location | None) -> dict[str, Any] | None:
    """view: (x1, y1, x2, y2) of the grid in pixels of the picture; map: rows of the grid."""
    if location is None:
        return None
    found: Evidence = location.evidence
    return {
        "degenerate": found.degenerate,
        "mass": found.mass,
        "rows": found.grid.rows,
        "columns": found.grid.columns,
        "view": found.grid.view,
        "map": found.map,
    }


def _windows(location: Location | None) -> list[dict[str, Any]]:
    if location is None or location.nothing_found:
        return []
    pairs = zip(location.windows, location.placement.shares, strict=True)
    return [{"box": window, "evidence_share": share} for window, share in pairs]


def _model(model: Lvlm) -> dict[str, Any]:
    return {
        "name": model.name,
        "family": model.family.name,
        "model_type": model.family.model_type,
        "parameters": model.parameter_count,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention": model.attention,
    }


# ---- what a user should know and would not see in the answer, a sentence each ------------------


def _notes_on_location(location: Location, answered: bool) -> list[str]:
    notes = []
    if location.by_hand:
        notes.append("the window was set by hand")
    elif location.evidence.degenerate:
        nothing = "nothing found"
        notes.append(f"{nothing}, answered on the whole picture" if answered else nothing)
    unseen = location.evidence.grid.unseen_share(location.picture.size)
    if unseen > LEAST_UNSEEN:
        notes.append(
            f"the model did not see {unseen:.1%} of the picture: framing 'pad' shows it the whole"
        )
    placed, asked = len(location.windows), location.settings.crop.windows
    if placed < asked and not (location.by_hand or location.evidence.degenerate):
        notes.append(f"{placed} of {asked} windows: no further one fits or holds evidence")
    return notes


def _notes_on_answer(result: LaserAnswer) -> list[str]:
    notes = list(filter(None, [describe_looks(result.looks, result.believed)]))
    if result.skipped:
        notes.append("the model was sure of its first word: it was not compared (adaptive)")
    blocked = result.counterfactual
    if blocked is not None and not blocked.mask.any():
        notes.append("no patch was blocked: both streams saw the same")
    return notes + _notes_on_decoding(result.answer, result.location.settings)


def _notes_on_decoding(answer: Answer, settings: LaserSettings) -> list[str]:
    notes = list(answer.notes)
    if answer.stop_reason == "max tokens":
        most = settings.decode.max_tokens
        notes.append(f"the answer was cut off after {most} tokens: raise max_tokens for the rest")
    return notes
