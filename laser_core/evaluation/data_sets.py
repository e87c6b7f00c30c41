"""Public data sets in the format they are published in: Parquet files with their pictures inside.

A data set is looked for in a local folder, else in the hub's cache, and fetched only where that is
asked for. Needs pyarrow, which comes with lmms-eval. Knows rows and files; knows no model.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import first_words
from ..geometry import Box
from ..pictures import to_picture
from .refcoco import digest_of
from .scoring import letter, vqa_accuracy, yes_or_no

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
Row = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """A question of a data set.

    look_for: what locates in its place, or "". answers: of people, or the one that is right. boxes:
    of what is asked about, in pixels. picture: the file's bytes.
    """

    id: str
    picture: bytes
    question: str
    look_for: str = ""
    answers: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()

    @property
    def group(self) -> str:
        """Equal for questions about one picture."""
        return hashlib.blake2b(self.picture, digest_size=8).hexdigest()

    def opened(self) -> Image.Image:
        """Raises ValueError for bytes that are no picture."""
        try:
            return to_picture(Image.open(io.BytesIO(self.picture)))
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise ValueError(f"fetch the data again: a picture is damaged ({error})") from error


@dataclass(frozen=True)
class DataSet:
    """title: for people. repository, split: on the hub. small: questions of the small suite.

    read: a row as a sample without its id and picture. score: of an answer, 0 to 1; None where only
    boxes are measured. instruction: how to answer.
    """

    title: str
    repository: str
    split: str
    small: int
    read: Callable[[Row], Row]
    score: Callable[[str, Sequence[str]], float] | None
    instruction: str = SHORT


def _vstar(row: Row) -> Row:
    question = row["text"].removesuffix(LETTER).strip()
    first = question.partition("(A)")[0].strip()  # its options lie nowhere on the picture
    return {"question": question, "look_for": first, "answers": (row["label"],)}


def _textvqa(row: Row) -> Row:
    answers = row["answer"] if "answer" in row else row["answers"]
    x, y, width, height = map(float, row["bbox"])
    boxes = (Box(x, y, x + width, y + height),)
    return {"question": row["question"].capitalize(), "answers": tuple(answers), "boxes": boxes}


def _pope(row: Row) -> Row:
    return {"question": row["question"].strip(), "answers": (row["answer"],)}


def _refcoco(row: Row) -> Row:
    x, y, width, height = map(float, row["bbox"])
    return {"question": row["answer"][0].strip(), "boxes": (Box(x, y, x + width, y + height),)}


DATA_SETS: dict[str, DataSet] = {
    "vstar": DataSet("V*Bench", "lmms-lab/vstar-bench", "test", 60, _vstar, letter, LETTER),
    "textvqa": DataSet(
        "TextVQA with boxes", "jrzhang/TextVQA_GT_bbox", "train", 200, _textvqa, vqa_accuracy
    ),
    "pope": DataSet("POPE", "lmms-lab/POPE", "test", 300, _pope, yes_or_no),
    "refcoco": DataSet(
        "RefCOCO val, Attention Aggregation", "lmms-lab/RefCOCO", "val", 200, _refcoco, None
    ),
}


def files_of(data: DataSet, folder: Path | None, download: bool) -> list[Path]:
    """A data set's Parquet files, in order.

    folder: holds one folder for each data set, named as its repository is. Raises ValueError,
    remedy first, where there are none and `download` is not set, or fetching fails.
    """
    name, pattern = data.repository.split("/")[1], f"{data.split}-*.parquet"
    if folder is not None:
        found = sorted((folder / name).rglob(pattern))
        if not found:
            raise ValueError(
                f"put {pattern} of {data.repository} below {str(folder / name)!r}, leave the data "
                "set out (--tasks) or leave out --data: there are none"
            )
        return found
    from huggingface_hub import snapshot_download

    try:
        cached = snapshot_download(
            data.repository, repo_type="dataset", allow_patterns=f"*{pattern}",
            local_files_only=not download,
        )  # fmt: skip
    except Exception as error:  # whatever client or network raise
        if not download:
            raise _absent(data) from error
        raise ValueError(
            f"check the network (proxy, HF_ENDPOINT), or give --data: {data.repository} cannot be "
            f"fetched ({first_words(error)})"
        ) from error
    found = sorted(Path(cached).rglob(pattern))
    if not found:
        raise _absent(data)
    return found


def _absent(data: DataSet) -> ValueError:
    return ValueError(
        f"give --data with a folder that has it, or --download: {data.repository} is not in the "
        "hub's cache, and nothing is fetched unasked"
    )


def digests(files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of each file by its name."""
    return {path.name: digest_of(path) for path in files}


def chosen(files: Sequence[Path], most: int = 0) -> list[int]:
    """The numbers of at most `most` rows, evenly spread over all (0: all).

    Raises ValueError as `samples` does.
    """
    total = sum(one.metadata.num_rows for one in _opened(files))
    count = min(most, total) or total
    return [index * total // count for index in range(count)]


def samples(data: DataSet, files: Sequence[Path], rows: Iterable[int]) -> Iterator[Sample]:
    """The questions in the rows of these numbers, in order; a question's id is its number.

    Raises ValueError, remedy first, for files in another layout, and without pyarrow.
    """
    wanted, first = set(rows), 0
    for one in _opened(files):
        for batch in one.iter_batches(batch_size=16):  # pictures take memory
            for index in sorted(wanted.intersection(range(first, first + batch.num_rows))):
                [row] = batch.slice(index - first, 1).to_pylist()
                yield _sample(data, row, index)
            first += batch.num_rows


def _opened(files: Sequence[Path]) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("install pyarrow (pip install pyarrow): it reads data sets") from error
    try:
        return [pyarrow.parquet.ParquetFile(path) for path in files]
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(
            f"fetch the data again: a file is damaged ({first_words(error)})"
        ) from error


def _sample(data: DataSet, row: Row, index: int) -> Sample:
    try:
        picture = row["image"]["bytes"]
        if not isinstance(picture, bytes):
            raise TypeError("a row has no picture inside")
        return Sample(f"{index}", picture, **data.read(row))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(
            f"fetch {data.repository} as it is published: row {index} has another layout "
            f"({type(error).__name__} {first_words(error)})"
        ) from error
