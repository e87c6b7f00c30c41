/** The views on the canvas: the only file that touches ComfyUI's page. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { el } from "./views/dom.js";
import { modelLine, modelsOf } from "./views/model.js";
import { fileQuery, firstLine, kept, picturesOf, restored } from "./views/payload.js";
import { fillIn, presetsOf } from "./views/presets.js";
import { choiceNamer, translator } from "./views/strings.js";
import { createView, VIEWS, WIDE_PX } from "./views/view.js";

const KEPT = "laser_view"; // the property of a node that keeps its last result
const LEAST_WIDTH_PX = 320; // of a new node with a view
const EMPTY_HEIGHT_PX = 64; // of a view with nothing to show
const SAMPLING = ["seed", "control_after_generate", "top_p", "top_k"];
const LINE_HEIGHT_PX = 64; // of a line about a model, which may wrap twice
const views = new Map(); // node -> its view while the node is on a graph
const folds = new Map(); // node -> what folds its rarely used inputs
const presets = new Map(); // type of node -> the values that each preset writes
const models = new Map(); // type of node -> what is known of each model it offers
const lines = new Map(); // node -> what writes the line about its model
const workflows = new Map(); // prompt -> the workflow it was queued from
let texts = {};
let made = 0;

const language = () => app.extensionManager.setting.get("Comfy.Locale");
const t = translator(() => texts, language);
const nameOfChoice = choiceNamer(() => texts, language);

app.registerExtension({
  name: "laser.views",

  async init() {
    const href = new URL("./laser.css", import.meta.url).href;
    document.head.append(el("link", { rel: "stylesheet", href }));
    texts = await api.getCustomNodesI18n();
  },

  setup() {
    api.addEventListener("laser.progress", ({ detail }) => {
      views.get(nodeOfRun(detail.node, detail.workflow))?.progress(detail);
    });
    const queue = api.queuePrompt;
    api.queuePrompt = async function (...given) {
      const answer = await queue.apply(this, given);
      workflows.set(answer?.prompt_id, given[1]?.workflow?.id);
      return answer;
    };
    api.addEventListener("executed", ({ detail }) => {
      const pictures = picturesOf(detail.output);
      const node =
        pictures && nodeOfRun(detail.display_node ?? detail.node, workflows.get(detail.prompt_id));
      if (!views.has(node)) return;
      views.get(node).show({ pictures, of: pictures.length });
      keep(node, kept(pictures));
    });
    app.ui.settings.addEventListener("Comfy.VueNodes.Enabled.change", () =>
      setTimeout(() => {
        for (const fold of folds.values()) fold();
      }),
    );
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(end, () => {
        for (const view of views.values()) view.settle();
      });
    }
    let workflow; // of the run
    api.addEventListener("execution_start", ({ detail }) => {
      workflow = workflows.get(detail?.prompt_id);
      for (const view of views.values()) view.fail(null);
    });
    api.addEventListener("executing", ({ detail }) => {
      if (detail) views.get(nodeOfRun(detail, workflow))?.begin();
    });
    api.addEventListener("execution_error", ({ detail }) => showError(detail));
  },

  beforeRegisterNodeDef(_, definition) {
    const found = presetsOf(definition);
    if (found) presets.set(definition.name, found);
    const offered = modelsOf(definition);
    if (offered) models.set(definition.name, offered);
  },

  refreshComboInNodes() {
    for (const write of lines.values()) write();
  },

  nodeCreated(node) {
    const spec = VIEWS[node.comfyClass];
    if (spec) attach(node, spec);
    if (presets.has(node.comfyClass)) followPreset(node, presets.get(node.comfyClass));
    if (!/^Laser[A-Z]/.test(node.comfyClass ?? "")) return;
    if (models.has(node.comfyClass)) describeModel(node);
    foldAdvanced(node);
    nameChoices(node);
    if (widgetOf(node, "temperature")) greySampling(node);
  },

  /** After undo, or on coming back to a workflow's tab: the page still has the last results. */
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) {
      const pictures = picturesOf(output);
      const node = pictures && nodeAt(locator);
      if (!views.has(node)) continue;
      views.get(node).show({ pictures, of: pictures.length });
      whenRestored(() => views.has(node) && keep(node, kept(pictures)));
    }
  },
});

/** Puts a view on a node for as long as the node is on a graph. */
function attach(node, { sections, height, wide = height }) {
  const root = el("div", { class: "laser-view" });
  const reserve = addElement(node, root);
  let room = EMPTY_HEIGHT_PX;
  let asked = 0; // of the room, by what is shown
  let shows = false; // a result
  const needed = () => (node.size[0] < WIDE_PX ? height : wide);
  reserve(room);
  node.setSize([Math.max(node.size[0], LEAST_WIDTH_PX), node.size[1]]);
  const host = hostOf(node, (px) => {
    shows ||= px === undefined;
    asked = px ?? 0;
    room = Math.max(shows ? needed() : room, asked);
    reserve(room);
    node.expandToFitContent?.();
  });
  chain(node, "onResize", () => {
    if (shows) reserve(Math.max(needed(), asked));
  });

  const showKept = () => {
    const result = restored(node.properties?.[KEPT]);
    if (result) views.get(node)?.show(result);
    else views.get(node)?.refresh();
  };
  let forwarding = null;
  chain(node, "onAdded", () => {
    if (views.has(node)) return;
    views.set(node, createView(root, sections, host));
    forwarding = forwardToCanvas(root);
    remount(root, node);
    showKept();
  });
  chain(node, "onConfigure", showKept);
  for (const name of ["layer", "override", "map_of_tokens"]) {
    const set = widgetOf(node, name);
    if (set) chain(set, "callback", () => views.get(node)?.refresh());
  }
  chain(node, "onConnectionsChange", () => views.get(node)?.refresh());
  chain(node, "onRemoved", () => {
    views.get(node)?.destroy();
    views.delete(node);
    forwarding?.abort();
  });
}

/** Puts an element of the page on a node, where it is not saved. Returns what sets its height. */
function addElement(node, root) {
  let leastHeight = 0;
  const widget = node.addDOMWidget("laser_view", "laser_view", root, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // it is no parameter
    getMinHeight: () => leastHeight,
  });
  widget.serialize = false;
  const overWidget = node.getWidgetOnPos;
  node.getWidgetOnPos = function (...given) {
    const found = overWidget.apply(this, given);
    return found === widget ? undefined : found; // no menu offers it as a favourite
  };
  return (px) => {
    leastHeight = px;
    root.style.minHeight = `${px}px`; // the newer renderer measures the element itself
  };
}

/** A line at the bottom of a node: what its chosen model is, and whether it fits. */
function describeModel(node) {
  const root = el("div", { class: "laser-view laser-model", "aria-live": "polite" });
  addElement(node, root)(LINE_HEIGHT_PX);
  const host = {
    t,
    get: (name) => (promotedOf(node, name) ?? widgetOf(node, name))?.value,
    locked: (name) => isLinked(node, name) && !promotedOf(node, name),
  };
  const write = () => {
    const text = modelLine(models.get(node.comfyClass), host);
    root.replaceChildren(el("p", { text, title: text }));
  };
  for (const widget of node.widgets) chain(widget, "callback", write);
  for (const event of ["onConfigure", "onConnectionsChange"]) chain(node, event, write);
  let forwarding = null;
  chain(node, "onAdded", () => {
    if (lines.has(node)) return;
    lines.set(node, write);
    forwarding = forwardToCanvas(root);
    remount(root, node);
    write();
  });
  chain(node, "onRemoved", () => {
    lines.delete(node);
    root.replaceChildren();
    forwarding?.abort();
  });
}

/**
 * After undo the newer renderer shows the new node, but keeps the emptied root of the old one, of
 * the same id, where the new root belongs.
 */
function remount(root, node) {
  root.dataset.node = node.id;
  const replaceOld = () => {
    const shown = window.LiteGraph?.vueNodesMode && node.graph === app.canvas.graph;
    if (root.isConnected || !shown) return;
    const id = CSS.escape(String(node.id));
    document.querySelector(`.laser-view:empty[data-node="${id}"]`)?.replaceWith(root);
  };
  setTimeout(replaceOld); // after the page has mounted what it mounts
}

/**
 * Rarely used inputs fold away in the classic renderer too, which leaves room for those that are
 * advanced but not hidden; the node's menu has "Show Advanced". A linked one stays.
 */
function foldAdvanced(node) {
  const fold = () => {
    const shown =
      window.LiteGraph?.vueNodesMode ||
      node.showAdvanced ||
      app.extensionManager.setting.get("Comfy.Node.AlwaysShowAdvancedWidgets");
    for (const widget of node.widgets ?? []) {
      if (!widget.options?.advanced) continue;
      widget.advanced = true;
      widget.hidden = !shown && !isLinked(node, widget.name);
    }
  };
  fold();
  for (const event of ["onAdded", "onConfigure", "onConnectionsChange"]) chain(node, event, fold);
  chain(node, "toggleAdvanced", () => {
    fold();
    node.expandToFitContent?.();
  });
  node.setSize([node.size[0], node.computeSize()[1]]);
  chain(node, "onAdded", () => folds.set(node, fold)); // not before: some never join a graph
  chain(node, "onRemoved", () => folds.delete(node));
}

/** What only sampling uses is greyed out while the likeliest token is always taken. */
function greySampling(node) {
  const temperature = widgetOf(node, "temperature");
  const used = SAMPLING.map((name) => widgetOf(node, name)).filter(Boolean);
  const follow = () => {
    const samples = temperature.value > 0 || isLinked(node, "temperature");
    for (const widget of used) widget.disabled = !samples;
    node.setDirtyCanvas(true, true);
  };
  follow();
  chain(temperature, "callback", follow);
  for (const event of ["onAdded", "onConfigure", "onConnectionsChange"]) chain(node, event, follow);
}

/** Choices have their translation before them; what is stored stays English. */
function nameChoices(node) {
  for (const { type, options } of node.widgets ?? [])
    if (type === "combo") options.getOptionLabel ??= nameOfChoice;
}

/** Choosing a preset writes its values into the node's widgets: what is seen is what runs. */
function followPreset(node, values) {
  const preset = widgetOf(node, "preset");
  chain(preset, "callback", () => {
    fillIn(node.widgets, values[preset.value] ?? {});
    node.setDirtyCanvas(true, true);
  });
}

/** What a view asks of the canvas, see Host in views/view.js. */
function hostOf(node, makeRoom) {
  made += 1;
  return {
    id: `laser-${made}`,
    t,
    url: (entry) => {
      const query = fileQuery(entry);
      return query && api.apiURL(query);
    },
    async json(entry) {
      const query = fileQuery(entry);
      const answer = query && (await api.fetchApi(query).catch(() => null));
      return answer?.ok ? answer.json().catch(() => null) : null;
    },
    copy: copied,
    copyPicture: copiedPicture,
    savePicture: saved,
    get: (name) => widgetOf(node, name)?.value,
    set(name, value) {
      const widget = widgetOf(node, name);
      widget.value = value;
      widget.callback?.(value);
      node.setDirtyCanvas(true, true);
    },
    locked: (name) => isLinked(node, name),
    change(act) {
      this.begin();
      try {
        act();
      } finally {
        this.end();
      }
    },
    begin: () => app.canvas.emitBeforeChange(),
    end: () => app.canvas.emitAfterChange(),
    makeRoom,
  };
}

/** Puts a text on the clipboard. Pages that are not served safely have the old command alone. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = el("textarea", { class: "laser-unseen", readonly: true });
    field.value = text;
    const before = document.activeElement;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    before?.focus?.({ preventScroll: true });
    return done;
  }
}

/** Puts a picture on the clipboard, where the page may. */
async function copiedPicture(blob) {
  try {
    await navigator.clipboard.write([new ClipboardItem({ [blob.type]: blob })]);
    return true;
  } catch {
    return false;
  }
}

async function saved(blob) {
  const href = URL.createObjectURL(blob);
  el("a", { href, download: "laser.png" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000); // the download has begun by then
  return true;
}

/**
 * Keeps the last result in the workflow. A run is not an edit: the result also goes into the state
 * that edits are compared with, or the next Ctrl+Z would take back the result and nothing else.
 */
function keep(node, result) {
  node.properties[KEPT] = result;
  const state = app.extensionManager.workflow?.activeWorkflow?.activeState;
  const graph =
    node.graph === (app.rootGraph ?? app.graph)
      ? state
      : state?.definitions?.subgraphs?.find(({ id }) => id === node.graph?.id);
  const saved = graph?.nodes?.find(({ id }) => String(id) === String(node.id));
  // The same result again is no news: to a page that runs on every change it would be one
  if (!saved || JSON.stringify(saved.properties?.[KEPT]) === JSON.stringify(result)) return;
  saved.properties = { ...saved.properties, [KEPT]: structuredClone(result) };
  saved.size = [...node.size]; // the view has made room for it
  api.dispatchCustomEvent("graphChanged", state); // so that the page's draft has it too
}

/** Calls `act` once the page has put back the state that it goes to. */
function whenRestored(act) {
  setTimeout(() => {
    const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
    if (tracker?._restoringState) whenRestored(act);
    else act();
  });
}

/** Says what went wrong on the node that failed, or on those that waited for one without a view. */
function showError({ node_id, node_type, exception_message }) {
  const failed = nodeOf(String(node_id).split(":"), app.rootGraph ?? app.graph);
  if (failed?.comfyClass !== node_type) return; // of a workflow in another tab
  const said = firstLine(exception_message);
  if (views.has(failed)) views.get(failed).fail(said);
  else for (const node of behind(failed)) views.get(node)?.fail(`${failed.title}: ${said}`);
}

/** The nodes that get something from one, directly or through others, in its graph. */
function behind(first) {
  const found = new Set();
  const add = (node) => {
    for (const id of (node?.outputs ?? []).flatMap(({ links }) => links ?? [])) {
      const next = node.graph.getNodeById(node.graph.getLink(id)?.target_id);
      if (!next || found.has(next)) continue;
      found.add(next);
      add(next);
    }
  };
  add(first);
  return found;
}

const CANVAS_METHODS = {
  pointerdown: "processMouseDown",
  pointermove: "processMouseMove",
  pointerup: "processMouseUp",
};

/**
 * In the classic renderer a DOM widget would swallow the wheel, the middle and the right button. In
 * the newer one a right click would be on a parameter; it is on the node. A selected text has the
 * browser's own menu.
 */
function forwardToCanvas(root) {
  const controller = new AbortController();
  const { signal } = controller;
  const classic = () => !window.LiteGraph?.vueNodesMode;
  root.addEventListener(
    "wheel",
    (event) => classic() && !scrolls(event) && app.canvas.processMouseWheel(event),
    { signal },
  );
  for (const [type, method] of Object.entries(CANVAS_METHODS)) {
    root.addEventListener(
      type,
      (event) => {
        const { button, buttons } = event;
        const held = type === "pointermove" ? buttons & 6 : button === 1 || button === 2;
        if (held && classic() && !(button === 2 && hasSelection(root))) app.canvas[method](event);
      },
      { signal },
    );
  }
  root.addEventListener(
    "contextmenu",
    (event) => {
      if (hasSelection(root)) return;
      event.preventDefault();
      if (classic()) return;
      event.stopPropagation();
      root
        .closest("[data-node-id]")
        ?.dispatchEvent(new MouseEvent("contextmenu", { ...mouseOf(event), bubbles: true }));
    },
    { signal },
  );
  return controller;
}

/** Whether a text inside an element is selected. */
function hasSelection(root) {
  const selection = getSelection();
  return Boolean(selection) && !selection.isCollapsed && root.contains(selection.anchorNode);
}

const mouseOf = ({ clientX, clientY, ctrlKey, shiftKey, button, buttons }) => ({
  ...{ clientX, clientY, ctrlKey, shiftKey, button, buttons },
  cancelable: true,
});

/** True over a list that can itself be scrolled. */
function scrolls(event) {
  const list = event.target.closest?.(".laser-said, .laser-tokens, .laser-detail");
  return Boolean(list) && !event.ctrlKey && list.scrollHeight > list.clientHeight + 1;
}

function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** The widget outside, where a subgraph shows a node's widget as its own. */
function promotedOf(node, name) {
  const link = node.graph?.getLink?.(
    node.inputs?.find(({ widget }) => widget?.name === name)?.link,
  );
  const outside = node.graph?.inputNode && link?.origin_id === node.graph.inputNode.id;
  if (!outside) return undefined;
  const root = app.rootGraph ?? app.graph;
  const graphs = [root, ...(root.subgraphs?.values() ?? [])];
  const hosts = graphs.flatMap(({ nodes }) =>
    nodes.filter(({ subgraph }) => subgraph === node.graph),
  );
  const input = hosts.length === 1 && hosts[0].inputs[link.origin_slot];
  return input ? widgetOf(hosts[0], input.widget?.name ?? input.name) : undefined;
}

/** Whether a link gives a widget's value. */
function isLinked(node, name) {
  return (node.inputs ?? []).some((input) => input.widget?.name === name && input.link != null);
}

/** Calls `after` behind a method of one object, which keeps its own. */
function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...given) {
    const result = before?.apply(this, given);
    after(...given);
    return result;
  };
}

/** A node by the ids on the way to it: "12", or "4:12" in the subgraph of node 4. */
function nodeOf([first, ...rest], graph) {
  const node = graph?.getNodeById(Number(first)) ?? graph?.getNodeById(first);
  return rest.length ? nodeOf(rest, node?.subgraph) : node;
}

/** A node of a run, unless another workflow's tab is open, which may have one of the same id. */
function nodeOfRun(id, workflow) {
  const root = app.rootGraph ?? app.graph;
  const elsewhere = workflow && root.id && workflow !== root.id;
  return elsewhere ? undefined : nodeOf(String(id).split(":"), root);
}

/** A node by ComfyUI's locator: "12", or "<id of a subgraph>:12". */
function nodeAt(locator) {
  const parts = String(locator).split(":");
  const root = app.rootGraph ?? app.graph;
  const graph = parts.length > 1 ? root.subgraphs?.get(parts[0]) : root;
  return nodeOf([parts.at(-1)], graph);
}
