"""A small task of lmms-eval from the demo model's world, to try `--model laser` without a download.

    python -m tools.lmms_eval.demo_task FOLDER [--items 40] [--seed 0]
    python -m lmms_eval --model laser --tasks laser_demo --include_path FOLDER --batch_size 1

Held-out questions of one word, scored by the harness's own exact match.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.demo_model.questions import INSTRUCTION
from tools.demo_model.world import held_out_items

TASK = "laser_demo"
_YAML = """\
task: {task}
dataset_path: imagefolder
dataset_kwargs:
  data_dir: {data}
test_split: test
output_type: generate_until
doc_to_visual: image
doc_to_text: !function laser_demo_utils.doc_to_text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 4
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    post_prompt: {post_prompt}
"""
_UTILS = '''\
"""How the task's questions are put."""


def doc_to_text(doc, lmms_eval_specific_kwargs):
    return doc["question"] + lmms_eval_specific_kwargs["post_prompt"]
'''


def write_task(folder: Path, items: int, seed: int = 0) -> None:
    """The task's YAML and its function, and a picture folder with the questions."""
    pictures = folder.resolve() / "data" / "test"
    pictures.mkdir(parents=True)
    rows = []
    for index, item in enumerate(held_out_items("test", items, seed)):
        name = f"{index:04d}.png"
        item.picture.save(pictures / name, compress_level=1)
        rows.append({"file_name": name, "question": item.question, "answer": item.answer})
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (pictures / "metadata.jsonl").write_text(lines, "utf-8")
    post_prompt = json.dumps(f"\n{INSTRUCTION}")
    data = json.dumps(str(pictures.parent))
    yaml = _YAML.format(task=TASK, data=data, post_prompt=post_prompt)
    (folder / f"{TASK}.yaml").write_text(yaml, "utf-8")
    (folder / "laser_demo_utils.py").write_text(_UTILS, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_task(options.folder, options.items, options.seed)


if __name__ == "__main__":
    main()
