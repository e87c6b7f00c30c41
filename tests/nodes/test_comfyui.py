"""The pack in a real ComfyUI, without a browser: what it serves, chains with ComfyUI's own nodes,
and what people see when something is wrong. Runs when COMFYUI_PATH is set."""

import io
import json
import os
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image

from laser_core.models.catalogue import TEXT_ENCODERS
from tools.testbed.encoders import build_encoder, stored_as, write

from ..browser.comfy_server import (
    PACK_FOLDER,
    ROOT,
    RUN_SECONDS,
    ComfyServer,
    model_folder,
    why_not,
)
from .pack import pack

BEGUN = "a picture begins"
SCENE, MASKED = "laser_scene_picnic.jpg", "laser_scene_picnic_mask.webp"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if why_not():
        pytest.skip(why_not())
    server = ComfyServer(tmp_path_factory.mktemp("comfyui") / "base")
    yield server
    server.close()


class Prompt(dict):
    """An API prompt under construction: `add` returns the id, `id, slot` is a link."""

    def __init__(self, server: ComfyServer) -> None:
        self._nodes = server.get("/object_info")

    def add(self, node_type: str, **given) -> str:
        if node_type not in self._nodes:
            pytest.skip(f"this ComfyUI has no node {node_type}")
        inputs = {}
        for name, spec in self._nodes[node_type]["input"].get("required", {}).items():
            if len(spec) > 1 and "default" in spec[1] and not spec[1].get("forceInput"):
                inputs[name] = spec[1]["default"]
        node_id = str(len(self) + 1)
        self[node_id] = {"class_type": node_type, "inputs": {**inputs, **given}}
        return node_id

    def model(self) -> list:
        folder = model_folder()
        custom = "" if folder.is_relative_to(ROOT) else str(folder)
        return [self.add("LaserLoadLVLM", custom_model=custom), 0]

    def picture(self, name: str = SCENE) -> list:
        return [self.add("LoadImage", image=name), 0]

    def mask(self) -> list:
        return [self.add("LoadImage", image=MASKED), 1]

    def show(self, image: list) -> str:
        return self.add("PreviewImage", images=image)

    def look(self, value: list) -> str:
        return self.add("TestLook", value=value)


@pytest.fixture
def prompt(server):
    return Prompt(server)


def pixels(server: ComfyServer, output: dict, index: int = 0) -> np.ndarray:
    data = server.picture(output["images"][index])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)


def scene(name: str = "scene_picnic.jpg") -> np.ndarray:
    return np.asarray(Image.open(ROOT / "pictures" / name).convert("RGB"), dtype=int)


def seen(output: dict):
    return json.loads(output["seen"][0])


def test_pack_is_imported_in_no_time(server):
    assert server.import_seconds() <= 0.3  # ComfyUI's log; the machine may be busy


def test_nodes_help_locales_and_templates_are_served(server):
    ids = set(pack().NODE_CLASS_MAPPINGS)
    assert ids <= set(server.get("/object_info"))
    translations = server.get("/i18n")
    for language in ("en", "ja", "zh"):
        assert ids <= set(translations[language]["nodeDefs"])
    for node_id in ids:
        page = f"{server.url}/extensions/{PACK_FOLDER}/docs/{node_id}.md"
        with urllib.request.urlopen(page, timeout=60) as answer:
            assert answer.read().startswith(b"# ")
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert set(server.get("/workflow_templates")[PACK_FOLDER]) == names
    for name in names:
        for ending in ("json", "jpg"):
            file = f"{server.url}/api/workflow_templates/{PACK_FOLDER}/{quote(name)}.{ending}"
            with urllib.request.urlopen(file, timeout=60) as answer:
                assert answer.status == 200


def test_crop_upscale_edit_paste_back_changes_nothing_outside_the_window(server, prompt):
    picture, mask = prompt.picture(), prompt.mask()
    crop = prompt.add("LaserConViCrop", image=picture, mask=mask, scale=0.3, min_side_px=100)
    larger = prompt.add("ImageScaleBy", image=[crop, 0], upscale_method="lanczos", scale_by=2.5)
    edited = prompt.add("ImageInvert", image=[larger, 0])
    pasted = prompt.add("LaserPasteBack", image=picture, crop=[edited, 0], region=[crop, 1])
    result, boxes = prompt.show([pasted, 0]), prompt.look([crop, 2])
    given = prompt.show(picture)  # as core decodes it, which differs from Pillow by a level
    outputs = server.run(prompt)

    ((box,),) = seen(outputs[boxes])
    before, after = (pixels(server, outputs[shown]) for shown in (given, result))
    rows = slice(box["y"], box["y"] + box["height"])
    columns = slice(box["x"], box["x"] + box["width"])
    inside = np.abs(after[rows, columns] - (255 - before[rows, columns]))
    assert np.median(inside) <= 8  # the inverted window, except for resampling
    after[rows, columns] = before[rows, columns]
    assert np.array_equal(after, before)


def test_region_is_an_inpaint_mask_of_core(server, prompt):
    picture, mask = prompt.picture(), prompt.mask()
    crop = prompt.add("LaserConViCrop", image=picture, mask=mask)
    latent = prompt.add("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    masked = prompt.add("SetLatentNoiseMask", samples=[latent, 0], mask=[crop, 1])
    look, boxes = prompt.look([masked, 0]), prompt.look([crop, 2])
    outputs = server.run(prompt)
    ((box,),) = seen(outputs[boxes])
    noise_mask = seen(outputs[look])["noise_mask"]
    assert noise_mask["shape"][-2:] == [1024, 1024]
    assert noise_mask["sum"] == box["width"] * box["height"]


def test_heat_map_is_taken_by_core_s_inpaint_conditioning(server, prompt):
    if (
        "pixel_space"
        not in server.get("/object_info")["VAELoader"]["input"]["required"]["vae_name"][0]
    ):
        pytest.skip("this ComfyUI has no VAE that works without weights")
    picture, mask = prompt.picture(), prompt.mask()
    crop = prompt.add("LaserConViCrop", image=picture, mask=mask)
    vae = prompt.add("VAELoader", vae_name="pixel_space")
    text = prompt.add("TestConditioning")
    inpaint = prompt.add(
        "InpaintModelConditioning",
        positive=[text, 0],
        negative=[text, 0],
        vae=[vae, 0],
        pixels=picture,
        mask=[crop, 1],
        noise_mask=True,
    )
    look, boxes = prompt.look([inpaint, 2]), prompt.look([crop, 2])
    outputs = server.run(prompt)
    ((box,),) = seen(outputs[boxes])
    assert seen(outputs[look])["noise_mask"]["sum"] == box["width"] * box["height"]


def test_boxes_are_drawn_and_cropped_by_core(server, prompt):
    picture, mask = prompt.picture(), prompt.mask()
    crop = prompt.add("LaserConViCrop", image=picture, mask=mask, scale=0.3, min_side_px=100)
    drawn = prompt.add("DrawBBoxes", image=picture, bboxes=[crop, 2])
    cut = prompt.add(
        "CropByBBoxes", image=picture, bboxes=[crop, 2], output_width=272, output_height=272
    )
    shown, again, ours = (prompt.show(link) for link in ([drawn, 0], [cut, 0], [crop, 0]))
    outputs = server.run(prompt)
    assert not np.array_equal(pixels(server, outputs[shown]), scene())
    core, own = pixels(server, outputs[again]), pixels(server, outputs[ours])
    own = np.asarray(Image.fromarray(own.astype("uint8")).resize((272, 272)), dtype=int)
    assert np.median(np.abs(core - own)) <= 4


def test_box_pick_gives_core_nodes_their_numbers(server, prompt):
    picture, mask = prompt.picture(), prompt.mask()
    crop = prompt.add("LaserConViCrop", image=picture, mask=mask)
    pick = prompt.add("LaserBoxPick", boxes=[crop, 2], format="BOUNDING_BOX")
    cut = prompt.add(
        "ImageCrop",
        image=picture,
        x=[pick, 1],
        y=[pick, 2],
        width=[pick, 3],
        height=[pick, 4],
    )
    core, ours = prompt.show([cut, 0]), prompt.show([crop, 0])
    outputs = server.run(prompt)
    assert np.array_equal(pixels(server, outputs[core]), pixels(server, outputs[ours]))


def test_hand_drawn_mask_is_evidence_without_a_model(server, prompt):
    picture, mask = prompt.picture(), prompt.mask()
    crop = prompt.add("LaserConViCrop", image=picture, mask=mask)
    blocked = prompt.add("LaserCounterfactualMask", image=picture, mask=mask, boxes=[crop, 2])
    result, boxes, given = prompt.show([blocked, 2]), prompt.look([crop, 2]), prompt.show(picture)
    outputs = server.run(prompt)
    drawn = (
        np.asarray(Image.open(ROOT / "pictures" / "scene_picnic_mask.webp").getchannel("A")) == 0
    )
    before, after = (pixels(server, outputs[shown]) for shown in (given, result))
    changed = np.abs(after - before).max(axis=-1) > 0
    assert changed[drawn].mean() > 0.95
    assert not changed[~drawn].any()
    ((box,),) = seen(outputs[boxes])
    assert drawn[box["y"] :, box["x"] :].sum() == drawn.sum()


def test_one_node_and_the_wired_nodes_agree(server, prompt):
    picture, lvlm, question = prompt.picture(), prompt.model(), "what number is on the bee?"
    ask = {"lvlm": lvlm, "question": question}
    attention = prompt.add("LaserContrastiveAttention", image=picture, **ask)
    select = prompt.add("LaserVAQLayerSelect", attention=[attention, 0])
    crop = prompt.add("LaserConViCrop", image=picture, evidence=[select, 0])
    blocked = prompt.add(
        "LaserCounterfactualMask", image=picture, evidence=[select, 0], boxes=[crop, 2]
    )
    wired = prompt.add(
        "LaserVATDecode",
        positive=[crop, 0],
        counterfactual=[blocked, 0],
        context=picture,
        counterfactual_context=[blocked, 2],
        boxes=[crop, 2],
        adaptive=0.0,  # one window, believed: no closer look follows on the wired nodes
        **ask,
    )
    settings = prompt.add("LaserSettings", adaptive=0.0)
    whole = prompt.add("LaserAnswer", image=picture, settings=[settings, 0], **ask)
    looks = [prompt.look(link) for link in ([wired, 0], [whole, 0], [crop, 2], [whole, 5])]
    answers = [seen(server.run(prompt)[look]) for look in looks]
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]


def test_a_prompt_with_only_model_picture_and_question_runs_with_the_defaults(server, prompt):
    """As one stored before any setting existed: this ComfyUI fills in nothing."""
    question = "what is in the picture ?"
    ask = {"lvlm": prompt.model(), "image": prompt.picture(), "question": question}
    bare = prompt.add("LaserAnswer", **ask)
    assert prompt[bare]["inputs"].keys() == ask.keys()
    filled = prompt.add("LaserAnswer", **ask, preset="default", answer_input="picture + crop",
                        scale=0.5, max_tokens=64, temperature=0.0, seed=0)  # fmt: skip
    looks = [prompt.look([node, 6]) for node in (bare, filled)]
    outputs = server.run(prompt)
    assert seen(outputs[looks[0]]) == seen(outputs[looks[1]])


def test_core_reads_the_answer_out_of_the_json(server, prompt):
    question = "what number is on the cow?"
    ask = {"lvlm": prompt.model(), "image": prompt.picture("laser_scene_farm.jpg")}
    answer = prompt.add("LaserAnswer", **ask, question=question)
    links = ([answer, 0], [answer, 1])
    looks = [prompt.look(link) for link in links]
    for key in ("answer", "plain"):
        text = prompt.add("JsonExtractString", json_string=[answer, 6], key=key)
        looks.append(prompt.look([text, 0]))
    outputs = server.run(prompt)
    said = [seen(outputs[look]) for look in looks]
    assert said[:2] == said[2:]
    assert all(said)


def asked_step_by_step(prompt: Prompt, question: str) -> list[str]:
    """Ids of the three steps with a view; nothing takes the last one's output."""
    ask = {"lvlm": prompt.model(), "question": question}
    picture = prompt.picture()
    attention = prompt.add("LaserContrastiveAttention", image=picture, **ask)
    select = prompt.add("LaserVAQLayerSelect", attention=[attention, 0])
    crop = prompt.add("LaserConViCrop", image=picture, evidence=[select, 0])
    answer = prompt.add("LaserVATDecode", positive=[crop, 0], **ask)
    return [select, crop, answer]


VIEWS = ["laser_vaq", "laser_windows", "laser_tokens"]


def test_a_view_needs_no_node_behind_it(server, prompt):
    answer = prompt.add(
        "LaserAnswer", lvlm=prompt.model(), image=prompt.picture(), question="what is there ?"
    )
    assert server.run(prompt)[answer]["laser_tokens"]
    steps = Prompt(server)
    ids = asked_step_by_step(steps, "what number is on the tree?")
    outputs = server.run(steps)
    assert all(outputs[one][view] for one, view in zip(ids, VIEWS, strict=True))


def test_views_of_a_cached_run_are_sent_again_and_the_nodes_are_not_run_again(server, prompt):
    ids = asked_step_by_step(prompt, "what number is on the dog?")
    first, second = (server.entry(server.queue(prompt)) for _ in range(2))
    messages = dict(second["status"]["messages"])
    assert set(ids) <= set(messages["execution_cached"]["nodes"])
    for one, view in zip(ids, VIEWS, strict=True):
        assert second["outputs"][one][view] == first["outputs"][one][view]


def test_a_part_of_the_graph_runs_alone_and_the_views_before_it_are_shown(server, prompt):
    select, crop, answer = asked_step_by_step(prompt, "what colour is the star ?")
    outputs = server.wait(server.queue(prompt, targets=[crop]))
    assert outputs[select]["laser_vaq"] and outputs[crop]["laser_windows"]
    assert answer not in outputs
    again = server.wait(server.queue(prompt, targets=[crop]))
    assert again[select] == outputs[select]  # cached, and no target: an intermediate output


def test_an_overlay_that_is_taken_later_is_drawn_then(server, prompt):
    crop = prompt.add("LaserConViCrop", image=prompt.picture(), mask=prompt.mask())
    before = server.run(prompt)[crop]
    shown = prompt.show([crop, 4])
    outputs = server.run(prompt)
    assert pixels(server, outputs[shown]).any()
    assert outputs[crop]["laser_windows"] != before["laser_windows"]  # run anew, not from the cache


def test_a_preset_and_laser_settings_reach_the_method(server, prompt):
    settings = prompt.add("LaserSettings", preset="fast", beta=0.3)
    question = "what is in the picture ?"
    ask = {"lvlm": prompt.model(), "image": prompt.picture(), "question": question}
    answer = prompt.add("LaserAnswer", **ask, preset="paper", settings=[settings, 0])
    look, text = prompt.look([answer, 6]), prompt.add("PreviewAny", source=[settings, 0])
    outputs = server.run(prompt)
    reported = json.loads(seen(outputs[look]))["settings"]
    assert reported["answer"]["answer_input"] == "crop"
    assert reported["answer"]["crop_budget"] == 0.4
    assert (reported["decode"]["beta"], reported["decode"]["adaptive"]) == (0.3, 0.9)
    assert reported["layer"]["rule"] == "max"
    assert "beta: 0.3" in outputs[text]["text"][0].splitlines()


def test_pictures_of_different_sizes_as_a_list_give_an_answer_each(server, prompt):
    large, small = prompt.picture(), prompt.picture("laser_scene_farm.jpg")
    small = prompt.add("ImageScaleBy", image=small, upscale_method="area", scale_by=0.5)
    pictures = prompt.add("TestList", first=large, second=[small, 0])
    answer = prompt.add(
        "LaserAnswer",
        lvlm=prompt.model(),
        image=[pictures, 0],
        question="what is in the picture ?",
    )
    look = prompt.look([answer, 0])
    boxes = prompt.look([answer, 5])
    outputs = server.run(prompt)
    assert len(outputs[look]["seen"]) == len(outputs[boxes]["seen"]) == 2


def test_an_interrupt_in_the_middle_of_a_batch_ends_it_and_the_next_run_answers(server, prompt):
    def asked(pictures, at_once):
        many = prompt.add("RepeatImageBatch", image=picture, amount=pictures)
        chosen = prompt.add("TestSideBySide", image=[many, 0], count=at_once)
        node = prompt.add("LaserAnswer", lvlm=model, image=[chosen, 0], question=question)
        return prompt.look([node, 0])

    model, picture, question = prompt.model(), prompt.picture(), "what number is on the bee?"
    asked(12, 4)
    begun = server.log.count(BEGUN)
    running, deadline = server.queue(prompt), time.monotonic() + RUN_SECONDS
    while server.log.count(BEGUN) < begun + 4:  # then all four are read together
        assert time.monotonic() < deadline, server.log[-3000:]
        time.sleep(0.05)
    server.interrupt()
    entry = server.entry(running, failure=True)
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    assert server.log.count(BEGUN) < begun + 12
    prompt.clear()
    model, picture = prompt.model(), prompt.picture()
    together = asked(3, 3)
    answers = seen(server.run(prompt)[together])
    prompt.clear()
    model, picture = prompt.model(), prompt.picture()
    alone = asked(3, 0)  # and from here on, as before
    assert answers == seen(server.run(prompt)[alone])


def test_transparent_picture_is_laid_on_white(server, prompt):
    rgba = Image.new("RGBA", (300, 200), (200, 30, 30, 0))
    rgba.paste((30, 60, 200, 255), (100, 50, 200, 150))
    rgba.save(server.base / "input" / "clear.png")
    loaded = prompt.add("LoadImage", image="clear.png")
    joined = prompt.add("JoinImageWithAlpha", image=[loaded, 0], alpha=[loaded, 1])
    crop = prompt.add("LaserConViCrop", image=[joined, 0], override="0, 0, 300, 200")
    shown = prompt.show([crop, 0])
    corner = pixels(server, server.run(prompt)[shown])[0, 0]
    assert corner.tolist() == [255, 255, 255]


def failure(server: ComfyServer, prompt: Prompt) -> str:
    """The first line of what the person sees."""
    entry = server.entry(server.queue(prompt), failure=True)
    errors = [details for name, details in entry["status"]["messages"] if name == "execution_error"]
    return errors[0]["exception_message"].splitlines()[0]


def test_empty_question(server, prompt):
    answer = prompt.add("LaserAnswer", lvlm=prompt.model(), image=prompt.picture(), question=" ")
    prompt.look([answer, 0])
    assert "question" in failure(server, prompt)


def test_mask_of_another_size(server, prompt):
    """Load Image gives 64 x 64 zeros where a picture has no transparency."""
    loaded = prompt.add("LoadImage", image=SCENE)
    crop = prompt.add("LaserConViCrop", image=[loaded, 0], mask=[loaded, 1])
    prompt.show([crop, 0])
    said = failure(server, prompt)
    assert "mask" in said
    assert "64x64" in said


def test_no_evidence_connected(server, prompt):
    crop = prompt.add("LaserConViCrop", image=prompt.picture())
    prompt.show([crop, 0])
    assert failure(server, prompt).startswith("connect evidence or a mask")


def test_unsupported_model_type(server, prompt, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    load = prompt.add("LaserLoadLVLM", custom_model=str(tmp_path))
    answer = prompt.add("LaserAnswer", lvlm=[load, 0], image=prompt.picture(), question="what ?")
    prompt.look([answer, 0])
    said = failure(server, prompt)
    assert said.startswith("choose a model of type")
    assert "bert" in said


def test_a_missing_model_folder_is_refused_before_the_run_at_the_input_that_names_it(
    server, prompt
):
    load = prompt.add("LaserLoadLVLM", custom_model="/nowhere/at/all", model="gone")
    prompt.add("LaserAnswer", lvlm=[load, 0], image=prompt.picture(), question="what ?")
    with pytest.raises(AssertionError, match="check custom_model") as refused:
        server.queue(prompt)
    answer = json.loads(str(refused.value).removeprefix("ComfyUI refused the prompt: "))
    errors = answer["node_errors"][load]["errors"]
    assert [error["extra_info"]["input_name"] for error in errors] == ["custom_model"]


def test_a_model_that_is_not_in_the_list_is_told_with_its_remedy(server, prompt):
    """ComfyUI's own check would say that a value is not in a list, and print the list."""
    load = prompt.add("LaserLoadLVLM", model="gone")
    prompt.add("LaserAnswer", lvlm=[load, 0], image=prompt.picture(), question="what ?")
    assert failure(server, prompt).startswith("choose another model")


def test_a_text_encoder_locates_beside_a_clip_of_cliploader(server, prompt):
    from safetensors.torch import save_file
    from transformers import Qwen2Tokenizer

    comfyui = Path(os.environ["COMFYUI_PATH"])
    folder = comfyui / "comfy" / TEXT_ENCODERS / "qwen25_tokenizer"
    if not folder.is_dir():
        pytest.skip("this ComfyUI has no tokenizer for Qwen's models")
    encoders, name = server.base / "models" / TEXT_ENCODERS, "qwen_2.5_vl_small_fp8.safetensors"
    tiny = build_encoder("qwen2_5_vl", tokenizer=Qwen2Tokenizer.from_pretrained(folder))
    tensors = stored_as(tiny.model, "fp8 old")
    write(encoders / name, {key: each for key, each in tensors.items() if "lm_head" not in key})
    # All that ComfyUI knows a CLIP-L by; it leaves the other weights as they come
    weight = torch.zeros(3072, 768, dtype=torch.float16)
    save_file(
        {"text_model.encoder.layers.0.mlp.fc1.weight": weight}, encoders / "clip_l.safetensors"
    )

    nodes = server.get("/object_info")
    loader = nodes["CLIPLoader"]["input"]["required"]["clip_name"][0]
    ours = nodes["LaserLoadLVLM"]["input"]["optional"]["model"]
    assert {name, "clip_l.safetensors"} <= set(loader)
    value = f"{TEXT_ENCODERS}/{name}"
    assert [each for each in ours[0] if each.startswith(TEXT_ENCODERS)] == [value]
    about = ours[1]["about"][value]
    assert about["description"] == "Qwen2.5-VL, text encoder, locates only"

    clip = prompt.add("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion")
    text = prompt.add("CLIPTextEncode", clip=[clip, 0], text="a picnic")
    lvlm = prompt.add("LaserLoadLVLM", model=value, max_visual_tokens=64)
    read = prompt.add(
        "LaserContrastiveAttention", lvlm=[lvlm, 0], image=prompt.picture(), question="where ?"
    )
    found = prompt.add("LaserVAQLayerSelect", attention=[read, 0])
    drawn, conditioning = prompt.show([found, 2]), prompt.look([text, 0])
    outputs = server.run(prompt)
    assert seen(outputs[conditioning])[0][0]["shape"] == [1, 77, 768]
    assert not np.array_equal(pixels(server, outputs[drawn]), scene())

    refused = Prompt(server)
    lvlm = refused.add("LaserLoadLVLM", model=value, max_visual_tokens=64)
    refused.add("LaserAnswer", lvlm=[lvlm, 0], image=refused.picture(), question="where ?")
    entry = server.entry(server.queue(refused), failure=True)
    assert "choose a model that writes, such as" in str(entry["status"]["messages"])


# ---- Find, Pick and Check into what takes their results -----------------------------------------


def find(prompt, phrases="dog", **given):
    return prompt.add(
        "LaserFind", lvlm=prompt.model(), image=prompt.picture(), phrases=phrases, **given
    )


def test_found_boxes_are_drawn_by_core(server, prompt):
    found = find(prompt, "dog\ncheese\ntent")
    drawn = prompt.add("DrawBBoxes", image=prompt.picture(), bboxes=[found, 2])
    shown, boxes = prompt.show([drawn, 0]), prompt.look([found, 2])
    outputs = server.run(prompt)
    assert [box["label"] for box in seen(outputs[boxes])[0]] == ["dog", "cheese"]
    changed = np.abs(pixels(server, outputs[shown]) - scene()).max(-1) > 0
    for box in seen(outputs[boxes])[0]:
        rows = slice(box["y"], box["y"] + box["height"])
        assert changed[rows, box["x"] : box["x"] + box["width"]].any()


def test_a_found_box_is_cropped_by_core(server, prompt):
    """One crop a picture: core cuts around all boxes of it."""
    found = find(prompt, "dog\ntent")
    cut = prompt.add(
        "CropByBBoxes", image=prompt.picture(), bboxes=[found, 2], output_width=64, output_height=64
    )
    crop, boxes = prompt.show([cut, 0]), prompt.look([found, 2])
    outputs = server.run(prompt)
    [[box]] = seen(outputs[boxes])
    x1, y1 = box["x"], box["y"]
    own = scene()[y1 : y1 + box["height"], x1 : x1 + box["width"]].astype("uint8")
    own = np.asarray(Image.fromarray(own).resize((64, 64), Image.Resampling.BOX), dtype=int)
    assert np.median(np.abs(pixels(server, outputs[crop]) - own)) <= 4


def test_a_found_mask_is_grown_and_limits_the_noise_in_core(server, prompt):
    found = find(prompt)
    grown = prompt.add("GrowMask", mask=[found, 0], expand=0, tapered_corners=True)
    latent = prompt.add("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    masked = prompt.add("SetLatentNoiseMask", samples=[latent, 0], mask=[grown, 0])
    look, mask = prompt.look([masked, 0]), prompt.look([found, 0])
    outputs = server.run(prompt)
    assert seen(outputs[look])["noise_mask"]["sum"] == seen(outputs[mask])["sum"] > 0


def test_points_have_the_form_that_core_s_sam_3_takes(server, prompt):
    """Without SAM 3's weights: its inputs are compared, and the text is read as it reads it."""
    nodes = server.get("/object_info")
    if "SAM3_Detect" not in nodes:
        pytest.skip("this ComfyUI has no SAM 3")
    inputs = nodes["SAM3_Detect"]["input"]["optional"]
    assert inputs["positive_coords"][0] == inputs["negative_coords"][0] == "STRING"
    assert inputs["bboxes"][0] == "BOUNDING_BOX"
    outputs = nodes["LaserFind"]
    of = dict(zip(outputs["output_name"], outputs["output"], strict=True))
    assert (of["points"], of["negative_points"]) == ("STRING", "STRING")
    assert of["boxes"] == "BOUNDING_BOX"
    found = find(prompt)
    look = prompt.look([found, 4])
    points = json.loads(seen(server.run(prompt)[look]))
    assert points and all(0 <= point[axis] < 1024 for point in points for axis in "xy")


def test_check_switches_core_s_switch(server, prompt):
    ask = {"lvlm": prompt.model(), "image": prompt.picture()}
    said = []
    for question in ("is there a dog?", "is there a tent?"):
        check = prompt.add("LaserCheck", **ask, question=question)
        texts = [prompt.add("PrimitiveString", value=text) for text in ("no", "yes")]
        switch = prompt.add(
            "ComfySwitchNode", switch=[check, 0], on_false=[texts[0], 0], on_true=[texts[1], 0]
        )
        said.append(prompt.look([switch, 0]))
    outputs = server.run(prompt)
    assert [seen(outputs[look]) for look in said] == ["yes", "no"]


def test_a_candidate_made_by_core_is_picked(server, prompt):
    found = find(prompt, "dog\ncheese")  # any masks: here those of Find itself
    picked = prompt.add(
        "LaserPick", lvlm=prompt.model(), image=prompt.picture(), phrase="cheese", masks=[found, 0]
    )
    index, mask, masks = (prompt.look(link) for link in ([picked, 2], [picked, 0], [found, 0]))
    outputs = server.run(prompt)
    assert seen(outputs[index]) == 1
    assert 0 < seen(outputs[mask])["sum"] < seen(outputs[masks])["sum"]
