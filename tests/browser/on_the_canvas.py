"""What people do on ComfyUI's page: open a workflow, set a value, run, look at a node's view.

Knows the page and its nodes; which results they show, the tests say.
"""

import json

from .comfy_server import ROOT, model_folder

DOWNLOADS = "10 First real picture"  # needs a model that is not here
TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
WORKFLOWS = [name for name in TEMPLATES if name != DOWNLOADS]
DETAILER = "5 Redraw a detail you name"  # needs weights that are not here
SMALL_LAPTOP = {"width": 1366, "height": 768}
RUN = """() => new Promise((done, fail) => {
  const api = window.app.api;
  api.addEventListener('execution_success', () => setTimeout(done, 300), {once: true});
  api.addEventListener('execution_error', e => fail(JSON.stringify(e.detail)), {once: true});
  window.app.queuePrompt(0, 1);
})"""
# Puts a node where the mouse can reach all of it
LOOK = """async ([id, scale]) => {
  const canvas = window.app.canvas, node = window.app.graph.getNodeById(id);
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = 300 / scale - node.pos[0];
  canvas.ds.offset[1] = 90 / scale - node.pos[1];
  canvas.setDirty(true, true);
  await new Promise(done => setTimeout(done, 700));
}"""
SET = """([id, values]) => window.app.graph.getNodeById(id).widgets.forEach(widget => {
  if (!(widget.name in values)) return;
  widget.value = values[widget.name];
  widget.callback?.(widget.value);
})"""
# The middle of a widget on the page, where the classic renderer draws it
MIDDLE = """([id, name]) => {
  const {canvas, graph} = window.app, node = graph.getNodeById(id);
  const widget = node.widgets.find(widget => widget.name === name);
  const place = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10];
  return [...canvas.ds.convertOffsetToCanvas(place)];
}"""


def put_on_canvas(page, workflow: dict) -> None:
    page.evaluate("async graph => { await window.app.loadGraphData(graph); }", workflow)
    page.wait_for_timeout(500)


def prompt_of(page) -> dict:
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    folder = model_folder()
    for node in prompt.values():
        if node["class_type"] == "LaserLoadLVLM" and not folder.is_relative_to(ROOT):
            node["inputs"]["custom_model"] = str(folder)
    return prompt


def open_templates(page) -> None:
    """The page's list of templates, at those of the pack."""
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.locator("[role='dialog']").get_by_text("LASER", exact=True).first.click()
    page.wait_for_timeout(1500)


class Node:
    """A node on the page's canvas and its view."""

    def __init__(self, page, node_type, scale=0.75):
        self.page = page
        self.id = page.evaluate(
            "type => window.app.graph.nodes.find(node => node.type === type).id", node_type
        )
        self.look(scale)

    def look(self, scale=0.75):
        self.page.evaluate(LOOK, [self.id, scale])

    @property
    def view(self):
        """By its element: the classic renderer keeps views apart from their nodes."""
        handle = self.page.evaluate_handle(
            "id => window.app.graph.getNodeById(id).widgets"
            ".find(widget => widget.name === 'laser_view').element",
            self.id,
        )
        return handle.as_element()

    def find(self, selector, state="visible"):
        return self.view.wait_for_selector(selector, state=state, timeout=10_000)

    def text(self, selector):
        return self.view.query_selector(selector).text_content()

    def widget(self, name):
        return self.page.evaluate(
            "([id, name]) => window.app.graph.getNodeById(id).widgets"
            ".find(widget => widget.name === name).value",
            [self.id, name],
        )

    def choose(self, renderer, name, value):
        """As people do, in a widget that is the node's first with choices."""
        self.look()
        if renderer == "classic":
            self.page.mouse.click(*self.page.evaluate(MIDDLE, [self.id, name]))
            self.page.click(f".litemenu-entry[data-value='{value}']")
        else:
            box = self.page.locator(f'[data-node-id="{self.id}"]')
            box.get_by_role("combobox").first.click()
            self.page.get_by_role("option", name=value, exact=True).click()
        self.page.wait_for_timeout(500)


def run(page):
    page.evaluate(RUN)


def undo(page):
    page.evaluate("() => document.activeElement?.blur?.()")
    page.keyboard.press("Control+z")
    page.wait_for_timeout(2000)  # the page rebuilds every node; a second undo may not overtake it


def workflow(name):
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
