"""What somebody new does, in a real ComfyUI and both renderers: three nodes, a mistake, an answer.

Knows the page and the views; what the views draw of a result is the other files' concern.
"""

import io
import re

import numpy as np
import pytest
from PIL import Image

from .on_the_canvas import SET, Node, open_templates, put_on_canvas

QUEUE = """() => new Promise(done => {
  const api = window.app.api, end = said => setTimeout(() => done(said), 300);
  api.addEventListener('execution_success', () => end(null), {once: true});
  api.addEventListener('execution_error', e => end(e.detail.exception_message), {once: true});
  window.app.queuePrompt(0, 1);
})"""
# Settled when the next run has ended and is drawn
ENDED = """() => { const api = window.app.api;
  const done = new Promise(ended => {
    for (const end of ['execution_success', 'execution_error'])
      api.addEventListener(end, () => setTimeout(ended, 300), {once: true}); });
  return {done}; }"""
RESIZE = """([id, width]) => { const node = window.app.graph.getNodeById(id);
  node.setSize([width, node.computeSize()[1]]); }"""
# Load Image, Load LVLM and LASER Answer, wired as a new user does
THREE_NODES = """async () => { const {app, LiteGraph} = window;
  const [image, lvlm, answer] = ['LoadImage', 'LaserLoadLVLM', 'LaserAnswer'].map((type, index) => {
    const node = LiteGraph.createNode(type);
    node.pos = [420 * index, 0];
    app.graph.add(node);
    return node;
  });
  image.widgets[0].value = 'laser_scene_picnic.jpg';
  lvlm.connect(0, answer, 'lvlm');
  image.connect(0, answer, 'image');
  await new Promise(done => setTimeout(done, 500));
}"""
QUESTION = {"question": "what number is on the bee?"}


@pytest.fixture
def three_nodes(canvas):
    page, renderer = canvas
    put_on_canvas(page, {"nodes": [], "links": [], "version": 0.4})
    page.evaluate(THREE_NODES)
    return page, renderer, Node(page, "LaserAnswer")


def ask(page, node, values=QUESTION):
    page.evaluate(SET, [node.id, values])
    return page.evaluate(QUEUE)


QUESTION_BOX = """id => { const node = window.app.graph.getNodeById(id);
  const drawn = document.querySelector(`[data-node-id="${id}"] textarea`);
  return drawn ?? node.widgets.find(widget => widget.name === 'question').element; }"""


def test_the_first_five_minutes_go_by_clicks_and_typing_alone(canvas, shots):
    page, renderer = canvas
    put_on_canvas(page, {"nodes": [], "links": [], "version": 0.4})
    open_templates(page)
    page.locator('[data-testid="template-workflow-1 Ask a question"]').click()
    page.wait_for_function("() => window.app.graph.nodes.some(n => n.type === 'LaserAnswer')")
    node = Node(page, "LaserAnswer", scale=0.7)

    def run_with(question: str | None) -> str:
        if question:
            page.evaluate_handle(QUESTION_BOX, node.id).as_element().fill(question)
        ended = page.evaluate_handle(ENDED)
        page.get_by_test_id("queue-button").click()
        ended.evaluate("ended => ended.done")
        refused = node.find(".laser-error", "attached")
        seen = refused.text_content() if refused.is_visible() else node.text(".laser-head")
        print(f"\n{renderer}: {question or 'Run'} -> {seen}")
        return seen

    assert run_with(None).startswith("6")
    refused = run_with("what is the dog doing?")
    example = re.search(r"try '(is there any \w+\?)'", refused)[1]
    assert run_with(example).startswith("yes")
    assert run_with("what number is on the apple?").startswith("24")
    page.screenshot(path=shots / f"five-minutes-{renderer}.png")


def test_three_nodes_answer(three_nodes, shots):
    page, renderer, node = three_nodes
    assert ask(page, node) is None
    assert node.text(".laser-said") == "6"
    assert node.text(".laser-plain") == "without LASER:9"
    assert "</s>" not in node.view.inner_text()
    node.look(0.9)
    page.screenshot(path=shots / f"three-nodes-{renderer}.png")


def test_an_error_is_said_on_the_node_and_goes_with_the_next_run(three_nodes, shots):
    page, renderer, node = three_nodes
    assert "question is empty" in ask(page, node, {"question": " "})
    said = node.find(".laser-error")
    assert said.is_visible() and "write what to look for" in said.text_content()
    assert said.evaluate("element => element.isConnected")
    page.screenshot(path=shots / f"error-{renderer}.png")
    assert ask(page, node) is None
    assert not node.view.query_selector(".laser-error").is_visible()


def test_an_error_of_a_node_without_a_view_is_said_on_the_view_that_waits_for_it(three_nodes):
    page, _, node = three_nodes
    load = Node(page, "LaserLoadLVLM")
    page.evaluate(SET, [load.id, {"model": "gone"}])
    assert "choose another model" in ask(page, node)
    assert node.find(".laser-error").text_content().startswith("⚠ Load LVLM: choose another model")


def test_the_answer_is_selected_by_mouse_and_copied_by_a_button(three_nodes):
    page, _, node = three_nodes
    ask(page, node)
    node.look(1.0)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    said = node.find(".laser-said")
    said.click(click_count=3)
    assert page.evaluate("() => getSelection().toString().trim()") == "6"
    node.find(".laser-head .laser-button").click()
    page.wait_for_timeout(200)
    assert page.evaluate("() => navigator.clipboard.readText()") == "6"


def test_the_picture_takes_what_the_answer_leaves(three_nodes):
    page, _, node = three_nodes
    ask(page, node)
    parts = ".laser-body", ".laser-stage", ".laser-detail"
    body, stage, detail = (node.find(part).bounding_box() for part in parts)
    assert detail["y"] + detail["height"] <= body["y"] + body["height"] + 1
    assert stage["height"] >= body["height"] / 3
    page.evaluate("""id => { const node = window.app.graph.getNodeById(id);
        node.setSize([node.size[0], node.size[1] + 300]); }""", node.id)  # fmt: skip
    page.wait_for_timeout(700)
    grown = node.find(".laser-body").bounding_box()["height"] - body["height"]
    taller = node.find(".laser-stage").bounding_box()["height"] - stage["height"]
    assert grown > 40  # the question's box grows too
    assert taller == pytest.approx(grown, abs=2)


def test_on_a_wide_node_the_answer_stands_beside_its_window(three_nodes):
    page, _, node = three_nodes
    for width, beside, room in ((600, True, 360), (330, False, 690)):
        page.evaluate(RESIZE, [node.id, width])
        ask(page, node)
        node.look(0.6)
        head, crop = (node.find(part).bounding_box() for part in (".laser-head", ".laser-crop"))
        assert (head["x"] + head["width"] <= crop["x"]) == beside
        assert (head["y"] + head["height"] <= crop["y"]) != beside
        height = node.view.evaluate("view => view.offsetHeight")
        assert height >= room


def saved(page, node) -> np.ndarray:
    with page.expect_download() as download:
        node.find(".laser-tools .laser-button:last-child").click()
    with open(download.value.path(), "rb") as file:
        return np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"), dtype=int)


def test_the_map_is_compared_by_a_slider_and_saved_as_it_is_seen(asked, shots):
    page, renderer = asked
    node = Node(page, "LaserConViCrop", scale=1.0)
    whole = saved(page, node)
    slider = node.find(".laser-slider")
    slider.focus()
    page.keyboard.press("Home")
    bare = saved(page, node)
    assert whole.shape == bare.shape == (512, 512, 3)  # of the view: the workflow's has 1024
    covered = np.abs(whole - bare).max(-1) > 8
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    half = saved(page, node)
    assert np.array_equal(half[:, :240], whole[:, :240])
    assert np.array_equal(half[:, 272:], bare[:, 272:])
    assert covered.any()
    page.screenshot(path=shots / f"compared-{renderer}.png")
    page.keyboard.press("End")


def test_the_picture_with_its_map_is_copied(asked):
    page, _ = asked
    node = Node(page, "LaserVAQLayerSelect", scale=1.0)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    node.find(".laser-tools .laser-button").click()
    page.wait_for_timeout(500)
    kinds = page.evaluate("async () => (await navigator.clipboard.read()).map(one => one.types)")
    assert kinds == [["image/png"]]


PANEL = """() => [...document.querySelectorAll('body *')].filter(
  one => one.childElementCount === 0 && /laser_view/.test(one.textContent)).length"""


def test_a_right_click_on_a_view_opens_the_nodes_menu_without_the_view_as_a_parameter(
    three_nodes, shots
):
    page, renderer, node = three_nodes
    ask(page, node)
    node.look(0.9)
    node.find(".laser-stage").click(button="right", position={"x": 8, "y": 8})
    page.wait_for_timeout(500)
    page.screenshot(path=shots / f"menu-{renderer}.png")
    menu = page.locator(".litecontextmenu, [role='menu'], .p-contextmenu, .p-popover").first
    assert menu.is_visible() and "Bypass" in menu.inner_text()
    assert page.evaluate(PANEL) == 0
    page.keyboard.press("Escape")
    page.mouse.click(1000, 900)


def test_the_properties_panel_lists_no_view(three_nodes, shots):
    page, renderer, node = three_nodes
    ask(page, node)
    node.look(0.6)
    page.evaluate("""id => { const {canvas, graph} = window.app;
        canvas.selectNode(graph.getNodeById(id)); }""", node.id)  # fmt: skip
    page.get_by_label("Toggle properties panel").first.click()
    page.wait_for_timeout(700)
    page.screenshot(path=shots / f"panel-{renderer}.png")
    assert page.evaluate(PANEL) == 0
    page.get_by_label("Toggle properties panel").first.click()


def test_choices_are_named_in_the_language_that_is_set(three_nodes, shots):
    page, renderer, node = three_nodes
    set_language = "value => window.app.extensionManager.setting.set('Comfy.Locale', value)"
    label = """id => { const {widgets} = window.app.graph.getNodeById(id);
        const {value, options} = widgets.find(({name}) => name === 'answer_input');
        return [value, options.getOptionLabel(value)]; }"""
    page.evaluate(set_language, "ja")
    try:
        page.wait_for_timeout(1500)
        assert page.evaluate(label, node.id) == [
            "picture + crop",
            "画像 + 切り抜き (picture + crop)",
        ]
        page.screenshot(path=shots / f"japanese-{renderer}.png")
    finally:
        page.evaluate(set_language, "en")


def test_the_window_of_laser_answer_is_moved_by_hand_and_answered_from(three_nodes):
    page, _, node = three_nodes
    ask(page, node)
    node.find(".laser-window").focus()
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    moved = node.widget("override")
    assert moved and "Run to apply" in node.text(".laser-status")
    assert ask(page, node) is None
    assert "set by hand" in node.text(".laser-status")
    x, y, width, height = moved.split(", ")
    assert f"{width} x {height} px at ({x}, {y})" in node.text(".laser-crop .laser-caption")


LIVE = """id => !window.app.graph.getNodeById(id).widgets
  .find(widget => widget.name === 'seed').disabled"""


def test_the_seed_is_live_only_where_sampling_is_on_and_is_sent_in_any_case(three_nodes, shots):
    page, renderer, node = three_nodes
    page.evaluate(SET, [node.id, {"seed": 7}])
    assert not page.evaluate(LIVE, node.id)
    page.screenshot(path=shots / f"no-seed-{renderer}.png")
    page.evaluate(SET, [node.id, {"temperature": 0.5}])
    assert page.evaluate(LIVE, node.id)
    page.evaluate(SET, [node.id, {"temperature": 0}])
    assert not page.evaluate(LIVE, node.id)
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert prompt[str(node.id)]["inputs"]["seed"] == 7
    saved = page.evaluate("() => window.app.graph.serialize()")
    put_on_canvas(page, saved)
    assert not page.evaluate(LIVE, node.id)


@pytest.mark.parametrize("words", ["describe", "ヒートマップ", "视觉问答"])
def test_the_search_box_finds_nodes_by_what_they_do(canvas, words):
    page, _ = canvas
    page.evaluate("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_timeout(800)
    page.keyboard.type(words)
    page.wait_for_timeout(800)
    found = page.locator("[role='dialog'], .comfy-vue-node-search-container").last.inner_text()
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    expected = {"describe": "VAT Decode", "ヒートマップ": "VAQ Layer Select"}
    assert expected.get(words, "LASER Answer") in found
