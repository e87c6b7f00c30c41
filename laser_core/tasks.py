"""What people ask most, in words that models know: a question to ask, how to answer, or both.

A file of the user's adds to them. Knows texts; knows no model and no node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AS_ASKED = "as asked"
LARGEST_FILE = 2**20  # bytes


@dataclass(frozen=True)
class Task:
    """question: comes before the user's own. instruction: where the user gives none."""

    question: str = ""
    instruction: str = ""

    def asked(self, question: str) -> str:
        """The question of the task and the user's, a line each."""
        return "\n".join(filter(None, [self.question, question.strip()]))


TASKS = {
    AS_ASKED: Task(),
    "short answer": Task(instruction="Answer the question using a single word or phrase."),
    "caption": Task("Describe the image."),
    "detailed caption": Task("Describe the image in detail."),
    "tags": Task("List what is in the image as short tags, separated by commas."),
    "read the text": Task("Read the text in the image. Write it down line by line."),
}


def read_tasks(path: Path | None) -> dict[str, Task]:
    """TASKS, and those of a file: {"name": "question"}, or with "question" and "instruction".

    A file adds to ours and replaces none. None or a path without a file: TASKS. Raises ValueError
    for another content.
    """
    if path is None or not path.is_file():
        return dict(TASKS)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("it is larger than 1 MiB")
        own = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(own, dict):
            raise ValueError("it is no object of names and texts")
        others = {name: _task(name, value) for name, value in own.items() if name not in TASKS}
        return {**TASKS, **others}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"fix {path.name} in the user folder: {error}") from error


def _task(name: str, value: Any) -> Task:
    if isinstance(value, str):
        return Task(value.strip())
    known = isinstance(value, dict) and set(value) <= {"question", "instruction"}
    if not known or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(
            f"{name!r} is neither a question nor an object with question and instruction"
        )
    return Task(**{key: text.strip() for key, text in value.items()})
