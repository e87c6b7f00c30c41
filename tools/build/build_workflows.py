"""Writes the example workflows of the pack: nodes laid out in columns, links by name.

    python -m tools.build.build_workflows

They use the pack's own nodes and ComfyUI's, the demo model and the example pictures, so they run
right after install; the one that redraws asks for a checkpoint, the one with a photograph for a
download. Thumbnails are made from real runs,
by tests/browser/pictures.py. ComfyUI shows of a pack's template its file's name and its thumbnail
alone, in any order, and fits all of it into the window: so the names are titles, numbered from the
easiest on, the description is a note, and what must be read lies close together.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from laser_core.models.catalogue import CURATED_IDS
from tools.build.pack_schema import ROOT, schema

# ComfyUI serves templates from one folder of a pack, and prefers this name to pictures/
FOLDER = ROOT / "workflows"
EXAMPLES = ROOT / "pictures"
# Over the thing asked about, as shares of the picture's sides
SCRIBBLE = ((0.49, 0.17), (0.55, 0.16), (0.49, 0.19), (0.55, 0.2), (0.5, 0.22), (0.55, 0.22))
PEN = 0.03
# The demo model misreads this small number on the whole picture
QUESTION = "what number is on the bee?"
PICTURE, MASKED = "laser_scene_picnic.jpg", "laser_scene_picnic_mask.webp"
PHOTO, PHOTO_QUESTION = "laser_scene_coffee.jpg", "What lies on the saucer, beside the cup?"
SMALLEST = CURATED_IDS["qwen/qwen3-vl-2b-instruct"]  # of those that 4.57 of transformers has too
CAPTION_TOKENS = 300  # a detailed caption of a larger model
TITLE_PX, SLOT_PX, WIDGET_PX, TEXT_PX, PREVIEW_PX = 30, 22, 28, 110, 240
# A row begins with a title, and the newer renderer draws some nodes 30 px taller
COLUMN_GAP_PX, ROW_GAP_PX = 30, 70
BELOW_RUN_PX = 60  # a group's title at the upper right would lie under the page's Run button
COLUMN_PX, WIDE_PX = 300, 540  # LASER Answer shows its answer beside its window on a wide node
# What the templates with newer nodes of ComfyUI's were tested with
NEWER = "0.33"
# How much taller than their inputs these are: what they show on themselves, or the newer renderer's
# own height
SHOWN_PX = {
    "LaserLoadLVLM": 70,
    "LaserVAQLayerSelect": 440,
    "LaserConViCrop": 360,
    "LaserVATDecode": 330,
    "LaserAnswer": 368,
    "LaserSettings": 50,
    "ImageCompare": 180,
    "PrimitiveStringMultiline": 50,
    "SaveImageTextDataSetToFolder": 60,
}


class Slot(NamedTuple):
    """An output of a node that has been placed."""

    node: dict
    index: int
    type: str


class Workflow:
    """A canvas under construction. Columns grow downwards; `column` begins the next one.

    title: the template's, and its file's name. needs: the oldest ComfyUI that it was tested with.
    """

    def __init__(self, title: str, needs: str = "") -> None:
        self.title, self.needs = title, needs or oldest_comfyui()
        self.nodes: list[dict] = []
        self.links: list[list] = []
        self.groups: list[dict] = []
        self._x, self._y, self._width = 0, 0, 0

    def column(self, width: int = COLUMN_PX, top: int = 0) -> None:
        """The next nodes are placed in a new column to the right, from `top` on."""
        self._x += self._width + (COLUMN_GAP_PX if self._width else 0)
        self._y, self._width = top, width

    def add(self, node_type: str, title: str = "", preview: int = 0, **given: Any) -> dict:
        """A node whose inputs are linked to Slots or set to values; `preview` px for a picture."""
        spec = schema(node_type)
        unknown = set(given) - {entry.name for entry in spec.inputs}
        if unknown:
            raise ValueError(f"{node_type} has no {', '.join(sorted(unknown))}")
        values = []
        for name, entry in spec.widgets:
            if entry is None:
                values.append("image" if name == "upload" else "fixed")
            else:
                value = given.get(name, entry.options.get("default"))
                values.append(None if isinstance(value, Slot) else value)
        tall = sum(
            TEXT_PX if entry is not None and entry.options.get("multiline") else WIDGET_PX
            for _, entry in spec.widgets
            if entry is None or not entry.options.get("advanced")
        )
        sockets = sum(not entry.is_widget for entry in spec.inputs)
        height = SLOT_PX * max(sockets, len(spec.outputs)) + tall
        height += preview or SHOWN_PX.get(node_type, 0)
        node = self._place(node_type, title, height)
        node["outputs"] = [
            {"name": output.name, "type": output.type, "links": [], "slot_index": index}
            for index, output in enumerate(spec.outputs)
        ]
        for entry in spec.inputs:
            self._input(node, entry, given.get(entry.name))
        for name, value in given.items():
            if isinstance(value, Slot) and name in {widget for widget, _ in spec.widgets}:
                index = [widget for widget, _ in spec.widgets].index(name)
                values[index] = "" if value.type == "STRING" else values[index]
        node["widgets_values"] = values
        return node

    def note(self, text: str, height: int) -> None:
        """What the template does, in Markdown, under its title."""
        node = self._place("MarkdownNote", "", height)
        title = self.title.split(maxsplit=1)[1]
        needs = f"Needs ComfyUI {self.needs} or newer."
        node["widgets_values"] = [f"## {title}\n\n{text}\n\n{needs}"]
        node["color"], node["bgcolor"] = "#321", "#432"  # the newer page's grey reads on it

    def group(self, title: str, *nodes: dict) -> None:
        """A frame around nodes."""
        left = min(node["pos"][0] for node in nodes) - 15
        top = min(node["pos"][1] for node in nodes) - TITLE_PX - 45
        right = max(node["pos"][0] + node["size"][0] for node in nodes) + 15
        bottom = max(node["pos"][1] + node["size"][1] for node in nodes) + 45
        self.groups.append(
            {
                "id": len(self.groups) + 1,
                "title": title,
                "bounding": [left, top, right - left, bottom - top],
                "color": "#3f789e",
                "font_size": 24,
                "flags": {},
            }
        )

    def save(self) -> None:
        """Writes the workflow as the canvas saves it."""
        graph = {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [220, 180]}},
            "version": 0.4,
        }
        text = json.dumps(graph, indent=1, ensure_ascii=False)
        (FOLDER / f"{self.title}.json").write_text(text + "\n", "utf-8")

    def _place(self, node_type: str, title: str, height: int) -> dict:
        node = {
            "id": len(self.nodes) + 1,
            "type": node_type,
            "pos": [self._x, self._y],
            "size": [self._width, height],
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "properties": {"Node name for S&R": node_type},
            "widgets_values": [],
        }
        if title:
            node["title"] = title
        self._y += height + ROW_GAP_PX
        self.nodes.append(node)
        return node

    def _input(self, node: dict, entry: Any, given: Any) -> None:
        linked = isinstance(given, Slot)
        if entry.is_widget and not linked:
            return
        if not linked and given is not None:
            raise ValueError(f"{node['type']}.{entry.name} takes a link, not {given!r}")
        record = {"name": entry.name, "type": entry.type, "link": None}
        if not entry.required:
            record["shape"] = 7  # the canvas draws optional inputs hollow
        if entry.is_widget:
            record["widget"] = {"name": entry.name}
        if linked:
            record["link"] = len(self.links) + 1
            source = given.node
            source["outputs"][given.index]["links"].append(record["link"])
            target = node["id"], len(node["inputs"])
            self.links.append([record["link"], source["id"], given.index, *target, given.type])
        node["inputs"].append(record)


def out(node: dict, name: str) -> Slot:
    """The output of that name."""
    for index, output in enumerate(node["outputs"]):
        if output["name"] == name:
            return Slot(node, index, output["type"])
    raise ValueError(f"{node['type']} has no output {name}")


def oldest_comfyui() -> str:
    """The oldest ComfyUI that the pack was tested with."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    return re.search(r'^requires-comfyui = ">=(\d+\.\d+)', project, re.MULTILINE)[1]


def _start(
    flow: Workflow, note: str, height: int, picture: str = PICTURE, **model: str
) -> tuple[dict, dict]:
    """The first column of most workflows: note, picture, and the model, by its widgets."""
    flow.column()
    flow.note(note, height)
    image = flow.add("LoadImage", preview=PREVIEW_PX, image=picture)
    return image, flow.add("LaserLoadLVLM", **model)


def _show(flow: Workflow, slot: Slot, title: str, preview: int = PREVIEW_PX) -> dict:
    return flow.add("PreviewImage", title, preview, images=slot)


def _say(flow: Workflow, slot: Slot, title: str) -> dict:
    return flow.add("PreviewAny", title, TEXT_PX, source=slot)


def _find(flow: Workflow, lvlm: Slot, picture: Slot) -> dict:
    """A column of its own: where the question's evidence lies, as the last node of it says."""
    flow.column()
    attention = flow.add("LaserContrastiveAttention", lvlm=lvlm, image=picture, question=QUESTION)
    select = flow.add("LaserVAQLayerSelect", attention=out(attention, "attention"))
    flow.group("Find", attention, select)
    flow.column()
    return select


def ask_a_question() -> None:
    flow = Workflow("1 Ask a question")
    note = (
        "Press *Run*. Then ask for a number, a colour or a thing. For your own picture, drop it on "
        "**Load Image** and choose a larger model on **Load LVLM**: the demo model knows drawn "
        "scenes only."
    )
    image, model = _start(flow, note, 190)
    flow.column(WIDE_PX + 60)
    answer = flow.add(
        "LaserAnswer", lvlm=out(model, "lvlm"), image=out(image, "IMAGE"), question=QUESTION
    )
    flow.column(260)
    _show(flow, out(answer, "crop"), "What it looked at")
    flow.save()


def see_every_step() -> None:
    flow = Workflow("2 See every step")
    note = (
        "What **LASER Answer** does in one node: the question shows where to look, the window "
        "there is cut out, and the answer is read from picture and window."
    )
    image, model = _start(flow, note, 170)
    picture, lvlm = out(image, "IMAGE"), out(model, "lvlm")
    flow.column()
    ask = flow.add("PrimitiveStringMultiline", "Question", value=QUESTION)
    question = out(ask, "STRING")
    attention = flow.add("LaserContrastiveAttention", lvlm=lvlm, image=picture, question=question)
    layers = _show(flow, out(attention, "layers"), "What the question adds, by layer")
    flow.group("Where each layer looks", ask, attention, layers)
    flow.column()
    select = flow.add("LaserVAQLayerSelect", attention=out(attention, "attention"))
    report = _say(flow, out(select, "report"), "Where the evidence comes from")
    flow.group("Which layers it moves", select, report)
    flow.column()
    evidence = out(select, "evidence")
    # Tight: wired by hand, one window is read, and no closer one follows
    crop = flow.add("LaserConViCrop", image=picture, evidence=evidence, scale=0.35)
    blocked = flow.add(
        "LaserCounterfactualMask", image=picture, evidence=evidence, boxes=out(crop, "boxes")
    )
    flow.group("Look there, and hide it", crop, blocked)
    flow.column()
    flow.add(
        "LaserVATDecode",
        "Answer (VAT Decode)",
        lvlm=lvlm,
        positive=out(crop, "crop"),
        question=question,
        counterfactual=out(blocked, "counterfactual"),
        context=picture,
        boxes=out(crop, "boxes"),
    )
    flow.save()


def compare() -> None:
    flow = Workflow("3 Compare three ways")
    note = (
        "One model, one question: from the whole picture, from the window of one fixed layer, and "
        "with LASER, which weighs all layers for this question.\n\nLayer 6 is the demo model's "
        "best. It was found with labelled pictures; LASER needs none. This question was picked "
        "because the plain answer is wrong."
    )
    flow.column()
    flow.note(note, 230)
    ask = flow.add("PrimitiveStringMultiline", "Question", value=QUESTION)
    fixed = flow.add("LaserSettings", "Fixed layer", layer=6, alpha=0.0, adaptive=0.0)
    flow.column(260)
    image = flow.add("LoadImage", preview=PREVIEW_PX, image=PICTURE)
    model = flow.add("LaserLoadLVLM")
    given = {
        "lvlm": out(model, "lvlm"),
        "image": out(image, "IMAGE"),
        "question": out(ask, "STRING"),
    }
    flow.column(WIDE_PX)
    first = flow.add("LaserAnswer", "A fixed layer", **given, settings=out(fixed, "settings"))
    flow.group("From the window of one layer", first)
    flow.column(WIDE_PX)
    second = flow.add("LaserAnswer", "LASER", **given)
    flow.group("LASER, and without either", second)
    flow.save()


def edit_a_detail() -> None:
    flow = Workflow("4 Edit a detail you name", NEWER)
    note = (
        "Ask for a detail, edit it enlarged, put it back. Outside the window the picture does not "
        "change. Put your own edit in the place of **Image Sharpen**."
    )
    image, model = _start(flow, note, 170)
    picture, lvlm = out(image, "IMAGE"), out(model, "lvlm")
    select = _find(flow, lvlm, picture)
    crop = flow.add(
        "LaserConViCrop",
        image=picture,
        evidence=out(select, "evidence"),
        scale=0.3,
        placement="peak",
    )
    pick = flow.add("LaserBoxPick", boxes=out(crop, "boxes"))
    flow.group("Cut out", crop, pick)
    flow.column()
    larger = flow.add(
        "ImageScaleBy", image=out(crop, "crop"), upscale_method="lanczos", scale_by=3.0
    )
    edit = flow.add(
        "ImageSharpen",
        "Image Sharpen (your edit here)",
        image=out(larger, "IMAGE"),
        sharpen_radius=3,
        sigma=1.5,
        alpha=0.5,
    )
    close = _show(flow, out(edit, "IMAGE"), "Enlarged and edited")
    flow.group("Enlarge and edit", larger, edit, close)
    _say(flow, out(pick, "box"), "The window in numbers")
    flow.column(top=BELOW_RUN_PX)
    flow.group("Paste back", *_paste_back(flow, picture, out(edit, "IMAGE"), crop))
    flow.save()


def _paste_back(flow: Workflow, picture: Slot, edited: Slot, crop: dict) -> list[dict]:
    """The edited crop in its place, and next to the picture as it was."""
    paste = flow.add(
        "LaserPasteBack", image=picture, crop=edited, region=out(crop, "region"), feather_px=16
    )
    pasted = out(paste, "image")
    result = _show(flow, pasted, "Result")
    # Only the newer renderer has its slider
    both = flow.add("ImageCompare", "Before and after", image_a=picture, image_b=pasted)
    return [paste, result, both]


def redraw_a_detail() -> None:
    flow = Workflow("5 Redraw a detail you name", NEWER)
    note = (
        "A detailer: ask for a detail, let a diffusion model redraw it enlarged, put it back. The "
        "window's sides are multiples of 8, as the VAE needs them.\n\nChoose your checkpoint on "
        "**Load Checkpoint**, and say what the detail shows."
    )
    image, model = _start(flow, note, 230)
    picture, lvlm = out(image, "IMAGE"), out(model, "lvlm")
    select = _find(flow, lvlm, picture)
    crop = flow.add(
        "LaserConViCrop",
        image=picture,
        evidence=out(select, "evidence"),
        scale=0.3,
        placement="peak",
        multiple_of=8,
    )
    larger = flow.add(
        "ImageScaleBy", image=out(crop, "crop"), upscale_method="lanczos", scale_by=2.0
    )
    flow.group("Cut out and enlarge", crop, larger)
    checkpoint = flow.add("CheckpointLoaderSimple", ckpt_name="")
    flow.column()
    clip, vae = out(checkpoint, "CLIP"), out(checkpoint, "VAE")
    wanted = flow.add("CLIPTextEncode", "What it shows", clip=clip, text="a bee, sharp, detailed")
    unwanted = flow.add("CLIPTextEncode", "What it does not", clip=clip, text="blurry")
    encode = flow.add("VAEEncode", pixels=out(larger, "IMAGE"), vae=vae)
    sample = flow.add(
        "KSampler",
        model=out(checkpoint, "MODEL"),
        positive=out(wanted, "CONDITIONING"),
        negative=out(unwanted, "CONDITIONING"),
        latent_image=out(encode, "LATENT"),
        seed=0,
        steps=20,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=0.4,
    )
    flow.group("Redraw", wanted, unwanted, encode, sample)
    flow.column(top=BELOW_RUN_PX)
    decode = flow.add("VAEDecode", samples=out(sample, "LATENT"), vae=vae)
    flow.group("Paste back", decode, *_paste_back(flow, picture, out(decode, "IMAGE"), crop))
    flow.save()


def heat_map_as_mask() -> None:
    flow = Workflow("6 Heat map as a mask")
    note = (
        "The evidence of a question becomes a mask: cut off at a threshold and grown a little. "
        "Here it blurs the picture. To inpaint, connect the grown mask to **VAE Encode (for "
        "Inpainting)**, **InpaintModelConditioning** or **Set Latent Noise Mask**."
    )
    image, model = _start(flow, note, 230)
    picture, lvlm = out(image, "IMAGE"), out(model, "lvlm")
    select = _find(flow, lvlm, picture)
    heat = flow.add("MaskPreview", "Heat map", PREVIEW_PX, mask=out(select, "heat_map"))
    hard = flow.add("ThresholdMask", mask=out(select, "heat_map"), value=0.4)
    grown = flow.add("GrowMask", mask=out(hard, "MASK"), expand=12, tapered_corners=True)
    flow.group("From heat map to mask", heat, hard, grown)
    flow.column()
    shown = flow.add("MaskPreview", "Inpaint mask", PREVIEW_PX, mask=out(grown, "MASK"))
    blur = flow.add("ImageBlur", image=picture, blur_radius=31, sigma=10.0)
    flow.group("Mask and edit", shown, blur)
    flow.column(top=BELOW_RUN_PX)
    edited = flow.add(
        "ImageCompositeMasked",
        destination=picture,
        source=out(blur, "IMAGE"),
        x=0,
        y=0,
        resize_source=False,
        mask=out(grown, "MASK"),
    )
    result = _show(flow, out(edited, "IMAGE"), "Result", PREVIEW_PX + 60)
    flow.group("Edit under the mask", edited, result)
    flow.save()


def answer_from_a_mask() -> None:
    flow = Workflow("7 Answer from your mask")
    note = (
        "You say where to look: right-click **Load Image** > *Open in MaskEditor* and paint. Any "
        "mask of the picture's size works, for example from SAM."
    )
    image, model = _start(flow, note, 170, MASKED)
    picture, mask, lvlm = out(image, "IMAGE"), out(image, "MASK"), out(model, "lvlm")
    flow.column()
    drawn = flow.add("MaskPreview", "Mask", PREVIEW_PX, mask=mask)
    crop = flow.add("LaserConViCrop", image=picture, mask=mask, scale=0.3)
    flow.group("Look there", drawn, crop)
    flow.column()
    window = _show(flow, out(crop, "crop"), "What it looked at")
    blocked = flow.add(
        "LaserCounterfactualMask", image=picture, mask=mask, boxes=out(crop, "boxes")
    )
    without = _show(flow, out(blocked, "counterfactual"), "Without it")
    flow.group("What if it were not there?", window, blocked, without)
    flow.column()
    flow.add(
        "LaserVATDecode",
        "Answer (VAT Decode)",
        lvlm=lvlm,
        positive=out(crop, "crop"),
        question=QUESTION,
        counterfactual=out(blocked, "counterfactual"),
        context=picture,
        counterfactual_context=out(blocked, "counterfactual_context"),
        boxes=out(crop, "boxes"),
    )
    flow.save()


def describe_many() -> None:
    flow = Workflow("8 Describe many pictures")
    note = (
        "Three pictures in, three captions out, in the same order. A batch has one size: **Batch "
        "Images** resizes to the first picture's.\n\nWith another model, write into the question "
        "what a caption should say.\n\n**LASER Settings** holds what LASER Answer does not show. "
        "Its alpha is 0, because a caption has no single piece of evidence.\n\n**Unload LVLM** "
        "frees the model's memory after the last caption."
    )
    flow.column(280)
    flow.note(note, 380)
    model = flow.add("LaserLoadLVLM")
    flow.column()
    settings = flow.add("LaserSettings", alpha=0.0)
    (first,) = _load(flow, "picnic")
    flow.column(260)
    second, third = _load(flow, "farm", "beach")
    three = _batch(flow, first, second, third)
    flow.column(WIDE_PX)
    answer = flow.add(
        "LaserAnswer",
        lvlm=out(model, "lvlm"),
        image=out(three, "IMAGE"),
        question="describe the picture",
        max_tokens=CAPTION_TOKENS,
        with_plain=False,
        settings=out(settings, "settings"),
    )
    flow.column(240)
    flow.add("PreviewAny", "Captions", 2 * TEXT_PX, source=out(answer, "answer"))
    _show(flow, out(answer, "overlay"), "Where they come from", PREVIEW_PX + 60)
    flow.add("LaserUnload", lvlm=out(model, "lvlm"), any=out(answer, "answer"))
    flow.save()


def _load(flow: Workflow, *names: str) -> list[dict]:
    return [
        flow.add("LoadImage", preview=PREVIEW_PX - 40, image=f"laser_scene_{name}.jpg")
        for name in names
    ]


def _batch(flow: Workflow, *images: dict) -> dict:
    slots = {f"images.image{index}": out(image, "IMAGE") for index, image in enumerate(images)}
    return flow.add("BatchImagesNode", **slots)


def captions_as_files() -> None:
    flow = Workflow("9 Captions as text files", NEWER)
    note = (
        "Each picture is saved with its caption as a text file beside it, in ComfyUI's folder "
        "*output/laser_captions*, as trainers of LoRAs take them.\n\nFor a whole folder of "
        "pictures, put **Load Image (from Folder)** in the place of the four nodes before LASER "
        "Answer, and connect it to both LASER Answer and **Save Image-Text**. Change *folder_name* "
        "for each set of pictures: a run overwrites what is there."
    )
    flow.column()
    flow.note(note, 260)
    model = flow.add("LaserLoadLVLM")
    flow.column(260)
    images = _load(flow, "farm", "beach")
    flow.column(260)
    both = _batch(flow, *images)
    single = flow.add("RebatchImages", images=out(both, "IMAGE"), batch_size=1)
    flow.group("Pictures", *images, both, single)
    flow.column(WIDE_PX)
    answer = flow.add(
        "LaserAnswer",
        lvlm=out(model, "lvlm"),
        image=out(single, "IMAGE"),
        question="describe the picture",
        max_tokens=CAPTION_TOKENS,
        with_plain=False,
    )
    flow.column(260)
    flow.add(
        "SaveImageTextDataSetToFolder",
        images=out(single, "IMAGE"),
        texts=out(answer, "answer"),
        folder_name="laser_captions",
        filename_prefix="image",
        mode="overwrite",
    )
    _say(flow, out(answer, "answer"), "Captions")
    flow.save()


def first_real_picture() -> None:
    flow = Workflow("10 First real picture")
    note = (
        f"A photograph, and a model that knows photographs: {SMALLEST.description}. The first run "
        f"downloads it, {SMALLEST.size}, to *models/LLM*, unless **Load LVLM** says that it is "
        "here.\n\nDo you have Qwen-Image? Choose its text encoder there instead "
        "(`text_encoders/...`), and nothing is downloaded.\n\nThen you see the heat map, the "
        "window and both answers. Ask about what is small."
    )
    image, model = _start(flow, note, 230, PHOTO, model=SMALLEST.value)
    flow.column(WIDE_PX + 60)
    answer = flow.add(
        "LaserAnswer", lvlm=out(model, "lvlm"), image=out(image, "IMAGE"), question=PHOTO_QUESTION
    )
    flow.column(260)
    _show(flow, out(answer, "crop"), "What it looked at")
    flow.save()


def main() -> None:
    for build in (
        ask_a_question,
        see_every_step,
        compare,
        edit_a_detail,
        redraw_a_detail,
        heat_map_as_mask,
        answer_from_a_mask,
        describe_many,
        captions_as_files,
        first_real_picture,
    ):
        build()


def draw_mask() -> None:
    """Writes the picture with a scribble, transparent as the mask editor makes it."""
    picture = Image.open(EXAMPLES / PICTURE.removeprefix("laser_")).convert("RGB")
    alpha = Image.new("L", picture.size, 255)
    pen = ImageDraw.Draw(alpha)
    width = round(PEN * picture.width)
    points = [(round(x * picture.width), round(y * picture.height)) for x, y in SCRIBBLE]
    pen.line(points, fill=0, width=width, joint="curve")
    for x, y in points:  # a round pen
        pen.ellipse((x - width // 2, y - width // 2, x + width // 2, y + width // 2), fill=0)
    picture.putalpha(alpha)
    picture.save(EXAMPLES / MASKED.removeprefix("laser_"), quality=90, exact=True)


if __name__ == "__main__":
    main()
    draw_mask()
