"""What ships says the same thing everywhere: README, requirements, version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import laser_core
from laser_core.models.families import FAMILIES
from tools.build import settings_table

try:
    import tomllib
except ImportError:  # Python 3.10; pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_page_shows_the_settings_as_they_are():
    page = settings_table.PAGE.read_text("utf-8")
    assert settings_table.with_tables(page) == page, "run python -m tools.build.settings_table"


def test_the_page_needs_its_marks():
    with pytest.raises(ValueError, match="put these two lines"):
        settings_table.with_tables("no marks")


def test_the_readme_names_every_family():
    for model_type, family in FAMILIES.items():
        assert f"| {family.name} | `{model_type}` |" in README


def test_requirements_and_project_agree():
    lines = (ROOT / "requirements.txt").read_text("utf-8").split()
    assert lines == PROJECT["project"]["dependencies"]


def test_the_test_script_installs_the_projects_dev_extras():
    script = (ROOT / "run-tests").read_text("utf-8")
    dev = re.search(r"^dev=\((.*)\)$", script, re.MULTILINE)[1]
    assert re.findall(r'"([^"]+)"', dev) == PROJECT["project"]["optional-dependencies"]["dev"]


@pytest.mark.parametrize("line", (ROOT / "requirements.txt").read_text("utf-8").split())
def test_a_requirement_is_a_plain_lower_bound_and_not_torch(line):
    assert re.fullmatch(r"[a-z_0-9]+>=[\d.]+", line)
    assert not line.startswith("torch")


def test_one_version_everywhere():
    assert PROJECT["project"]["version"] == laser_core.__version__
    assert f"## {laser_core.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
