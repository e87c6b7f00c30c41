"""Can this Python read the sources and import the pack? For one without torch, which runs no test.

    python3.12 tools/checks/check_python.py

Needs no package. Prints a line; ends with an error where a file does not compile, a warning about
its syntax included, or where a node cannot list its inputs.
"""

import importlib.util
import platform
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

sys.dont_write_bytecode = True
warnings.simplefilter("error")

FOLDERS = ("laser_core", "nodes", "tools", "tests")
files = [*ROOT.glob("*.py"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))]
for path in files:
    compile(path.read_text("utf-8"), str(path), "exec")

spec = importlib.util.spec_from_file_location(
    "pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
)
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
for node in pack.NODE_CLASS_MAPPINGS.values():
    node.INPUT_TYPES()

why = "another Python runs them" if importlib.util.find_spec("torch") else "torch is not there"
print(f"Python {platform.python_version()}: {len(files)} files compile and "
      f"{len(pack.NODE_CLASS_MAPPINGS)} nodes import; no tests, {why}")  # fmt: skip
