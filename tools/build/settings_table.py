"""The tables of settings in docs/command-line.md, written from the settings' own metadata.

python -m tools.build.settings_table          writes them into docs/command-line.md
python -m tools.build.settings_table --print  prints them
"""

from __future__ import annotations

import argparse
from pathlib import Path

from laser_core.settings import GROUPS, PRESETS, preset_values
from laser_core.settings_text import Flag, flag_name, flags, title
from tools.build.markdown import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"
BEGIN, END = (
    "<!-- settings: written by tools/build/settings_table.py -->",
    "<!-- end of settings -->",
)


def tables() -> str:
    """A Markdown table per group of settings, with what each preset sets after the first."""
    preset, *others = (_table(group) for group in GROUPS)
    return "\n\n".join([preset, _presets(), *others])


def with_tables(text: str) -> str:
    """`text` with the tables between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"put these two lines where the tables go: {BEGIN} {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def _table(group: str) -> str:
    rows = [f"**{title(group)}**", "", "| Flag | Default | Values | |", "|---|---|---|---|"]
    return "\n".join([*rows, *(_row(flag) for flag in flags([group]))])


def _presets() -> str:
    """What each preset sets, a column each."""
    columns = [preset_values(name) for name in PRESETS]
    rows = [
        [f"`{flag_name(setting)}`", *(str(column[setting]) for column in columns)]
        for setting in columns[0]
    ]
    return markdown(["Flag", *(f"`{name}`" for name in PRESETS)], rows)


def _row(flag: Flag) -> str:
    values = " · ".join(flag.spec.metadata["choices"] or [flag.values])
    cells = f"`{flag.name}`", flag.default, values, flag.spec.metadata["help"]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true")
    if parser.parse_args().print:
        print(tables())
    else:
        PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
