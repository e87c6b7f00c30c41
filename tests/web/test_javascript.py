"""The tests of web/ by Node's own runner, where Node and its packages are there."""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def test_the_views_pass_their_own_tests():
    if shutil.which("node") is None:
        pytest.skip("there is no Node: install Node 20 or newer")
    if not (FOLDER / "node_modules" / "jsdom").is_dir():
        pytest.skip(f"Node's packages are missing: npm ci --prefix {FOLDER}")
    done = subprocess.run(
        ["node", "--test", *map(str, sorted(FOLDER.glob("*.test.mjs")))],
        cwd=FOLDER, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
