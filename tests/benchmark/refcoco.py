"""Pictures of the demo model's world with referring expressions, in the formats of RefCOCO."""

from __future__ import annotations

import json
from pathlib import Path

from tools.demo_model.world import HeldOutItem, held_out_items


def items_with_boxes(count: int) -> list[HeldOutItem]:
    return [item for item in held_out_items("test", 3 * count) if item.evidence_boxes][:count]


def write_formats(folder: Path, count: int) -> list[HeldOutItem]:
    """`count` items, one a picture: pictures/, own.jsonl, lmms_lab.json, refs.json, instances.json.

    Every expression is the item's question.
    """
    items = items_with_boxes(count)
    (folder / "pictures").mkdir(parents=True)
    own, lmms_lab, refs, images, annotations = [], [], [], [], []
    for number, item in enumerate(items):
        name = f"COCO_train2014_{number:012d}.png"
        item.picture.save(folder / "pictures" / name, compress_level=1)
        x1, y1, x2, y2 = item.evidence_boxes[0]
        own.append(
            {"id": f"item {number}", "image": name, "question": item.question,
             "box": [x1, y1, x2, y2]}
        )  # fmt: skip
        bbox = [x1, y1, x2 - x1, y2 - y1]
        lmms_lab.append(
            {"question_id": str(1000 + number), "question": "what is in the box ?",
             "answer": [item.question, f"  {item.question} "], "bbox": bbox,
             "file_name": f"COCO_train2014_{number:012d}_{1000 + number}.png", "iscrowd": 0}
        )  # fmt: skip
        sentences = [{"sent_id": 2 * number, "sent": item.question, "raw": "", "tokens": []}]
        refs.append(
            {"ref_id": number, "ann_id": 1000 + number, "image_id": 500 + number,
             "split": "val" if number % 2 else "testA", "sentences": sentences,
             "file_name": lmms_lab[-1]["file_name"], "category_id": 1, "sent_ids": [2 * number]}
        )  # fmt: skip
        images.append({"id": 500 + number, "file_name": name, "width": 1, "height": 1})
        annotations.append({"id": 1000 + number, "image_id": 500 + number, "bbox": bbox})
    lines = "".join(f"{json.dumps(row)}\n" for row in own)
    (folder / "own.jsonl").write_text(lines)
    (folder / "lmms_lab.json").write_text(json.dumps(lmms_lab))
    (folder / "refs.json").write_text(json.dumps(refs))
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": []})
    )
    return items
