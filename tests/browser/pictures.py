"""Makes the workflows' thumbnails and the help pages' pictures from real runs in ComfyUI.

COMFYUI_PATH=... python -m tests.browser.pictures [WORKFLOW ...]
"""

import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

from .comfy_server import ROOT, ComfyServer
from .conftest import CHROMIUM, FLAGS, open_canvas
from .test_workflows_on_the_canvas import prompt_of, put_on_canvas

PANEL_PX = 256
TALLEST_PX = 1100
# Four panels per thumbnail: a node, by title or type, and which of its pictures; or a text
THUMBNAILS = {
    "ask_with_laser": ["LoadImage", "LaserVAQLayerSelect", "Crop", "Answer"],
    "batch_captions": [
        ("Where they come from", 0),
        ("Where they come from", 1),
        ("Where they come from", 2),
        "Captions",
    ],
    "compare_plain_fixed_layer_laser": [
        "LoadImage",
        "What the fixed layer saw",
        "What LASER saw",
        {"Plain": "Plain", "Fixed layer": "Fixed", "LASER": "LASER"},
    ],
    "evidence_from_a_hand_drawn_mask": ["LoadImage", "Mask", "Crop", "Answer"],
    "find_crop_upscale_paste_back": [
        "LoadImage",
        "LaserConViCrop",
        "Enlarged and edited",
        "Result",
    ],
    "heat_map_to_inpaint_mask": ["LoadImage", "Heat map", "Inpaint mask", "Result"],
    "one_node_answer": [
        "LoadImage",
        "LaserAnswer",
        "What it saw there",
        {"Plain answer": "Plain", "Answer with LASER": "LASER"},
    ],
}
# Which workflow shows a node at work
SHOWN_IN = {
    "LaserLoadLVLM": "ask_with_laser",
    "LaserContrastiveAttention": "heat_map_to_inpaint_mask",
    "LaserVAQLayerSelect": "ask_with_laser",
    "LaserConViCrop": "ask_with_laser",
    "LaserCounterfactualMask": "ask_with_laser",
    "LaserVATDecode": "evidence_from_a_hand_drawn_mask",
    "LaserAnswer": "one_node_answer",
    "LaserSettings": "batch_captions",
    "LaserBoxPick": "find_crop_upscale_paste_back",
    "LaserPasteBack": "find_crop_upscale_paste_back",
    "LaserUnload": "batch_captions",
}
VIEWED = ("LaserVAQLayerSelect", "LaserConViCrop", "LaserAnswer")  # their pictures are their views
SHOT = """async id => {
  const canvas = window.app.canvas, node = window.app.graph.getNodeById(id);
  canvas.ds.scale = 1;
  canvas.ds.offset[0] = 400 - node.pos[0];
  canvas.ds.offset[1] = 150 - node.pos[1];
  canvas.setDirty(true, true);
  await new Promise(done => setTimeout(done, 1200));
  return [...node.size];
}"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = ComfyServer(Path(folder) / "base")
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = open_canvas(browser, server, newer=True, view={"width": 1400, "height": 1500})
            for name in sys.argv[1:] or THUMBNAILS:
                workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
                put_on_canvas(page, workflow)
                client = page.evaluate("window.app.api.clientId")
                outputs = server.run(prompt_of(page), client=client)
                page.wait_for_timeout(3000)
                thumbnail(name, workflow, outputs, server, page)
                nodes = {node["type"]: node for node in workflow["nodes"]}
                for node_type in [key for key, value in SHOWN_IN.items() if value == name]:
                    shoot(page, nodes[node_type])
        finally:
            server.close()


def shoot(page, node: dict) -> None:
    """The node as the newer renderer draws it, into web/docs."""
    page.evaluate(SHOT, node["id"])
    element = page.locator(f'[data-node-id="{node["id"]}"]').first
    data = element.screenshot()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST_PX)))
    picture.save(ROOT / "web" / "docs" / f"{node['type']}.jpg", quality=85, optimize=True)


def thumbnail(name: str, workflow: dict, outputs: dict, server: ComfyServer, page) -> None:
    """Two by two panels of a run's pictures and answers."""
    nodes = {node.get("title") or node["type"]: node for node in workflow["nodes"]}
    sheet = Image.new("RGB", (2 * PANEL_PX, 2 * PANEL_PX), (24, 24, 27))
    for index, panel in enumerate(THUMBNAILS[name]):
        key, which = panel if isinstance(panel, tuple) else (panel, 0)
        if isinstance(key, dict):
            texts = {
                label: outputs[str(nodes[title]["id"])]["text"] for title, label in key.items()
            }
            tile = written("\n".join(f"{label}: {said[0]}" for label, said in texts.items()))
        elif nodes[key]["type"] == "LoadImage":
            file = nodes[key]["widgets_values"][0].removeprefix("laser_")
            tile = squared(Image.open(ROOT / "pictures" / file).convert("RGB"))
        elif nodes[key]["type"] in VIEWED:
            tile = squared(viewed(page, nodes[key]))
        elif "images" in outputs[str(nodes[key]["id"])]:
            image = outputs[str(nodes[key]["id"])]["images"][which]
            tile = squared(Image.open(io.BytesIO(server.picture(image))).convert("RGB"))
        else:
            tile = written("\n".join(outputs[str(nodes[key]["id"])]["text"]))
        sheet.paste(tile, (index % 2 * PANEL_PX, index // 2 * PANEL_PX))
    sheet.save(ROOT / "workflows" / f"{name}.jpg", quality=88, optimize=True)


def viewed(page, node: dict) -> Image.Image:
    """The picture in a node's own view, with its map or window."""
    page.evaluate(SHOT, node["id"])
    element = page.locator(f'[data-node-id="{node["id"]}"] .laser-picture').first
    return Image.open(io.BytesIO(element.screenshot())).convert("RGB")


def squared(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, 0  # below a drawing lies its legend
    square = picture.crop((left, top, left + side, top + side))
    return square.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)


def written(text: str) -> Image.Image:
    """A panel with the text as large as it fits."""
    tile = Image.new("RGB", (PANEL_PX, PANEL_PX), (24, 24, 27))
    pen = ImageDraw.Draw(tile)
    for size in range(72, 12, -2):
        font = ImageFont.load_default(size)
        box = pen.multiline_textbbox((0, 0), text, font=font, spacing=size // 3)
        if box[2] <= PANEL_PX - 24 and box[3] <= PANEL_PX - 24:
            break
    place = (PANEL_PX - box[2]) // 2, (PANEL_PX - box[3]) // 2
    pen.multiline_text(place, text, font=font, fill=(240, 240, 240), spacing=size // 3)
    return tile


if __name__ == "__main__":
    main()
