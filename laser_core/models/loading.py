"""From a name to a loaded model: a bundled demo model, a folder, or a hub id.

Weights are read from safetensors, pickled ones only if the settings say so and without running
what they hold; no code from a model's folder is ever run. Nothing is downloaded unless a hub id
is asked for by name, and nothing is written but that download.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from ..one_at_a_time import one_at_a_time
from ..out_of_memory import is_out_of_memory
from ..settings import LoadSettings
from .families import load_image_processor, set_visual_token_limits
from .folder_check import check_contents, check_type
from .lvlm import Lvlm

DEMO, DEMO_QWEN = "demo", "demo-qwen"
_PACKAGE = Path(__file__).resolve().parents[1]
DEMO_FOLDERS = {
    DEMO: _PACKAGE / "demo_model",
    DEMO_QWEN: _PACKAGE / "demo_model_qwen",
}
"""The bundled models, a LLaVA and a Qwen2.5-VL."""

# Without them the library may ask on the terminal, or the hub
_OWN_FILES_ONLY = {"local_files_only": True, "trust_remote_code": False}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_ATTENTION = {"auto": "sdpa", "flash": "flash_attention_2", "eager": "eager"}
LEAST_VISUAL_TOKENS = 64  # of a picture on native-resolution models, unless the most is less


def load_lvlm(name: str = DEMO, settings: LoadSettings = LoadSettings()) -> Lvlm:
    """Load "demo", "demo-qwen", a model folder or a hub id.

    Raises ValueError, remedy first, for an unknown model, an unsupported type, incomplete,
    truncated or pickled weights, a folder that asks for code of its own or links to files
    elsewhere, or settings this machine cannot serve.
    """
    pickled = settings.weights != "safetensors"
    folder = _resolve(name, pickled)
    check_contents(folder, name, pickled=pickled)
    return _load(folder, name, settings)


@one_at_a_time  # the library changes torch's initialisers and default dtype while it loads
def _load(folder: Path, name: str, settings: LoadSettings) -> Lvlm:
    from transformers import AutoTokenizer

    device = _device(settings)
    model = _load_weights(folder, name, device, settings)

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **_OWN_FILES_ONLY)
        image_processor = load_image_processor(str(folder), **_OWN_FILES_ONLY)
    except Exception as error:  # a broken file makes the library raise whatever it stumbles on
        if is_out_of_memory(error):
            raise _loading_error(error, name, device) from error
        raise ValueError(
            f"download {name} again: its tokenizer or image processor cannot be read "
            f"({_first_line(error)})"
        ) from error
    lvlm = Lvlm(
        model,
        tokenizer,
        image_processor,
        name=name,
        folder=folder,
        chat_template=_chat_template(folder),
    )
    set_visual_token_limits(
        image_processor,
        lvlm.family,
        model.config,
        *_visual_token_limits(lvlm, settings),
    )
    return lvlm


def _visual_token_limits(lvlm: Lvlm, settings: LoadSettings) -> tuple[int, int]:
    """The least and the most; where the setting is the default, the model's own, if any."""
    most = settings.max_visual_tokens
    if lvlm.visual_tokens and most == LoadSettings().max_visual_tokens:
        return lvlm.visual_tokens
    return min(LEAST_VISUAL_TOKENS, most), most


def _resolve(name: str, pickled: bool) -> Path:
    """The local folder of the model that `name` means, downloaded first if it is a hub id."""
    if name in DEMO_FOLDERS:
        folder = DEMO_FOLDERS[name]
        if not (folder / "config.json").is_file():
            raise ValueError(f"install this package again: its demo model {folder} is missing")
        return folder
    try:
        path = Path(name).expanduser()
        found = path.is_dir()
    except (OSError, RuntimeError) as error:  # too long a name; ~nosuchuser
        raise _no_model(name) from error
    if found:
        if not (path / "config.json").is_file():
            raise ValueError(f"choose a folder with a config.json: {name} has none")
        check_type(path, name)
        return path
    # A hub id is "owner/name"; anything else that does not exist is a mistyped path.
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or ".." in name or path.is_absolute():
        raise _no_model(name)
    return _download(name, pickled)


def _download(name: str, pickled: bool) -> Path:
    """The hub model's files in the hub's own cache, resumable and checked by the hub's client.

    Pickled weights only where they may be read and there are no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=["config.json"]))
        check_type(folder, name)
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        if pickled and not any(folder.glob("*.safetensors")):
            patterns.append("pytorch_model*.bin")
            folder = Path(snapshot_download(name, allow_patterns=patterns))
    except HFValidationError as error:
        raise _no_model(name) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"check the name and the network, or give a local folder: {name!r} cannot be "
            f"downloaded ({_first_line(error)})"
        ) from error
    if not any(path.match("*.safetensors") or path.match("*.bin") for path in folder.iterdir()):
        raise ValueError(
            f"choose a model with safetensors weights, or set weights to 'safetensors or pickled' "
            f"(--weights): {name} has none"
        )
    return folder


def _no_model(name: str) -> ValueError:
    bundled = ", ".join(map(repr, DEMO_FOLDERS))
    return ValueError(
        f"choose {bundled}, an existing model folder or a hub id like 'owner/name': "
        f"{name!r} is none of them"
    )


def _device(settings: LoadSettings) -> torch.device:
    if settings.device == "cpu":
        return torch.device("cpu")
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None and accelerator.is_available():
        return accelerator.current_accelerator()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(settings: LoadSettings, device: torch.device) -> torch.dtype:
    if settings.precision != "auto":
        return _DTYPES[settings.precision]
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def _quantization(settings: LoadSettings, dtype: torch.dtype, device: torch.device) -> Any:
    if settings.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"install bitsandbytes, or set quantization to none: {settings.quantization} needs it"
        )
    if device.type == "cpu":
        raise ValueError(
            f"set quantization to none, or use a GPU: {settings.quantization} needs one"
        )
    from transformers import BitsAndBytesConfig

    if settings.quantization == "8-bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _load_weights(
    folder: Path, name: str, device: torch.device, settings: LoadSettings
) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForImageTextToText

    if settings.attention == "flash" and importlib.util.find_spec("flash_attn") is None:
        raise ValueError("install flash-attn, or set attention to auto: flash needs it")
    dtype = _dtype(settings, device)
    if settings.attention == "flash" and (device.type == "cpu" or dtype == torch.float32):
        raise ValueError(
            "set attention to auto, or use a GPU and precision bf16 or fp16: flash takes no other"
        )
    quantization = _quantization(settings, dtype, device)
    extra = {} if quantization is None else {"quantization_config": quantization}
    attention = _ATTENTION[settings.attention]
    try:
        config = AutoConfig.from_pretrained(str(folder), **_OWN_FILES_ONLY)
        # The file's own choice would win over the argument, and may be a compiled kernel to fetch
        config._attn_implementation = attention
        model, info = AutoModelForImageTextToText.from_pretrained(
            str(folder),
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            device_map={"": device},
            # None: also pickled ones, where there are no others
            use_safetensors=True if settings.weights == "safetensors" else None,
            weights_only=True,  # of a pickle: whatever else it holds is refused, not run
            output_loading_info=True,
            **_OWN_FILES_ONLY,
            **extra,
        )
    except Exception as error:  # a broken config makes the library raise whatever it stumbles on
        raise _loading_error(error, name, device) from error
    # Library versions would fill a gap with random values and only warn.
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted([*info["missing_keys"], *map(str, info["mismatched_keys"])])
        raise ValueError(
            f"download {name} again: its weights lack {len(lacking)} tensors, such as {lacking[0]}"
        )
    return model


def _loading_error(error: Exception, name: str, device: torch.device) -> ValueError:
    from safetensors import SafetensorError

    if is_out_of_memory(error):
        return ValueError(
            f"choose a smaller model or a quantization: {name} does not fit into the memory of "
            f"{device}"
        )
    if isinstance(error, ImportError):
        return ValueError(
            f"install what {name} needs, or choose another model ({_first_line(error)})"
        )
    damaged = isinstance(error, (SafetensorError, OSError, RuntimeError))
    if damaged or type(error).__name__ == "UnpicklingError":
        return ValueError(
            f"download {name} again: its weights are missing, truncated or of another model "
            f"({_first_line(error)})"
        )
    return ValueError(
        f"download {name} again: its config.json cannot be used ({_first_line(error)})"
    )


def _chat_template(folder: Path) -> Any:
    """The template that older model folders keep in chat_template.json, which tokenizers ignore."""
    path = folder / "chat_template.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8")).get("chat_template")
    except (ValueError, AttributeError, RecursionError) as error:  # no JSON, or no JSON object
        raise ValueError(
            f"mend or remove chat_template.json in the model's folder: it cannot be read ({error})"
        ) from error


def _first_line(error: Exception) -> str:
    """The library's own words, without the paragraphs that some of its messages have."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    # The text of some says little without its type: KeyError's is the key
    return text if isinstance(error, (OSError, ValueError, RuntimeError)) else repr(error)
