"""Pictures of the demo model's world in the layout of public data sets: Parquet, pictures inside.

Columns as the hub's pages of lmms-lab/vstar-bench, jrzhang/TextVQA_GT_bbox, lmms-lab/POPE and
lmms-lab/RefCOCO have them. Needs pyarrow.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tools.demo_model.world import HeldOutItem, held_out_items


def write_public(folder: Path, count: int) -> None:
    """`count` questions of each, in a folder named as the repository is."""
    located = held_out_items("test", count, types=("number", "colour"))
    asked = held_out_items("test", count, types=("exist",))
    _write(folder / "vstar-bench", "test", [_vstar(n, one) for n, one in enumerate(located)])
    _write(folder / "TextVQA_GT_bbox", "train", [_textvqa(n, one) for n, one in enumerate(located)])
    _write(folder / "POPE", "test", [_pope(n, one) for n, one in enumerate(asked)])
    _write(folder / "RefCOCO", "val", [_refcoco(n, one) for n, one in enumerate(located)])


def _write(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    (folder / "data").mkdir(parents=True)
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)


def _image(item: HeldOutItem, number: int) -> dict[str, Any]:
    file = io.BytesIO()
    item.picture.resize((448, 448)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{number}.png"}


def _bbox(item: HeldOutItem) -> list[float]:
    x1, y1, x2, y2 = (edge / 2 for edge in item.evidence_boxes[0])
    return [x1, y1, x2 - x1, y2 - y1]


def _vstar(number: int, item: HeldOutItem) -> dict[str, Any]:
    options = [item.answer, "glass", "wood", "paper"]
    listed = "\n".join(f"({name}) {option}" for name, option in zip("ABCD", options, strict=True))
    text = f"{item.question}\n{listed}\n"
    text += "Answer with the option's letter from the given choices directly."
    return {"image": _image(item, number), "text": text, "category": "direct_attributes",
            "label": "A", "question_id": f"{number}"}  # fmt: skip


def _textvqa(number: int, item: HeldOutItem) -> dict[str, Any]:
    return {"image": _image(item, number), "question": item.question, "answer": [item.answer] * 10,
            "bbox": _bbox(item), "dataset_id": f"{number}"}  # fmt: skip


def _pope(number: int, item: HeldOutItem) -> dict[str, Any]:
    return {"id": f"{number}", "question_id": f"{number}", "question": item.question,
            "answer": item.answer, "image_source": "generated", "image": _image(item, number),
            "category": "random"}  # fmt: skip


def _refcoco(number: int, item: HeldOutItem) -> dict[str, Any]:
    return {"question_id": f"{number}", "image": _image(item, number), "question": "what is it ?",
            "answer": [item.question], "segmentation": [0.0], "bbox": _bbox(item), "iscrowd": 0,
            "file_name": f"{number}.png"}  # fmt: skip
