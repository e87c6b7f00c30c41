"""Every setting of the method, declared once: default, range, choices and help text.

One frozen dataclass per step of docs/method.md. Nodes, command line, documentation and validation
all read the field metadata from here; nothing in this file knows torch, a model or a picture.
Where the paper (arXiv 2602.04304) leaves a point open, the help text says what was chosen.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | None = None,
    advanced: bool = False,
    multiline: bool = False,
) -> Any:
    """A dataclass field with what a user interface needs: range, choices, help text."""
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "step": step,
        "choices": choices,
        "advanced": advanced,
        "multiline": multiline,
    }
    return field(default=default, metadata=metadata)


REMOVED = {
    "amount_unit": "{amount} as a share of all patches",
    "attention sdpa": "auto",
    "beams": "{temperature} and {seed} for other answers",
    "crop_tokens": "{crop_budget}, a share of the picture's tokens,",
    "feather_px": "{fill} blur, or a mask feathered by another node,",
    "fill black": "mean",
    "fill grey": "mean",
    "fill_seed": "{fill} noise, which is the same every time,",
    "fused_layers": "{rule}, {first_depth} and {last_depth}",
    "grow_px": "{amount}",
    "instruction auto": "an empty text",
    "min_visual_tokens": "{max_visual_tokens}",
    "normalise": "{kind}",
    "placement centroid": "most mass",
    "top_fraction": "{scale}",
}
"""Removed settings and choices, with what to use instead; settings in braces."""


def removal(name: str, written: Callable[[str], str] = str) -> str | None:
    """What to use instead of the setting of this name, if it is a removed one.

    written: how the user writes a setting, such as --crop-budget for crop_budget.
    """
    if name not in REMOVED:
        return None
    instead = re.sub(r"\{(\w+)\}", lambda match: written(match[1]), REMOVED[name])
    return f"removed: use {instead} instead of {written(name)}"


@dataclass(frozen=True)
class Settings:
    """Base of all settings: validates on construction, so an invalid one cannot exist."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name)))

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values, nested like the dataclasses."""
        return dataclasses.asdict(self)


def _checked(spec: dataclasses.Field, value: Any) -> Any:
    """`value` in the type of the field's default, or a ValueError that names field and remedy."""
    kind, meta = type(spec.default), spec.metadata
    if kind is float and type(value) is int:
        value = _as_float(value)
    if type(value) is not kind:
        raise ValueError(f"give it a value of type {kind.__name__}: {spec.name} is {value!r}")
    if isinstance(value, Settings):  # a group of settings, which has checked itself
        return value
    instead = REMOVED.get(f"{spec.name} {value}")
    if instead:
        raise ValueError(f"removed, use {instead}: {spec.name} is {value!r}")
    if meta["choices"] and value not in meta["choices"]:
        raise ValueError(f"choose one of {', '.join(meta['choices'])}: {spec.name} is {value!r}")
    low, high = meta["low"], meta["high"]
    if low is not None and not low <= value <= high:  # not-a-number fails this too
        raise ValueError(f"choose a value from {low} to {high}: {spec.name} is {value}")
    return value


def _as_float(value: int) -> float:
    """`value` as a float; one too large for that is infinite, and no range holds it."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@dataclass(frozen=True)
class LoadSettings(Settings):
    """How a model is loaded."""

    precision: str = setting(
        "auto",
        "Number format of the weights. auto: bfloat16 on a GPU that supports it, float16 on other "
        "GPUs, float32 on the CPU.",
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    quantization: str = setting(
        "none",
        "Compress the weights to save GPU memory (quantization). Needs a GPU and the package "
        "bitsandbytes.",
        choices=("none", "8-bit", "4-bit"),
        advanced=True,
    )
    attention: str = setting(
        "auto",
        "The code that computes attention (the kernel). auto: PyTorch's own (SDPA). The maps are "
        "the same with every kernel.",
        choices=("auto", "flash", "eager"),
        advanced=True,
    )
    device: str = setting(
        "auto",
        "Where the model runs. auto: the GPU if there is one. Others by name: cpu, cuda:1, mps.",
        advanced=True,
    )
    max_visual_tokens: int = setting(
        1280,
        "Most visual tokens for a picture, on native-resolution models (Qwen-VL). More tokens "
        "show finer details and cost more time and memory.",
        low=4,
        high=16384,
        step=4,
        advanced=True,
    )
    weights: str = setting(
        "safetensors",
        "Which weight files may be read. safetensors or pickled: also pytorch_model.bin, where a "
        "model has no safetensors. Code inside such a file is never run.",
        choices=("safetensors", "safetensors or pickled"),
        advanced=True,
    )
    tokenizer: str = setting(
        "",
        "Folder of the tokenizer for a model that is one file and holds none, such as a text "
        "encoder of ComfyUI. Empty: the tokenizer of the ComfyUI that this pack is installed in.",
        advanced=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"auto|[a-z]+(:\d+)?", self.device):
            raise ValueError(
                f"choose auto, or a name like cpu or cuda:1: device is {self.device!r}"
            )


DRAFTED = "last token"  # of a draft of the answer, where its attention may be read


@dataclass(frozen=True)
class PromptSettings(Settings):
    """How picture and question become a prompt (step 1)."""

    locate_instruction: str = setting(
        "auto",
        "A sentence added to the question when the model looks for the evidence; without one, "
        "real models miss it. auto: the request for a short answer that the model was tuned with; "
        "empty: none.",
        multiline=True,
        advanced=True,
    )
    query_free: str = setting(
        "keep instruction",
        "What the model reads in place of the question, for comparison (query-free branch). keep "
        "instruction: the locating instruction alone; image only: no text. generic question: "
        "ViCrop's request for a general description.",
        choices=("keep instruction", "image only", "generic question"),
        advanced=True,
    )
    framing: str = setting(
        "pad",
        "How a picture is fitted that the model would crop or refuse. pad: add borders until the "
        "model takes all of it (LLaVA-1.5: a square). processor: as the model's own processor "
        "does, which may cut the edges.",
        choices=("pad", "processor"),
        advanced=True,
    )
    system: str = setting(
        "", "System prompt. Empty: the model's own default.", multiline=True, advanced=True
    )
    read_at: str = setting(
        "first token",
        "Where in an answer its attention is read to find the evidence. first token: where the "
        "answer begins (the paper). last token: at the end of a short draft of it, which takes a "
        "few steps more (CARVE).",
        choices=("first token", DRAFTED),
        advanced=True,
    )


@dataclass(frozen=True)
class ContrastSettings(Settings):
    """How the two branches are compared (step 3, Eq. 3)."""

    kind: str = setting(
        "contrastive",
        "How the readings with and without the question are compared. contrastive: what the "
        "question adds, ReLU of the difference (the paper). raw: the reading with the question "
        "alone; relative: their ratio (ViCrop), best with the generic question.",
        choices=("contrastive", "raw", "relative"),
    )


OF_FAMILY = -1.0  # a depth that is left to the model's family


@dataclass(frozen=True)
class LayerSettings(Settings):
    """Which layers and heads the evidence comes from (steps 4-5, Eqs. 4-5)."""

    top_heads: int = setting(
        8,
        "How many attention heads count in each layer: those the question moves most. All count "
        "where a layer has fewer. The paper gives no number.",
        low=1,
        high=256,
        step=1,
    )
    rule: str = setting(
        "max",
        "Which layers the evidence comes from. max: all that are searched, the largest share of "
        "any at each patch. fuse: their average, by how much the question moves them (VAQ). "
        "argmax: the one it moves most (the paper). heads: the heads moved most, and to one "
        "place; a sharp map.",
        choices=("max", "fuse", "argmax", "heads"),
    )
    first_depth: float = setting(
        OF_FAMILY,
        "Where the searched layers begin, as a fraction of the model's depth. -1: where the "
        "model's family is known to look.",
        low=-1.0,
        high=1.0,
        step=0.05,
        advanced=True,
    )
    last_depth: float = setting(
        OF_FAMILY,
        "Where the searched layers end, as a fraction of the model's depth. -1: where the model's "
        "family is known to look.",
        low=-1.0,
        high=1.0,
        step=0.05,
        advanced=True,
    )
    layer: int = setting(
        -1, "Take this layer, counted from 0, whatever its VAQ. -1: let the rule choose.",
        low=-1, high=1023, step=1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first_depth", "last_depth"):
            if -1 < getattr(self, name) < 0:
                raise ValueError(
                    f"choose a value from 0 to 1, or -1 for the family's: {name} is "
                    f"{getattr(self, name)}"
                )
        if OF_FAMILY < self.last_depth < self.first_depth:
            raise ValueError(
                f"choose at most last_depth, which is {self.last_depth}: first_depth is "
                f"{self.first_depth}"
            )


@dataclass(frozen=True)
class CropSettings(Settings):
    """Where the window lies (step 7, Con-ViCrop)."""

    scale: float = setting(
        0.5,
        "Width and height of the window, as a fraction of the picture's. The paper uses 0.5.",
        low=0.1,
        high=1.0,
        step=0.05,
    )
    min_side_px: int = setting(
        224,
        "Smallest width and height of the window in pixels, but never more than the picture's own.",
        low=1,
        high=8192,
        step=1,
    )
    placement: str = setting(
        "most mass",
        "Where the window goes. most mass: where its inside, without the margin, holds most "
        "evidence; peak: around the strongest patch. top patches box: around the strongest 5 % of "
        "patches, and larger if they need it; adaptive: ViCrop's search over window sizes.",
        choices=("most mass", "peak", "top patches box", "adaptive"),
    )
    margin: float = setting(
        0.1,
        "With 'most mass': evidence this near to the window's edge does not count, as a fraction "
        "of the window's sides. So the window holds whole objects more often. 0: the whole window "
        "counts.",
        low=0.0,
        high=0.4,
        step=0.05,
        advanced=True,
    )
    windows: int = setting(
        1,
        "Number of windows; they do not overlap. The first follows placement, each further one "
        "holds most of the evidence that is left. There are fewer when no other fits.",
        low=1,
        high=16,
        step=1,
    )
    multiple_of: int = setting(
        1,
        "Make the window's width and height multiples of this many pixels, as far as the picture "
        "has them. 8, 16, 32 or 64 suit the VAE of a model that edits the crop.",
        low=1,
        high=256,
        step=1,
        advanced=True,
    )


@dataclass(frozen=True)
class CounterfactualSettings(Settings):
    """What is blocked in the counterfactual picture (step 8, Eq. 7)."""

    amount: float = setting(
        0.05,
        "How much is blocked, as a share of all patches; at least one patch. The paper gives no "
        "number, so we chose 5 %.",
        low=0.0,
        high=1.0,
        step=0.01,
    )
    fill: str = setting(
        "mean",
        "What replaces the evidence. mean: the model's mean colour; blur: the picture, blurred; "
        "noise: random pixels. visual tokens: changes the model's picture tokens there, not the "
        "pixels.",
        choices=("mean", "blur", "noise", "visual tokens"),
    )
    block: str = setting(
        "crop",
        "Where the evidence is blocked, with the answer input 'picture + crop'. crop: in the crop "
        "alone, which is faster and forgives a window that misses. picture and crop: in both, "
        "which is stronger.",
        choices=("crop", "picture and crop"),
        advanced=True,
    )


@dataclass(frozen=True)
class AnswerSettings(Settings):
    """What the answer is read from (step 9)."""

    answer_input: str = setting(
        "picture + crop",
        "What the model sees when it answers. crop: the window alone (a reading of the paper). "
        "picture + crop: the whole picture too, which helps where the window misses, most of all "
        "in questions about relations.",
        choices=("picture + crop", "crop"),
    )
    crop_budget: float = setting(
        1.0,
        "Visual tokens of the crop, as a share of the picture's, on native-resolution models "
        "(Qwen-VL). Less is faster. Never below what magnifies the crop 1.25 times, capped at the "
        "picture's tokens.",
        low=0.05,
        high=4.0,
        step=0.05,
        advanced=True,
    )
    looks: int = setting(
        2,
        "How often to look closer while the model is unsure (adaptive). Each look's window has 0.7 "
        "of the sides of the one before, placed anew on the same map.",
        low=1,
        high=8,
        step=1,
        advanced=True,
    )
    instruction: str = setting(
        "",
        "How to answer, such as 'Answer in one sentence.', added to the question when the model "
        "answers. Empty: none; the demo model then uses its own.",
        multiline=True,
    )


@dataclass(frozen=True)
class DecodeSettings(Settings):
    """How the answer is generated (step 10, VAT, Eqs. 10-11)."""

    alpha: float = setting(
        1.0,
        "How strongly the evidence counts (alpha): the weight of the difference it makes. 0: "
        "plain decoding, with no second stream. 1: as in the paper.",
        low=0.0,
        high=10.0,
        step=0.1,
    )
    beta: float = setting(
        0.5,
        "Drop tokens less probable than beta times the best token, judged with the evidence. 0: "
        "off, as in the paper. At 0.5 alpha decides only close calls; it kept more answers right "
        "than 0.1.",
        low=0.0,
        high=1.0,
        step=0.05,
    )
    max_tokens: int = setting(64, "Longest answer, in tokens.", low=1, high=4096, step=1)
    temperature: float = setting(
        0.0,
        "0: the most likely token every time. Above 0: sample; higher is more random.",
        low=0.0,
        high=5.0,
        step=0.05,
    )
    top_p: float = setting(
        1.0,
        "When sampling, keep the most likely tokens that together hold this probability.",
        low=0.01,
        high=1.0,
        step=0.01,
        advanced=True,
    )
    top_k: int = setting(
        0,
        "When sampling, keep this many of the most likely tokens. 0: all.",
        low=0,
        high=1000,
        step=1,
        advanced=True,
    )
    seed: int = setting(
        0,
        "Seed of the sampling: it counts only where temperature is above 0.",
        low=0,
        high=2**64 - 1,
        step=1,
    )
    adaptive: float = setting(
        0.9,
        "How sure the model must be of its first word (0 to 1) to look no closer, and to skip the "
        "comparison without the evidence. Below it, it looks closer, and the answer it is surest "
        "of is taken. 1: always look. 0: always look once, and believe it, as in the paper.",
        low=0.0,
        high=1.0,
        step=0.01,
    )
    max_thinking_tokens: int = setting(
        1024,
        "Longest thoughts before the answer, in tokens, of a model that cannot be told to answer "
        "at once. At the limit they are closed, and the answer follows. 0: none.",
        low=0,
        high=32768,
        step=1,
        advanced=True,
    )
    repetition_penalty: float = setting(
        0.0,
        "Above 1: tokens that were there before become less likely, which ends loops. 0: as the "
        "model's folder says, like the transformers library. 1: off.",
        low=0.0,
        high=2.0,
        step=0.01,
        advanced=True,
    )


@dataclass(frozen=True)
class FindSettings(Settings):
    """How phrases become boxes and masks."""

    finder: str = setting(
        "attention",
        "What says where a thing is. attention: where the model looks, closer and closer; any "
        "model. model: the boxes that the model writes itself (Qwen-VL). both: those boxes, the "
        "one with most evidence first; attention where the model writes none.",
        choices=("attention", "model", "both"),
    )
    mask_share: float = setting(
        0.4,
        "How much of the evidence the mask holds: a larger share makes a larger mask. Only its "
        "main part is kept, with its holes filled.",
        low=0.05,
        high=0.95,
        step=0.05,
    )


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "kind": "contrastive",
        "rule": "argmax",
        "first_depth": 0.0,
        "last_depth": 1.0,
        "layer": -1,
        "scale": 0.5,
        "min_side_px": 224,
        "placement": "most mass",
        "margin": 0.0,
        "windows": 1,
        "answer_input": "crop",
        "alpha": 1.0,
        "beta": 0.0,
        "adaptive": 0.0,
    },
    "fast": {"crop_budget": 0.4, "alpha": 0.0, "looks": 1},
}
"""Settings by name. What a preset leaves out has its default; a given value wins over a preset."""


@dataclass(frozen=True)
class PresetSettings(Settings):
    """The values of settings that are not given."""

    preset: str = setting(
        "default",
        "Sets several settings at once; what you set yourself wins. paper: as published, with one "
        "layer and the crop alone. fast: looks closer at most once, skips the second stream, "
        "and gives crops fewer tokens on native-resolution models.",
        choices=tuple(PRESETS),
    )


@dataclass(frozen=True)
class LaserSettings(Settings):
    """All settings of the method, one group per step."""

    prompt: PromptSettings = PromptSettings()
    contrast: ContrastSettings = ContrastSettings()
    layer: LayerSettings = LayerSettings()
    crop: CropSettings = CropSettings()
    counterfactual: CounterfactualSettings = CounterfactualSettings()
    answer: AnswerSettings = AnswerSettings()
    decode: DecodeSettings = DecodeSettings()

    @classmethod
    def of(cls, preset: str = "default", **given: Any) -> LaserSettings:
        """Settings by name over those of a preset: `LaserSettings.of("paper", alpha=0.5)`.

        Raises ValueError for an unknown preset, an unknown name and a value out of range.
        """
        values = {**preset_values(preset), **given}
        groups = {}
        for group, settings in vars(cls()).items():
            names = [spec.name for spec in fields(settings) if spec.name in values]
            groups[group] = type(settings)(**{name: values.pop(name) for name in names})
        for name in values:
            raise ValueError(removal(name) or f"leave out {name}: it is no setting of the method")
        return cls(**groups)

    @property
    def by_name(self) -> dict[str, Any]:
        """Every setting by its name, without the groups."""
        return {name: value for group in self.to_dict().values() for name, value in group.items()}

    @property
    def preset(self) -> str | None:
        """The preset whose settings these are; None if they are those of no preset."""
        for preset in PRESETS:
            if preset_values(preset).items() <= self.by_name.items():
                return preset
        return None


GROUPS: dict[str, type[Settings]] = {
    "preset": PresetSettings,
    "load": LoadSettings,
    **{name: type(settings) for name, settings in vars(LaserSettings()).items()},
    "find": FindSettings,
}

ANSWER_GROUPS = tuple(name for name in GROUPS if name != "find")
"""The groups that answer a question."""


LOCATE_GROUPS = ("preset", "load", "prompt", "contrast", "layer", "crop")
"""The groups that find the evidence; the others concern the answer."""


def preset_values(preset: str) -> dict[str, Any]:
    """The value that a preset gives to every setting that any preset sets.

    Raises ValueError for an unknown preset.
    """
    chosen = PRESETS[PresetSettings(preset).preset]
    names = {name for values in PRESETS.values() for name in values}
    defaults = {spec.name: spec.default for group in GROUPS.values() for spec in fields(group)}
    return {name: chosen.get(name, default) for name, default in defaults.items() if name in names}
