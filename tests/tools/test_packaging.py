"""What ships says the same thing everywhere: README, requirements, version."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import laser_core
from laser_core.models.families import FAMILIES
from tools.build import settings_table
from tools.build.lock import INPUTS, LINES, lock_of
from tools.checks.run_tests import PYTHONS

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
    named = {}
    for names, types in re.findall(r"^\| ([^|]+) \| (`[^|]+`) \|", README, re.MULTILINE):
        named |= dict(zip(types.replace("`", "").split(", "), names.split(", "), strict=False))
    for model_type, family in FAMILIES.items():
        assert named[model_type] == family.name


def test_requirements_and_project_agree():
    lines = (ROOT / "requirements.txt").read_text("utf-8").split()
    assert lines == PROJECT["project"]["dependencies"]


def requirements(file):
    lines = (ROOT / file).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_test_script_installs_the_projects_dev_extras():
    dev = PROJECT["project"]["optional-dependencies"]["dev"]
    assert requirements("tests/requirements.txt") == dev


@pytest.mark.parametrize("line", LINES)
def test_a_lock_fits_every_requirement_on_every_promised_python_and_leaves_torch_alone(line):
    """The command that makes it: python -m tools.build.lock."""
    pins = [Requirement(text) for text in requirements(lock_of(line))]
    names = {canonicalize_name(pin.name) for pin in pins}
    assert not [name for name in names if re.match("torch|nvidia|cuda|triton", name)]
    wanted = [Requirement(text) for file in INPUTS for text in requirements(file)]
    wanted.append(Requirement(LINES[line]))
    places = itertools.product(PYTHONS, ("linux", "win32"))
    for want, (python, system) in itertools.product(wanted, places):
        here = {"python_full_version": f"{python}.1", "sys_platform": system}
        found = [
            pin.specifier
            for pin in pins
            if canonicalize_name(pin.name) == canonicalize_name(want.name)
            and (pin.marker is None or pin.marker.evaluate(here))
        ]
        assert len(found) == 1, (want.name, here)
        version = str(found[0]).removeprefix("==")
        assert want.specifier.contains(version), (want, version)


@pytest.mark.parametrize("line", (ROOT / "requirements.txt").read_text("utf-8").split())
def test_a_requirement_is_a_plain_lower_bound_and_not_torch(line):
    assert re.fullmatch(r"[a-z_0-9]+>=[\d.]+", line)
    assert not line.startswith("torch")


def test_one_version_everywhere():
    assert PROJECT["project"]["version"] == laser_core.__version__
    assert f"## {laser_core.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
