"""Writes the example workflows of the pack: nodes laid out in columns, links by name.

    python -m tools.build.build_workflows

They use the pack's own nodes and ComfyUI's, the demo model and the example pictures, so they run
right after install. Thumbnails are made from real runs, by tests/browser/pictures.py.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

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
CAPTION_TOKENS = 300  # a detailed caption of a larger model
TITLE_PX, SLOT_PX, WIDGET_PX, TEXT_PX, GAP_PX, PREVIEW_PX = 30, 22, 28, 110, 60, 300
# These show their result, or what they load, on themselves
SHOWN_PX = {
    "LaserLoadLVLM": 70,
    "LaserVAQLayerSelect": 420,
    "LaserConViCrop": 340,
    "LaserVATDecode": 300,
    "LaserAnswer": 670,
}


class Slot(NamedTuple):
    """An output of a node that has been placed."""

    node: dict
    index: int
    type: str


class Workflow:
    """A canvas under construction. Columns grow downwards; `column` begins the next one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[dict] = []
        self.links: list[list] = []
        self.groups: list[dict] = []
        self._x, self._y, self._width = 0, 0, 0

    def column(self, width: int = 320) -> None:
        """The next nodes are placed in a new column to the right."""
        self._x += self._width + (GAP_PX if self._width else 0)
        self._y, self._width = 0, width

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
        height = TITLE_PX + SLOT_PX * max(sockets, len(spec.outputs)) + tall
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

    def note(self, text: str, height: int = 200) -> None:
        """A text on the canvas, in Markdown."""
        node = self._place("MarkdownNote", "", height)
        node["widgets_values"] = [text]
        node["color"], node["bgcolor"] = "#432", "#653"

    def group(self, title: str, *nodes: dict) -> None:
        """A frame around nodes."""
        left = min(node["pos"][0] for node in nodes) - 15
        top = min(node["pos"][1] for node in nodes) - TITLE_PX - 45
        right = max(node["pos"][0] + node["size"][0] for node in nodes) + 15
        bottom = max(node["pos"][1] + node["size"][1] for node in nodes) + 20
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
        (FOLDER / f"{self.name}.json").write_text(text + "\n", "utf-8")

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
        self._y += height + GAP_PX
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


def _start(flow: Workflow, note: str, picture: str = PICTURE, height: int = 200) -> tuple:
    """The first column of every workflow: note, picture, model."""
    flow.column(360)
    flow.note(note, height)
    image = flow.add("LoadImage", preview=PREVIEW_PX, image=picture)
    model = flow.add("LaserLoadLVLM")
    return image, model


def _show(flow: Workflow, slot: Slot, title: str, preview: int = PREVIEW_PX) -> dict:
    return flow.add("PreviewImage", title, preview, images=slot)


def _say(flow: Workflow, slot: Slot, title: str) -> dict:
    return flow.add("PreviewAny", title, TEXT_PX, source=slot)


def ask_with_laser() -> None:
    flow = Workflow("ask_with_laser")
    image, model = _start(
        flow,
        "## Ask with LASER, step by step\n\nThe question shows where to look. The window there is "
        "cut out, and the answer is read from the picture and the window.\n\nFor your own picture, "
        "*choose file to upload* on **Load Image**. For another model, see **Load LVLM**: the demo "
        "model knows only 96 everyday things, numbers and colours.",
        height=250,
    )
    picture, lvlm = out(image, "IMAGE"), out(model, "lvlm")
    flow.column(400)
    ask = flow.add("PrimitiveStringMultiline", "Question", 60, value=QUESTION)
    question = out(ask, "STRING")
    attention = flow.add("LaserContrastiveAttention", lvlm=lvlm, image=picture, question=question)
    layers = _show(flow, out(attention, "layers"), "What the question adds, layer by layer")
    flow.group("Where does each layer look?", ask, attention, layers)
    flow.column()
    select = flow.add("LaserVAQLayerSelect", attention=out(attention, "attention"))
    report = _say(flow, out(select, "report"), "Where the evidence comes from")
    flow.group("Which layers does the question move?", select, report)
    flow.column()
    evidence = out(select, "evidence")
    crop = flow.add("LaserConViCrop", image=picture, evidence=evidence)
    cut = _show(flow, out(crop, "crop"), "Crop")
    flow.group("Look closely", crop, cut)
    flow.column()
    blocked = flow.add(
        "LaserCounterfactualMask", image=picture, evidence=evidence, boxes=out(crop, "boxes")
    )
    without = _show(flow, out(blocked, "counterfactual"), "The same window without the evidence")
    flow.group("What if it were not there?", blocked, without)
    flow.column(400)
    decode = flow.add(
        "LaserVATDecode",
        lvlm=lvlm,
        positive=out(crop, "crop"),
        question=question,
        counterfactual=out(blocked, "counterfactual"),
        context=picture,
        boxes=out(crop, "boxes"),
    )
    said = _say(flow, out(decode, "answer"), "Answer")
    flow.group("Answer", decode, said)
    flow.save()


def one_node_answer() -> None:
    flow = Workflow("one_node_answer")
    image, model = _start(
        flow,
        "## One-node answer\n\n**LASER Answer** does every step of *ask with LASER* in one node, "
        "and also gives the model's answer without the method.",
    )
    flow.column(420)
    answer = flow.add(
        "LaserAnswer", lvlm=out(model, "lvlm"), image=out(image, "IMAGE"), question=QUESTION
    )
    flow.column()
    _say(flow, out(answer, "answer"), "Answer with LASER")
    _say(flow, out(answer, "plain_answer"), "Plain answer")
    _show(flow, out(answer, "crop"), "What it saw there")
    flow.save()


def compare() -> None:
    flow = Workflow("compare_plain_fixed_layer_laser")
    image, model = _start(
        flow,
        "## Plain, fixed-layer crop, LASER\n\nThe same model answers the same question in three "
        "ways: from the whole picture; with the window of one fixed layer; and with LASER. LASER "
        "weighs all layers for this question, and compares the window with and without its "
        "evidence.\n\nThe fixed layer is set on **VAQ Layer Select**. Layer 6 is the demo model's "
        "best. It was found with labelled pictures; LASER needs none. Other models "
        "have other best layers.\n\nThis question was picked because the plain answer is wrong.",
        height=350,
    )
    picture, lvlm = out(image, "IMAGE"), out(model, "lvlm")
    flow.column(400)
    ask = flow.add("PrimitiveStringMultiline", "Question", 60, value=QUESTION)
    question = out(ask, "STRING")
    attention = flow.add("LaserContrastiveAttention", lvlm=lvlm, image=picture, question=question)
    select = flow.add(
        "LaserVAQLayerSelect", "Fixed layer", attention=out(attention, "attention"), layer=6
    )
    crop = flow.add("LaserConViCrop", image=picture, evidence=out(select, "evidence"))
    flow.column(400)
    plain = flow.add("LaserVATDecode", "Plain", lvlm=lvlm, positive=picture, question=question)
    flow.column(400)
    fixed = flow.add(
        "LaserVATDecode",
        "Fixed-layer crop",
        lvlm=lvlm,
        positive=out(crop, "crop"),
        question=question,
        context=picture,
        boxes=out(crop, "boxes"),
    )
    flow.column(420)
    laser = flow.add(
        "LaserAnswer", "LASER", lvlm=lvlm, image=picture, question=question, with_plain=False
    )
    flow.column()
    first = _say(flow, out(plain, "answer"), "Plain")
    second = _say(flow, out(fixed, "answer"), "Fixed layer")
    third = _say(flow, out(laser, "answer"), "LASER")
    flow.group("Answers", first, second, third)
    _show(flow, out(crop, "crop"), "What the fixed layer saw")
    _show(flow, out(laser, "crop"), "What LASER saw")
    flow.save()


def find_crop_upscale_paste_back() -> None:
    flow = Workflow("find_crop_upscale_paste_back")
    image, model = _start(
        flow,
        "## Find, crop, upscale, paste back\n\nAsk for a detail, edit it enlarged, and put it "
        "back. Outside the window the picture does not change at all.\n\nReplace **Image Sharpen** "
        "by your own edit: a detailer, an upscale model or an inpainting.",
    )
    picture, lvlm = out(image, "IMAGE"), out(model, "lvlm")
    flow.column(400)
    attention = flow.add("LaserContrastiveAttention", lvlm=lvlm, image=picture, question=QUESTION)
    select = flow.add("LaserVAQLayerSelect", attention=out(attention, "attention"))
    flow.group("Find", attention, select)
    flow.column()
    crop = flow.add(
        "LaserConViCrop",
        image=picture,
        evidence=out(select, "evidence"),
        scale=0.3,
        placement="peak",
    )
    pick = flow.add("LaserBoxPick", boxes=out(crop, "boxes"))
    number = _say(flow, out(pick, "box"), "The window in numbers")
    flow.group("Crop", crop, pick, number)
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
    flow.group("Upscale and edit", larger, edit, close)
    flow.column()
    paste = flow.add(
        "LaserPasteBack",
        image=picture,
        crop=out(edit, "IMAGE"),
        region=out(crop, "region"),
        feather_px=16,
    )
    result = _show(flow, out(paste, "image"), "Result", 360)
    flow.group("Paste back", paste, result)
    flow.save()


def heat_map_to_inpaint_mask() -> None:
    flow = Workflow("heat_map_to_inpaint_mask")
    image, model = _start(
        flow,
        "## Heat map to inpaint mask\n\nThe evidence of a question becomes a mask for editing: cut "
        "off at a threshold and grown a little. Here the mask blurs the picture, which needs no "
        "diffusion model.\n\nTo inpaint, connect the grown mask to **VAE Encode (for "
        "Inpainting)**, **InpaintModelConditioning** or **Set Latent Noise Mask**.",
        height=250,
    )
    picture, lvlm = out(image, "IMAGE"), out(model, "lvlm")
    flow.column(400)
    attention = flow.add("LaserContrastiveAttention", lvlm=lvlm, image=picture, question=QUESTION)
    select = flow.add("LaserVAQLayerSelect", attention=out(attention, "attention"))
    flow.group("Find", attention, select)
    flow.column()
    heat = flow.add("MaskPreview", "Heat map", PREVIEW_PX, mask=out(select, "heat_map"))
    hard = flow.add("ThresholdMask", mask=out(select, "heat_map"), value=0.4)
    grown = flow.add("GrowMask", mask=out(hard, "MASK"), expand=12, tapered_corners=True)
    flow.group("From heat map to mask", heat, hard, grown)
    flow.column()
    shown = flow.add("MaskPreview", "Inpaint mask", PREVIEW_PX, mask=out(grown, "MASK"))
    blur = flow.add("ImageBlur", image=picture, blur_radius=31, sigma=10.0)
    flow.column()
    edited = flow.add(
        "ImageCompositeMasked",
        destination=picture,
        source=out(blur, "IMAGE"),
        x=0,
        y=0,
        resize_source=False,
        mask=out(grown, "MASK"),
    )
    result = _show(flow, out(edited, "IMAGE"), "Result", 360)
    flow.group("Edit under the mask", shown, blur, edited, result)
    flow.save()


def evidence_from_a_hand_drawn_mask() -> None:
    flow = Workflow("evidence_from_a_hand_drawn_mask")
    image, model = _start(
        flow,
        "## Evidence from a hand-drawn mask\n\nYou say where to look: right-click **Load Image** > "
        "*Open in MaskEditor* and paint. Con-ViCrop and Counterfactual Mask need no model for "
        "this. Any mask of the picture's size works, for example from SAM.",
        picture=MASKED,
    )
    picture, mask, lvlm = out(image, "IMAGE"), out(image, "MASK"), out(model, "lvlm")
    flow.column()
    drawn = flow.add("MaskPreview", "Mask", PREVIEW_PX, mask=mask)
    crop = flow.add("LaserConViCrop", image=picture, mask=mask, scale=0.3)
    window = _show(flow, out(crop, "crop"), "Crop")
    flow.group("Look there", drawn, crop, window)
    flow.column()
    blocked = flow.add(
        "LaserCounterfactualMask", image=picture, mask=mask, boxes=out(crop, "boxes")
    )
    without = _show(flow, out(blocked, "counterfactual"), "The same window without it")
    flow.group("What if it were not there?", blocked, without)
    flow.column(400)
    decode = flow.add(
        "LaserVATDecode",
        lvlm=lvlm,
        positive=out(crop, "crop"),
        question=QUESTION,
        counterfactual=out(blocked, "counterfactual"),
        context=picture,
        counterfactual_context=out(blocked, "counterfactual_context"),
        boxes=out(crop, "boxes"),
    )
    said = _say(flow, out(decode, "answer"), "Answer")
    flow.group("Answer", decode, said)
    flow.save()


def batch_captions() -> None:
    flow = Workflow("batch_captions")
    flow.column(300)
    flow.note(
        "## Batch captions\n\nThree pictures in, three captions out, in the same order. A batch "
        "has one size: **Batch Images** resizes to the first picture's. For pictures of different "
        "sizes, use a list instead.\n\nWith another model, write what the caption should say into "
        "the question, in any language; `max_tokens` limits its length.\n\n**LASER Settings** "
        "holds what LASER Answer does not show. Here its alpha is 0, because a caption has no "
        "single piece of evidence.\n\n**Unload LVLM** frees the model's memory after the last "
        "caption.",
        400,
    )
    model = flow.add("LaserLoadLVLM")
    flow.column(300)
    images = [
        flow.add("LoadImage", preview=PREVIEW_PX - 80, image=f"laser_scene_{name}.jpg")
        for name in ("picnic", "farm", "beach")
    ]
    flow.group("Pictures", *images)
    flow.column(260)
    slots = {f"images.image{index}": out(image, "IMAGE") for index, image in enumerate(images)}
    three = flow.add("BatchImagesNode", **slots)
    # A caption has no single piece of evidence to hide
    settings = flow.add("LaserSettings", alpha=0.0)
    flow.column(420)
    answer = flow.add(
        "LaserAnswer",
        lvlm=out(model, "lvlm"),
        image=out(three, "IMAGE"),
        question="describe the picture",
        max_tokens=CAPTION_TOKENS,
        with_plain=False,
        settings=out(settings, "settings"),
    )
    flow.column(360)
    flow.add("PreviewAny", "Captions", 2 * TEXT_PX, source=out(answer, "answer"))
    _show(flow, out(answer, "overlay"), "Where they come from", 420)
    flow.add("LaserUnload", lvlm=out(model, "lvlm"), any=out(answer, "answer"))
    flow.save()


def main() -> None:
    for build in (
        ask_with_laser,
        one_node_answer,
        compare,
        find_crop_upscale_paste_back,
        heat_map_to_inpaint_mask,
        evidence_from_a_hand_drawn_mask,
        batch_captions,
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
