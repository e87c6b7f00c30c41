"""How results show themselves in a notebook: importing this gives them `_repr_html_`.

Knows pictures and sentences; a result itself knows neither.
"""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from ..results import LaserAnswer, Location
from .drawing import overlay
from .sentences import answer_text, describe_evidence, describe_looks, plain_line, window_line


def _html_of_location(found: Location) -> str:
    return _shown(found, [found.question, describe_evidence(found.evidence), *_windows(found)])


def _html_of_answer(result: LaserAnswer) -> str:
    found, plain = result.location, result.plain
    said = f"{found.question} {answer_text(result.answer.text)}"
    looks = describe_looks(result.looks, result.believed)
    lines = [said, plain_line(plain.text) if plain else "", looks, *_windows(found)]
    return _shown(found, [line for line in lines if line])


def _windows(found: Location) -> list[str]:
    places = zip(found.windows, found.placement.shares, strict=True)
    return [] if found.nothing_found else [window_line(box, share) for box, share in places]


def _shown(found: Location, lines: list[str]) -> str:
    first, *others = (html.escape(line) for line in lines)
    return f"{_picture(overlay(found))}<p><b>{first}</b><br>{'<br>'.join(others)}</p>"


def _picture(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="the picture under its evidence map" src="data:image/png;base64,{data}">'


setattr(Location, "_repr_html_", _html_of_location)  # noqa: B010  the class does not declare it
setattr(LaserAnswer, "_repr_html_", _html_of_answer)  # noqa: B010
