"""How tall the nodes are on the canvas when they are new, in both renderers."""

import pytest

from tests.nodes.pack import pack

from .on_the_canvas import put_on_canvas

MOST_PX = 700
SETTINGS = "LaserSettings"  # carries every setting, and is as tall as they are
# With its title, at the canvas's own scale; the newer renderer makes an element of it
MEASURE = """async type => {
  const {app, LiteGraph} = window, node = LiteGraph.createNode(type);
  app.canvas.ds.scale = 1;
  app.graph.add(node);
  await new Promise(done => setTimeout(done, 1000));
  const element = document.querySelector(`[data-node-id="${node.id}"]`);
  if (LiteGraph.vueNodesMode) return element.getBoundingClientRect().height;
  return node.size[1] + LiteGraph.NODE_TITLE_HEIGHT;
}"""


@pytest.mark.parametrize("node_type", sorted({*pack().NODE_CLASS_MAPPINGS} - {SETTINGS}))
def test_a_new_node_is_at_most_700_px_tall(node_type, canvas):
    page, renderer = canvas
    put_on_canvas(page, {"nodes": [], "links": [], "version": 0.4})
    height = page.evaluate(MEASURE, node_type)
    print(f"\n{node_type}, {renderer}: {height:.0f} px")
    assert 0 < height <= MOST_PX
