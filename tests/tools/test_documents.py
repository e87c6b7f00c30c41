"""The documents hold together: every link leads somewhere. Knows nothing of what they say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest

from tools.build.pack_schema import own_ids

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "web/docs/*.md", "laser_core/*/README.md")
    for path in sorted(ROOT.glob(pattern))
]
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(path: Path) -> set[str]:
    """The headings as GitHub names them: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target, anchor in LINK.findall(CODE.sub("", (ROOT / page).read_text("utf-8"))):
        file = (ROOT / page).parent / unquote(target) if target else ROOT / page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_the_readme_is_read_in_two_minutes():
    assert len(README.splitlines()) <= 200


def test_the_readme_leads_to_every_page_and_node():
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    wanted = [f"docs/{name}" for name in pages] + [f"web/docs/{node}.md" for node in own_ids()]
    assert [target for target in wanted if f"({target}" not in README] == []


def test_every_page_that_the_code_cites_is_there():
    cited = {
        name
        for folder in ("laser_core", "nodes", "tools")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bdocs/\w[\w-]*\.md", path.read_text("utf-8"))
    }
    assert "docs/method.md" in cited
    assert [name for name in cited if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/command-line.md"])
def test_the_python_on_a_page_runs(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "pictures", tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    assert snippets
    for code in snippets:
        exec(code, {})
