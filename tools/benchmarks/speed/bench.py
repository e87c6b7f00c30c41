"""One model of the speed benchmark, timed and counted: its parts, the whole method, batches.

Knows the ways, the clock and the counters; knows no options, tables or files.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from laser_core import pipeline
from laser_core.engine.capture import RowCapture
from laser_core.engine.few_calls import equal_windows_together, has_graphs
from laser_core.engine.vision_windows import equal_windows_at_once
from laser_core.models.chat import Stream
from laser_core.models.lvlm import Lvlm
from laser_core.settings import DecodeSettings, LaserSettings
from laser_core.steps.attention import read_attention
from laser_core.steps.decode import decode
from tools.benchmarks.speed import ways
from tools.benchmarks.speed.count import MB, Counts, Floor, floor_of, flops, peak_bytes
from tools.benchmarks.speed.modes import QUESTION, Mode
from tools.benchmarks.speed.shapes import picture_of
from tools.benchmarks.speed.timing import Clock, ratio_of, rotated
from tools.testbed.lvlms import noise_picture

DECODED = (2, 34)  # answers whose difference gives the time of a token


@dataclass
class Bench:
    """A model, what it is asked, and how it is timed."""

    name: str
    lvlm: Lvlm
    device: str
    rounds: int

    def __post_init__(self) -> None:
        self.clock, self.picture = Clock(self.device), picture_of(self.name)
        self._counts: dict[tuple[Mode, str], Counts] = {}
        self._peaks: dict[tuple[Mode, str], float] = {}

    # ---- parts ---------------------------------------------------------------------------------

    @torch.inference_mode()
    def reading(self, with_peers: bool) -> dict[str, dict[str, float]]:
        """One prompt read without, with and by the peers' capture, and both branches; memory."""
        lvlm, settings = self.lvlm, LaserSettings()
        inputs = lvlm.encode(self.picture)
        asked = lvlm.branch_prompts(inputs, QUESTION, settings.prompt)[0]
        span = asked.spans[0]

        def body() -> Any:  # from an encoded picture on, as every way here
            _forget_rope_deltas(lvlm)
            prompt = lvlm.branch_prompts(inputs, QUESTION, settings.prompt)[0]
            given = ways.on_device(lvlm, ways.library_inputs(lvlm, prompt))
            return lvlm.body(**given, use_cache=True)

        def captured() -> None:
            with RowCapture(lvlm, rows=[-1], keys=slice(span.start, span.stop)) as capture:
                kept = body()
            capture.rows_by_layer()
            del kept

        def both() -> None:
            lvlm.release()
            read_attention(lvlm, inputs, QUESTION, settings.prompt)

        def peers() -> None:
            with ways.peers_attention(lvlm):
                ways.eager_rows(lvlm, lvlm.branch_prompts(inputs, QUESTION, settings.prompt)[0])

        def tower() -> None:
            with equal_windows_at_once(lvlm) if equal_windows_together(lvlm) else nullcontext():
                lvlm.body.get_image_features(**ways.on_device(lvlm, inputs.tensors))

        runs = {"plain": body, "capture": captured, "both branches": both, "the tower": tower}
        if with_peers and ways.peers_fit(lvlm, asked.length):
            runs["peers: capture"] = peers
        table = self.clock.interleaved(runs, self.rounds)
        for name, entry in table.items():
            lvlm.release()
            entry["peak_mb"] = peak_bytes(runs[name], self.device) / MB
        lvlm.release()
        table["plain"]["tokens"] = asked.length
        return table

    @torch.inference_mode()  # both alike: generate() alone would run without
    def decoding(self) -> dict[str, float]:
        """Milliseconds per token: the library's answer, ours of one stream and of two (medians).

        On a GPU the time that reading the weights once takes, too.
        """
        lvlm = self.lvlm
        prompt = ways.prompt_of(lvlm, self.picture, QUESTION, LaserSettings())
        stream = Stream(prompt, shared_prefix=True)

        def ours(tokens: int, negative: Stream | None = None) -> None:
            decode(lvlm, stream, negative, DecodeSettings(max_tokens=tokens, adaptive=0.0))

        ways_ = {
            "plain": lambda tokens: ways.generated(lvlm, [prompt], tokens),
            "one row": ours,
            "two rows": lambda tokens: ours(tokens, stream),
        }
        times: dict[str, list[float]] = {name: [] for name in ways_}
        for number in range(self.rounds + 1):
            for name in rotated(list(ways_), number):
                short, long = (self.clock(partial(ways_[name], tokens)) for tokens in DECODED)
                if number:
                    times[name].append(1e3 * (long - short) / (DECODED[1] - DECODED[0]))
        lvlm.release()
        medians = {f"{name}, ms": float(np.median(taken)) for name, taken in times.items()}
        if self.clock.gpu:
            medians["weights, ms"] = 1e3 * self._seconds_for_weights()
        return medians | ratio_of(times["two rows"], times["plain"])

    def _seconds_for_weights(self) -> float:
        """What a GPU's memory takes to give the decoder's and the head's weights once."""
        parts = self.lvlm.model.get_decoder(), self.lvlm.model.get_output_embeddings()
        weights = sum(one.nbytes for part in parts for one in part.parameters())
        sample = torch.zeros(2**30, dtype=torch.uint8, device=self.device)
        copies = [self.clock(sample.clone) for _ in range(1 + self.rounds)][1:]
        return weights / (2 * sample.nbytes) * float(np.median(copies))  # a copy reads and writes

    # ---- the whole method ----------------------------------------------------------------------

    def whole(self, mode: Mode, tokens: int, with_peers: bool) -> dict[str, Any]:
        """Time, counts, memory and floor of one mode's answer of `tokens` tokens."""
        settings = mode.settings(tokens)
        runs = {"plain": self._run(ways.plain, settings)}
        prompt = ways.prompt_of(self.lvlm, self.picture, QUESTION, settings)
        if with_peers and ways.peers_fit(self.lvlm, prompt.length):
            runs["peers"] = self._run(ways.peers, settings)
        runs["ours"] = self._run(ways.ours, settings)
        if has_graphs(self.lvlm):
            runs["plain_in_steps"] = self._run(ways.plain_in_steps, settings)
        table: dict[str, Any] = self.clock.interleaved(runs, self.rounds)
        read = {name: self._counted(mode, name).prefill_tokens for name in table}
        for name, entry in table.items():
            entry["prefill_tokens"] = read[name]
            entry["prefill_tokens_ratio"] = read[name] / read["plain"]
            entry["peak_mb"] = self._peak(mode, name, settings)
            entry["gflop"] = self._counted(mode, name).operations(tokens) / 1e9
        floor, sizes = self._floor(settings)
        against = {
            "gflop": floor.laser / 1e9,
            "plain_gflop": floor.plain / 1e9,
            "ratio": floor.ratio,
            "operations_over_floor": table["ours"]["gflop"] * 1e9 / floor.laser,
            **sizes,
        }
        asked = {"mode": mode.name, "tokens": tokens}
        return {**asked, "ways": table, "floor": against}

    def batch(self, mode: Mode, tokens: int, count: int) -> dict[str, Any]:
        """`count` pictures: the plain model's one by one and as one batch, ours in turn and side by
        side; memory."""
        settings, lvlm = mode.settings(tokens), self.lvlm
        pictures = [noise_picture(self.picture.size, seed) for seed in range(count)]

        def each(way: Callable) -> Callable[[], Any]:
            return lambda: [way(lvlm, one, QUESTION, settings) for one in pictures]

        def one_batch() -> None:
            with torch.inference_mode():
                prompts = [ways.prompt_of(lvlm, one, QUESTION, settings) for one in pictures]
                ways.generated(lvlm, prompts, tokens)

        def side_by_side() -> None:
            lvlm.prefix = None
            items = [(one, QUESTION) for one in pictures]
            for result in pipeline.answer_many(lvlm, items, settings, batch=count):
                assert not isinstance(result, Exception), result

        runs = {"plain": each(ways.plain), "plain, one batch": one_batch, "ours": each(ways.ours)}
        runs["ours, side by side"] = side_by_side
        table = self.clock.interleaved(runs, self.rounds)
        for name, entry in table.items():
            lvlm.release()
            entry["answers_a_second"] = count / entry["seconds"]
            entry["peak_mb"] = peak_bytes(runs[name], self.device) / MB
        return {"pictures": count, "tokens": tokens, "ways": table}

    def _counted(self, mode: Mode, way: str) -> Counts:
        """Counted once for answers of all lengths."""
        if (mode, way) not in self._counts:
            run = getattr(ways, way)
            self._counts[mode, way] = Counts.of(
                self.lvlm, lambda tokens: self._run(run, mode.settings(tokens))()
            )
        return self._counts[mode, way]

    def _peak(self, mode: Mode, way: str, settings: LaserSettings) -> float:
        """Megabytes, measured once, at the first length asked for; call it after a warm-up."""
        if (mode, way) not in self._peaks:
            self.lvlm.release()
            run = self._run(getattr(ways, way), settings)
            self._peaks[mode, way] = peak_bytes(run, self.device) / MB
        return self._peaks[mode, way]

    def _run(self, way: Callable, settings: LaserSettings) -> Callable[[], Any]:
        return lambda: way(self.lvlm, self.picture, QUESTION, settings)

    @torch.inference_mode()
    def _floor(self, settings: LaserSettings) -> tuple[Floor, dict[str, int]]:
        lvlm = self.lvlm
        found = pipeline.locate(lvlm, self.picture, QUESTION, settings)
        asked, free = lvlm.branch_prompts(found.inputs, QUESTION, settings.prompt)
        positive, negative = ways.both_streams(lvlm, found)
        streams, tokens = (positive.prompt, negative.prompt), settings.decode.max_tokens
        floor = floor_of(lvlm, asked, free, streams, tokens, self._vision_flops)
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
            total = flops(lambda: lvlm.body(**given, use_cache=False))
        finally:
            hook.remove()
        return total - flops(lambda: lvlm.model.get_decoder()(**decoder[0]))


def _forget_rope_deltas(lvlm: Lvlm) -> None:
    if hasattr(lvlm.body, "rope_deltas"):
        lvlm.body.rope_deltas = None  # the library keeps the last prompt's
