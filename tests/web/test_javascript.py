"""web/ by Node: its tests by Node's own runner, its formatter and linter.

Skipped where Node or its packages are missing. Knows nothing of ComfyUI.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
WEB = FOLDER.parents[1] / "web"


def run_with(package: str, *command: str) -> None:
    """Runs a command in this folder that needs one of its Node packages; it must succeed."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node: install Node 20 or newer")
    if not (FOLDER / "node_modules" / package).is_dir():
        pytest.skip(f"Node's packages are missing: npm ci --prefix {FOLDER}")
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_views_pass_their_own_tests():
    run_with("jsdom", "node", "--test", *map(str, sorted(FOLDER.glob("*.test.mjs"))))


def test_the_formatter_and_the_linter_find_nothing():
    run_with("@biomejs/biome", "npm", "run", "lint")


def test_no_line_of_javascript_is_over_100_columns():
    """The formatter leaves long texts and comments as they are."""
    scripts = [*WEB.rglob("*.js"), *FOLDER.glob("*.mjs")]
    lines = [(path.name, line) for path in scripts for line in path.read_text("utf-8").splitlines()]
    assert not [(name, line) for name, line in lines if len(line) > 100]
