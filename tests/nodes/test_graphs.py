"""What a graph answers: the same by one node or by five, for one picture or many, run after run."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from .graphs import (
    QUESTION,
    SMALL,
    Interrupted,
    all_of,
    hand_wired,
    handle_of,
    pictures_batch,
    tiny_lvlm,
)
from .pack import part, run


@pytest.fixture(autouse=True)
def no_overlays(monkeypatch):
    """As where nothing takes them: drawing is a third of a tiny graph's time."""
    monkeypatch.setattr(part("nodes.runtime"), "is_connected", lambda *output: False)


def tokens(report: str) -> list:
    """The answer's tokens with both streams' probabilities, to compare two runs by."""
    return json.loads(report)["generated"]["answer"]["tokens"]


def one_node(lvlm, image, question=QUESTION, *, mask=None, **groups):
    given = {} if mask is None else {"mask": mask}
    chosen = all_of({**SMALL, **groups})
    return run("LaserAnswer", lvlm=lvlm, image=image, question=question, **given, **chosen)


CASES = {
    "defaults": {},
    "crop alone": {"answer": {"answer_input": "crop"}},
    "a budget": {"answer": {"crop_budget": 0.5}},
    "plain decoding": {"decode": {"alpha": 0.0, "max_tokens": 3, "adaptive": 0.0}},
    "sampling": {"decode": {"temperature": 1.0, "seed": 5, "max_tokens": 4, "adaptive": 0.0}},
    "a layer by hand": {"layer": {"layer": 0}},
    "the processor's framing": {"prompt": {"framing": "processor"}},
    "other instructions": {
        "prompt": {"locate_instruction": "Name it"},
        "answer": {"instruction": "Read the letter."},
    },
    "three windows": {"crop": {"windows": 3, "scale": 0.3, "min_side_px": 10}},
    "noise": {"counterfactual": {"fill": "noise", "amount": 0.3}},
    "the whole picture": {"crop": {"scale": 1.0}},
    "a window by hand": {"crop": {"override": "30, 10, 40, 30"}},
}


# What differs where resolution is native
NATIVE = "defaults", "a budget", "three windows", "noise", "a window by hand"


@pytest.mark.parametrize(
    ("model_type", "case"),
    [*(("llava", case) for case in CASES), *(("qwen2_5_vl", case) for case in NATIVE)],
)
def test_one_node_answers_as_five_do(model_type, case):
    lvlm, image = handle_of(model_type), pictures_batch(1)
    single, wired = one_node(lvlm, image, **CASES[case]), hand_wired(lvlm, image, **CASES[case])
    assert single.answer == wired.answer
    assert tokens(single.json[0]) == tokens(wired.json[0])
    assert single.boxes == wired.window.boxes
    assert torch.equal(single.crop, wired.window.crop)


def test_one_node_answers_as_five_do_on_the_demo_model():
    if not (part("laser_core.models.loading").DEMO_FOLDERS["demo"] / "model.safetensors").is_file():
        pytest.skip("the demo model is not built yet (tools/demo_model)")
    lvlm, image = run("LaserLoadLVLM").lvlm, pictures_batch(2, 300, 448)
    with lvlm.running() as model:
        question, notice = "what number is on the dog?", model.notice
    groups = {"crop": {}, "counterfactual": {}}
    single = one_node(lvlm, image, question, **groups)
    wired = hand_wired(lvlm, image, question, **groups)
    for result in (single, wired):
        assert all(notice in lines for lines in result.report)
        assert [view["notice"] for view in result.ui["laser_tokens"]] == 2 * [notice]
    assert single.answer == wired.answer
    assert [tokens(report) for report in single.json] == [tokens(report) for report in wired.json]
    assert all(tokens(report) for report in single.json)


def test_a_blocked_context_is_the_setting_block_picture_and_crop(lvlm):
    image = pictures_batch(1)
    chosen = {"amount": 0.2, "block": "picture and crop"}
    single = one_node(lvlm, image, counterfactual=chosen)
    wired = hand_wired(lvlm, image, blocked_context=True)
    assert tokens(single.json[0]) == tokens(wired.json[0])


def test_the_counterfactual_makes_a_difference(lvlm):
    said = tokens(one_node(lvlm, pictures_batch(1)).json[0])
    assert all(token["logit_with"] != token["logit_without"] for token in said)


def test_a_mask_serves_as_the_evidence(lvlm):
    image, mask = pictures_batch(1), torch.zeros(1, 60, 90)
    mask[:, 30:50, 40:80] = 1
    single, wired = one_node(lvlm, image, mask=mask), hand_wired(lvlm, image, mask=mask)
    assert tokens(single.json[0]) == tokens(wired.json[0])
    assert single.boxes == wired.window.boxes
    box = single.boxes[0][0]
    assert box["x"] <= 40 and box["y"] <= 30 and box["x"] + box["width"] >= 80
    assert json.loads(single.json[0])["layer"] is None


@pytest.mark.parametrize("model_type", ["llava", "qwen3_vl"])
def test_where_nothing_is_found_both_answer_from_the_whole_picture(model_type, monkeypatch):
    lvlm, image = handle_of(model_type), pictures_batch(1)
    vaq = part("laser_core.steps.vaq")
    original = vaq.contrast
    nothing = lambda *arguments: original(*arguments) * 0  # noqa: E731
    monkeypatch.setattr(vaq, "contrast", nothing)
    monkeypatch.setattr(part("laser_core.pipeline"), "contrast", nothing)
    single, wired = one_node(lvlm, image), hand_wired(lvlm, image)
    assert single.answer == wired.answer == single.plain_answer
    assert tokens(single.json[0]) == tokens(wired.json[0])
    assert single.crop.shape == image.shape
    assert single.boxes[0][0]["score"] == 0
    assert any("nothing found" in line for line in single.ui["text"])


def test_a_bypassed_con_vicrop_is_said_to_leave_the_whole_picture(lvlm):
    image = pictures_batch(1)
    cropped = hand_wired(lvlm, image)
    # What the canvas makes of a bypass: the picture goes through, the boxes come from nowhere
    bypassed = run("LaserVATDecode", lvlm=lvlm, question=QUESTION, positive=image, context=image)
    for result, said in ((cropped, False), (bypassed, True)):
        assert ("Con-ViCrop is bypassed" in result.report[0]) == said
        assert any("bypassed" in note for note in json.loads(result.json[0])["notes"]) == said
        assert result.ui["laser_tokens"][0]["uncut"] == said


# ---- batches -----------------------------------------------------------------------------------


def test_three_pictures_give_three_of_everything_in_order(lvlm, image, monkeypatch):
    monkeypatch.setattr(part("nodes.runtime"), "is_connected", lambda *output: True)
    batch = one_node(lvlm, image)
    wired = hand_wired(lvlm, image)
    for index in range(3):
        alone = one_node(lvlm, image[index : index + 1])
        assert batch.answer[index] == wired.answer[index] == alone.answer[0]
        assert batch.plain_answer[index] == alone.plain_answer[0]
        assert tokens(batch.json[index]) == tokens(wired.json[index]) == tokens(alone.json[0])
        assert batch.boxes[index] == alone.boxes[0]
        for name in ("crop", "overlay", "heat_map"):
            assert torch.equal(getattr(batch, name)[index], getattr(alone, name)[0]), name
    assert len(batch.crop) == len(batch.overlay) == len(batch.heat_map) == 3
    assert len(wired.window.region) == len(wired.blocked.patches) == 3
    assert [len(boxes) for boxes in wired.window.bbox] == [1, 1, 1]
    assert len(wired.trace.answers) == 3


def test_several_windows_follow_one_another_picture_by_picture(lvlm, image):
    crop = {"windows": 2, "scale": 0.3, "min_side_px": 10}
    wired = hand_wired(lvlm, image, crop=crop)
    counts = [len(boxes) for boxes in wired.window.boxes]
    assert counts == [2, 2, 2]
    assert len(wired.window.crop) == len(wired.window.region) == 6
    second = wired.window.boxes[1][1]
    expected = image[1][
        second["y"] : second["y"] + second["height"], second["x"] : second["x"] + second["width"]
    ]
    assert torch.equal(wired.window.crop[3], expected)
    assert tokens(wired.json[1]) == tokens(one_node(lvlm, image, crop=crop).json[1])


def test_crops_boxes_and_view_are_those_of_the_look_that_is_believed():
    image = pictures_batch(6)
    found = one_node(
        handle_of("qwen2_5_vl"),
        image,
        decode={"adaptive": 1.0, "max_tokens": 2},
        answer={"looks": 3},
    )
    sizes = set()
    for index, report in enumerate(map(json.loads, found.json)):
        x1, y1, x2, y2 = report["windows"][0]["box"]
        box = found.boxes[index][0]
        assert (box["x"], box["y"], box["width"], box["height"]) == (x1, y1, x2 - x1, y2 - y1)
        assert found.ui["laser_windows"][index]["windows"] == [[x1, y1, x2, y2]]
        sizes.add((x2 - x1, y2 - y1))
    assert len(sizes) > 1  # of several looks


@pytest.mark.parametrize("blocked_context", [True, False])
@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
def test_a_batch_whose_windows_differ_is_answered_as_each_picture_alone(
    model_type, blocked_context
):
    lvlm, image, mask = handle_of(model_type), pictures_batch(3), torch.zeros(3, 60, 90)
    mask[0, 5:30, 5:20] = mask[2, 40:50, 30:80] = 1  # nothing is found in the second
    crop = {"placement": "top patches box", "scale": 0.1, "min_side_px": 4}
    groups = {"crop": crop, "counterfactual": {"amount": 0.2}}
    wired = hand_wired(lvlm, image, mask=mask, blocked_context=blocked_context, **groups)
    assert wired.window.crop.shape[1:3] == (60, 90)
    if blocked_context:
        groups["counterfactual"] = {"amount": 0.2, "block": "picture and crop"}
    alone = [one_node(lvlm, image[i : i + 1], mask=mask[i : i + 1], **groups) for i in range(3)]
    assert wired.answer == [single.answer[0] for single in alone]
    exact = range(3) if blocked_context else (1,)  # else the blocked crops were resized twice
    for index in exact:
        assert tokens(wired.json[index]) == tokens(alone[index].json[0])


def test_a_flat_list_of_boxes_tells_of_two_crops_of_one_picture(lvlm):
    image = pictures_batch(1)
    cut = run("LaserConViCrop", image=image, mask=torch.ones(1, 60, 90), windows=2, scale=0.3,
              min_side_px=10)  # fmt: skip
    asked = {"lvlm": lvlm, "positive": cut.crop, "question": QUESTION, "max_tokens": 2}
    flat = run("LaserVATDecode", boxes=cut.boxes[0], **asked)
    assert len(flat.answer) == 1
    assert flat.answer == run("LaserVATDecode", boxes=cut.boxes, **asked).answer


def test_a_picture_without_boxes_is_blocked_and_asked_whole(lvlm):
    image, mask = pictures_batch(2), torch.ones(2, 60, 90)
    boxes = [[], [{"x": 10, "y": 20, "width": 30, "height": 40}]]
    blocked = run("LaserCounterfactualMask", image=image, mask=mask, boxes=boxes)
    assert blocked.counterfactual.shape == (2, 60, 90, 3)  # the first whole, the second enlarged
    answers = run("LaserVATDecode", lvlm=lvlm, positive=image, context=image, boxes=boxes,
                  question=QUESTION, max_tokens=2).answer  # fmt: skip
    assert len(answers) == 2


def test_pictures_of_different_sizes_go_through_as_a_list(lvlm):
    pictures = [pictures_batch(1, *size) for size in ((60, 90), (80, 50), (64, 64))]
    singles = [one_node(lvlm, picture) for picture in pictures]  # as ComfyUI maps a list
    assert [single.heat_map.shape[1:] for single in singles] == [(60, 90), (80, 50), (64, 64)]
    for picture, single in zip(pictures, singles, strict=True):
        assert tokens(single.json[0]) == tokens(hand_wired(lvlm, picture).json[0])


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
def test_a_positive_picture_alone_is_asked_plainly(model_type, image):
    lvlm = handle_of(model_type)
    asked = run("LaserVATDecode", lvlm=lvlm, positive=image, question=QUESTION, max_tokens=4)
    assert asked.answer == one_node(lvlm, image).plain_answer


# ---- sharing -----------------------------------------------------------------------------------


@pytest.fixture
def passes(lvlm):
    """Counts forwards of the vision tower and of the decoder."""
    model = tiny_lvlm("llava").model
    counts = {"tower": 0, "attention": 0}
    capture = part("laser_core.engine.capture").RowCapture
    enter = capture.__enter__

    def counted(self):
        counts["attention"] += 1
        return enter(self)

    def hook(*_):
        counts["tower"] += 1

    handle = model.model.vision_tower.register_forward_hook(hook)
    capture.__enter__ = counted
    yield counts
    capture.__enter__ = enter
    handle.remove()


def test_a_picture_and_question_are_read_once_by_all_nodes(lvlm, passes):
    image = pictures_batch(1)
    run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION)
    assert passes == {"tower": 1, "attention": 1}
    one_node(lvlm, image)
    # The crop, and the crop without the evidence; the picture itself is remembered
    assert passes == {"tower": 3, "attention": 1}
    run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION, kind="raw")
    one_node(lvlm, image, answer={"instruction": "Read the text."})
    assert passes["attention"] == 1  # neither changes what is read
    run("LaserContrastiveAttention", lvlm=lvlm, image=image, question="what number is it ?")
    assert passes["attention"] == 2


@pytest.fixture
def encoded(monkeypatch) -> list:
    """Sizes of the pictures that are prepared for the model."""
    module, sizes = part("laser_core.models.lvlm"), []
    encode_picture = module.encode_picture

    def noted(family, processor, config, picture, *args):
        sizes.append(picture.size)
        return encode_picture(family, processor, config, picture, *args)

    monkeypatch.setattr(module, "encode_picture", noted)
    return sizes


@pytest.mark.parametrize(("decode", "count"), [({"adaptive": 1e-6}, 2), ({}, 3), ({"alpha": 0}, 2)])
def test_a_counterfactual_that_is_not_read_is_not_encoded(lvlm, encoded, decode, count):
    image = pictures_batch(1)
    mask = torch.zeros(1, *image.shape[1:3])
    mask[:, 10:30, 10:30] = 1  # so that nothing is encoded to find the window
    hand_wired(lvlm, image, mask=mask, decode={**decode, "max_tokens": 2})
    assert len(encoded) == count


@pytest.mark.parametrize(("decode", "count"), [({"adaptive": 1e-6}, 1), ({}, 2), ({"alpha": 0}, 1)])
def test_without_context_neither(lvlm, encoded, decode, count):
    image = pictures_batch(2)
    run(
        "LaserVATDecode", lvlm=lvlm, question=QUESTION, positive=image[:1],
        counterfactual=image[1:], max_tokens=1, **decode,
    )  # fmt: skip
    assert len(encoded) == count


def test_a_picture_is_encoded_once_in_a_run(lvlm, encoded):
    image = pictures_batch(1)
    one_node(lvlm, image)
    assert encoded.count((image.shape[2], image.shape[1])) == 1
    assert len(encoded) == 3


def test_the_memory_asked_for_follows_the_visual_tokens():
    handles, shown = part("nodes.handles"), part("laser_core.settings").LoadSettings
    model = tiny_lvlm("qwen2_5_vl")
    usual, more = (
        handles._memory_of_a_run(model, shown(max_visual_tokens=tokens)) for tokens in (1280, 16384)
    )
    text = model.model.config.get_text_config()
    head_dim = text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * 4
    assert more - usual >= 4 * (16384 - 1280) * token
    fixed = tiny_lvlm("llava")
    assert handles._memory_of_a_run(fixed, shown()) == handles._memory_of_a_run(
        fixed, shown(max_visual_tokens=16384)
    )


@pytest.mark.parametrize("connected", ["positive", "counterfactual", "context"])
def test_vat_decode_reads_the_instruction_whatever_is_connected(lvlm, connected):
    crop, picture = pictures_batch(1), pictures_batch(1, 70, 90)
    given = {"positive": {}, "counterfactual": {"counterfactual": 1 - crop}}
    given["context"] = {"context": picture, **given["counterfactual"]}
    asked = {"lvlm": lvlm, "positive": crop, "question": QUESTION, "max_tokens": 1}
    without, with_it = (
        run("LaserVATDecode", **asked, **given[connected], instruction=text).json[0]
        for text in ("", "Read the text.")
    )
    with lvlm.running() as model:
        added = model.tokenizer("\nRead the text.", add_special_tokens=False)["input_ids"]
    lengths = [
        json.loads(report)["generated"]["answer"]["prompt_tokens"] for report in (without, with_it)
    ]
    assert lengths[1] == [length + len(added) for length in lengths[0]]


def test_what_a_handle_remembers_is_bounded(lvlm, monkeypatch):
    image = pictures_batch(7, 30, 30)
    run("LaserContrastiveAttention", lvlm=lvlm, image=image[:1], question=QUESTION)
    one = lvlm._maps_bytes
    monkeypatch.setattr(part("nodes.handles"), "MAPS_BYTES", 4 * one)
    run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION)
    assert lvlm._maps_bytes == 4 * one
    lvlm.release()
    assert len(lvlm._maps) == 0


def test_answers_do_not_depend_on_what_ran_before(lvlm, image):
    fresh = one_node(lvlm, image[:1], decode={"temperature": 1.5, "seed": 9, "max_tokens": 6})
    one_node(lvlm, image[1:], decode={"temperature": 1.0, "max_tokens": 3})
    torch.manual_seed(1234)
    again = one_node(lvlm, image[:1], decode={"temperature": 1.5, "seed": 9, "max_tokens": 6})
    assert tokens(fresh.json[0]) == tokens(again.json[0])
    other = one_node(lvlm, image[:1], decode={"temperature": 1.5, "seed": 10, "max_tokens": 6})
    assert tokens(other.json[0]) != tokens(again.json[0])


def test_the_global_random_state_is_left_alone(lvlm):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one_node(lvlm, pictures_batch(1), decode={"temperature": 1.0, "max_tokens": 2})
    assert torch.equal(before, torch.get_rng_state())


def side_by_side(count, monkeypatch):
    """LASER Answer goes through this many pictures at once, as on a GPU with room for them."""
    together = part("laser_core.engine.together")
    monkeypatch.setattr(together, "run_together", partial(together.run_together, batch=count))


def test_pictures_side_by_side_are_answered_in_order_as_one_after_the_other(
    lvlm, comfyui, monkeypatch
):
    image = pictures_batch(3)
    expected = one_node(lvlm, image)
    lvlm.release()
    side_by_side(2, monkeypatch)  # then one is left
    comfyui.bars.clear()
    found = one_node(lvlm, image)
    assert found.answer == expected.answer
    assert torch.equal(found.crop, expected.crop)
    torch.testing.assert_close(found.heat_map, expected.heat_map, atol=1e-4, rtol=0)
    values = [value for value, _ in comfyui.bars]
    assert values == sorted(values)
    assert 990 <= values[-1] <= 1000


# ---- interrupts --------------------------------------------------------------------------------


def hooks_on(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_an_interrupt_at_any_moment_leaves_the_model_as_it_was(lvlm, comfyui):
    image, model = pictures_batch(1), tiny_lvlm("llava").model
    registry = part("laser_core.engine.kernels").ALL_ATTENTION_FUNCTIONS
    expected = tokens(one_node(lvlm, image).json[0])
    moments = comfyui.checks
    assert moments > 8
    kernel, hooks = registry["sdpa"], hooks_on(model)
    for moment in range(1, moments + 1):
        lvlm.release()
        comfyui.checks, comfyui.stop_at = 0, moment
        with pytest.raises(Interrupted):
            one_node(lvlm, image)
        assert hooks_on(model) == hooks
        assert registry["sdpa"] is kernel
        assert tiny_lvlm("llava").prefix is None
    comfyui.stop_at = None
    assert tokens(one_node(lvlm, image).json[0]) == expected


def test_an_interrupt_in_the_middle_of_a_batch_leaves_the_model_as_it_was(
    lvlm, comfyui, monkeypatch
):
    image, model = pictures_batch(2), tiny_lvlm("llava").model
    side_by_side(2, monkeypatch)
    expected, moments = one_node(lvlm, image).answer, comfyui.checks
    hooks = hooks_on(model)
    for moment in range(1, moments + 1, 3):
        lvlm.release()
        comfyui.checks, comfyui.stop_at = 0, moment
        with pytest.raises(Interrupted):
            one_node(lvlm, image)
        assert hooks_on(model) == hooks
        assert tiny_lvlm("llava").prefix is None
    comfyui.stop_at = None
    assert one_node(lvlm, image).answer == expected


def test_an_interrupt_while_reading_remembers_nothing(lvlm, comfyui):
    comfyui.stop_at = 1
    with pytest.raises(Interrupted):
        run("LaserContrastiveAttention", lvlm=lvlm, image=pictures_batch(1), question=QUESTION)
    assert len(lvlm._maps) == 0
    assert tiny_lvlm("llava").prefix is None


def test_progress_only_grows_and_the_view_is_told(lvlm, comfyui, image):
    page = {"unique_id": "7", "extra_pnginfo": {"workflow": {"id": "a workflow's"}}}
    run("LaserAnswer", lvlm=lvlm, image=image, question=QUESTION, **page, **all_of(SMALL))
    values = [value for value, _ in comfyui.bars]
    assert values == sorted(values)
    assert 990 <= values[-1] <= 1000
    assert {event for event, _ in comfyui.shown} == {"laser.progress"}
    assert all(shown["node"] == "7" for _, shown in comfyui.shown)
    assert all(shown["workflow"] == "a workflow's" for _, shown in comfyui.shown)
    windows = [shown["windows"] for _, shown in comfyui.shown if "windows" in shown]
    assert [view["size"] for view in windows] == [[90, 60]] * 3
    assert any(shown.get("text") for _, shown in comfyui.shown)
