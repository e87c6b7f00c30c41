"""How long the whole method takes: the plain model, the peers' way and ours, beside their floor.

    python tools/bench_speed.py [--shapes llava qwen2.5-vl] [--answers 10] [--targets] [--json FILE]
    python tools/bench_speed.py --gpu          # the 7B shapes in bf16: one command for a GPU

Every row starts from a picture and a question and ends with an answer of that many tokens.
Models have random weights of the named shape, built on the device; the demo model is the shipped
one. Ways run in turn, round after round; a ratio is the median of the rounds' own ratios, its
spread half the distance of their quartiles. On the CPU, times are of the process (one thread),
not of the clock, so that others on the same machine disturb less; on a GPU, of the clock. Tokens
and operations are counted, not timed; the floor is the least arithmetic of the same answer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from laser_core import pipeline
from laser_core.attention import read_attention
from laser_core.capture import RowCapture
from laser_core.decode import decode
from laser_core.loading import load_lvlm
from laser_core.lvlm import Lvlm
from laser_core.prefill import Stream
from laser_core.settings import (
    AnswerSettings,
    CounterfactualSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
    LoadSettings,
)
from tools.demo_model.world import held_out_items
from tools.markdown import markdown
from tools.speed import ways
from tools.speed.count import Floor, floor_of, flops, peak_bytes, prefill_tokens
from tools.speed.shapes import DEMO, NAMES, SHAPES, lvlm_of_shape, picture_of, versions

QUESTION = "what colour is the square to the left of the circle ?"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEERS_LIMIT = 9e9  # bytes of attention weights beyond which the peers' reading is left out
DECODED = (2, 34)  # answers whose difference gives the time of a token


@dataclass(frozen=True)
class Mode:
    """Which pictures the answer is read from, and what is blocked."""

    name: str
    answer_input: str
    block: str = "crop"
    quarter: bool = False

    def settings(self, tokens: int) -> LaserSettings:
        # A crop of a quarter of the picture's tokens shows a window small enough to be magnified
        crop = CropSettings(scale=0.35) if self.quarter else CropSettings()
        return LaserSettings(
            crop=crop,
            counterfactual=CounterfactualSettings(block=self.block),
            answer=AnswerSettings(self.answer_input, 0.25 if self.quarter else 1.0),
            decode=DecodeSettings(max_tokens=tokens),
        )


MODES = (
    Mode("crop only", "crop"),
    Mode("picture + crop, block: crop", "picture + crop"),
    Mode("picture + crop, block: both", "picture + crop", "picture and crop"),
)
QUARTER_MODES = tuple(
    dataclasses.replace(mode, name=f"{mode.name}, a quarter of the tokens", quarter=True)
    for mode in MODES[:2]
)


class Clock:
    """Seconds of process time on the CPU, of the clock on a GPU."""

    def __init__(self, device: str) -> None:
        self.gpu = device != "cpu"

    def __call__(self, run: Callable[[], Any]) -> float:
        if self.gpu:
            torch.cuda.synchronize()
        read = time.perf_counter if self.gpu else time.process_time
        started = read()
        run()
        if self.gpu:
            torch.cuda.synchronize()
        return read() - started

    def interleaved(
        self, runs: dict[str, Callable[[], Any]], rounds: int, base: str = "plain"
    ) -> dict[str, dict[str, float]]:
        """Each run's median seconds, and ratio to `base` with its spread; a warm-up round first."""
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                taken = self(run)
                if number:
                    seconds[name].append(taken)
        table = {}
        for name, taken in seconds.items():
            ratios = np.array(taken) / np.array(seconds[base])
            low, high = np.percentile(ratios, (25, 75))
            table[name] = {
                "seconds": float(np.median(taken)),
                "ratio": float(np.median(ratios)),
                "spread": float(high - low) / 2,
            }
        return table


@dataclass
class Bench:
    """A model, what it is asked, and how it is timed."""

    name: str
    lvlm: Lvlm
    device: str
    rounds: int

    def __post_init__(self) -> None:
        self.clock, self.picture = Clock(self.device), picture_of(self.name)

    # ---- parts ---------------------------------------------------------------------------------

    @torch.inference_mode()
    def reading(self, with_peers: bool) -> dict[str, dict[str, float]]:
        """One prefill with and without capture, both branches, and the peers' way; with memory."""
        lvlm, settings = self.lvlm, LaserSettings()
        inputs = lvlm.encode(self.picture)
        prompts = ways.both_prompts(lvlm, inputs, QUESTION, settings)
        asked = prompts[0]
        given = ways.on_device(lvlm, ways.library_inputs(lvlm, asked))
        span = asked.spans[0]

        def body() -> Any:
            _forget_rope_deltas(lvlm)
            return lvlm.model.model(**given, use_cache=True)

        def captured() -> None:
            with RowCapture(lvlm, rows=[-1], keys=slice(span.start, span.stop)) as capture:
                kept = body()
            capture.rows_by_layer()
            del kept

        def both() -> None:
            lvlm.release()
            read_attention(lvlm, inputs, QUESTION, settings.prompt)

        def eager(count: int) -> Callable[[], None]:
            def run() -> None:
                lvlm.model.set_attn_implementation("eager")
                try:  # all of it is kept until both are read, as the peers do
                    kept = [ways.eager_attention(lvlm, prompt) for prompt in prompts[:count]]
                    for attention, prompt in zip(kept, prompts, strict=False):
                        ways.last_rows(attention, prompt)
                finally:
                    lvlm.model.set_attn_implementation("sdpa")

            return run

        runs = {"plain": body, "capture": captured, "both branches": both}
        text = lvlm.model.config.get_text_config()
        heads = text.num_hidden_layers * text.num_attention_heads
        whole_attention = lvlm.dtype.itemsize * heads * asked.length**2
        for count, name in ((1, "peers: capture"), (2, "peers: both branches")):
            if with_peers and count * whole_attention < PEERS_LIMIT:
                runs[name] = eager(count)
        table = self.clock.interleaved(runs, self.rounds)
        for name, run in runs.items():
            lvlm.release()
            table[name]["peak_mb"] = peak_bytes(run, self.device) / 1e6
        lvlm.release()
        table["plain"]["tokens"] = asked.length
        return table

    def decoding(self) -> dict[str, float]:
        """Milliseconds per token of the library's answer and of two streams' (medians)."""
        lvlm = self.lvlm
        prompt = ways.prompt_of(lvlm, self.picture, QUESTION, LaserSettings())
        stream = Stream(prompt, shared_prefix=True)
        ways_ = {
            "plain": lambda tokens: ways.generated(lvlm, [prompt], tokens),
            "two rows": lambda tokens: decode(
                lvlm, stream, stream, DecodeSettings(max_tokens=tokens)
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in ways_}
        for number in range(self.rounds + 1):
            for name, way in ways_.items():
                short, long = (self.clock(lambda n=n, way=way: way(n)) for n in DECODED)
                if number:
                    times[name].append(1e3 * (long - short) / (DECODED[1] - DECODED[0]))
        lvlm.release()
        ratios = np.array(times["two rows"]) / np.array(times["plain"])
        low, high = np.percentile(ratios, (25, 75))
        medians = {f"{name}, ms": float(np.median(taken)) for name, taken in times.items()}
        return {**medians, "ratio": float(np.median(ratios)), "spread": float(high - low) / 2}

    # ---- the whole method ----------------------------------------------------------------------

    def whole(self, mode: Mode, tokens: int, with_peers: bool) -> dict[str, Any]:
        """Time, counts and floor of one mode's answer of `tokens` tokens."""
        settings = mode.settings(tokens)
        runs = {
            "plain": self._run(ways.plain, settings),
            "ours": self._run(ways.ours, settings),
        }
        if with_peers:
            runs["peers"] = self._run(ways.peers, settings)
        table: dict[str, Any] = self.clock.interleaved(runs, self.rounds)
        one = dataclasses.replace(settings, decode=DecodeSettings(max_tokens=1))
        read = {
            name: prefill_tokens(self.lvlm, self._run(getattr(ways, name), one)) for name in runs
        }
        floor, sizes = self._floor(settings)
        for name, entry in table.items():
            entry["prefill_tokens"] = read[name]
            entry["prefill_tokens_ratio"] = read[name] / read["plain"]
            entry["gflop"] = flops(runs[name]) / 1e9
            entry["tokens_per_second"] = tokens / entry["seconds"]
        table["floor"] = {
            "gflop": floor.laser / 1e9,
            "plain_gflop": floor.plain / 1e9,
            "ratio": floor.ratio,
            "operations_over_floor": table["ours"]["gflop"] * 1e9 / floor.laser,
            "time_over_floor": table["ours"]["ratio"] / floor.ratio,
            **sizes,
        }
        table["stages"] = self._stages(settings)
        return table

    def batch(self, mode: Mode, tokens: int, count: int) -> dict[str, Any]:
        """`count` pictures: the plain model's one by one and as one batch, ours in turn."""
        settings, lvlm = mode.settings(tokens), self.lvlm
        pictures = [self.picture.rotate(90 * number) for number in range(count)]
        if self.picture.size[0] != self.picture.size[1]:  # turned by 180 degrees the size stays
            pictures = [self.picture.rotate(180 * number) for number in range(count)]

        def each(way: Callable) -> Callable[[], None]:
            return lambda: [way(lvlm, one, QUESTION, settings) for one in pictures]

        def one_batch() -> None:
            with torch.inference_mode():
                prompts = [ways.prompt_of(lvlm, one, QUESTION, settings) for one in pictures]
                ways.generated(lvlm, prompts, tokens)

        runs = {"plain": each(ways.plain), "plain, one batch": one_batch, "ours": each(ways.ours)}
        return self.clock.interleaved(runs, self.rounds)

    def _run(self, way: Callable, settings: LaserSettings) -> Callable[[], Any]:
        return lambda: way(self.lvlm, self.picture, QUESTION, settings)

    def _stages(self, settings: LaserSettings) -> dict[str, float]:
        """Seconds of each stage of one answer, by the same clock."""
        lvlm, stages = self.lvlm, {}
        lvlm.release()
        stages["encode the picture"] = self.clock(lambda: lvlm.encode(self.picture))
        found: list[pipeline.Location] = []
        stages["locate"] = self.clock(
            lambda: found.append(pipeline.locate(lvlm, self.picture, QUESTION, settings))
        )
        result: list[pipeline.LaserAnswer] = []
        stages["answer"] = self.clock(
            lambda: result.append(
                pipeline.answer(lvlm, self.picture, QUESTION, settings, location=found[0])
            )
        )
        stages["of which decoding (by the clock)"] = result[0].answer.seconds_decoding
        lvlm.release()
        return stages

    @torch.inference_mode()
    def _floor(self, settings: LaserSettings) -> tuple[Floor, dict[str, int]]:
        lvlm = self.lvlm
        found = pipeline.locate(lvlm, self.picture, QUESTION, settings)
        one = dataclasses.replace(settings, decode=DecodeSettings(max_tokens=1))
        result = pipeline.answer(lvlm, self.picture, QUESTION, one, location=found)
        mask, blocked = result.mask, result.counterfactual
        looks = found.placement.windows, QUESTION, settings, found.inputs
        positive = pipeline.positive_stream(lvlm, found.picture, *looks)
        negative = pipeline.negative_stream(lvlm, positive, blocked, mask, *looks)
        prompts = ways.both_prompts(lvlm, found.inputs, QUESTION, settings)
        streams = positive.prompt, negative.prompt
        floor = floor_of(lvlm, *prompts, streams, settings.decode.max_tokens, self._vision_flops)
        lvlm.release()
        crop = positive.prompt.pictures[-1].token_count
        return floor, {"picture_tokens": found.inputs.token_count, "crop_tokens": crop}

    def _vision_flops(self, picture: Any) -> int:
        """Operations of a picture's vision pass: what a prompt with it takes beyond its decoder."""
        lvlm = self.lvlm
        prompt = lvlm.prompt([picture], "what ?")
        decoder: list[Any] = []
        hook = lvlm.model.get_decoder().register_forward_pre_hook(
            lambda module, args, kwargs: decoder.append(kwargs), with_kwargs=True
        )
        given = ways.on_device(lvlm, ways.library_inputs(lvlm, prompt))
        try:
            total = flops(lambda: lvlm.model.model(**given, use_cache=False))
        finally:
            hook.remove()
        return total - flops(lambda: lvlm.model.get_decoder()(**decoder[0]))


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


def _forget_rope_deltas(lvlm: Lvlm) -> None:
    if hasattr(lvlm.model.model, "rope_deltas"):
        lvlm.model.model.rope_deltas = None  # the library keeps the last prompt's


# ---- tables ------------------------------------------------------------------------------------


def whole_rows(shape: str, mode: str, tokens: int, entry: dict[str, Any]) -> list[list[str]]:
    rows = []
    for way in ("plain", "peers", "ours"):
        if way in entry:
            one = entry[way]
            cells = [shape, mode, str(tokens), way, f"{one['seconds']:.2f}"]
            cells += [f"{one['ratio']:.2f} ± {one['spread']:.2f}"]
            cells += [f"{one['prefill_tokens']} ({one['prefill_tokens_ratio']:.3f})"]
            cells += [f"{one['gflop']:.1f}", f"{one['tokens_per_second']:.1f}"]
            floor = entry["floor"]
            shown = way == "ours"
            cells += [f"{floor['ratio']:.2f}" if shown else ""]
            cells += [f"{floor['operations_over_floor']:.3f}" if shown else ""]
            cells += [f"{floor['time_over_floor']:.2f}" if shown else ""]
            rows.append(cells)
    return rows


WHOLE_HEADER = (
    "model", "answer input", "answer", "way", "s", "time / plain", "prefill tokens (/ plain)",
    "GFLOP", "tokens / s", "floor / plain", "operations / floor", "time / plain / floor",
)  # fmt: skip


def reading_rows(shape: str, table: dict[str, dict[str, float]]) -> list[list[str]]:
    plain = table["plain"]
    return [
        [
            shape,
            str(plain["tokens"]),
            name,
            f"{one['seconds']:.3f}",
            f"{one['ratio']:.3f} ± {one['spread']:.3f}",
            f"{one['peak_mb']:.0f}",
            f"{one['peak_mb'] / plain['peak_mb']:.2f}",
        ]
        for name, one in table.items()
    ]


READING_HEADER = ("model", "N", "way", "s", "time / plain", "extra peak MB", "/ plain")


def options() -> argparse.Namespace:
    parts = ("reading", "whole", "decoding", "batches")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--shapes", nargs="+", choices=NAMES, default=["llava", "qwen2.5-vl"])
    add("--answers", nargs="+", type=int, default=[10])
    add("--batches", nargs="*", type=int, default=[])
    add("--rounds", type=int, default=5)
    add("--device", default="cpu")
    add("--dtype", choices=DTYPES, default="fp32")
    add("--threads", type=int, default=1)
    add("--only", nargs="+", choices=parts, default=parts)
    add("--no-peers", action="store_true", help="leave the peers' way out")
    add("--equality", type=int, metavar="N", help="only compare N answers with the peers' way")
    add("--gpu", action="store_true", help="the 7B shapes on a GPU, bf16, answers of 1, 20, 200")
    add("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.gpu:
        if not torch.cuda.is_available():
            parser.error("run --gpu on a machine with a CUDA GPU: PyTorch finds none here")
        chosen.shapes = ["llava-1.5-7b", "qwen2.5-vl-7b"]
        chosen.answers, chosen.batches = [1, 20, 200], [4]
        chosen.device, chosen.dtype = "cuda", "bf16"
    return chosen


def main() -> None:
    chosen = options()
    torch.set_num_threads(chosen.threads)
    if chosen.equality:
        print(equality(load_lvlm(DEMO, LoadSettings(precision="fp32")), chosen.equality))
        return
    started, peers = time.time(), not chosen.no_peers
    record: dict[str, Any] = {"versions": versions(), "options": vars(chosen) | {"json": None}}
    record["shapes"] = {}
    reading, whole, decoding, batches = [], [], [], []
    for name in chosen.shapes:
        lvlm = lvlm_of_shape(name, chosen.device, DTYPES[chosen.dtype])
        bench = Bench(name, lvlm, chosen.device, chosen.rounds)
        entry = record["shapes"][name] = {}
        if "reading" in chosen.only:
            entry["reading"] = bench.reading(peers)
            reading += reading_rows(name, entry["reading"])
        if "decoding" in chosen.only:
            entry["decoding"] = one = bench.decoding()
            decoding.append([name, f"{one['plain, ms']:.1f}", f"{one['two rows, ms']:.1f}",
                             f"{one['ratio']:.2f} ± {one['spread']:.2f}"])  # fmt: skip
        native = name != DEMO and "qwen" in SHAPES[name].model_type
        if "whole" in chosen.only:
            for mode in MODES + QUARTER_MODES * native:
                for tokens in chosen.answers:
                    table = bench.whole(mode, tokens, peers)
                    entry[f"{mode.name}, {tokens}"] = table
                    whole += whole_rows(name, mode.name, tokens, table)
                    print(markdown(WHOLE_HEADER, whole[-3:]), file=sys.stderr, flush=True)
        if "batches" in chosen.only:
            for count in chosen.batches:
                table = bench.batch(MODES[0], chosen.answers[0], count)
                entry[f"batch of {count}"] = table
                batches += [
                    [name, str(count), way, f"{one['seconds']:.2f}", f"{one['ratio']:.2f}"]
                    for way, one in table.items()
                ]
        del bench, lvlm
    for header, rows in (
        (READING_HEADER, reading),
        (("model", "plain, ms a token", "two streams", "ratio"), decoding),
        (WHOLE_HEADER, whole),
        (("model", "pictures", "way", "s", "time / plain"), batches),
    ):
        if rows:
            print(markdown(header, rows), end="\n\n")
    print(f"{time.time() - started:.0f} s")
    if chosen.json:
        chosen.json.write_text(json.dumps(record, indent=1), "utf-8")


if __name__ == "__main__":
    main()
