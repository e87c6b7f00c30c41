"""The tables of inputs and outputs in web/docs/<NodeId>.md, written from the nodes.

python -m tools.build.help_pages
"""

from __future__ import annotations

from tools.build.pack_schema import ROOT, Input, own_ids, pack, schema

FOLDER = ROOT / "web" / "docs"
BEGIN, END = "<!-- tables: written by tools/build/help_pages.py -->", "<!-- end of tables -->"


def tables(node_id: str) -> str:
    """Markdown tables of a node's inputs and outputs."""
    spec = schema(node_id)
    tooltips = pack().NODE_CLASS_MAPPINGS[node_id].OUTPUT_TOOLTIPS
    inputs = ["| Input | Type | Default | |", "|---|---|---|---|", *map(_input_row, spec.inputs)]
    outputs = ["| Output | Type | |", "|---|---|---|"]
    for output, tooltip in zip(spec.outputs, tooltips, strict=True):
        outputs.append(_row(f"`{output.name}`", output.type, tooltip))
    lines = ["## Inputs", "", *inputs, "", "## Outputs", "", *outputs]
    return "\n".join(lines)


def with_tables(text: str, node_id: str) -> str:
    """`text` with the tables between its two marks. ValueError if a mark is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"put these two lines where the tables go: {BEGIN} {END}")
    return f"{before}{BEGIN}\n\n{tables(node_id)}\n\n{END}{after}"


def _input_row(entry: Input) -> str:
    options = entry.options
    kind = entry.type
    if entry.options.get("values") and entry.name != "model":
        kind = " / ".join(map(str, options["values"]))
    elif "min" in options and "max" in options:
        kind = f"{entry.type}, {options['min']:g} to {_large(options['max'])}"
    default = options.get("default")
    shown = "empty" if default == "" else "" if default is None else str(default)
    if not entry.is_widget:
        shown = "" if entry.required else "optional"
    elif options.get("advanced"):
        shown += " (advanced)"
    return _row(f"`{entry.name}`", kind, shown, options["tooltip"])


def _large(value: float) -> str:
    return "2^64 - 1" if value == 2**64 - 1 else f"{value:g}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    for node_id in own_ids():
        path = FOLDER / f"{node_id}.md"
        path.write_text(with_tables(path.read_text("utf-8"), node_id), "utf-8")


if __name__ == "__main__":
    main()
