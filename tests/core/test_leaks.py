"""Whatever happens in a run, nothing stays behind: no hook, tensor, patched kernel or file."""

from __future__ import annotations

import contextlib
import gc
import itertools
import tempfile

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laser_core import pipeline
from laser_core.engine import two_streams
from laser_core.settings import CropSettings, DecodeSettings, LaserSettings
from tools.testbed.lvlms import lvlm_of, noise_picture

QUESTION = "what colour is the square ?"
SHORT = LaserSettings(crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=2))
SIZES = [(90, 60), (60, 90), (120, 120), (30, 200)]


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


def hooks_of(lvlm):
    """Hooks of ours; the library keeps some of its own."""
    return [
        hook
        for module in lvlm.model.modules()
        for kind in (module._forward_hooks, module._forward_pre_hooks)
        for hook in kind.values()
        if hook.__module__.startswith("laser_core")
    ]


def kernels():
    return {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS.valid_keys()}


def live_bytes():
    """Of all tensors that anything still refers to, parameters apart."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def interrupted_run(lvlm, size, stop):
    """A run that is interrupted at its progress report number `stop`; False if it ends before."""
    calls = itertools.count()

    def progress(stage, done, total):
        if next(calls) == stop:
            raise Interrupt

    try:
        pipeline.answer(lvlm, noise_picture(size), QUESTION, SHORT, progress=progress)
    except Interrupt:
        return True
    return False


def test_many_runs_of_two_models_with_interrupts_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lvlms = [lvlm_of(kind, fresh=True) for kind in ("llava", "qwen2_5_vl")]
    before, taken, stopped = kernels(), [], 0
    for turn in range(3):
        for size, lvlm in itertools.product(SIZES, lvlms):
            stopped += interrupted_run(lvlm, size, stop=turn * 2)
        for lvlm in lvlms:
            lvlm.release()
        taken.append(live_bytes())
    assert stopped == 3 * len(SIZES) * len(lvlms)
    assert taken[1] <= taken[0]
    assert taken[2] <= taken[0]
    assert not any(map(hooks_of, lvlms))
    assert kernels() == before
    assert not list(tmp_path.iterdir())


def stages_of(lvlm):
    """What a run calls that takes memory: vision tower, decoder layers, language head."""
    body = lvlm.model.model
    tower = getattr(body, "visual", None) or body.vision_tower
    return [tower, *lvlm.attention_modules[-1:], lvlm.model.lm_head]


def test_memory_that_runs_out_in_any_step_is_given_back():
    lvlm = lvlm_of("qwen2_5_vl", fresh=True)
    expected = pipeline.answer(lvlm, noise_picture(), QUESTION, SHORT).answer.tokens
    lvlm.release()
    before, kept = kernels(), live_bytes()
    for step in itertools.count():
        calls = itertools.count()

        def fail(*args, step=step, calls=calls):
            if next(calls) == step:
                raise torch.cuda.OutOfMemoryError("out of memory")

        hooks = [module.register_forward_pre_hook(fail) for module in stages_of(lvlm)]
        try:
            pipeline.answer(lvlm, noise_picture(), QUESTION, SHORT)
            break
        except torch.cuda.OutOfMemoryError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        lvlm.release()
        assert live_bytes() <= kept, f"step {step}"
        assert not hooks_of(lvlm)
        assert kernels() == before
    assert step > 8, "every forward of a run was made to fail once"
    lvlm.release()
    assert pipeline.answer(lvlm, noise_picture(), QUESTION, SHORT).answer.tokens == expected


def test_memory_that_runs_out_while_streams_are_merged_leaves_no_prefix_in_larger_tensors(
    monkeypatch,
):
    lvlm = lvlm_of("llava", fresh=True)
    expected = pipeline.answer(lvlm, noise_picture(), QUESTION, SHORT).answer.tokens
    lvlm.release()
    kept, merged, calls = live_bytes(), two_streams.merge_layer, itertools.count()

    def fail(*args):
        if next(calls) == 3:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return merged(*args)

    with monkeypatch.context() as patched, contextlib.suppress(torch.cuda.OutOfMemoryError):
        patched.setattr(two_streams, "merge_layer", fail)
        pipeline.answer(lvlm, noise_picture(), QUESTION, SHORT)
    assert next(calls) == 4
    assert live_bytes() <= kept
    assert pipeline.answer(lvlm, noise_picture(), QUESTION, SHORT).answer.tokens == expected
