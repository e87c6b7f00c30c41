"""Vision-language models in GGUF files: which one a file holds, and where its vision tower is.

llama.cpp makes two files of a model: its decoder and, as "mmproj", its vision tower. Knows
llama.cpp's names of tensors and metadata and reads headers: both files become one header, under the
names that ComfyUI's files of the same models have. Knows neither torch nor transformers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from .gguf_files import ARCHITECTURE, GGUF, GgufHeader, PackedTensor, read_gguf
from .model_files import Header, StoredTensor

_TOWER = "clip"  # what an mmproj says its architecture is
_TOKENS = "tokenizer.ggml.tokens"  # in metadata: the tokenizer's texts, in the order of their ids
# llama.cpp calls Qwen2-VL and Qwen2.5-VL the same; the older takes shorter texts in every size
_QWEN2_VL, _QWEN2_VL_LENGTH = re.compile(r"qwen2[ _-]?vl", re.IGNORECASE), 32768


@dataclass(frozen=True)
class JoinedTensor(StoredTensor):
    """A tensor that llama.cpp may have cut up. dtype: F32 where that of its pieces differs.

    pieces: (file, piece) of each, one below the other; those of four axes are a patch's two
    moments. above: what the file adds to its numbers.
    """

    pieces: tuple[tuple[Path, PackedTensor], ...]
    above: int


@dataclass(frozen=True)
class _Kind:
    """An architecture of llama.cpp.

    name: for people. projector: the type of its mmproj. names: ComfyUI's by llama.cpp's, with "#"
    for a layer's number, and pieces of one tensor in their order. above_one: the ends of names
    whose numbers are stored one above, since the model adds one to them. tokenizer: its kind, as
    metadata calls it. mark: how a tensor's name begins that only its mmproj has, of those of one
    type. blind: the widths of published sizes that have no vision tower.
    """

    name: str
    projector: str
    names: dict[str, str]
    tokenizer: str = "gpt2"
    above_one: tuple[str, ...] = ()
    mark: str = ""
    blind: tuple[int, ...] = ()


def _below(stored: str, ours: str, names: dict[str, str]) -> dict[str, str]:
    return {stored + name: ours + own for name, own in names.items()}


_ATTENTION = {f"attn_{each}": f"self_attn.{each}_proj" for each in "qkv"}
_MLP = {f"ffn_{each}": f"mlp.{each}_proj" for each in ("gate", "up", "down")}
_LAYER = {
    **_ATTENTION,
    **_MLP,
    **{f"attn_{each}_norm": f"self_attn.{each}_norm" for each in "qk"},
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_GEMMA_LAYER = _LAYER | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_DECODER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_QWEN = {
    **_DECODER,
    **_below("blk.#.", "model.layers.#.", _LAYER),
    "v.patch_embd": "visual.patch_embed.proj",
    "v.patch_embd.weight.1": "visual.patch_embed.proj.weight",
}
_QWEN_BLOCK = {"ln1": "norm1", "ln2": "norm2", "attn_out": "attn.proj"}
_QWEN2_5_BLOCK = _QWEN_BLOCK | _MLP | {f"attn_{each}": "attn.qkv" for each in "qkv"}
_QWEN3_BLOCK = _QWEN_BLOCK | {
    "attn_qkv": "attn.qkv",
    "ffn_up": "mlp.linear_fc1",
    "ffn_down": "mlp.linear_fc2",
}
_SIGLIP_LAYER = _ATTENTION | {
    "attn_out": "self_attn.out_proj",
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_KINDS = {
    "qwen2vl": _Kind(
        "Qwen2.5-VL",
        "qwen2.5vl_merger",
        {
            **_QWEN,
            **_below("v.blk.#.", "visual.blocks.#.", _QWEN2_5_BLOCK),
            "v.post_ln": "visual.merger.ln_q",
            **_below("mm.", "visual.merger.", {"0": "mlp.0", "2": "mlp.2"}),
        },
    ),
    "qwen3vl": _Kind(
        "Qwen3-VL",
        "qwen3vl_merger",
        {
            **_QWEN,
            **_below("v.blk.#.", "visual.blocks.#.", _QWEN3_BLOCK),
            **_below(
                "v.deepstack.#.",
                "visual.deepstack_merger_list.#.",
                {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"},
            ),
            "v.position_embd": "visual.pos_embed",
            "v.post_ln": "visual.merger.norm",
            **_below("mm.", "visual.merger.", {"0": "linear_fc1", "2": "linear_fc2"}),
        },
        mark="v.deepstack.",  # Qwen3.5's has none
    ),
    "gemma3": _Kind(
        "Gemma 3",
        "gemma3",
        {
            **_DECODER,
            **_below("blk.#.", "model.layers.#.", _GEMMA_LAYER),
            **_below("v.blk.#.", "vision_model.encoder.layers.#.", _SIGLIP_LAYER),
            "v.patch_embd": "vision_model.embeddings.patch_embedding",
            "v.position_embd": "vision_model.embeddings.position_embedding",
            "v.post_ln": "vision_model.post_layernorm",
            "mm.soft_emb_norm": "multi_modal_projector.mm_soft_emb_norm",
            "mm.input_projection.weight": "multi_modal_projector.mm_input_projection_weight",
        },
        tokenizer="llama",
        above_one=("norm.weight",),
        blind=(640, 1152),
    ),
}
"""By the architecture that a file's metadata names."""
_NUMBERED = re.compile(r"((?:v\.)?(?:blk|deepstack)\.)(\d{1,4})(\..+)")
_SWAPPED = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}


class NoTower(ValueError):
    """Beside a decoder is no mmproj that belongs to it. model: the decoder's, for people."""

    def __init__(self, message: str, model: str) -> None:
        super().__init__(message)
        self.model = model


@dataclass(frozen=True)
class JoinedHeader(Header):
    """Of two files.

    metadata: the decoder's. beside: the mmproj. tokenizer: the name of the list of its tokens in
    metadata, or "".
    """

    tensors: dict[str, JoinedTensor]
    beside: Path
    tokenizer: str


def joined_header(path: Path) -> JoinedHeader:
    """The header of the model whose decoder is in a GGUF file, with the mmproj beside it.

    Tensors that have no name here keep their own. Raises ValueError, remedy first, for a file that
    is no such decoder, and `NoTower`.
    """
    try:
        decoder = read_gguf(path, of={*_KINDS, _TOWER})
    except ValueError as error:
        raise ValueError(f"download {path.name} again, or choose another file: {error}") from error
    kind = _kind(path, decoder)
    beside, tower = _mmproj(path, decoder, kind)
    pieces: dict[str, list[tuple[int, Path, PackedTensor]]] = {}
    for file, header in ((path, decoder), (beside, tower)):
        rename = _Names(kind, header)
        for stored, tensor in header.tensors.items():
            name, place = rename(stored)
            pieces.setdefault(name, []).append((place, file, tensor))
    tensors = {name: _joined(name, parts, kind) for name, parts in pieces.items()}
    said = decoder.metadata
    own = _TOKENS if said.get("tokenizer.ggml.model") == kind.tokenizer else ""
    return JoinedHeader(tensors, said, decoder.whole and tower.whole, beside, own)


def is_mmproj(name: str) -> bool:
    """Whether a file that is called so may hold a vision tower."""
    return name.endswith(GGUF) and "mmproj" in name.lower()


def _kind(path: Path, header: GgufHeader) -> _Kind:
    architecture = str(header.metadata.get(ARCHITECTURE))
    if architecture == _TOWER:
        raise ValueError(
            f"choose the model's other GGUF file, beside which this one is found: {path.name} is a "
            "vision tower (mmproj) alone"
        )
    other = _other(architecture, header.metadata)
    if other:
        names = ", ".join(kind.name for kind in _KINDS.values())
        raise ValueError(
            f"choose a GGUF file of one of these: {names}. By what it says of itself, {path.name} "
            f"is a {other}"
        )
    if header.metadata.get("split.count", 0) not in (0, 1):
        raise ValueError(f"choose a GGUF file in one piece: {path.name} is one of several")
    return _KINDS[architecture]


def _other(architecture: str, said: dict[str, Any]) -> str:
    """What a decoder is that is none of those here, for people; "" for one of them."""
    if architecture not in _KINDS:
        return repr(architecture[:99])
    if architecture == "qwen2vl":
        name = f"{said.get('general.name')} {said.get('general.basename')}"
        short = said.get("qwen2vl.context_length") == _QWEN2_VL_LENGTH and "2.5" not in name
        return "Qwen2-VL" if short or _QWEN2_VL.search(name) else ""
    kind = _KINDS[architecture]
    if _width(said) in kind.blind:
        return f"text model: a {kind.name} of this size has no vision tower"
    return ""


def _width(said: dict[str, Any]) -> Any:
    return said.get(f"{said[ARCHITECTURE]}.embedding_length")


def _mmproj(path: Path, decoder: GgufHeader, kind: _Kind) -> tuple[Path, GgufHeader]:
    """The mmproj beside a decoder; of several that fit, the one whose name is most like its own."""
    width = _width(decoder.metadata)
    beside = [other for other in sorted(path.parent.iterdir()) if is_mmproj(other.name)]
    read = ((other, _tower_of(other, kind, width)) for other in beside)
    fitting = [(other, header) for other, header in read if header]
    if not fitting:
        none = f"none of {len(beside)} there belongs to it" if beside else "none is there"
        raise NoTower(
            f"download the vision tower of this {kind.name} (mmproj-F16.gguf, mmproj-Q8_0.gguf or "
            f"the like) into the folder of {path.name}: {none}",
            kind.name,
        )
    return max(fitting, key=lambda fit: _alike(fit[0].stem.lower(), path.stem.lower()))


def _tower_of(path: Path, kind: _Kind, width: object) -> GgufHeader | None:
    """An mmproj's header; None where it is not such a model's."""
    try:
        header = read_gguf(path)
    except (OSError, ValueError):
        return None
    said = header.metadata
    found = said.get("clip.projector_type"), said.get("clip.vision.projection_dim")
    marked = any(name.startswith(kind.mark) for name in header.tensors)
    return header if found == (kind.projector, width) and marked else None


def _alike(one: str, other: str) -> int:
    """Letters of the longest text that both hold."""
    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size


class _Names:
    """ComfyUI's names of a file's tensors."""

    def __init__(self, kind: _Kind, header: GgufHeader) -> None:
        self._names, self._order = kind.names, list(kind.names)
        numbered = map(_NUMBERED.fullmatch, header.tensors)
        # llama.cpp numbers what follows some layers by the layer, transformers from 0
        self._deep = sorted({int(m[2]) for m in numbered if m and "deepstack" in m[1]})
        # Files of old have the tower's ffn_up and ffn_down the wrong way round
        down, norm = (header.tensors.get(f"v.blk.0.{key}.weight") for key in ("ffn_down", "ln1"))
        self._swapped = bool(down and norm and down.shape[1:] == norm.shape)

    def __call__(self, stored: str) -> tuple[str, int]:
        """(name, place among the pieces of a tensor)."""
        if stored in self._names:
            return self._names[stored], self._order.index(stored)
        stem, _, last = stored.rpartition(".")
        number, match = "", _NUMBERED.fullmatch(stem)
        if match:
            number, part = match[2], match[3]
            if "deepstack" in match[1]:
                number = str(self._deep.index(int(number)))
            if self._swapped and match[1] == "v.blk.":
                part = f".{_SWAPPED.get(part[1:], part[1:])}"
            stem = f"{match[1]}#{part}"
        if stem not in self._names:
            return stored, 0
        return f"{self._names[stem].replace('#', number)}.{last}", self._order.index(stem)


def _joined(name: str, parts: list[tuple[int, Path, PackedTensor]], kind: _Kind) -> JoinedTensor:
    pieces = tuple((file, tensor) for _, file, tensor in sorted(parts, key=lambda part: part[0]))
    tensors = [tensor for _, tensor in pieces]
    shape, types = tensors[0].shape, {tensor.dtype for tensor in tensors}
    if len(tensors) > 1 and len(shape) == 4:
        shape = (*shape[:2], len(tensors), *shape[2:])
    elif len(tensors) > 1:
        shape = (sum(tensor.shape[0] for tensor in tensors if tensor.shape), *shape[1:])
    return JoinedTensor(
        dtype=tensors[0].dtype if len(types) == 1 else "F32",
        shape=shape,
        pieces=pieces,
        above=int(name.endswith(kind.above_one) and not name.startswith("vision_model.")),
    )
