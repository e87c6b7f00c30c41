"""Questions about the demo model's world as files: pictures, and rows as `compare` reads them.

python -m tools.demo_model.question_files FOLDER [--items 150] [--split dev] [--seed 0]
python -m laser_core compare FOLDER/rows.jsonl FOLDER/pictures
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tools.demo_model.world import SPLITS, HeldOutItem, held_out_items

LOCATED = ("number", "owner", "colour", "rel", "bigger")  # there is always a box


def write_questions(folder: Path, items: Sequence[HeldOutItem]) -> None:
    """FOLDER/pictures and FOLDER/rows.jsonl; the folder must not exist."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number, item in enumerate(items):
        name = f"{number:04d}.png"
        item.picture.save(folder / "pictures" / name)
        row = {"id": f"{number}", "image": name, "question": item.question, "answer": item.answer}
        rows.append({**row, "boxes": [list(box) for box in item.evidence_boxes]})
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--items", type=int, default=150)
    parser.add_argument("--split", choices=SPLITS, default="dev")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    items = held_out_items(options.split, options.items, options.seed, types=LOCATED)
    write_questions(options.folder, items)


if __name__ == "__main__":
    main()
