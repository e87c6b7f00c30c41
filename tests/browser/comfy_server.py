"""A real ComfyUI with this pack in it, on a free loopback port, in folders of its own.

COMFYUI_PATH names a ComfyUI checkout, COMFYUI_PYTHON the interpreter that has its requirements
(default: the one that runs the tests), LASER_TEST_MODEL a model folder to use instead of the
bundled demo model, COMFYUI_ARGS further arguments. Ends its own process only.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
RUN_SECONDS = 240
PACK_FOLDER = "laser-lvlm"

# Nodes that only tests need: a text conditioning without a text encoder, looks inside, and batches
# on a CPU.
TEST_NODES = '''
import importlib, json, sys, torch

class Conditioning:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "test"
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    def make(self):
        return ([[torch.zeros(1, 4, 8), {}]],)

class Look:
    """What came in, as JSON: shapes and sums of everything inside."""
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "look", "test", True
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*", {})}})
    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True
    def look(self, value):
        def plain(v):
            if isinstance(v, torch.Tensor):
                return {"shape": list(v.shape), "sum": float(v.float().sum())}
            if isinstance(v, dict):
                return {str(k): plain(w) for k, w in v.items()}
            if isinstance(v, (list, tuple)):
                return [plain(w) for w in v]
            return v if isinstance(v, (int, float, str, bool, type(None))) else str(v)
        return {"ui": {"seen": [json.dumps(plain(value))]}}

class List:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_IS_LIST = ("IMAGE",), "make", "test", (True,)
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"first": ("IMAGE",), "second": ("IMAGE",)}}
    )
    def make(self, first, second):
        return ([first, second],)

class SideBySide:
    """From here on, nodes go through this many pictures at once, as on a GPU; each is logged."""
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "make", "test"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",), "count": ("INT",)}})
    def make(self, image, count):
        [pack] = [name for name in sys.modules if name.endswith(".nodes.laser_answer")]
        pack = pack.removesuffix(".nodes.laser_answer")
        together = importlib.import_module(pack + ".laser_core.engine.together")
        run = together.by_itself = getattr(together, "by_itself", together.run_together)
        def logged(lvlm, items, job, *given, **named):
            def begun(own, item):
                print("a picture begins", flush=True)
                return job(own, item)
            return run(lvlm, items, begun, count, *given, **named)
        together.run_together = logged if count else run
        return (image,)

NODE_CLASS_MAPPINGS = {
    "TestConditioning": Conditioning, "TestLook": Look, "TestList": List,
    "TestSideBySide": SideBySide,
}
'''


def why_not() -> str | None:
    """Why there is no ComfyUI to test in, or None."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        return "COMFYUI_PATH is not set: it names the ComfyUI checkout to test the pack in"
    if not (Path(path) / "main.py").is_file():
        return f"COMFYUI_PATH is {path}: there is no main.py in it"
    if not (model_folder() / "config.json").is_file():
        return f"there is no model in {model_folder()}"
    return None


def model_folder() -> Path:
    return Path(os.environ.get("LASER_TEST_MODEL") or ROOT / "laser_core" / "demo_model")


class ComfyServer:
    """A running ComfyUI. base: its folders; log: what it printed."""

    def __init__(self, base: Path, *arguments: str) -> None:
        self.base = base
        for name in ("custom_nodes", "models", "input", "output", "user"):
            (base / name).mkdir(parents=True)
        (base / "custom_nodes" / PACK_FOLDER).symlink_to(ROOT, target_is_directory=True)
        (base / "custom_nodes" / "test_nodes.py").write_text(TEST_NODES)
        # The tutorial would cover the canvas
        user = base / "user" / "default"
        user.mkdir()
        (user / "comfy.settings.json").write_text(json.dumps({"Comfy.TutorialCompleted": True}))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (base / "log.txt").open("w")
        self._process = subprocess.Popen(
            [
                os.environ.get("COMFYUI_PYTHON") or sys.executable,
                str(Path(os.environ["COMFYUI_PATH"]) / "main.py"),
                *("--cpu", "--disable-api-nodes", "--disable-auto-launch", "--disable-metadata"),
                *("--database-url", "sqlite:///:memory:", "--base-directory", str(base)),
                *("--listen", "127.0.0.1", "--port", str(self.port)),
                *(*arguments, *shlex.split(os.environ.get("COMFYUI_ARGS", ""))),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=base,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        )
        self._wait_until_ready()

    @property
    def log(self) -> str:
        return (self.base / "log.txt").read_text(errors="replace")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def picture(self, image: dict) -> bytes:
        """The bytes of a picture that a node's `ui` names."""
        query = "&".join(f"{name}={image[name]}" for name in ("filename", "subfolder", "type"))
        with urllib.request.urlopen(f"{self.url}/view?{query}", timeout=60) as answer:
            return answer.read()

    def run(self, prompt: dict, seconds: float = RUN_SECONDS, client: str = "tests") -> dict:
        """Outputs by node id. Raises AssertionError with ComfyUI's words if it fails."""
        return self.wait(self.queue(prompt, client), seconds)

    def queue(self, prompt: dict, client: str = "tests", targets: list[str] | None = None) -> str:
        """targets: the output nodes to run, where not all of them are."""
        return self.post(prompt, client, targets)["prompt_id"]

    def post(self, prompt: dict, client: str = "tests", targets: list[str] | None = None) -> dict:
        """As `queue`, with what ComfyUI found wrong: `node_errors` by node."""
        content = {"prompt": prompt, "client_id": client}
        content |= {"partial_execution_targets": targets} if targets else {}
        body = json.dumps(content).encode()
        request = urllib.request.Request(
            self.url + "/prompt", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"ComfyUI refused the prompt: {error.read().decode()}") from error

    def wait(self, prompt_id: str, seconds: float = RUN_SECONDS) -> dict:
        return self.entry(prompt_id, seconds)["outputs"]

    def entry(self, prompt_id: str, seconds: float = RUN_SECONDS, *, failure: bool = False) -> dict:
        """The history entry. Raises AssertionError if the run failed, or with `failure` if not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry["status"]["completed"] is not None and entry["status"]["messages"]:
                failed = entry["status"]["status_str"] != "success"
                assert failed == failure, f"status: {entry['status']}\n{self.log[-3000:]}"
                return entry
            time.sleep(0.2)
        raise AssertionError(f"no result after {seconds} s:\n{self.log[-3000:]}")

    def interrupt(self) -> None:
        request = urllib.request.Request(self.url + "/interrupt", b"{}", method="POST")
        urllib.request.urlopen(request, timeout=60).close()

    def import_seconds(self) -> float:
        """How long ComfyUI says the pack took to import; fails if it says that it failed."""
        lines = [line for line in self.log.splitlines() if line.rstrip().endswith(PACK_FOLDER)]
        lines = [line for line in lines if re.search(r"\d+(\.\d+)? seconds", line)]
        assert lines and "FAILED" not in "".join(lines), self.log[-3000:]
        return float(re.search(r"(\d+(?:\.\d+)?) seconds", lines[-1]).group(1))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                self.get("/queue")
                return
            except OSError:
                time.sleep(0.5)
        self.close()
        raise RuntimeError(f"ComfyUI did not start:\n{self.log[-3000:]}")
