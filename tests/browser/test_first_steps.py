"""What somebody new does, in a real ComfyUI and both renderers: three nodes, a mistake, an answer.

Knows the page and the views; what the views draw of a result is the other files' concern.
"""

import pytest

from .test_views import SET, Node
from .test_workflows_on_the_canvas import put_on_canvas

QUEUE = """() => new Promise(done => {
  const api = window.app.api, end = said => setTimeout(() => done(said), 300);
  api.addEventListener('execution_success', () => end(null), {once: true});
  api.addEventListener('execution_error', e => end(e.detail.exception_message), {once: true});
  window.app.queuePrompt(0, 1);
})"""
# Load Image, Load LVLM and LASER Answer, wired as a new user does
THREE_NODES = """async () => { const {app, LiteGraph} = window;
  const [image, lvlm, answer] = ['LoadImage', 'LaserLoadLVLM', 'LaserAnswer'].map((type, index) => {
    const node = LiteGraph.createNode(type);
    node.pos = [420 * index, 0];
    app.graph.add(node);
    return node;
  });
  image.widgets[0].value = 'laser_scene_2.png';
  lvlm.connect(0, answer, 'lvlm');
  image.connect(0, answer, 'image');
  await new Promise(done => setTimeout(done, 500));
}"""
QUESTION = {"question": "what digit is on the red heart ?"}


@pytest.fixture
def three_nodes(canvas):
    page, renderer = canvas
    put_on_canvas(page, {"nodes": [], "links": [], "version": 0.4})
    page.evaluate(THREE_NODES)
    return page, renderer, Node(page, "LaserAnswer")


def ask(page, node, values=QUESTION):
    page.evaluate(SET, [node.id, values])
    return page.evaluate(QUEUE)


def test_three_nodes_answer(three_nodes, shots):
    page, renderer, node = three_nodes
    assert ask(page, node) is None
    assert node.text(".laser-said") == "2"
    assert node.text(".laser-plain") == "without LASER:8"
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
    assert page.evaluate("() => getSelection().toString().trim()") == "2"
    node.find(".laser-head .laser-button").click()
    page.wait_for_timeout(200)
    assert page.evaluate("() => navigator.clipboard.readText()") == "2"


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
