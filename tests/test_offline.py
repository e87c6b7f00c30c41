"""Nothing but an asked-for download touches the network, and the pack's folder stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CODE = """
import os, sys
seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        seen.append((event, arguments))
        raise OSError("no network in this test")
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    if event in ("open", "os.mkdir", "os.rename", "os.remove"):
        path = arguments[0]
        if isinstance(path, str) and path.startswith({root!r}):
            seen.append((event, path))
sys.addaudithook(watch)
sys.path.insert(0, {root!r})
from tests.nodes.pack import run
lvlm = run("LaserLoadLVLM").lvlm
from tests.nodes.graphs import pictures_batch
asked = dict(image=pictures_batch(1), question="what color is the car ?")
assert run("LaserAnswer", lvlm=lvlm, **asked).json[0].startswith("{{")
assert not seen, seen
print("done")
"""


def test_loading_and_running_the_demo_needs_no_network_and_writes_nothing_to_the_pack(tmp_path):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(root=str(ROOT))],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr
