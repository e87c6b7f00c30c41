"""Writes locales/<language>/nodeDefs.json: English from the nodes, others from translations/.

The English labels that say more than an input's name does are there too, the name in brackets.

    python -m tools.build.build_locales

A translation belongs to one English text: if that text changes, this fails and names it.
"""

from __future__ import annotations

import json
from typing import Any

from tools.build.pack_schema import ROOT, own_ids, pack, schema

LANGUAGES = ("en", "ja", "zh")
FOLDER = ROOT / "locales"
TRANSLATIONS = ROOT / "tools" / "build" / "translations"


def node_definitions(language: str) -> dict[str, Any]:
    """What nodeDefs.json of that language holds. Raises KeyError for a text not translated yet."""
    known = json.loads((TRANSLATIONS / f"{language}.json").read_text("utf-8"))
    if language == "en":
        names = {"nodes": pack().NODE_DISPLAY_NAME_MAPPINGS, "names": _Same(known["names"])}
        known = {**names, "texts": _Same()}
    return {node_id: _node(node_id, known) for node_id in own_ids()}


class _Same(dict):
    def __missing__(self, text: str) -> str:
        return text


def _node(node_id: str, known: dict[str, dict[str, str]]) -> dict[str, Any]:
    node = pack().NODE_CLASS_MAPPINGS[node_id]
    spec = schema(node_id)
    names, texts = known["names"], known["texts"]
    return {
        "display_name": known["nodes"][node_id],
        "description": texts[node.DESCRIPTION],
        "inputs": {
            entry.name: {"name": names[entry.name], "tooltip": texts[entry.options["tooltip"]]}
            for entry in spec.inputs
        },
        "outputs": {
            str(index): {"name": names[output.name], "tooltip": texts[tooltip]}
            for index, (output, tooltip) in enumerate(
                zip(spec.outputs, node.OUTPUT_TOOLTIPS, strict=True)
            )
        },
    }


def main() -> None:
    for language in LANGUAGES:
        folder = FOLDER / language
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(node_definitions(language), indent=1, ensure_ascii=False)
        (folder / "nodeDefs.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
