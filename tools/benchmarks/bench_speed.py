"""How long the whole method takes: the plain model, the peers' way and ours, beside their floor.

    python -m tools.benchmarks.bench_speed [--shapes llava qwen2.5-vl] [--answers 10] [--json FILE]

On a GPU, the 7B shapes in bf16, one model a command: times, then peak memory:

    python -m tools.benchmarks.bench_speed --gpu --shapes llava-1.5-7b --json FILE
    python -m tools.benchmarks.bench_speed --gpu --shapes qwen2.5-vl-7b --json ANOTHER
    python tools/benchmarks/bench_memory.py --gpu --json A_THIRD

`--gpu` changes defaults only (answers of 20, 1 and 200 tokens, batches of 4, three rounds): what is
given by hand stays. All inputs of the answer are measured at one length before the next; the last
length, if there are several, from the crop alone. Every row is written as it is done; a way or a
row that memory does not suffice for is left out with a note.

Every row starts from a picture and a question and ends with an answer of that many tokens.
Models have random weights of the named shape, built on the device; the demo model is the shipped
one. Ways run in turn, every round begun with another; a ratio is the median of the rounds' own
ratios, and what follows its ± half the distance of their quartiles. On the CPU, times are of the
process (one thread), not of the clock, so that others on the same machine disturb less; on a GPU,
of the clock. Tokens a second include the reading of picture and question.

Tokens and operations are counted, not timed, the operations of a long answer from those of short
ones. The floor is the least arithmetic of the same answer. "time / plain / floor" sets a ratio of
times against that ratio of operations: it tells how near the reading is to its floor. Decoding
waits for weights rather than arithmetic, and is in both times, already at 10 tokens: the longer
the answer against the prompt, the less the figure says.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from laser_core import pipeline
from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.settings import DecodeSettings, LaserSettings, LoadSettings
from tools.benchmarks.speed import ways
from tools.benchmarks.speed.bench import Bench
from tools.benchmarks.speed.modes import CROP, modes_of
from tools.benchmarks.speed.options import DTYPES, parsed, parser_of, record_of, save
from tools.benchmarks.speed.shapes import DEMO, lvlm_of_shape
from tools.benchmarks.speed.tables import HEADERS, rows_of
from tools.benchmarks.speed.timing import unless_full
from tools.build.markdown import markdown
from tools.demo_model.world import held_out_items

BATCH_TOKENS = 20  # of every answer in a batch
Rows = dict[str, list[list[str]]]


def equality(lvlm: Lvlm, questions: int) -> dict[str, float]:
    """The demo model's answers to generated questions: ours against the peers' way, as counts."""
    settings = LaserSettings(decode=DecodeSettings(max_tokens=3))
    same_tokens = same_layer = 0
    rows = logits = 0.0
    stop = lvlm.model.generation_config.eos_token_id
    for item in held_out_items("dev", questions):
        looks = lvlm, item.picture, item.question, settings
        slow, fast = ways.peers(*looks), pipeline.answer(*looks)
        tokens = [token.token_id for token in fast.answer.tokens]
        expected = slow.tokens
        if stop in expected:  # the peers' loops here do not stop by themselves
            expected = expected[: expected.index(stop) + 1]
        same_tokens += tokens == expected
        same_layer += fast.location.choice.layer == slow.layer
        first, maps = fast.answer.tokens[0], fast.location.maps
        for ours, theirs in (
            (first.logit_with, slow.logits[0]),
            (first.logit_without, slow.logits[1]),
        ):
            logits = max(logits, abs(ours - float(theirs[first.token_id])))
        for ours, theirs in (
            (maps.with_query, slow.maps.with_query),
            (maps.without_query, slow.maps.without_query),
        ):
            rows = max(rows, float((ours - theirs).abs().max()))
    return {
        "questions": questions,
        "same_tokens": same_tokens,
        "same_layer": same_layer,
        "largest_difference_rows": rows,
        "largest_difference_logits": logits,
    }


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--answers", nargs="+", type=int, default=[10])
    add("--batches", nargs="*", type=int, default=[])
    add("--rounds", type=int, default=5)
    add("--only", nargs="+", choices=HEADERS, default=list(HEADERS))
    add("--equality", type=int, metavar="N", help="only compare N answers with the peers' way")
    return parsed(parser, arguments, answers=[20, 1, 200], batches=[4], rounds=3)


def measurements(bench: Bench, chosen: argparse.Namespace) -> list[tuple[str, str, Callable]]:
    """What is to be measured of a model: (part, name in the record, run), in order."""
    peers = not chosen.no_peers
    every: list[tuple[str, str, Callable]] = [
        ("reading", "reading", partial(bench.reading, peers)),
        ("decoding", "decoding", bench.decoding),
    ]
    modes, lengths = modes_of(bench.lvlm), chosen.answers
    for index, tokens in enumerate(lengths):
        last = 0 < index == len(lengths) - 1
        for mode in modes[:1] if last else modes:
            run = partial(bench.whole, mode, tokens, peers)
            every.append(("whole", f"{mode.name}, {tokens}", run))
    for mode in modes:
        run = partial(bench.stages, mode, lengths[0])
        every.append(("stages", f"stages, {mode.name}", run))
    for count in chosen.batches:
        run = partial(bench.batch, CROP, BATCH_TOKENS, count)
        every.append(("batches", f"batch of {count}", run))
    return [one for one in every if one[0] in chosen.only]


def measure(name: str, chosen: argparse.Namespace, record: dict[str, Any], rows: Rows) -> None:
    """All of one model, added to the record (and its file) and to the rows one by one."""
    lvlm = unless_full(name, partial(lvlm_of_shape, name, chosen.device, DTYPES[chosen.dtype]))
    if lvlm is None:
        return
    bench = Bench(name, lvlm, chosen.device, chosen.rounds)
    entry = record["shapes"][name] = {}
    for part, key, run in measurements(bench, chosen):
        table = unless_full(f"{name}, {key}", run)
        if table is None:
            lvlm.release()
            continue
        entry[key] = table
        save(record, chosen.json)
        new = rows_of(part, name, table)
        rows[part] += new
        print(markdown(HEADERS[part], new), file=sys.stderr, flush=True)


def main() -> None:
    chosen = options()
    if chosen.equality:
        print(equality(load_lvlm(DEMO, LoadSettings(precision="fp32")), chosen.equality))
        return
    started, record = time.time(), record_of(chosen)
    rows: Rows = {part: [] for part in HEADERS}
    for name in chosen.shapes:
        measure(name, chosen, record, rows)
        gc.collect()  # the weights go before the next model's are made
    for part, lines in rows.items():
        if lines:
            print(markdown(HEADERS[part], lines), end="\n\n")
    print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
