"""Makes the workflows' thumbnails and the help pages' pictures from real runs in ComfyUI.

COMFYUI_PATH=... python -m tests.browser.pictures [WORKFLOW ...]

Without arguments it makes all, also of the nodes that no workflow has.
"""

import io
import json
import sys
import tempfile
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

from .comfy_server import ROOT, ComfyServer
from .conftest import CHROMIUM, FLAGS, open_canvas
from .on_the_canvas import DETAILER, DOWNLOADS, SET, prompt_of, put_on_canvas

PANEL_PX = 256
TALLEST_PX = 1100
# Four panels per thumbnail: a node, by title or type, and which of its pictures; texts by what they
# are called, each a node and whether its plain answer is meant; or a text
PLAIN = "laser_plain"
THUMBNAILS = {
    "1 Ask a question": [
        "LoadImage",
        "LaserAnswer",
        "What it looked at",
        {"Plain": ("LaserAnswer", PLAIN), "LASER": ("LaserAnswer", "")},
    ],
    "2 See every step": [
        "LoadImage",
        "LaserVAQLayerSelect",
        "LaserConViCrop",
        {"LASER": ("Answer (VAT Decode)", "")},
    ],
    "3 Compare three ways": [
        "LoadImage",
        "A fixed layer",
        "LASER",
        {"Plain": ("LASER", PLAIN), "Fixed": ("A fixed layer", ""), "LASER": ("LASER", "")},
    ],
    "4 Edit a detail you name": [
        "LoadImage",
        "LaserConViCrop",
        "Enlarged and edited",
        "Result",
    ],
    DETAILER: [
        "LoadImage",
        "LaserVAQLayerSelect",
        "LaserConViCrop",
        ["Your", "checkpoint", "here"],
    ],
    "6 Heat map as a mask": ["LoadImage", "Heat map", "Inpaint mask", "Result"],
    "7 Answer from your mask": [
        "LoadImage",
        "Mask",
        "What it looked at",
        {"LASER": ("Answer (VAT Decode)", "")},
    ],
    "8 Describe many pictures": [
        ("Where they come from", 0),
        ("Where they come from", 1),
        ("Where they come from", 2),
        "Captions",
    ],
    DOWNLOADS: [
        "LoadImage",
        ["What lies", "on the saucer,", "beside the cup?"],
        ["A model for", "photographs"],
        ["Your", "first", "heat map", "here"],
    ],
    "9 Captions as text files": [
        "LaserAnswer",
        "LoadImage",
        "Captions",
        ["image_0.png", "image_0.txt", "image_1.png", "image_1.txt"],
    ],
}
# Which workflow shows a node at work
SHOWN_IN = {
    "LaserLoadLVLM": "2 See every step",
    "LaserContrastiveAttention": "6 Heat map as a mask",
    "LaserVAQLayerSelect": "2 See every step",
    "LaserConViCrop": "2 See every step",
    "LaserCounterfactualMask": "2 See every step",
    "LaserVATDecode": "7 Answer from your mask",
    "LaserAnswer": "1 Ask a question",
    "LaserSettings": "8 Describe many pictures",
    "LaserBoxPick": "4 Edit a detail you name",
    "LaserPasteBack": "4 Edit a detail you name",
    "LaserUnload": "8 Describe many pictures",
}
# Those that no workflow shows: what each is given beside a picture and the model
ALONE = {
    "LaserFind": {"phrases": "dog\ncheese\nbutterfly\ntent"},
    "LaserPick": {"phrase": "cheese"},
    "LaserCheck": {"question": "is there a dog?", "options": "yes\nno"},
}
ADD = """async types => { const {app, LiteGraph} = window;
  const nodes = ['LoadImage', 'LaserLoadLVLM', ...types].map((type, index) => {
    const node = LiteGraph.createNode(type);
    node.pos = [500 * index, 0];
    app.graph.add(node);
    return node;
  });
  const [image, lvlm, ...added] = nodes;
  image.widgets[0].value = 'laser_scene_picnic.jpg';
  for (const node of added) {
    node.setSize([400, node.size[1]]);
    lvlm.connect(0, node, 'lvlm');
    image.connect(0, node, 'image');
  }
  const of = type => nodes.find(node => node.type === type);
  of('LaserFind').connect(0, of('LaserPick'), 'masks');
  await new Promise(done => setTimeout(done, 1000));
  return added.map(({id, type}) => ({id, type}));
}"""
WRAP = 18  # characters in a line of a caption
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
                outputs = {}
                if name != DOWNLOADS:  # what needs weights is refused; the rest runs
                    outputs = server.wait(server.queue(prompt_of(page), client))
                page.wait_for_timeout(3000)
                thumbnail(name, workflow, outputs, server, page)
                nodes = {node["type"]: node for node in workflow["nodes"]}
                for node_type in [key for key, value in SHOWN_IN.items() if value == name]:
                    shoot(page, nodes[node_type])
            if not sys.argv[1:]:
                put_on_canvas(page, {"nodes": [], "links": [], "version": 0.4})
                nodes = page.evaluate(ADD, [*ALONE])
                for node in nodes:
                    page.evaluate(SET, [node["id"], ALONE[node["type"]]])
                client = page.evaluate("window.app.api.clientId")
                server.wait(server.queue(prompt_of(page), client))
                page.wait_for_timeout(3000)
                for node in nodes:
                    shoot(page, node)
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
        if isinstance(key, list):
            tile = written("\n".join(key))
        elif isinstance(key, dict):
            texts = {
                label: said(outputs[str(nodes[title]["id"])], plain)
                for label, (title, plain) in key.items()
            }
            tile = written("\n".join(f"{label}: {text}" for label, text in texts.items()))
        elif nodes[key]["type"] == "LoadImage":
            file = nodes[key]["widgets_values"][0].removeprefix("laser_")
            tile = squared(Image.open(ROOT / "pictures" / file).convert("RGB"))
        elif nodes[key]["type"] in VIEWED:
            tile = squared(viewed(page, nodes[key]))
        else:
            output = outputs[str(nodes[key]["id"])]
            if "images" in output:
                image = io.BytesIO(server.picture(output["images"][which]))
                tile = squared(Image.open(image).convert("RGB"))
            else:
                texts = [textwrap.fill(text, WRAP) for text in output["text"]]
                tile = written("\n\n".join(texts))
        sheet.paste(tile, (index % 2 * PANEL_PX, index // 2 * PANEL_PX))
    sheet.save(ROOT / "workflows" / f"{name}.jpg", quality=88, optimize=True)


def said(output: dict, plain: str) -> str:
    """A node's first answer, or its plain one."""
    return output[plain][0] if plain else output["laser_tokens"][0]["text"]


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
