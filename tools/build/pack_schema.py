"""What the nodes of a workflow take and give, read without ComfyUI.

The pack's own nodes declare it. Of ComfyUI's nodes, those that the workflows use are listed here.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK = "laser_pack"

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
# The canvas turns an input of these types into an editor, unless it is told not to
EDITED_TYPES = {"BOUNDING_BOX"}


@dataclass(frozen=True)
class Input:
    """options: as in INPUT_TYPES, with `values` for a choice."""

    name: str
    type: str
    required: bool
    options: dict[str, Any]

    @property
    def is_widget(self) -> bool:
        kinds = WIDGET_TYPES | EDITED_TYPES
        return self.type in kinds and not self.options.get("forceInput")


@dataclass(frozen=True)
class Output:
    name: str
    type: str


@dataclass(frozen=True)
class NodeSchema:
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    @property
    def widgets(self) -> list[tuple[str, Input | None]]:
        """(name, input) in the order of `widgets_values`; None for what the canvas adds."""
        found = []
        for spec in self.inputs:
            if spec.is_widget:
                found.append((spec.name, spec))
            if spec.options.get("control_after_generate"):
                found.append((spec.name + " control", None))
            if spec.options.get("image_upload"):
                found.append(("upload", None))
        return found


@cache
def pack() -> ModuleType:
    """The pack, imported by its path as ComfyUI does it."""
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    return module


def own_ids() -> list[str]:
    """Ids of the pack's nodes."""
    return list(pack().NODE_CLASS_MAPPINGS)


def schema(node_type: str) -> NodeSchema:
    """Raises KeyError for a node that is neither the pack's nor among ComfyUI's listed here."""
    node = pack().NODE_CLASS_MAPPINGS.get(node_type)
    if node is None:
        return CORE[node_type]
    declared = node.INPUT_TYPES()
    inputs = [
        _input(name, *spec, required=group == "required")
        for group in ("required", "optional")
        for name, spec in declared.get(group, {}).items()
    ]
    outputs = map(Output, node.RETURN_NAMES, map(str, node.RETURN_TYPES))
    return NodeSchema(tuple(inputs), tuple(outputs))


def _input(name: str, kind: Any, options: dict | None = None, *, required: bool = True) -> Input:
    options = dict(options or {})
    if isinstance(kind, list | tuple):
        kind, options["values"] = "COMBO", list(kind)
    return Input(name, str(kind), required, options)


def _core(inputs: dict[str, Any], *outputs: str, optional: tuple[str, ...] = ()) -> NodeSchema:
    specs = []
    for name, kind in inputs.items():
        kind, options = kind if isinstance(kind, tuple) else (kind, {})
        specs.append(_input(name, kind, options, required=name not in optional))
    return NodeSchema(
        tuple(specs),
        tuple(Output(*(text.split(":") if ":" in text else (text, text))) for text in outputs),
    )


CORE = {
    "LoadImage": _core({"image": ("COMBO", {"image_upload": True})}, "IMAGE", "MASK"),
    "PreviewImage": _core({"images": "IMAGE"}),
    "PreviewAny": _core({"source": "*"}),
    "MaskPreview": _core({"mask": "MASK"}),
    "PrimitiveStringMultiline": _core({"value": "STRING"}, "STRING"),
    "ImageScaleBy": _core(
        {"image": "IMAGE", "upscale_method": "COMBO", "scale_by": "FLOAT"}, "IMAGE"
    ),
    "ImageSharpen": _core(
        {"image": "IMAGE", "sharpen_radius": "INT", "sigma": "FLOAT", "alpha": "FLOAT"}, "IMAGE"
    ),
    "ImageBlur": _core({"image": "IMAGE", "blur_radius": "INT", "sigma": "FLOAT"}, "IMAGE"),
    "BatchImagesNode": _core(
        {f"images.image{index}": "IMAGE" for index in range(3)},
        "IMAGE",
        optional=("images.image2",),
    ),
    "RebatchImages": _core({"images": "IMAGE", "batch_size": "INT"}, "IMAGE"),
    # Its slider is a widget without a value
    "ImageCompare": _core(
        {"image_a": "IMAGE", "image_b": "IMAGE"}, optional=("image_a", "image_b")
    ),
    "SaveImageTextDataSetToFolder": _core(
        {
            "images": "IMAGE",
            "texts": ("STRING", {"forceInput": True}),
            "folder_name": "STRING",
            "filename_prefix": ("STRING", {"advanced": True}),
            "mode": "COMBO",
        },
        optional=("texts",),
    ),
    "CheckpointLoaderSimple": _core({"ckpt_name": "COMBO"}, "MODEL", "CLIP", "VAE"),
    "CLIPTextEncode": _core(
        {"text": ("STRING", {"multiline": True}), "clip": "CLIP"}, "CONDITIONING"
    ),
    "VAEEncode": _core({"pixels": "IMAGE", "vae": "VAE"}, "LATENT"),
    "VAEDecode": _core({"samples": "LATENT", "vae": "VAE"}, "IMAGE"),
    "KSampler": _core(
        {
            "model": "MODEL",
            "seed": ("INT", {"control_after_generate": True}),
            "steps": "INT",
            "cfg": "FLOAT",
            "sampler_name": "COMBO",
            "scheduler": "COMBO",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
            "denoise": "FLOAT",
        },
        "LATENT",
    ),
    "ThresholdMask": _core({"mask": "MASK", "value": "FLOAT"}, "MASK"),
    "GrowMask": _core({"mask": "MASK", "expand": "INT", "tapered_corners": "BOOLEAN"}, "MASK"),
    "ImageCompositeMasked": _core(
        {
            "destination": "IMAGE",
            "source": "IMAGE",
            "x": "INT",
            "y": "INT",
            "resize_source": "BOOLEAN",
            "mask": "MASK",
        },
        "IMAGE",
        optional=("mask",),
    ),
}
