"""Updates environments/transformers-*.txt: the versions that run-demo and run-tests install.

    python -m tools.build.lock

Needs `uv` (pip install uv) and the package index. One file serves Python 3.10 to 3.13 on Linux,
Windows and macOS. torch stays out, because the right build depends on the machine. So do sympy
and setuptools, which torch may pin. Users install requirements.txt without these files.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = {"5": "transformers>=5", "4.57": "transformers>=4.57,<4.58"}
"""What of transformers each line takes."""

INPUTS = ("requirements.txt", "tests/requirements.txt", "tests/benchmark/requirements.txt")


def lock_of(line: str) -> Path:
    """The file of pip constraints, relative to the repository."""
    return Path("environments") / f"transformers-{line}.txt"


def resolve(line: str) -> str:
    """The newest versions that fit together, one a line, with markers where they differ."""
    with tempfile.TemporaryDirectory() as folder:
        transformers, no_torch = Path(folder, "transformers.in"), Path(folder, "no_torch.in")
        transformers.write_text(LINES[line])
        no_torch.write_text("torch; sys_platform == 'never'")
        command = ["uv", "pip", "compile", "--universal", "--python-version", "3.10", "--quiet"]
        command += ["--no-header", "--no-annotate", "--no-emit-package", "setuptools"]
        command += ["--override", no_torch, transformers, *INPUTS]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return "".join(line for line in done.stdout.splitlines(True) if "'never'" not in line)


def main() -> None:
    for line in LINES:
        head = f"# pip constraints: what run-tests and run-demo install with transformers {line}.\n"
        head += "# Made by python -m tools.build.lock\n"
        (ROOT / lock_of(line)).write_text(head + resolve(line), "utf-8")
        print(lock_of(line))


if __name__ == "__main__":
    try:
        main()
    except FileNotFoundError:
        sys.exit("install uv: python -m pip install uv")
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
