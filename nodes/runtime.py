"""What ComfyUI offers a running node: progress, interrupts, memory, folders, files for the views.

The only file that imports ComfyUI, and only inside functions. Without ComfyUI the nodes still work,
with no bar, no preview and no memory manager.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..laser_core.models.catalogue import LLM, TEXT_ENCODERS, TOKENIZER_IN_COMFY

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]

STEPS = 1000  # of the bar: fine enough for any answer
PROGRESS_EVENT = "laser.progress"  # what web/laser.js listens to
TEXT_SECONDS = 0.1  # between two messages
TEXT_CHARACTERS = 2000  # the end of a longer text, as it grows
WHOLE = 1e32  # bytes: what ComfyUI passes for "as much as there is"
# Shares of the bar that a stage of the core ends at; stages not named go from 0 to the end.
STAGES = {
    "reading the picture": (0.0, 0.3),
    "looking closer": (0.3, 0.4),
    "answering plainly": (0.4, 0.5),
    "reading the evidence": (0.5, 0.6),
    "answering": (0.6, 1.0),
}


def in_comfyui() -> bool:
    """True when ComfyUI runs the pack; a package of that name elsewhere does not count."""
    return "comfy.model_management" in sys.modules


class NodeProgress:
    """A core progress callback that fills the node's bar and raises when the user interrupts.

    pictures: how many the node goes through; call `next_picture` before each, or, of several side
    by side, use the callback `of` each until it is `done`. stages: shares of a picture's part of
    the bar, by stage.
    """

    def __init__(self, pictures: int = 1, stages: dict[str, tuple[float, float]] = STAGES) -> None:
        self._parts, self._picture, self._stages = [0.0] * pictures, -1, stages
        self._bar = self._memory = None
        self._value = 0
        if in_comfyui():
            import comfy.model_management
            import comfy.utils

            self._memory = comfy.model_management
            self._bar = comfy.utils.ProgressBar(STEPS)

    def next_picture(self) -> None:
        self._parts[: self._picture + 1] = [1.0] * (self._picture + 1)
        self._picture += 1

    def of(self, picture: int) -> Progress:
        """The callback for one of the pictures, counted from 0."""
        return functools.partial(self._report, picture)

    def done(self, picture: int) -> None:
        self._parts[picture] = 1.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._report(max(self._picture, 0), stage, done, total)

    def _report(self, picture: int, stage: str, done: int, total: int) -> None:
        start, end = self._stages.get(stage, (0.0, 1.0))
        self._parts[picture] = start + (end - start) * min(done / max(total, 1), 1.0)
        self._show()

    def _show(self) -> None:
        if self._bar is None:
            return
        self._memory.throw_exception_if_processing_interrupted()
        # An answer is decoded twice, with and without the method; the bar must not run backwards
        self._value = max(self._value, round(STEPS * sum(self._parts) / len(self._parts)))
        self._bar.update_absolute(self._value, STEPS)


class ViewProgress:
    """Shows results in a node's view before the run ends; does nothing without ComfyUI."""

    def __init__(self, node_id: str | None, extra_pnginfo: dict[str, Any] | None) -> None:
        self._node_id, self._last = node_id, 0.0
        # Node ids repeat in every workflow, so the message names the workflow too
        self._workflow = ((extra_pnginfo or {}).get("workflow") or {}).get("id")

    def text(self, text: str) -> None:
        """The answer as it grows, a few times a second."""
        from ..laser_core.progress import THINKING

        now = time.monotonic()
        if now - self._last >= TEXT_SECONDS:
            self._last = now
            said = text.removeprefix(THINKING)
            self._send(text=said[-TEXT_CHARACTERS:], thinking=said != text)

    def windows(self, view: dict[str, Any]) -> None:
        """Where the answer is being read from."""
        self._send(windows=view)

    def _send(self, **shown: Any) -> None:
        if self._node_id is None or not in_comfyui():
            return
        from server import PromptServer

        from ..laser_core.files import to_plain

        server = PromptServer.instance
        node = {"node": self._node_id, "workflow": self._workflow}
        server.send_sync(PROGRESS_EVENT, {**node, **to_plain(shown)}, server.client_id)


class DrawsWhatIsConnected:
    """A node whose outputs DRAWN are made only where the graph takes them: a video's are large."""

    DRAWN = ("overlay",)

    @classmethod
    def draws(cls, node_id: str | None, output: str = "overlay") -> bool:
        return is_connected(node_id, cls.RETURN_NAMES.index(output))

    @classmethod
    def IS_CHANGED(cls, unique_id: str | None = None, **_: Any) -> str:
        """Has ComfyUI run the node anew, not reuse a run without the drawing, once it is taken."""
        return str([cls.draws(unique_id, output) for output in cls.DRAWN])


def is_connected(node_id: str | None, output: int) -> bool:
    """Whether a node of the running graph takes this output; True where no graph is known.

    ComfyUI gives the graph to a running node, but not to IS_CHANGED, which must say the same.
    """
    if "server" not in sys.modules:
        return True
    import server

    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    queue = getattr(instance, "prompt_queue", None)
    graphs = [item[2] for item in list(getattr(queue, "currently_running", {}).values())]
    own = [graph for graph in graphs if node_id in graph]  # not the nodes that others expand to
    links = [link for graph in own for node in graph.values() for link in node["inputs"].values()]
    return not own or [node_id, output] in links


def models_folders() -> list[tuple[str, Path]]:
    """(name, folder) where models may lie: models/LLM first, then the user's extra paths.

    Last where ComfyUI has the text encoders of image models.
    """
    if "folder_paths" not in sys.modules:
        return []
    import folder_paths

    own = os.path.join(folder_paths.models_dir, LLM)
    folder_paths.add_model_folder_path(LLM, own)
    others = [path for path in folder_paths.get_folder_paths(LLM) if path != own]
    try:
        encoders = folder_paths.get_folder_paths(TEXT_ENCODERS)
    except KeyError:  # a ComfyUI of before it had them
        encoders = []
    return [
        *((LLM, Path(path)) for path in (own, *others)),
        *((TEXT_ENCODERS, Path(path)) for path in encoders),
    ]


def tokenizer_folder() -> str:
    """ComfyUI's own tokenizer for Qwen's models; "" where it has none."""
    if not in_comfyui():
        return ""
    import comfy

    folders = [Path(folder) / TOKENIZER_IN_COMFY for folder in comfy.__path__]
    return next((str(folder) for folder in folders if folder.is_dir()), "")


def prompts_file() -> Path | None:
    """The user's own tasks, whether or not the file is there; None without ComfyUI."""
    if "folder_paths" not in sys.modules:
        return None
    import folder_paths

    return Path(folder_paths.get_user_directory()) / "laser_prompts.json"


def temp_file(suffix: str) -> tuple[str, dict[str, str]] | None:
    """(path, entry) of a file to write that the page can ask for; None without ComfyUI."""
    if "folder_paths" not in sys.modules:
        return None
    import secrets

    import folder_paths

    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    name = f"laser_{secrets.token_hex(8)}{suffix}"  # never reused: browsers keep them for a day
    return os.path.join(folder, name), {"filename": name, "subfolder": "", "type": "temp"}


def ui(text: Sequence[str], **views: list) -> dict[str, list]:
    """A node's `ui`: lines of text and what its own view draws, as plain values.

    One value that JSON cannot hold would stop the server's messages to every node.
    """
    from ..laser_core.files import to_plain

    return {"text": list(text), **to_plain(views)}


# ---- memory ------------------------------------------------------------------------------------


def explain_out_of_memory(node: type) -> None:
    """Make a node class name the remedy when its function runs out of memory.

    The function then raises torch.OutOfMemoryError, for which ComfyUI frees memory, or MemoryError.
    """
    function = getattr(node, node.FUNCTION)

    @functools.wraps(function)
    def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            import torch

            from ..laser_core.out_of_memory import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            # NumPy's own type takes no message
            kind = torch.OutOfMemoryError if isinstance(error, RuntimeError) else MemoryError
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise kind(
                "free memory (Unload LVLM, a smaller model, a quantization, fewer visual tokens or "
                f"smaller pictures) and run again: there was not enough ({said})"
            ) from error

    setattr(node, node.FUNCTION, explained)


def devices() -> list[str]:
    """Names of the devices that ComfyUI runs models on, its own choice first; without it, none."""
    if not in_comfyui():
        return []
    import comfy.model_management as memory

    every = getattr(memory, "get_all_torch_devices", None)  # newer versions know of several
    found = [memory.get_torch_device(), *(every() if every else [])]
    return list(dict.fromkeys(str(device) for device in found))


def run_device(name: str) -> torch.device | None:
    """The device of this name, or for "auto" ComfyUI's choice; None without ComfyUI.

    Without ComfyUI the core then chooses. Raises ValueError for a device that is not here.
    """
    if not in_comfyui():
        return None
    import comfy.model_management as memory
    import torch

    if name == "auto":
        return memory.get_torch_device()
    known = list(dict.fromkeys(["cpu", *devices()]))
    if name not in known:
        raise ValueError(f"set device to auto or one of {', '.join(known)}: there is no {name!r}")
    return torch.device(name)


def best_precision(device: torch.device) -> str:
    """The core's name of the number format that ComfyUI would use on a device."""
    import comfy.model_management as memory

    if memory.is_device_cpu(device):
        return "fp32"
    if memory.should_use_bf16(device):
        return "bf16"
    return "fp16" if memory.should_use_fp16(device) else "fp32"


class DeviceMemory(NamedTuple):
    """Of ComfyUI's device. weight_bytes: what a weight takes there, unless it is quantized.
    quantizes: whether weights can be quantized there."""

    size_bytes: int
    weight_bytes: int
    quantizes: bool


def device_memory() -> DeviceMemory | None:
    """None without ComfyUI."""
    if not in_comfyui():
        return None
    import comfy.model_management as memory

    device = memory.get_torch_device()
    weight_bytes = 4 if best_precision(device) == "fp32" else 2
    return DeviceMemory(memory.get_total_memory(device), weight_bytes, device.type == "cuda")


def make_room(device: torch.device, memory_bytes: int) -> None:
    """Have the manager free this much GPU memory for what it does not load itself."""
    if not in_comfyui() or device.type == "cpu":
        return
    import comfy.model_management as memory

    memory.free_memory(memory_bytes, device)


def free_bytes(device: torch.device) -> int:
    """Bytes that a run may still take on a device, by the manager's count."""
    if not in_comfyui():
        from ..laser_core.engine import memory as of_pytorch

        return of_pytorch.free_bytes(device)
    import comfy.model_management as memory

    return memory.get_free_memory(device)


def manage(model: torch.nn.Module, device: torch.device, on_unload: Callable[[], None]) -> Any:
    """ComfyUI's manager of a model's memory: on `device` while it runs, off it when told so.

    on_unload: called before the weights leave the device.
    """
    import comfy.model_management as memory
    import comfy.model_patcher
    import torch

    class Managed(torch.nn.Module):
        """A transformers model has a read-only `device`; the manager must set one."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.device = next(model.parameters()).device

    class WholePatcher(comfy.model_patcher.ModelPatcher):
        """Moves the whole model or nothing: a model split over two devices computes wrongly."""

        def partially_load(
            self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False
        ) -> Any:
            return super().partially_load(device_to, WHOLE, force_patch_weights)

        def partially_unload(self, *args: Any, **kwargs: Any) -> int:
            return 0

        def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
            if unpatch_weights:  # else the weights stay where they are
                on_unload()
            with torch.inference_mode(False):
                return super().unpatch_model(device_to, unpatch_weights)

    return WholePatcher(
        Managed(), load_device=device, offload_device=memory.text_encoder_offload_device()
    )


def bring(patcher: Any, memory_bytes: int) -> None:
    """Have the manager put the weights on their device and keep this much free for the run."""
    import comfy.model_management as memory
    import torch

    with torch.inference_mode(False):
        memory.load_models_gpu([patcher], memory_required=memory_bytes, force_full_load=True)


def send_away(patcher: Any) -> None:
    """Have the manager take the weights off their device."""
    import comfy.model_management as memory

    loaded = [entry for entry in memory.current_loaded_models if entry.model is patcher]
    for entry in loaded:
        entry.model_unload()
        memory.current_loaded_models.remove(entry)
    memory.soft_empty_cache()
