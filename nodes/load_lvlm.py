"""Load LVLM and Unload LVLM: a vision-language model, in ComfyUI's memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..laser_core.errors import explained_imports
from ..laser_core.settings import LoadSettings
from . import models
from .handles import LvlmHandle
from .runtime import (
    NodeProgress,
    best_precision,
    devices,
    is_connected,
    make_room,
    manage,
    run_device,
    tokenizer_folder,
)
from .widgets import (
    ANY,
    CATEGORY,
    LVLM,
    LVLM_SOCKET,
    UNIQUE_ID,
    OpenChoices,
    settings_from,
    widgets,
)

# ComfyUI brings the tokenizer along
SHOWN = tuple(spec.name for spec in dataclasses.fields(LoadSettings) if spec.name != "tokenizer")
# Two Load LVLM nodes of the same settings share one model
_HANDLES: WeakValueDictionary[tuple, LvlmHandle] = WeakValueDictionary()


class LoadLVLM:
    DESCRIPTION = (
        "Loads a vision-language model: LLaVA, LLaVA-NeXT, Qwen2-VL to Qwen3-VL, Qwen3.5 or GLM-V. "
        "The demo model comes with this pack and runs on any computer. A model that is already on "
        "this computer is used where it is, also the text encoder of an image model; others are "
        "downloaded to models/LLM on first use."
    )
    SEARCH_ALIASES = (
        "laser", "vlm", "llm", "multimodal", "vision language model", "llava", "qwen", "glm",
        "load vqa model", "視覚言語モデル", "マルチモーダル", "モデル読み込み", "视觉语言模型",
        "多模态", "大语言模型", "加载模型",
    )  # fmt: skip
    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = (LVLM,)
    RETURN_NAMES = ("lvlm",)
    OUTPUT_TOOLTIPS = ("The loaded model, for Contrastive Attention, VAT Decode or LASER Answer.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        choices = models.choices()
        return {
            "required": {},
            "optional": {
                "model": (
                    OpenChoices(choices),
                    {
                        "default": models.DEMO_LABEL,
                        "tooltip": "The demo model comes first: it needs no download and knows "
                        "96 everyday things, numbers and colours. Your models follow, also those "
                        "in models/text_encoders, then those that can be downloaded. The bottom "
                        "of the node shows the size of the chosen one and whether it fits.",
                        "about": choices,
                    },
                ),
                "custom_model": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Another model: a folder, a text encoder's file, or a Hugging "
                        "Face id like 'Qwen/Qwen2.5-VL-3B-Instruct', which is downloaded to "
                        "models/LLM if it is not on this computer. Empty: the model chosen above.",
                    },
                ),
                **widgets(LoadSettings, *SHOWN, device={"choices": device_choices()}),
                "keep_loaded": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "On: the model stays on the GPU until ComfyUI needs the "
                        "memory. Off: it leaves the GPU after every node that uses it. ComfyUI "
                        "cannot move 8-bit and 4-bit models: on, they stay until Unload LVLM; "
                        "off, they are loaded again for each node.",
                        "advanced": True,
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, custom_model: str | None = None):
        """ComfyUI marks every input that this asks for: it asks for one, and `load` checks both."""
        return models.complaint(None, custom_model) or True

    def load(
        self,
        model: str = models.DEMO_LABEL,
        custom_model: str = "",
        keep_loaded: bool = True,
        **values: Any,
    ):
        with explained_imports():
            from ..laser_core import pipeline  # noqa: F401
        settings = settings_from(LoadSettings, values)
        progress = NodeProgress(stages={})
        progress.next_picture()
        pickled = settings.weights != "safetensors"
        name, source = models.find(model, custom_model, progress, pickled)

        def load() -> tuple[Any, Any]:
            return load_managed(name, source, settings)

        key = source, settings, keep_loaded  # whichever of its names was chosen
        handle = _HANDLES.get(key)
        if handle is None:
            handle = _HANDLES[key] = LvlmHandle(load, settings, keep_loaded)
        return (handle,)


class UnloadLVLM:
    DESCRIPTION = (
        "Frees a model's memory, on the GPU and off it. Connect the last result to 'any', so the "
        "model is freed afterwards; the result passes through. Everything that uses the model must "
        "come before it. The model is loaded again on its next use."
    )
    SEARCH_ALIASES = (
        "laser", "free memory", "vram", "unload model", "purge", "メモリ解放", "モデル解放",
        "释放显存", "卸载模型",
    )  # fmt: skip
    CATEGORY = CATEGORY
    FUNCTION = "unload"
    OUTPUT_NODE = True  # freeing memory is worth a run even when nothing follows
    RETURN_TYPES = (ANY,)
    RETURN_NAMES = ("any",)
    OUTPUT_TOOLTIPS = ("What came in, unchanged.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {"lvlm": LVLM_SOCKET},
            "optional": {
                "any": (
                    ANY,
                    {"tooltip": "Whatever must be finished before the model is freed."},
                )
            },
            "hidden": UNIQUE_ID,
        }

    @classmethod
    def IS_CHANGED(cls, unique_id: str | None = None, **_: Any) -> float | str:
        """Has ComfyUI run the last node of a graph anew: the model may have been loaded again."""
        return "" if is_connected(unique_id, 0) else float("nan")

    def unload(self, lvlm: Any, any: Any = None, unique_id: str | None = None):
        lvlm.unload()
        return (any,)


def device_choices() -> list[str]:
    return list(dict.fromkeys(["auto", *devices(), "cpu"]))


def load_managed(name: str, source: str, settings: LoadSettings) -> tuple[Any, Any]:
    """(the model, ComfyUI's manager of its memory or None).

    source: what the core loads. Weights that ComfyUI will move are read into ordinary memory first.
    Quantized ones cannot be moved, so they go to the GPU at once; a text encoder's fp8 can.
    """
    import torch

    from ..laser_core.models.loading import load_lvlm
    from ..laser_core.models.model_files import quantized_by, weights_in

    stored = quantized_by(Path(source))
    # FP8 is read as ordinary weights; others may be quantized in the folder or on loading
    movable = settings.quantization == "none" and stored in (None, "fp8")
    device = run_device(settings.device)
    if device is None or device.type == "cpu":
        used = settings if device is None else dataclasses.replace(settings, device="cpu")
    elif movable:
        precision = best_precision(device) if settings.precision == "auto" else settings.precision
        used = dataclasses.replace(settings, device="cpu", precision=precision)
    else:
        used = dataclasses.replace(settings, device=str(device))
        on_disk = sum(file.stat().st_size for file in weights_in(Path(source)))
        make_room(device, int(on_disk * models.QUANTIZED_SHARE.get(settings.quantization, 1.0)))
    used = dataclasses.replace(used, tokenizer=tokenizer_folder())
    with torch.inference_mode(False):  # weights made in inference mode could not be moved later
        lvlm = load_lvlm(source, used)
    lvlm.name = name
    managed = movable and device is not None and device.type != "cpu"
    return lvlm, manage(lvlm.model, device, lvlm.release) if managed else None
