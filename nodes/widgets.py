"""Node inputs: sockets, and widgets whose default, range, choices and tooltip the core declares."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any, TypeVar

from ..laser_core.settings import PresetSettings, Settings, preset_values

CATEGORY = "LASER"
_Group = TypeVar("_Group", bound=Settings)

LVLM, ATTENTION, EVIDENCE, TRACE = "LASER_LVLM", "LASER_ATTENTION", "LASER_EVIDENCE", "LASER_TRACE"
SETTINGS = "LASER_SETTINGS"
BOUNDING_BOX, BBOX = "BOUNDING_BOX", "BBOX"

LVLM_SOCKET = (LVLM, {"tooltip": "The model, from Load LVLM."})
IMAGE_SOCKET = (
    "IMAGE",
    {"tooltip": "The picture, or a batch: each picture is handled on its own, in order. "
                "Transparent parts become white."},
)  # fmt: skip
EVIDENCE_SOCKET = (
    EVIDENCE,
    {"tooltip": "Where to look, from VAQ Layer Select. Or connect a mask instead."},
)
MASK_SOCKET = (
    "MASK",
    {"tooltip": "Where to look: any mask of the picture's size, drawn by hand, by SAM or by "
                "another node. It replaces the evidence. One for all pictures, or one for each."},
)  # fmt: skip
QUESTION = (
    "STRING",
    {
        "default": "",
        "multiline": True,
        "tooltip": "Your question about the picture. It must not be empty: the method compares "
        "the model's attention with and without it.",
    },
)
WINDOW_BY_HAND = (
    "STRING",
    {
        "default": "",
        "tooltip": "A window you set by hand, for every picture: 'x, y, width, height' in pixels. "
        "Empty: the evidence places it.",
        "advanced": True,
    },
)
POINTS_TOOLTIP = (
    "Where the evidence in the windows is strongest, as JSON points for SAM nodes and points "
    "editors; one text per picture."
)
OTHER_SETTINGS = (
    SETTINGS,
    {"tooltip": "From LASER Settings. It then decides every setting that this node does not show. "
                "Not connected: the preset decides them."},
)  # fmt: skip


def values_of(settings: Any) -> dict[str, Any]:
    """What OTHER_SETTINGS holds: values by name, none where nothing is connected."""
    return {} if settings is None else settings.values


UNIQUE_ID = {"unique_id": "UNIQUE_ID"}
# What tells the page which node of which workflow a message is for
NODE_ON_PAGE = {**UNIQUE_ID, "extra_pnginfo": "EXTRA_PNGINFO"}


class AnyType(str):
    """A socket type that takes every link: ComfyUI compares types with `!=`."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


ANY = AnyType("*")


class OpenChoices(list):
    """Choices that ComfyUI holds no value against: the node says what is wrong with another one."""

    __slots__ = ()

    def __contains__(self, value: object) -> bool:
        return True


def widgets(settings: type[Settings], *names: str, **replaced: dict[str, Any]) -> dict[str, tuple]:
    """INPUT_TYPES entries for the fields `names` of a settings class, in that order; or for all.

    replaced: what differs on this node: `choices`, `help`, `advanced`.
    """
    specs = {spec.name: spec for spec in fields(settings)}
    return {name: _widget(specs[name], replaced.get(name, {})) for name in names or specs}


def preset_widget() -> tuple:
    """The choice of a preset, with the values of each for the page, which fills them in."""
    choices, options = widgets(PresetSettings)["preset"]
    options["tooltip"] += (
        " Choose it on the node itself: by a link or from outside a subgraph it does not fill in "
        "the inputs, whose values win."
    )
    return choices, {**options, "presets": {name: preset_values(name) for name in choices}}


def settings_from(settings: type[_Group], values: dict[str, Any]) -> _Group:
    """The settings whose fields are among a node's inputs; the others keep their defaults."""
    names = {spec.name for spec in fields(settings)}
    return settings(**{name: value for name, value in values.items() if name in names})


def _widget(spec: Field, replaced: dict[str, Any]) -> tuple:
    meta = {**spec.metadata, **replaced}
    options: dict[str, Any] = {"default": spec.default, "tooltip": meta["help"]}
    if meta["advanced"]:
        options["advanced"] = True
    if meta["choices"]:
        return list(meta["choices"]), options
    if isinstance(spec.default, str):
        return "STRING", {**options, "multiline": meta["multiline"]}
    options |= {"min": meta["low"], "max": meta["high"], "step": meta["step"]}
    if isinstance(spec.default, float):
        return "FLOAT", {**options, "round": 0.0001}
    if spec.name == "seed":
        # The canvas would choose a new seed for every run, and rerun greedy answers for nothing
        options["control_after_generate"] = "fixed"
    return "INT", options
