"""Writes docs/reproduced.md: figures that people ran with real weights, beside published ones.

    python -m tools.build.reproduced_page

Reads docs/reproduced/*.json, each written by `python -m laser_core reproduce`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laser_core.evaluation.data_sets import DATA_SETS
from laser_core.evaluation.intervals import LEAST_PICTURES, in_words
from laser_core.evaluation.reproduce import NAMES
from laser_core.evaluation.reproduced import read_reproduced
from tools.build.markdown import markdown

ROOT = Path(__file__).resolve().parents[2]
PAGE, FOLDER = ROOT / "docs" / "reproduced.md", ROOT / "docs" / "reproduced"

ARXIV = "https://arxiv.org/abs/"
YARDSTICKS = (
    ("V\\*Bench", "ViCrop, relative attention", "2502.17422", "LLaVA-1.5-7B", "42.41", "62.30"),
    ("V\\*Bench", "CARVE", "2509.06461", "LLaVA-1.5-7B", "38.7", "66.5"),
    ("TextVQA", "ViCrop, relative attention", "2502.17422", "LLaVA-1.5-7B", "47.80", "55.17"),
    ("TextVQA", "CARVE", "2509.06461", "LLaVA-1.5-7B", "47.8", "58.2"),
    ("TextVQA", "CARVE", "2509.06461", "Qwen2.5-VL-7B", "75.0", "81.9"),
    ("POPE", "ViCrop, relative attention", "2502.17422", "LLaVA-1.5-7B", "85.27", "87.25"),
    ("POPE", "CARVE", "2509.06461", "LLaVA-1.5-7B", "83.6", "89.0"),
    ("RefCOCO, Attention Aggregation", "LASER", "2602.04304", "LLaVA-1.5", "", "41.77"),
)
"""Benchmark, method, arXiv, model, alone, with it; each by its authors' prompts and rules."""

HEAD = """\
# Reproduced figures

What people with real weights measured with this repository, by one command. Written by
`python -m tools.build.reproduced_page` from the files in `docs/reproduced/`.
"""
NONE = """\
**No file has been contributed yet.** We have run no weights of real models ourselves. What others
published stands below; what independent ports found is in
[method.md](method.md#what-others-measured).
"""
TAIL = """\
## What others published

In per cent. Other prompts, other resolutions, all of a data set: compare differences, not levels.

{yardsticks}

## Run it, and contribute the file

```bash
pip install pyarrow
python -m laser_core reproduce --model llava-hf/llava-1.5-7b-hf --suite small --download \\
    --out llava-1.5-7b-small.json
```

How, on which data and with which controls: [benchmarks.md](benchmarks.md#one-command-to-reproduce).
Put the file into `docs/reproduced/`, write this page and open a pull request. A test checks every
file: its fields, its counts, and that its figures and intervals follow from its rows.
"""


def page() -> str:
    """The page's text. Raises ValueError for a contributed file that is not whole."""
    files = {path.stem: read_reproduced(path) for path in sorted(FOLDER.glob("*.json"))}
    parts = [part for name, content in files.items() for part in _section(name, content)]
    header = ["Benchmark", "Method", "Model", "Alone", "With it"]
    rows = [
        [benchmark, f"[{method}]({ARXIV}{arxiv})", model, alone, with_it]
        for benchmark, method, arxiv, model, alone, with_it in YARDSTICKS
    ]
    tail = TAIL.format(yardsticks=markdown(header, rows))
    return "\n".join([HEAD, *(parts or [NONE]), tail])


def _section(name: str, content: dict[str, Any]) -> Iterator[str]:
    versions, hardware = content["versions"], content["hardware"]
    yield f"## {content['model']}, suite {content['suite']}\n"
    yield (
        f"`docs/reproduced/{name}.json`: commit {content['weights']['commit'] or 'not known'}, "
        f"{hardware['name']}, {hardware['dtype']}, transformers {versions['transformers']}, torch "
        f"{versions['torch']}. In per cent, 95 % intervals from a bootstrap over pictures, of "
        f"{LEAST_PICTURES} or more; a star where the interval of a difference excludes zero.\n"
    )
    for task, figures in content["figures"].items():
        rows = content["rows"][task]
        pictures, count, table = len(set(rows["groups"])), len(rows["ids"]), []
        for score, one in figures.items():
            over = in_words(one["over plain"], count, "+") if one["over plain"] else ""
            table.append([NAMES.get(score, score), in_words(one["mean"], count), over])
        yield f"**{DATA_SETS[task].title}**, {count} questions, {pictures} pictures\n"
        yield markdown(["", "score", "over plain"], table) + "\n"
    for task in content["data"]:
        if task not in content["rows"]:
            yield f"**{DATA_SETS[task].title}**: nothing could be measured\n"


def main() -> None:
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
