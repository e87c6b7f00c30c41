"""The scripts at the top: they set up, pass on what they are given, and say what is missing.

Nothing is installed: a stand-in takes Python's place.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.checks import run_tests

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash")
POWERSHELL = [*ROOT.glob("*.ps1"), *ROOT.glob("environments/*.ps1")]
# Its folders are made by `-m venv`; every call but the questions of -c is written down
STAND_IN = """#!/usr/bin/env bash
case "$1 ${2:-}" in
-c*) [[ $2 != *torch* ]]; exit ;;
"-m venv") mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
esac
printf '<%s>' "$@" >>"$(dirname "$0")/calls" && echo >>"$(dirname "$0")/calls"
[ "${2:-}" != laser_core ] || { printf '<%s>' "$@"; echo; echo "$PYTHONPATH"; }
"""


@pytest.fixture
def house(tmp_path):
    """The repository's scripts, in a folder whose name is no easy one."""
    if BASH is None or os.name == "nt":
        pytest.skip("needs a POSIX bash")
    folder = tmp_path / "Größe & so weiter" / "laser lvlm"
    shutil.copytree(ROOT / "environments", folder / "environments")
    for name in ("run-demo", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder.parent / "mein python"
    python.write_text(STAND_IN, "utf-8")
    python.chmod(0o755)
    return folder


def call(house, script, *arguments, python=None):
    environment = {**os.environ, "PYTHON": str(python or house.parent / "mein python")}
    environment.pop("PYTHONPATH", None)
    environment.pop("TORCH", None)
    return subprocess.run(
        [house / script, *arguments],
        env=environment,
        cwd=house.parent,
        capture_output=True,
        text=True,
    )


def calls(environment):
    return (environment / "bin" / "calls").read_text("utf-8").splitlines()


def test_a_setup_installs_torch_first_and_then_what_is_named_once(house):
    for _ in range(2):
        done = call(house, "environments/setup_env.sh", ".venv x", "-c", "a b.txt", "größe>=1")
        assert done.stdout.splitlines()[-1] == str(house / ".venv x/bin/python"), done.stderr
    pip = "<-m><pip><install><--quiet><--no-compile>"
    assert calls(house / ".venv x") == [
        f"{pip}<torch==2.13.0>",
        f"{pip}<-r><requirements.txt><-c><a b.txt><größe>=1>",
    ]


@pytest.mark.parametrize("file", ["requirements.txt", "environments/transformers-5.txt"])
def test_a_changed_file_is_installed_again(house, file):
    call(house, "environments/setup_env.sh", ".venv")
    with (house / file).open("a") as changed:
        changed.write("another>=1\n")
    call(house, "environments/setup_env.sh", ".venv")
    assert len(calls(house / ".venv")) == 4


def test_a_python_that_is_named_and_does_not_run_is_not_replaced(house):
    done = call(house, "environments/setup_env.sh", ".venv", python=house / "no python")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("install Python 3.10 or newer, or name one")
    assert not (house / ".venv").exists()


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], ["{house}/pictures/scene_picnic.jpg", "what number is on the bee?"]),
        (
            ["--json"],
            ["{house}/pictures/scene_picnic.jpg", "what number is on the bee?", "--json"],
        ),
        (["mein Bild.png", "wie groß ?", "--json"], ["mein Bild.png", "wie groß ?", "--json"]),
    ],
)
def test_the_demo_asks_what_it_is_given_from_any_folder(house, given, passed):
    done = call(house, "run-demo", *given)
    asked = "".join(f"<{word.format(house=house)}>" for word in passed)
    assert done.stdout.splitlines() == [f"<-m><laser_core><ask>{asked}", str(house)], done.stderr
    assert "<-c><environments/transformers-5.txt>" in calls(house / ".venv-demo")[1]


# ---- PowerShell: read, not run, where there is none --------------------------------------------


def faults(text: str) -> list[str]:
    """Lines that PowerShell's grammar does not take."""
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_powershell")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    nodes, wrong = [parser.parse(text.encode()).root_node], []
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.is_error or node.is_missing:
            wrong.append(text.splitlines()[node.start_point[0]])
    return wrong


@pytest.mark.parametrize("path", POWERSHELL, ids=lambda path: path.name)
def test_a_powershell_script_is_well_formed_and_ascii(path):
    text = path.read_text("utf-8")
    assert text.isascii()  # PowerShell 5.1 reads anything else as the machine's old code page
    assert not faults(text)
    for named in re.findall(r"\$PSScriptRoot\\([\w\\.-]+)", text):
        assert (ROOT / named.replace("\\", "/")).is_file(), named


@pytest.mark.parametrize("text", ["if ($a { 1 }", "$a = @(1", "function f( { }"])
def test_a_malformed_powershell_script_is_found(text):
    assert faults(text)


def test_no_path_of_a_powershell_script_is_taken_apart_at_a_blank():
    """A program is called by `&` with a variable or a quoted string; Windows splits bare words."""
    for path in POWERSHELL:
        text = path.read_text("ascii")
        assert not re.findall(r"(?<!\")\$PSScriptRoot\\", text)
        assert not re.findall(r"&\s(?!\$|\")\S+", re.sub(r"#.*", "", text))


def test_both_demo_scripts_ask_the_same():
    texts = ((ROOT / name).read_text("utf-8") for name in ("run-demo", "run-demo.ps1"))
    bash, powershell = (re.search(r"(scene_\w+\.jpg)\",? [\"'](.+\?)[\"']", text) for text in texts)
    assert bash.groups() == powershell.groups()


# ---- ./run-tests -------------------------------------------------------------------------------


@pytest.fixture
def runner(tmp_path, monkeypatch):
    monkeypatch.setattr(run_tests, "ROOT", tmp_path)
    return run_tests.Runner


@pytest.mark.parametrize("newest", [False, True])
def test_an_optional_environment_that_cannot_be_made_fails_only_the_newest(runner, newest, capfd):
    made = runner(newest)
    assert made.beside(sys.executable, "extra", "no_such_module") is None
    assert "extra: absent, nothing ran with it (ModuleNotFoundError" in capfd.readouterr().out
    assert made.failed == (["extra"] if newest else [])


def test_tests_that_fail_in_an_optional_environment_fail_the_run(runner, tmp_path):
    made = runner(False)
    assert made.beside(sys.executable, "extra", "json") == str(
        tmp_path / ".venv-extra" / "site-packages"
    )
    assert "no_such_test.py" in made.beside_others(sys.executable, "extra", ["no_such_test.py"])
    assert made.failed == ["extra"]


def test_an_optional_environment_is_made_anew_when_a_lock_changes(runner, tmp_path):
    lock, left = tmp_path / "environments" / "a.txt", tmp_path / ".venv-extra" / "left"
    lock.parent.mkdir()
    lock.write_text("a==1\n")
    runner(False).beside(sys.executable, "extra", "json")
    left.touch()
    runner(False).beside(sys.executable, "extra", "json")
    assert left.exists()
    lock.write_text("a==2\n")
    runner(False).beside(sys.executable, "extra", "json")
    assert not left.exists()


def test_what_is_checked_of_style_is_checked_before_a_commit_too():
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert set(run_tests.STYLE) <= set(hooks)
