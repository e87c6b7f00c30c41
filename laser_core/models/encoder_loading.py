"""From a text encoder's file to a loaded model: transformers' classes on the file's mapped weights.

Knows what `text_encoders` read of the file; knows neither settings nor where files lie. What is
stored in few bits stays so in memory.
"""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from .catalogue import CURATED
from .encoder_configs import KINDS, class_of, config_of
from .encoder_formats import FORMATS, NVFP4, PACKED, StoredWeight
from .encoder_tokenizers import tokenizer_of
from .families import chat_template_of, usual_image_processor
from .gguf_encoders import joined_header
from .gguf_files import BLOCKS, GGUF
from .gguf_weights import GgufWeights, from_blocks
from .image_processors import image_processor_of
from .lvlm import Lvlm
from .text_encoders import HEAD, NAMES, TEXT, Encoder, gemma_in, read_encoder
from .widened import Packed, WidenedEmbedding, WidenedLinear, from_fp8, from_nvfp4

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ONE = torch.ones(())
*_FIRST, _LAST = NAMES.values()
_READ = f"{', '.join(_FIRST)} or {_LAST}"


def readable_encoder(path: Path, name: str) -> Encoder:
    """The model in a file, by its header. Raises ValueError, remedy first, where there is none."""
    encoder = read_encoder(path)
    gemma = "" if encoder else gemma_in(path)
    if encoder is None and path.suffix == GGUF:
        joined_header(path)  # says why
    if gemma:
        raise ValueError(
            f"choose the model's folder from Hugging Face, or a file with a whole {_READ}: {name} "
            f"is {gemma}, and no single file of that is read here"
        )
    if encoder is None:
        raise ValueError(
            f"choose a file with a whole {_READ}, its vision tower included: by its tensors, "
            f"{name} is none"
        )
    if not encoder.whole:
        raise ValueError(f"download {name} again: the file is cut off")
    if encoder.unreadable:
        raise _unreadable(name, encoder.unreadable)
    return encoder


def load_encoder(
    encoder: Encoder,
    name: str,
    tokenizer: Path | None,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
) -> Lvlm:
    """The model, computing in `dtype`. attention: as transformers names it.

    tokenizer: the folder of one for a file that has none of its own.

    A file without an output, or without its last layers, gives a model that only locates. Raises
    ValueError, remedy first, for a tokenizer that is missing or another model's, for tensors that
    are missing, too many or of other shapes, and for formats of layers that are not read.
    """
    words = tokenizer_of(encoder, name, tokenizer)
    model = _model(encoder, words, name, dtype, attention)
    torch.nn.Module.to(model, device)
    stored = KINDS[encoder.model_type].processor(encoder)
    return Lvlm(
        model,
        words,
        image_processor_of(stored, usual_image_processor(model.config)),
        name=name,
        # The tokenizer's own is of a text model
        chat_template=chat_template_of(model.config, words),
        silent=_silent(encoder, name),
        all_layers=max(encoder.layers, encoder.all_layers),
    )


def _unreadable(name: str, why: str) -> ValueError:
    return ValueError(
        f"choose the same model in bf16, fp16, fp8 (one scale a tensor), nvfp4 or GGUF (Q4_K_M, "
        f"Q8_0 and others): {name} cannot be read, since {why}"
    )


def _silent(encoder: Encoder, name: str) -> str:
    """Why the model cannot answer, remedy first; "" where it can."""
    if not encoder.silent:
        return ""
    same = (model.value for model in CURATED if model.description == encoder.name)
    other = next(same, "the same model's folder from Hugging Face")
    return (
        f"choose a model that writes, such as {other}, or use the nodes that locate (Contrastive "
        "Attention, VAQ Layer Select, Con-ViCrop; the command locate): the text encoder "
        f"{name} cannot answer, since it has {encoder.silent}"
    )


def _model(
    encoder: Encoder, tokenizer: Any, name: str, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """The model on the CPU. tokenizer: says where an answer ends, and what stands for pictures."""
    from transformers import GenerationConfig

    token_id, kind = tokenizer.convert_tokens_to_ids, KINDS[encoder.model_type]
    with _opened(encoder) as file:
        _check_formats(encoder, file, name)
        with _Unallocated():
            model = class_of(encoder, "ForConditionalGeneration")._from_config(
                config_of(encoder, token_id), attn_implementation=attention, dtype=dtype
            )
        text, names = model.get_submodule("model.language_model"), set(encoder.weights)
        if encoder.silent:
            model.lm_head = None
            names.discard(HEAD)
        if TEXT + "norm.weight" not in names:  # attention lies before it
            text.norm = torch.nn.Identity()
        places = places_of(model)
        _check_tensors(encoder, model, places, names, name)
        for key in sorted(names):
            _fill(model, places[key], encoder.weights[key], file, dtype)
    if not encoder.silent and HEAD not in names:
        model.lm_head = _output_of(text.embed_tokens)
    ends = [token_id(token) for token in kind.ends]
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=token_id(kind.padding)
    )
    return model


def _opened(encoder: Encoder) -> Any:
    """A context with the file's `get_tensor`, which maps what it gives from the file."""
    from safetensors import safe_open

    if encoder.joined:
        return nullcontext(GgufWeights(encoder.joined))
    return safe_open(str(encoder.path), framework="pt")  # checks shapes against the size


def places_of(model: torch.nn.Module) -> dict[str, str]:
    """The model's own name of each weight, by the name that `text_encoders` gives it."""
    own = (name for name, _ in model.named_parameters(remove_duplicate=False))
    return {name.replace("vision_tower.vision_model.", "vision_tower."): name for name in own}


class _Unallocated(TorchFunctionMode):
    """Inside, layers have no values. Those that are computed, as rotary frequencies are, do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = {**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})}
        return func(*args, **options)


def _check_tensors(
    encoder: Encoder,
    model: torch.nn.Module,
    places: dict[str, str],
    names: set[str],
    name: str,
) -> None:
    shapes = {key: tuple(model.get_parameter(place).shape) for key, place in places.items()}
    if not encoder.silent and encoder.tied:
        shapes = {key: shape for key, shape in shapes.items() if key != HEAD or HEAD in names}
    stored = encoder.weights
    wrong = [
        *(f"lacks {key}" for key in sorted(shapes.keys() - names)),
        *(f"holds {stored[key].name} as well" for key in sorted(names - shapes.keys())),
        *(
            f"has {stored[key].name} with shape {[*stored[key].shape]} instead of {[*shapes[key]]}"
            for key in sorted(names & shapes.keys())
            if stored[key].shape != shapes[key]
        ),
    ]
    if wrong:
        raise ValueError(
            f"choose another file, or download {name} again: for a {encoder.name} it {wrong[0]}"
            + (f", and {len(wrong) - 1} more tensors are not as expected" if wrong[1:] else "")
        )


def _check_formats(encoder: Encoder, file: Any, name: str) -> None:
    """Raise ValueError for a layer whose own few bytes of JSON name a format that is not read."""
    for key, weight in encoder.weights.items():
        if not (weight.said and weight.dtype in PACKED):
            continue
        try:
            said = json.loads(bytes(file.get_tensor(weight.said).tolist()))["format"]
        except (ValueError, LookupError, TypeError, RecursionError):
            said = "an unknown format"
        if said != FORMATS[weight.dtype]:
            raise _unreadable(name, f"its {key} is in {said}")


def _fill(
    model: PreTrainedModel, place: str, weight: StoredWeight, file: Any, dtype: torch.dtype
) -> None:
    """Put a tensor of the file into the model, in place of a weight that holds no values."""
    owner, _, which = place.rpartition(".")
    module, stored = model.get_submodule(owner), file.get_tensor(weight.name)
    packed = _packed(stored, weight, file) if weight.dtype in PACKED else None
    if packed and which == "weight" and isinstance(module, torch.nn.Linear):
        bias = module.bias  # filled before: it comes first in the alphabet
        _replace(model, owner, WidenedLinear(packed, bias))
    elif packed and packed.by_row and place == TEXT + "embed_tokens.weight":
        factor = getattr(module, "embed_scale", _ONE)  # Gemma's
        _replace(model, owner, WidenedEmbedding(packed, factor, dtype))
    else:  # in few bits only what is small: norms, biases, positions, the first layer
        value = packed.widened(dtype) if packed else stored.to(dtype)
        setattr(module, which, torch.nn.Parameter(value, requires_grad=False))


def _packed(stored: torch.Tensor, weight: StoredWeight, file: Any) -> Packed:
    numbers = math.prod(weight.shape)
    if weight.dtype in BLOCKS:
        return Packed(stored, (), partial(from_blocks, weight.dtype), numbers, by_row=True)
    beside = {role: file.get_tensor(name) for role, name in weight.beside.items()}
    scale = beside.get("scale", _ONE).reshape(())
    if weight.dtype != NVFP4:
        return Packed(stored, (scale,), from_fp8, numbers, by_row=True)
    blocks = beside["blocks"].view(torch.float8_e4m3fn)  # bytes in older files
    return Packed(stored, (blocks, scale, beside.get("columns", _ONE)), from_nvfp4, numbers)


def _replace(model: torch.nn.Module, name: str, by: torch.nn.Module) -> None:
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, by)


def _output_of(embeddings: torch.nn.Module) -> torch.nn.Module:
    """The output that shares the input's embeddings."""
    if isinstance(embeddings, WidenedEmbedding):
        return WidenedLinear(embeddings.packed)
    output = torch.nn.Linear(1, 1, bias=False, device="meta")
    output.weight = embeddings.get_parameter("weight")
    return output
