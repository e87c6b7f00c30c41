"""From a name to a loaded model: the bundled demo model, a folder, a text encoder or a hub id.

Weights are read from safetensors. Pickled weights are read only if the settings say so, and without
running what they hold. No code from a model's folder is ever run. Only a hub id is downloaded, and
only that download is written.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import is_for_the_user
from ..one_at_a_time import one_at_a_time
from ..settings import LoadSettings
from .catalogue import DEMO, DEMO_FOLDERS, in_folders, own_roots, own_tokenizer
from .download import downloaded, is_hub_id
from .encoder_loading import load_encoder, readable_encoder
from .families import (
    FAMILIES,
    Family,
    family_of,
    load_image_processor,
    set_visual_token_limits,
    usual_image_processor,
)
from .folder_check import check_contents, check_format, check_type, check_version
from .loading_errors import explained
from .lvlm import Lvlm
from .model_files import quantized_by, read_json
from .text_encoders import SUFFIXES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Without them the library may ask on the terminal, or the hub
_OWN_FILES_ONLY = {"local_files_only": True, "trust_remote_code": False}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_ATTENTION = {"auto": "sdpa", "flash": "flash_attention_2", "eager": "eager"}
# Modules that transformers runs already quantized weights with
_NEEDED_BY = {
    "bitsandbytes": ("bitsandbytes",),
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "compressed-tensors": ("compressed_tensors",),
    "fp8": (),
}
_SKIPPED = "llm_int8_skip_modules"
LEAST_VISUAL_TOKENS = 64  # of a picture on native-resolution models, unless the most is less


def load_lvlm(name: str = DEMO, settings: LoadSettings = LoadSettings()) -> Lvlm:
    """Load "demo", a model folder, a text encoder's file or a hub id.

    Raises ValueError, remedy first, for an unknown model, an unsupported type, weights that are
    incomplete, truncated or pickled, a folder that asks for its own code or links to files outside,
    a file that is no vision-language model or in a format that is not read, settings that this
    machine cannot serve, and whatever a library raises while loading.
    """
    folder = None
    try:
        path = _resolve(name, settings.weights != "safetensors")
        if path.is_file():
            return _load_file(path, name, settings)
        folder = path
        check_version(folder, name)
        check_contents(folder, name, pickled=settings.weights != "safetensors")
        return _load(folder, name, settings)
    except Exception as error:
        if is_for_the_user(error):
            raise
        raise explained(error, name, folder) from error


@one_at_a_time  # while it loads, the library changes torch's initialisers and default dtype
def _load(folder: Path, name: str, settings: LoadSettings) -> Lvlm:
    from transformers import AutoTokenizer

    model = _load_weights(folder, name, device_of(settings), settings)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **_OWN_FILES_ONLY)
    usual = usual_image_processor(model.config)
    image_processor = load_image_processor(str(folder), usual, **_OWN_FILES_ONLY)
    lvlm = Lvlm(
        model,
        tokenizer,
        image_processor,
        name=name,
        folder=folder,
        chat_template=_chat_template(folder),
    )
    _bound_visual_tokens(lvlm, settings)
    return lvlm


@one_at_a_time
def _load_file(path: Path, name: str, settings: LoadSettings) -> Lvlm:
    encoder = readable_encoder(path, name)
    if settings.quantization != "none":
        raise ValueError(
            "set quantization to none, or choose the model's folder: the weights of a single file "
            f"are used as they are, and {name} is one"
        )
    device = device_of(settings)
    dtype = _dtype(settings, device)
    _check_flash(settings, FAMILIES[encoder.model_type], name, device, dtype)
    folder = Path(settings.tokenizer).expanduser() if settings.tokenizer else own_tokenizer()
    lvlm = load_encoder(encoder, name, folder, device, dtype, _ATTENTION[settings.attention])
    _bound_visual_tokens(lvlm, settings)
    return lvlm


def _bound_visual_tokens(lvlm: Lvlm, settings: LoadSettings) -> None:
    least, most = _visual_token_limits(lvlm, settings)
    set_visual_token_limits(lvlm.image_processor, lvlm.family, lvlm.model.config, least, most)


def _visual_token_limits(lvlm: Lvlm, settings: LoadSettings) -> tuple[int, int]:
    """(least, most) visual tokens; at the default setting the model's own limits, if it has any."""
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
    if not name.strip():  # or it would be the working folder
        raise _no_model(name)
    try:
        path = Path(name).expanduser()
        found = path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long; ~nosuchuser; a null byte
        raise _no_model(name) from error
    if path.suffix in SUFFIXES and path.is_file():
        return path
    if found:
        if not (path / "config.json").is_file():
            check_format(path, name)
            raise ValueError(f"choose a folder with a config.json: {name} has none")
        check_type(path, name)
        return path
    roots = own_roots()
    listed = next((model.path for model in in_folders(roots) if model.value == name), None)
    if listed is not None:
        return listed
    # Anything else that does not exist is a mistyped path
    if path.suffix in SUFFIXES or not is_hub_id(name):
        raise _no_model(name)
    folder = downloaded(name, roots, pickled=pickled)
    check_type(folder, name)
    return folder


def _no_model(name: str) -> ValueError:
    bundled = ", ".join(map(repr, DEMO_FOLDERS))
    return ValueError(
        f"choose {bundled}, an existing model folder or file or a hub id like 'owner/name': "
        f"{name!r} is none of them"
    )


def device_of(settings: LoadSettings) -> torch.device:
    if settings.device != "auto":
        return _device_of_name(settings.device)
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None and accelerator.is_available():
        return accelerator.current_accelerator()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _device_of_name(name: str) -> torch.device:
    """Raises ValueError for a device that is not here, and for one that computes nothing."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError) as error:  # one that torch was built without
        said = str(error).splitlines()[0]
        raise ValueError(
            f"set device to auto, cpu or a GPU that is here: there is no {name!r} ({said})"
        ) from error
    return device


def _dtype(settings: LoadSettings, device: torch.device) -> torch.dtype:
    if settings.precision != "auto":
        return _DTYPES[settings.precision]
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def _stored_quantization(method: str, name: str, settings: LoadSettings) -> Any:
    """What to tell the library of weights that are quantized already; ValueError if it cannot.

    Methods that are not named here might have the library fetch kernels from the hub.
    """
    from transformers import CompressedTensorsConfig, FineGrainedFP8Config, __version__

    plain = "choose the model without quantization"
    if settings.quantization != "none":
        raise ValueError(
            f"set quantization to none: the weights of {name} are quantized already ({method})"
        )
    if method not in _NEEDED_BY:
        raise ValueError(f"{plain}: {name} is quantized by {method}, which is not supported")
    if method in ("awq", "fp8") and int(__version__.split(".")[0]) < 5:
        raise ValueError(
            f"update transformers to 5 or newer, or {plain}: {name} is quantized by {method}, "
            f"which {__version__} cannot run here"
        )
    lacking = [each for each in _NEEDED_BY[method] if importlib.util.find_spec(each) is None]
    if lacking:
        packages = " and ".join(lacking).replace("_", "-")
        raise ValueError(f"install {packages}, or {plain}: {name} is quantized by {method}")
    if method == "bitsandbytes":
        _import_bitsandbytes()
    if method == "compressed-tensors":  # as ordinary weights too
        return CompressedTensorsConfig(run_compressed=False)
    # Computing in FP8 takes kernels that the library fetches; as ordinary weights it takes none
    return FineGrainedFP8Config(dequantize=True) if method == "fp8" else None


def _keep_unquantized(config: Any) -> None:
    """Name the modules that were left as they are so that every transformers finds them.

    4.57 looks for a name anywhere in a module's own, 5.x at its start, as a pattern, or at its
    end; and folders of before 4.52 call the decoder's layers `model.layers`.
    """
    block = config.quantization_config
    decoder = re.compile(r"^(language_model\.)?(model\.)?(language_model\.)?(?=layers\.)")
    names = {decoder.sub("language_model.", name) for name in block.get(_SKIPPED) or ()}
    if names:
        patterns = {f".*{re.escape(name)}" for name in names}
        block = {**block, _SKIPPED: sorted({*block[_SKIPPED], *names, *patterns})}
    ignored = block.get("ignore")  # compressed-tensors' list, by the names of before 4.52 as well
    if ignored:
        anywhere = [f"re:.*{name.removeprefix('re:')}" for name in ignored]
        block = {**block, "ignore": [*ignored, *anywhere]}
    config.quantization_config = block


def _import_bitsandbytes() -> None:
    """Without the kernel that it would fetch from the hub while it is imported on some CPUs."""
    kept = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    finally:
        del sys.modules["kernels"]
        if kept is not None:
            sys.modules["kernels"] = kept


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

    _import_bitsandbytes()
    if settings.quantization == "8-bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _load_weights(
    folder: Path, name: str, device: torch.device, settings: LoadSettings
) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForImageTextToText

    stored = quantized_by(folder)
    dtype = _dtype(settings, device)
    if stored not in (None, "fp8") and dtype == torch.float32:  # what is quantized runs in 16 bits
        if settings.precision != "auto":
            raise ValueError(f"set precision to auto: the weights of {name} are quantized already")
        dtype = torch.bfloat16
    config = AutoConfig.from_pretrained(str(folder), **_OWN_FILES_ONLY)
    _check_flash(settings, family_of(config), name, device, dtype)
    _check_rotary_settings(folder, name, config)
    if stored is None:
        quantization = _quantization(settings, dtype, device)
    else:
        quantization = _stored_quantization(stored, name, settings)
        _keep_unquantized(config)
    extra = {} if quantization is None else {"quantization_config": quantization}
    attention = _ATTENTION[settings.attention]
    # The file's own choice would win over the argument, and may be a compiled kernel to download
    config._attn_implementation = attention
    # Any: by the library's types there is never loading info
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
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
    model, info = loaded
    lacking = {*info["missing_keys"], *map(str, info["mismatched_keys"])}
    if "lm_head.weight" in lacking and _is_tied(folder):
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        lacking.remove("lm_head.weight")
    # Library versions would fill a gap with random values and only warn.
    if lacking:
        raise ValueError(
            f"choose another model, or download {name} again: its weights lack {len(lacking)} "
            f"tensors that its config.json asks for, such as {min(lacking)}"
        )
    return model


def _check_flash(
    settings: LoadSettings, family: Family, name: str, device: torch.device, dtype: torch.dtype
) -> None:
    if settings.attention != "flash":
        return
    if not family.flash:
        raise ValueError(
            f"set attention to auto: under flash, transformers reads a picture of {name} wrongly"
        )
    if importlib.util.find_spec("flash_attn") is None:
        raise ValueError("install flash-attn, or set attention to auto: flash needs it")
    if device.type == "cpu" or dtype == torch.float32:
        raise ValueError(
            "set attention to auto, or use a GPU and precision bf16 or fp16: flash takes no other"
        )


def _check_rotary_settings(folder: Path, name: str, config: Any) -> None:
    """Raise ValueError where 4.57 would pass over what 5.x saved of rotary positions."""
    from transformers import __version__

    stored = read_json(folder / "config.json")
    rope = stored.get("text_config", stored).get("rope_parameters")
    if not rope or int(__version__.split(".")[0]) >= 5:
        return
    text = config.get_text_config()
    read = {"rope_type": "default", **(getattr(text, "rope_scaling", None) or {})}
    read["rope_theta"] = getattr(text, "rope_theta", None)
    ignored = [key for key, value in rope.items() if read.get(key) != value]
    if ignored:
        raise ValueError(
            f"update transformers to 5 or newer: {name} was saved by it, and {__version__} would "
            f"ignore the {ignored[0]} of its rope_parameters and answer wrongly"
        )


def _is_tied(folder: Path) -> bool:
    """Whether config.json has the output share the input's weights: library versions look in
    different places for it."""
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    parts = [config, text if isinstance(text, dict) else {}]
    return any(part.get("tie_word_embeddings") is True for part in parts)


def _chat_template(folder: Path) -> Any:
    """The template where a processor keeps it, which the tokenizer does not read."""
    for name in ("chat_template.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            template = read_json(path).get("chat_template")
        except ValueError as error:
            raise ValueError(
                f"fix or remove {name} in the model's folder: it cannot be read ({error})"
            ) from error
        if template is not None:
            return template
    return None
