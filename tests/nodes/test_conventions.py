"""Pictures, masks, handles and views as they come and go, and what people read in an error."""

from __future__ import annotations

import json
import math
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tools.testbed.tiny import build, save

from .graphs import QUESTION, SMALL, all_of, hand_wired, handle_of, pictures_batch
from .pack import NAME as PACK
from .pack import ROOT, inputs_of, node, part, run


def evidence_for(lvlm, image):
    attention = run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION)
    return run("LaserVAQLayerSelect", attention=attention.attention)


# ---- pictures and masks ------------------------------------------------------------------------


def test_alpha_is_laid_on_white():
    image, mask = pictures_batch(2, channels=4), torch.ones(1, 60, 90)
    crop = run("LaserConViCrop", image=image, mask=mask, scale=1.0).crop
    colour, alpha = image[..., :3], image[..., 3:]
    assert crop.shape[-1] == 3
    torch.testing.assert_close(crop, colour * alpha + (1 - alpha), atol=1 / 254, rtol=0)


def test_pictures_pass_through_to_the_byte(image):
    crop = run("LaserConViCrop", image=image, mask=torch.ones(1, 60, 90), scale=1.0).crop
    assert torch.equal(crop, image)


def test_crops_have_the_very_values_of_a_float_picture(lvlm):
    image, mask = torch.rand(2, 60, 90, 3), torch.ones(1, 60, 90)  # floats that are no bytes
    cut = run("LaserConViCrop", image=image, mask=mask, min_side_px=20)
    answered = run("LaserAnswer", lvlm=lvlm, image=image, question=QUESTION, **all_of(SMALL))
    for made in (cut, answered):
        for crop, picture, (box,) in zip(made.crop, image, made.boxes, strict=True):
            rows = slice(box["y"], box["y"] + box["height"])
            assert torch.equal(crop, picture[rows, box["x"] : box["x"] + box["width"]])
    blocked = run("LaserCounterfactualMask", image=image, mask=mask, boxes=[[]])
    untouched = blocked.patches == 0
    assert torch.equal(blocked.counterfactual_context[untouched], image[untouched])


# The overlay's index
DRAWN = {"LaserVAQLayerSelect": 2, "LaserConViCrop": 4, "LaserAnswer": 3, "LaserFind": 8}


@pytest.mark.parametrize("node_id", DRAWN)
def test_an_overlay_is_drawn_where_the_running_graph_takes_it(node_id, lvlm, comfyui):
    image = pictures_batch(1)
    given = {
        "LaserVAQLayerSelect": lambda: {
            "attention": run(
                "LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION
            ).attention
        },
        "LaserConViCrop": lambda: {"image": image, "mask": torch.ones(1, 60, 90)},
        "LaserAnswer": lambda: {"lvlm": lvlm, "image": image, "question": QUESTION,
                                **all_of(SMALL)},
        "LaserFind": lambda: {"lvlm": lvlm, "image": image, "phrases": "cat"},
    }[node_id]()  # fmt: skip
    graph = {"7": {"inputs": {}}, "8": {"inputs": {"images": ["7", DRAWN[node_id]]}}}
    instance = sys.modules["server"].PromptServer.instance
    shown, marks = [], []
    for links in (["7", DRAWN[node_id]], ["7", DRAWN[node_id] - 1], ["8", DRAWN[node_id]]):
        graph["8"]["inputs"] = {"images": links, "scale": 2.0}
        instance.prompt_queue = SimpleNamespace(currently_running={0: (1, "id", graph, {}, [])})
        shown.append(run(node_id, **given, unique_id="7").overlay is not None)
        marks.append(node(node_id).IS_CHANGED(unique_id="7"))  # or ComfyUI's cache would serve it
    assert shown == [True, False, False]
    assert marks[1] == marks[2] != marks[0]
    assert run(node_id, **given, unique_id="7.0.1").overlay is not None  # not in the graph
    assert run(node_id, **given).overlay is not None


def test_drawings_of_a_batch_share_a_canvas_unscaled():
    drawings = part("nodes.batches").Drawings(2)
    for size in ((4, 8), (6, 2)):
        drawings.add(Image.new("RGB", size))
    expected = torch.ones(2, 8, 6, 3)
    expected[0, :, :4] = expected[1, :2] = 0
    assert torch.equal(drawings.batch, expected)


def test_one_mask_serves_all_pictures_and_more_are_taken_in_order(image):
    masks = torch.zeros(3, 60, 90)
    for index, mask in enumerate(masks):
        mask[10 * index : 10 * index + 5, 20 * index : 20 * index + 9] = 1
    each = run("LaserConViCrop", image=image, mask=masks, scale=0.1, min_side_px=12)
    assert [boxes[0]["y"] // 10 for boxes in each.boxes] in ([0, 0, 1], [0, 0, 2], [0, 1, 2])
    for one in (masks[1:2], masks[1:2, None]):  # as some packs send it: B1HW
        shared = run("LaserConViCrop", image=image, mask=one, scale=0.1, min_side_px=12)
        assert shared.boxes == [each.boxes[1]] * 3
    assert run("LaserConViCrop", image=image, mask=masks[1], min_side_px=12).boxes[0]  # (H, W)


def test_an_empty_mask_of_the_pictures_size_means_nothing_was_found(image):
    masks = torch.zeros(3, 60, 90)
    masks[1, 10:20, 10:20] = 1
    cut = run("LaserConViCrop", image=image, mask=masks, scale=1.0)
    assert cut.boxes[0] == [
        {"x": 0, "y": 0, "width": 90, "height": 60, "score": 0.0, "label": "evidence"}
    ]
    blocked = run("LaserCounterfactualMask", image=image, mask=masks)
    assert torch.equal(blocked.counterfactual[0], image[0])
    assert blocked.patches.sum(dim=(1, 2)).tolist() == [0, 100, 0]


def test_opacity_of_254_is_no_mask_over_the_picture(image):
    """A WebP of full opacity is read as 254/255, and Load Image's mask is 1 minus that."""
    mask = torch.full((1, 60, 90), 1 - 254 / 255)
    blocked = run("LaserCounterfactualMask", image=image, mask=mask)
    assert torch.equal(blocked.counterfactual, image)
    mask[0, 7:23, 11:31] = 2 / 255  # as faint as a mask may be
    assert run("LaserCounterfactualMask", image=image, mask=mask).patches.sum() > 0


def test_a_mask_is_blocked_whole_and_nothing_else_changes(image):
    mask = torch.zeros(1, 60, 90)
    mask[0, 7:23, 11:31] = 1
    blocked = run("LaserCounterfactualMask", image=image, mask=mask, amount=0.01)
    assert torch.equal(blocked.patches, mask.expand(3, -1, -1))
    colour = torch.tensor(part("nodes.counterfactual_mask").USUAL_MEAN_COLOUR) / 255
    expected = torch.where(mask[..., None] > 0, colour, image)
    torch.testing.assert_close(blocked.counterfactual, expected)
    assert torch.equal(blocked.counterfactual, blocked.counterfactual_context)


def test_boxes_cut_the_counterfactual_as_the_crop_was_cut(lvlm, image):
    found = evidence_for(lvlm, image)
    window = run("LaserConViCrop", image=image, evidence=found.evidence, min_side_px=20)
    blocked = run(
        "LaserCounterfactualMask", image=image, evidence=found.evidence, boxes=window.boxes
    )
    for index, (box,) in enumerate(window.boxes):
        rows = slice(box["y"], box["y"] + box["height"])
        columns = slice(box["x"], box["x"] + box["width"])
        whole = blocked.counterfactual_context[index]
        assert torch.equal(blocked.counterfactual[index], whole[rows, columns])
        inside = blocked.patches[index, rows, columns]
        assert inside.sum() > 0


def test_crops_of_unequal_sizes_are_enlarged_to_the_largest(image):
    masks = torch.zeros(3, 60, 90)
    for mask, side in zip(masks, (6, 30, 50), strict=True):
        mask[:side, :side] = 1
    cut = run(
        "LaserConViCrop", image=image, mask=masks, placement="top patches box",
        scale=0.1, min_side_px=4,
    )  # fmt: skip
    sizes = [(boxes[0]["height"], boxes[0]["width"]) for boxes in cut.boxes]
    assert len(set(sizes)) == 3
    assert cut.crop.shape[1:3] == (max(h for h, _ in sizes), max(w for _, w in sizes))


def test_a_window_by_hand_needs_no_evidence(image):
    cut = run("LaserConViCrop", image=image, override="80, 50, 30, 30")
    assert cut.bbox == [[[80, 50, 90, 60]]] * 3  # cut to the picture
    assert torch.equal(cut.crop, image[:, 50:, 80:])
    assert cut.region[0].sum() == 100


def test_the_layer_sheet_has_a_tile_for_every_layer(lvlm, image):
    sheet = run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION).layers
    assert sheet.shape[0] == 3
    assert sheet.shape[-1] == 3
    assert sheet.shape[2] > 2 * 90


def test_the_heat_map_has_the_pictures_size_and_reaches_one(lvlm, image):
    found = evidence_for(lvlm, image)
    assert found.heat_map.shape == (3, 60, 90)
    assert [float(heat.max()) for heat in found.heat_map] == [1.0, 1.0, 1.0]
    assert found.overlay.shape[::3] == found.chart.shape[::3] == (3, 3)
    assert all(type(layer) is int for layer in found.layer)


# ---- handles and views -------------------------------------------------------------------------


def test_handles_are_readable_and_know_their_memory(lvlm, image):
    wired = hand_wired(lvlm, image)
    attention = run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION)
    layer = run("LaserVAQLayerSelect", attention=attention.attention)
    texts = {
        "LLaVA-1.5": lvlm,
        "6 x 6 patches": attention.attention,
        "the only layer searched": layer.evidence,
        "4 tokens": wired.trace,
    }
    for text, handle in texts.items():
        assert text in str(handle)
        assert "object at" not in str(handle)
        assert handle.get_ram_usage() > 0


def test_views_are_plain_json_without_nan(lvlm, image, comfyui, monkeypatch):
    plain_answer = run("LaserAnswer", lvlm=lvlm, image=image, question=QUESTION, **all_of(SMALL))
    wired = hand_wired(lvlm, image)
    found = evidence_for(lvlm, image)
    for shown in (plain_answer.ui, wired.ui, wired.window.ui, found.ui):
        assert json.loads(json.dumps(shown, allow_nan=False)) == shown
        assert all(isinstance(value, list) for value in shown.values())  # ComfyUI joins lists
        assert len(shown["text"]) >= 3
    assert len(found.ui["laser_vaq"]) == len(wired.window.ui["laser_windows"]) == 3
    assert len(wired.ui["laser_tokens"]) == 3


def test_views_survive_values_that_are_not_finite():
    shown = part("nodes.runtime").ui(["a"], laser_x=[torch.tensor([1.0, math.nan, math.inf])])
    assert shown == {"text": ["a"], "laser_x": [[1.0, None, None]]}


def test_what_views_show_are_files_with_names_of_their_own(lvlm, image, comfyui, tmp_path):
    names = []
    for _ in range(2):
        for view in evidence_for(lvlm, image).ui["laser_vaq"]:
            for entry in (view["picture"], view["maps"]["image"]):
                assert entry["type"] == "temp"
                assert (tmp_path / "temp" / entry["filename"]).is_file()
                names.append(entry["filename"])
    assert len(set(names)) == 12


# ---- what people see ---------------------------------------------------------------------------


def unsupported_folder(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    return str(tmp_path / "other")


def with_old_transformers(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.49.0")


def out_of_memory(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore text")


def np_memory_error():
    try:
        np.empty((10**7, 10**7, 3))
    except MemoryError as error:
        return error


def answer(**given):
    run("LaserAnswer", **{"lvlm": handle_of(), "image": pictures_batch(1), "question": QUESTION,
                          **given})  # fmt: skip


MISTAKES = {
    "a model folder that is gone": (
        lambda _: run("LaserLoadLVLM", model="llava-1.5-7b-hf"),
        "choose another model, put the folder back into models/LLM, or write an id into "
        "custom_model: there is no supported model 'llava-1.5-7b-hf' here",
    ),
    "an id that is none": (
        lambda _: run("LaserLoadLVLM", custom_model="/no/such/folder"),
        "check custom_model, or leave it empty: it is no model's folder or file (without '..') and "
        "no Hugging Face id like 'owner/name': '/no/such/folder'",
    ),
    "an unsupported model": (
        lambda tmp_path: run("LaserLoadLVLM", custom_model=unsupported_folder(tmp_path)),
        "choose a model of type llava, llava_next, qwen2_vl, qwen2_5_vl, qwen3_vl, ",
    ),
    "an empty question": (
        lambda _: answer(question="  "),
        "write what to look for: the question is empty, and the method compares the model's "
        "attention with and without it",
    ),
    "another pack's seed for any": (
        lambda _: answer(seed=-1),
        "choose a value from 0 to 18446744073709551615: seed is -1",
    ),
    "a mask of another size": (
        lambda _: answer(mask=torch.ones(1, 32, 48)),
        "resize the mask, or leave it unconnected: it is 48x32 but the picture is 90x60",
    ),
    "the empty mask of Load Image": (
        lambda _: answer(mask=torch.zeros(1, 64, 64)),
        "paint a mask on the picture (right-click: Open in MaskEditor), or leave the mask "
        "unconnected: this one is an empty 64x64, which Load Image gives for a picture without "
        "transparency",
    ),
    "neither evidence nor mask": (
        lambda _: run("LaserConViCrop", image=pictures_batch(1)),
        "connect evidence or a mask: there is nothing that says where to look",
    ),
    "two masks for three pictures": (
        lambda _: run("LaserConViCrop", image=pictures_batch(3), mask=torch.ones(2, 60, 90)),
        "connect one mask for all pictures or one for each: there are 2 for 3",
    ),
    "a counterfactual context without a context": (
        lambda _: run(
            "LaserVATDecode",
            lvlm=handle_of(),
            positive=pictures_batch(1),
            question=QUESTION,
            counterfactual_context=pictures_batch(1),
        ),
        "connect context too: there is a counterfactual_context without one",
    ),
    "boxes of another form": (
        lambda _: run(
            "LaserCounterfactualMask",
            image=pictures_batch(1),
            mask=torch.ones(1, 60, 90),
            boxes=[[{"x": 1, "y": 2, "w": 3, "h": 4}]],
        ),
        "connect boxes of x, y, width and height: one is {'x': 1, 'y': 2, 'w': 3, 'h': 4}",
    ),
    "an endless window": (
        lambda _: run("LaserConViCrop", image=pictures_batch(1), override="0, 0, inf, 9"),
        "give boxes finite numbers: one is ",
    ),
    "no picture in the batch": (
        lambda _: run("LaserConViCrop", image=torch.zeros(0, 60, 90, 3), override="0, 0, 9, 9"),
        "connect at least one picture: image is of shape (0, 60, 90, 3)",
    ),
    "a window that is no box": (
        lambda _: run("LaserConViCrop", image=pictures_batch(1), override="1, 2, 3"),
        "write override as four numbers, 'x, y, width, height', or leave it empty: it is '1, 2, 3'",
    ),
}


def test_the_page_on_troubleshooting_explains_what_the_pack_says():
    """Every message in its table is one of the code's; `...` stands for what varies."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    table = page.split("## Messages")[1].split("\n## ")[0]
    rows = re.findall(r"`([^`]* \.\.\.)`", table)
    folders = [ROOT / name for name in ("nodes", "laser_core")]
    code = "".join(path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py"))
    code = re.sub(r'"\s*f?"', "", code)  # strings over several lines
    assert len(rows) > 15
    for row in rows:
        words = (
            row.removesuffix(" ...").replace("transformers", "{name}").replace("4.57", "{needed}")
        )
        pattern = ".{1,40}".join(re.escape(part) for part in words.split("..."))
        assert re.search(pattern, code), row


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_first_line_of_an_error_is_the_remedy(mistake, tmp_path):
    make, first_line = MISTAKES[mistake]
    with pytest.raises(ValueError) as caught:
        make(tmp_path)
    assert str(caught.value).splitlines()[0].startswith(first_line)


def test_evidence_of_another_picture_is_explained(lvlm, image):
    found = evidence_for(lvlm, image[:1])
    with pytest.raises(ValueError, match=r"^connect the picture the evidence was found in: it was"):
        run("LaserConViCrop", image=pictures_batch(1, 50, 50), evidence=found.evidence)


def test_old_transformers_are_named_with_what_is_needed(monkeypatch):
    with_old_transformers(monkeypatch)
    with pytest.raises(ValueError) as caught:
        run("LaserLoadLVLM")
    assert str(caught.value) == (
        f'update transformers to 4.57 or newer (run: "{sys.executable}" -m pip install -U '
        '"transformers>=4.57", then start again): 4.49.0 is installed'
    )


def test_out_of_memory_is_explained_and_stays_what_comfyui_handles(lvlm, image, monkeypatch):
    run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION)
    monkeypatch.setattr(part("laser_core.pipeline"), "answer_from", out_of_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
        answer(lvlm=lvlm)
    assert str(caught.value) == (
        "free memory (Unload LVLM, a smaller model, a quantization, fewer visual tokens or smaller "
        "pictures) and run again: there was not enough (CUDA out of memory. Tried to allocate "
        "2.00 GiB.)"
    )
    assert len(lvlm._maps) == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np_memory_error(),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=repr,
)
def test_every_kind_of_out_of_memory_names_the_remedy(lvlm, error, monkeypatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(part("laser_core.pipeline"), "answer_from", fail)
    with pytest.raises((MemoryError, torch.OutOfMemoryError), match=r"^free memory"):
        answer(lvlm=lvlm)


@pytest.mark.parametrize(
    ("module", "name", "node_id"),
    [
        ("laser_core.pictures", "to_picture", "LaserAnswer"),
        ("laser_core.output.drawing", "drawing", "LaserAnswer"),
        ("laser_core.output.heat", "heat_map", "LaserAnswer"),
        ("laser_core.steps.crop", "place_windows", "LaserConViCrop"),
        ("laser_core.steps.counterfactual", "block", "LaserCounterfactualMask"),
        ("nodes.paste_back", "resized", "LaserPasteBack"),
        ("nodes.models", "find", "LaserLoadLVLM"),
        ("nodes.handles", "_empty_caches", "LaserUnload"),
    ],
)
def test_memory_that_runs_out_anywhere_in_a_node_names_the_remedy(
    lvlm, module, name, node_id, monkeypatch
):
    image, mask = pictures_batch(1), torch.zeros(1, 60, 90)
    mask[:, 10:30, 20:50] = 1
    given = {"lvlm": lvlm, "image": image, "question": QUESTION, "crop": image, "mask": mask,
             "region": mask, "min_side_px": 20, "max_tokens": 2}  # fmt: skip
    part("laser_core.pipeline")  # or a module first imported now would keep the stand-in
    monkeypatch.setattr(part(module), name, out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match=r"^free memory \(Unload LVLM"):
        run(node_id, **{key: given[key] for key in given.keys() & inputs_of(node_id).keys()})


def test_out_of_memory_while_loading_is_no_broken_download(tmp_path, monkeypatch):
    from transformers import AutoModelForImageTextToText

    def fail(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    folder = save(build("llava"), tmp_path / "tiny")
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", fail)
    with pytest.raises(ValueError, match=r"^choose a smaller model or a quantization"):
        run("LaserLoadLVLM", custom_model=str(folder))


@pytest.mark.parametrize("library", ["einops", "matplotlib"])
def test_a_missing_library_is_named_before_a_model_is_loaded(monkeypatch, library):
    node("LaserLoadLVLM")
    for name in [name for name in sys.modules if name.startswith(f"{PACK}.laser_core")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf'^install {library} \(run: .* -U "{library}"'):
        run("LaserLoadLVLM")


def test_reports_tell_length_time_and_why_it_stopped(lvlm, image):
    said = run("LaserVATDecode", lvlm=lvlm, positive=image, question=QUESTION, max_tokens=1)
    assert len(said.report) == 3
    assert all("1 token in" in line and "stopped at max tokens" in line for line in said.report)
    whole = run("LaserAnswer", lvlm=lvlm, image=image, question=QUESTION, **all_of(SMALL))
    assert len(whole.report) == 3
    for line in whole.report:
        assert "4 tokens in" in line and "plain model: " in line and "layer" in line


def test_an_answer_cut_short_says_so(lvlm, image):
    shown = run("LaserVATDecode", lvlm=lvlm, positive=image, question=QUESTION, max_tokens=1).ui
    assert "stopped at max tokens: raise max_tokens for the rest" in shown["text"][0]


def test_words_the_model_does_not_know_stop_every_node(tmp_path):
    closed = part("laser_core.models.closed_vocabulary").ClosedVocabulary(
        "I know shapes.", QUESTION
    )
    lvlm = handle_of("llava")
    lvlm._lvlm.closed_vocabulary = closed
    asked = {"lvlm": lvlm, "question": "what is a zyx ?"}
    image = pictures_batch(1)
    runs = {
        "LaserAnswer": {"image": image, **all_of(SMALL)},
        "LaserContrastiveAttention": {"image": image},
        "LaserVATDecode": {"positive": image},
        "LaserCheck": {"image": image},
    }
    try:
        for asked_for in (
            {"phrases": "cat\nzyx"},
            {"phrase": "zyx", "masks": torch.ones(1, 60, 90)},
        ):
            node_id = "LaserFind" if "phrases" in asked_for else "LaserPick"
            with pytest.raises(ValueError, match=r'^try .*: this model does not know "zyx"'):
                run(node_id, lvlm=lvlm, image=image, **asked_for)
        for node_id, inputs in runs.items():
            with pytest.raises(ValueError, match=r'^try .*: this model does not know "zyx"'):
                run(node_id, **asked, **inputs)
    finally:
        lvlm._lvlm.closed_vocabulary = None


def test_counts_that_do_not_fit_are_explained(lvlm):
    image = pictures_batch(3)
    with pytest.raises(ValueError, match=r"^connect one counterfactual for each positive picture"):
        run(
            "LaserVATDecode", lvlm=lvlm, positive=image, counterfactual=image[:2],
            question=QUESTION,
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"^connect Con-ViCrop's boxes too: 3 crops"):
        run("LaserVATDecode", lvlm=lvlm, positive=image, context=image[:2], question=QUESTION)


def test_a_saved_model_folder_is_loaded(tmp_path):
    folder = save(build("qwen2_5_vl"), tmp_path / "tiny")
    loaded = run("LaserLoadLVLM", custom_model=str(folder)).lvlm
    assert "Qwen2.5-VL" in str(loaded)
    image = pictures_batch(1)
    expected = run("LaserVATDecode", lvlm=loaded, positive=image, question=QUESTION, max_tokens=3)
    run("LaserUnload", lvlm=loaded)
    assert not loaded.loaded
    assert "unloaded" in str(loaded)
    again = run("LaserVATDecode", lvlm=loaded, positive=image, question=QUESTION, max_tokens=3)
    assert again.answer == expected.answer
    assert loaded.loaded


def test_vat_decode_leaves_out_a_context_that_does_not_fit(lvlm, image):
    given = {"lvlm": lvlm, "positive": image[:1], "context": image[1:2], "question": QUESTION}
    given["counterfactual"] = image[2:]
    alone = run("LaserVATDecode", **given, answer_input="crop", max_tokens=2)
    both = json.loads(run("LaserVATDecode", **given, max_tokens=2).json[0])
    with lvlm.running() as model:
        text = model.model.config.get_text_config()
        before = text.max_position_embeddings
        text.max_position_embeddings = both["generated"]["answer"]["prompt_tokens"][0] + 1
    try:
        left_out = run("LaserVATDecode", **given, max_tokens=2)
    finally:
        text.max_position_embeddings = before
    assert left_out.answer == alone.answer
    assert "answered from the crop alone" in left_out.report[0]
    reports = [json.loads(one.json[0])["generated"] for one in (alone, left_out)]
    tokens = [report["answer"]["tokens"] for report in reports]
    assert tokens[0] == tokens[1]
