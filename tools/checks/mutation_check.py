"""Does the test suite notice? Breaks one line at a time in a copy and runs the tests that should.

    python -m tools.checks.mutation_check [NAME ...]

Prints a table: what was broken, and the test that caught it. Exit code 1: a mutation survived. Exit
code 2: a line to break no longer exists (then fix MUTATIONS), or a test fails with nothing broken.
The repository itself is not touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("__init__.py", "laser_core", "nodes", "tests", "tools", "pyproject.toml")
LIMIT_SECONDS = 300


@dataclass(frozen=True)
class Mutation:
    """`before`, which is there once in `file`, becomes `after`; `tests`: pytest's arguments."""

    name: str
    file: str
    before: str
    after: str
    tests: str


MUTATIONS = (
    Mutation("sign of the contrast", "laser_core/steps/vaq.py",
             "relu(with_query - without_query)", "relu(without_query - with_query)",
             "tests/core/test_vaq.py"),
    Mutation("missing ReLU", "laser_core/steps/vaq.py",
             "torch.relu(with_query - without_query)", "(with_query - without_query)",
             "tests/core/test_vaq.py"),
    Mutation("sum instead of the L2 norm", "laser_core/steps/vaq.py",
             "vector_norm(contrast, dim", "vector_norm(contrast, ord=1, dim",
             "tests/core/test_vaq.py"),
    Mutation("mean over all heads", "laser_core/steps/vaq.py",
             "reduce(contrast[row, heads]", "reduce(contrast[row]",
             "tests/core/test_vaq.py"),
    Mutation("worst layer instead of the best", "laser_core/steps/vaq.py",
             "chosen(ranked[0], weights={ranked[0]: 1.0}",
             "chosen(ranked[-1], weights={ranked[-1]: 1.0}",
             "tests/core/test_vaq.py"),
    Mutation("the family's band is not searched", "laser_core/steps/vaq.py",
             "own if given == OF_FAMILY else given", "given if given >= 0 else 0.0",
             "tests/core/test_vaq.py"),
    Mutation("depth as a share of the layers with maps", "laser_core/steps/vaq.py",
             "n / (count - 1) for n in numbers", "n / (len(numbers) - 1) for n in numbers",
             "tests/core/test_vaq.py"),
    Mutation("a state that goes on after it was kept", "laser_core/engine/caches.py",
             "layer.recurrent_states[0].clone()", "layer.recurrent_states[0]",
             "tests/core/test_pipeline.py -k sure_crop"),
    Mutation("limits that count one frame", "laser_core/models/image_processors.py",
             "area *= image_processor.temporal_patch_size", "area *= 1",
             "tests/core/test_families.py -k limits_hold"),
    Mutation("the last look is believed", "laser_core/steps/certainty.py",
             "if sure_of(read) > surest:", "if sure_of(read) > 0:",
             "tests/core/test_looks.py"),
    Mutation("it looks on when it is sure", "laser_core/steps/certainty.py",
             "while surest < decoding.adaptive and", "while surest < 2 and",
             "tests/core/test_looks.py"),
    Mutation("a second look of the same size", "laser_core/steps/crop.py",
             "LOOK_SHRINKS = 0.7", "LOOK_SHRINKS = 0.9",
             "tests/core/test_looks.py"),
    Mutation("layers weighed evenly", "laser_core/steps/vaq.py",
             "if total == 0 else scores / total", "if total >= 0 else scores / total",
             "tests/core/test_vaq.py"),
    Mutation("axis order of the map", "laser_core/steps/attention.py",
             '"l h (gh gw) -> l h gh gw"', '"l h (gw gh) -> l h gh gw"',
             "tests/core/test_pipeline.py -k layer_and_map"),
    Mutation("answers asked for in a single word", "laser_core/models/lvlm.py",
             "settings.instruction.strip() or self.instruction",
             "settings.instruction.strip() or self.locate_instruction",
             "tests/core/test_prompts.py -k prompt_that_answers"),
    Mutation("certainty of the prompt that locates", "laser_core/steps/certainty.py",
             "if known is not None and locating == answering:", "if known is not None:",
             "tests/core/test_prompts.py -k certainty_is"),
    Mutation("branches see each other", "laser_core/engine/branches.py",
             "seen[row, :, end - past :, begin:end] = False", "pass",
             "tests/core/test_capture.py"),
    Mutation("an answer's end is not scored", "laser_core/engine/likelihood.py",
             "total += float(torch.stack(closed).logsumexp(0))", "pass",
             "tests/core/test_check.py -k librarys"),
    Mutation("an answer's own mark is no end", "laser_core/engine/likelihood.py",
             "lvlm.chat.answer_end(read.prompt)", "list[int]()",
             "tests/core/test_check.py -k marks"),
    Mutation("a smaller part of the mask is kept", "laser_core/output/masks.py",
             "_filled(parts == held.argmax())", "_filled(parts == held[1:].argmin() + 1)",
             "tests/core/test_find.py -k cleaned"),
    Mutation("pixels read as thousandths", "laser_core/models/grounding.py",
             "if grounding.unit == THOUSANDTHS:", "if grounding.unit:",
             "tests/core/test_grounding.py"),
    Mutation("a step in place sees beyond the window", "laser_core/engine/masks.py",
             "(keys > queries[:, None] - text.sliding_window)", "(keys >= 0)",
             "tests/core/test_few_calls.py -k sliding"),
    Mutation("a picture is read causally", "laser_core/engine/masks.py",
             "mask = mask | same_picture", "pass",
             "tests/core/test_masks.py"),
    Mutation("a stretch cuts a picture", "laser_core/engine/reading.py",
             "spans if masked else ()", "()",
             "tests/core/test_decode.py -k stretches"),
    Mutation("a graph's rehearsal counts", "laser_core/engine/fixed_step.py",
             "        self._place.index.fill_(self.length)\n        self._positions.copy_(before)",
             "        self._place.index.fill_(self.length)",
             "tests/core/test_few_calls.py -k growing"),
    Mutation("a graph reads weights that moved", "laser_core/engine/fixed_step.py",
             " and self._weights == _addresses(self._lvlm)", "",
             "tests/core/test_few_calls.py -k moved"),
    Mutation("windows in another order", "laser_core/engine/vision_windows.py",
             "torch.cat(attended)[places]", "torch.cat(attended)",
             "tests/core/test_few_calls.py -k same_features"),
    Mutation("off by one patch", "laser_core/geometry.py",
             "self.view.x1 + column * width, ", "self.view.x1 + (column + 1) * width, ",
             "tests/core/test_geometry.py"),
    Mutation("x and y swapped", "laser_core/geometry.py",
             "(x - self.view.x1) / width", "(y - self.view.x1) / width",
             "tests/core/test_geometry.py"),
    Mutation("window off by one pixel", "laser_core/steps/crop.py",
             "round(x - width / 2), 0)", "round(x - width / 2) + 1, 0)",
             "tests/core/test_crop.py"),
    Mutation("margin ignored", "laser_core/steps/crop.py",
             "inner = width - 2 * margin_x, height - 2 * margin_y", "inner = width, height",
             "tests/core/test_crop.py"),
    Mutation("mask not applied", "laser_core/steps/counterfactual.py",
             "blocked = mask.cpu().numpy() > 0", "blocked = mask.cpu().numpy() > 1",
             "tests/core/test_counterfactual.py"),
    Mutation("weakest patches blocked", "laser_core/steps/counterfactual.py",
             "torch.sort(strengths, descending=True", "torch.sort(strengths, descending=False",
             "tests/core/test_counterfactual.py"),
    Mutation("streams swapped", "laser_core/steps/decode.py",
             "positive + alpha * (positive - negative)", "negative + alpha * (negative - positive)",
             "tests/core/test_decode.py -k 'formula or two_loops'"),
    Mutation("beta ignored", "laser_core/steps/decode.py",
             "if beta > 0:", "if beta > 1:",
             "tests/core/test_decode.py -k 'formula or beta'"),
    Mutation("hook not removed", "laser_core/engine/two_streams.py",
             "            hook.remove()", "            pass",
             "tests/core/test_decode.py -k no_hook"),
    Mutation("padding not counted in positions", "laser_core/engine/two_streams.py",
             "offsets = deltas - torch.tensor(pads)", "offsets = deltas",
             "tests/core/test_decode.py -k unequal"),
    Mutation("padding of a batch is seen", "laser_core/engine/padded.py",
             "seen[row, past + before[row] :] = 1", "seen[row, past:] = 1",
             "tests/core/test_side_by_side.py -k unequal"),
    Mutation("a batch that is too large is tried again", "laser_core/engine/together.py",
             "size = max(1, len(part) // 2)", "size = max(1, size - 1)",
             "tests/core/test_side_by_side.py -k halves"),
    Mutation("kernel not restored", "laser_core/engine/kernels.py",
             "            del ALL_ATTENTION_FUNCTIONS[implementation]\n            if own:",
             "            if own:",
             "tests/core/test_kernels.py tests/core/test_capture.py"),
    Mutation("heads in the wrong order", "laser_core/engine/kernels.py",
             '"b (kv group) 1 d -> b kv group d"', '"b (group kv) 1 d -> b kv group d"',
             "tests/core/test_kernels.py"),
    Mutation("batch order", "nodes/batches.py",
             "map(to_picture, batch_of(image, name))",
             "map(to_picture, batch_of(image, name).flip(0))",
             "tests/nodes/test_graphs.py -k in_order"),
    Mutation("control tokens let through", "laser_core/models/chat_formats.py",
             'return re.sub(f"', 'return text or re.sub(f"',
             "tests/core/test_prompt_injection.py"),
    Mutation("pickles accepted", "laser_core/models/folder_check.py",
             "if found and not pickled:", "if found and pickled is None:",
             "tests/core/test_model_folder.py -k pickled"),
    Mutation("logits mixed in half", "laser_core/engine/two_streams.py",
             "output.logits[:, -1].float())", "output.logits[:, -1])",
             "tests/core/test_decode.py -k in_full"),
    Mutation("tokens without their spaces", "laser_core/engine/token_records.py",
             "self._decode([*self._before, *new])", "self._decode(new)",
             "tests/core/test_decode.py -k spaces"),
    Mutation("a row lost to rounding", "laser_core/models/layouts.py",
             "int(round(height * (tile_columns / width), 7))",
             "int(height * (tile_columns / width))",
             "tests/core/test_families.py -k lost_to_rounding"),
    Mutation("further windows without margin", "laser_core/steps/crop.py",
             "_best_window(density, size, windows, settings.margin)",
             "_best_window(density, size, windows)",
             "tests/core/test_crop.py -k keep_their_thing"),
    Mutation("damage not looked for", "laser_core/models/model_files.py",
             "whole = 8 + length + end == size", "whole = True",
             "tests/core/test_loading.py -k truncated"),
    Mutation("scales of 8-bit weights left out", "laser_core/models/widened.py",
             "stored.to(dtype) * scale.to(dtype)", "stored.to(dtype)",
             "tests/core/test_text_encoders.py -k rows_windows"),
    Mutation("a scale a block read as one", "laser_core/models/encoder_formats.py",
             "scale not in ((), (1,))", "scale == (0,)",
             "tests/core/test_text_encoders.py -k not_read"),
    Mutation("a scale for what comes in left out", "laser_core/models/widened.py",
             "return weight * columns.to(dtype)", "return weight",
             "tests/core/test_text_encoders.py -k rows_windows"),
    Mutation("Gemma's embeddings not scaled", "laser_core/models/encoder_loading.py",
             'getattr(module, "embed_scale", _ONE)', "_ONE",
             "tests/core/test_text_encoders.py -k rows_windows"),
    Mutation("Gemma's norms taken as stored", "laser_core/models/gguf_encoders.py",
             'above_one=("norm.weight",)', "above_one=()",
             "tests/core/test_gguf.py -k rows_windows"),
    Mutation("another model's mmproj taken", "laser_core/models/gguf_encoders.py",
             "found == (kind.projector, width)", "bool(found)",
             "tests/core/test_gguf.py -k decoder_alone"),
    Mutation("what groups lie below zero left out", "laser_core/models/gguf_weights.py",
             "scaled if below is None else scaled.sub_(below[..., None])", "scaled",
             "tests/core/test_gguf.py -k blocks_are_widened"),
    Mutation("a truncated model searched by its own depth", "laser_core/models/lvlm.py",
             "depth * scale", "depth",
             "tests/core/test_text_encoders.py -k band"),
    Mutation("an incomplete copy taken", "laser_core/models/download.py",
             "for model in here if not model.missing", "for model in here",
             "tests/nodes/test_load.py -k incomplete"),
    Mutation("control characters shown", "laser_core/console.py",
             "return _CONTROLS.sub(", "return text or _CONTROLS.sub(",
             "tests/core/test_cli.py -k control"),
    Mutation("files of the user's overwritten", "laser_core/command_line/out_folder.py",
             "name not in earlier or _same", "_same",
             "tests/core/test_cli.py -k crop_png"),
    Mutation("penalty on the evidence's difference", "laser_core/engine/two_streams.py",
             "negative + (positive - rows[0])", "negative",
             "tests/core/test_decode.py -k repetition_penalty_equal"),
    Mutation("a thought left open where attention is read", "laser_core/models/lvlm.py",
             "settings.system, thought_closed=True", "settings.system",
             "tests/core/test_thoughts.py -k closed_where_attention"),
    Mutation("thoughts count towards the answer's limit", "laser_core/engine/generating.py",
             "answered = len(new) - thoughts.count", "answered = len(new)",
             "tests/core/test_thoughts.py -k do_not_count"),
    Mutation("half a row stays on a full disk", "laser_core/many/resumable_lines.py",
             "os.truncate(file.fileno(), start)", "pass",
             "tests/core/test_many.py -k full_disk"),
    Mutation("failed rows are not tried again", "laser_core/many/resumable_lines.py",
             'self.drop(lambda line: bool(line.get("error")))', "pass",
             "tests/benchmark/test_result_lines.py"),
    Mutation("a failed picture shifts the answers", "laser_core/many/laser_map.py",
             "while waiting[0][1]:", "while False:",
             "tests/core/test_many.py -k cannot_be_read"),
    Mutation("no room for the answer beside picture and crop", "laser_core/steps/answer_input.py",
             "if length + most <= context:", "if length <= context:",
             "tests/core/test_pipeline.py -k do_not_fit"),
    Mutation("token rows of a padded row not shifted", "laser_core/engine/token_rows.py",
             "slice(keys.start + pad, keys.stop + pad)", "slice(keys.start, keys.stop)",
             "tests/core/test_token_maps.py -k padded"),
    Mutation("a crop's token map left in the corner", "laser_core/geometry.py",
             "view=view.shift(window.x1, window.y1)", "view=view",
             "tests/core/test_token_maps.py -k lies_where"),
    Mutation("a draft read a token early", "laser_core/engine/last_rows.py",
             "min(prompt.length + most,", "min(prompt.length + most - 1,",
             "tests/core/test_read_at.py -k rows_equal"),
)  # fmt: skip


def main(names: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not names or any(name in m.name for name in names)]
    stale = [m.name for m in chosen if (ROOT / m.file).read_text("utf-8").count(m.before) != 1]
    if stale:
        print(f"fix MUTATIONS: the line of {', '.join(stale)} is no longer there once")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        for mutation in {m.tests: replace(m, after=m.before) for m in chosen}.values():
            if failed := _caught_by(mutation, Path(scratch) / "copy"):
                print(f"fix the tests first: {failed} fails with nothing broken")
                return 2
    survived = 0
    print(f"| {'broken':<34} | {'in':<28} | caught by |\n|{'-' * 36}|{'-' * 30}|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        for mutation in chosen:
            caught = _caught_by(mutation, copy)
            survived += caught is None
            print(f"| {mutation.name:<34} | {mutation.file:<28} | {caught or '**nothing**'} |",
                  flush=True)  # fmt: skip
    print(f"\n{len(chosen) - survived} of {len(chosen)} caught")
    return 1 if survived else 0


def _caught_by(mutation: Mutation, copy: Path) -> str | None:
    """The first test that fails on the mutation, None if it survives."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copy)
    file = copy / mutation.file
    file.write_text(file.read_text("utf-8").replace(mutation.before, mutation.after), "utf-8")
    options = [part.strip("'") for part in re.findall(r"'[^']*'|\S+", mutation.tests)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *options],
        cwd=copy, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    failed = re.search(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE)
    if done.returncode == 0:
        return None
    if not failed:  # a copy that does not even start proves nothing
        raise RuntimeError(f"{mutation.name}: no test ran\n{done.stdout[-2000:]}{done.stderr}")
    return failed[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
