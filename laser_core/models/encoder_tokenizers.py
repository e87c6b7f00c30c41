"""The tokenizer of a text encoder: its file's own, or a folder's.

Knows what SentencePiece stores, how Gemma's tokenizer is made up and transformers' fast ones; knows
no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .encoder_configs import KINDS
from .text_encoders import NAMES, TEXT, Encoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# SentencePiece's types of pieces
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_FIXED = {1: 8, 5: 4}  # bytes of protobuf's types of fixed length
_BOS, _EOS, _UNK, _PAD = "<bos>", "<eos>", "<unk>", "<pad>"


def tokenizer_of(encoder: Encoder, name: str, folder: Path | None) -> Any:
    """The tokenizer in the file; the folder's where it has none.

    Raises ValueError, remedy first, where there is none and for one of another model.
    """
    if encoder.tokenizer:
        remedy, place = "choose another file", "its own"
        tokenizer = _own(encoder, name)
    else:
        remedy = f"set tokenizer (--tokenizer) to that of a {encoder.name}"
        place = f"the one in {folder}"
        tokenizer = _of_folder(encoder, name, folder)
    known = tokenizer.get_vocab()
    lacking = [token for token in KINDS[encoder.model_type].needed if token not in known]
    rows = encoder.shape(TEXT + "embed_tokens.weight")[0]
    if lacking or len(tokenizer) > rows:
        what = f"it lacks {lacking[0]}" if lacking else f"{len(tokenizer)} tokens for {rows} rows"
        raise ValueError(f"{remedy}: {place} belongs to another model ({what})")
    return tokenizer


def _of_folder(encoder: Encoder, name: str, folder: Path | None) -> Any:
    from transformers import AutoTokenizer

    if folder is not None and folder.is_dir():
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    found = f"there is no folder {str(folder)!r}" if folder else "it holds none"
    here = "update ComfyUI, which has a tokenizer for it (comfy/text_encoders/qwen25_tokenizer)"
    if encoder.model_type == "gemma3":
        here = "choose a file that has its tokenizer in it, as ComfyUI's own do"
    raise ValueError(
        f"{here}, or set tokenizer (--tokenizer) to a folder with that of a "
        f"{NAMES[encoder.model_type]}: for {name}, {found}"
    )


# ---- SentencePiece -----------------------------------------------------------------------------


def _own(encoder: Encoder, name: str) -> Any:
    from safetensors import safe_open
    from transformers import PreTrainedTokenizerFast

    with safe_open(str(encoder.path), framework="np") as file:
        stored = file.get_tensor(encoder.tokenizer).tobytes()
    try:
        backend = _gemmas(dict(_pieces(stored)), KINDS[encoder.model_type].needed)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"choose another file: its tokenizer {encoder.tokenizer} is none of SentencePiece"
        ) from error
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=_BOS,
        eos_token=_EOS,
        unk_token=_UNK,
        pad_token=_PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _gemmas(pieces: dict[str, int], special: tuple[str, ...]) -> Tokenizer:
    """As transformers' converter makes Gemma's tokenizer.json. pieces: their types, by id."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = models.BPE(
        vocab=vocabulary,
        merges=_merges(pieces, vocabulary),
        unk_token=_UNK,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{_BOS} $A",
        pair=f"{_BOS} $A {_BOS} $B",
        special_tokens=[(_BOS, vocabulary[_BOS])],
    )
    tokenizer.add_tokens(
        [
            AddedToken(piece, normalized=False, special=kind == _CONTROL or piece in special)
            for piece, kind in pieces.items()
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    # What stands for pictures follows the pieces, and is none
    tokenizer.add_special_tokens([token for token in special if token not in pieces])
    return tokenizer


def _merges(pieces: dict[str, int], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs that become a piece. Pieces are in the order in which they were learned."""
    merges = []
    for piece, kind in pieces.items():
        if kind in (_NORMAL, _USER_DEFINED):
            pairs = ((piece[:cut], piece[cut:]) for cut in range(len(piece) - 1, 0, -1))
            merges += [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
    return merges


def _pieces(model: bytes) -> Iterator[tuple[str, int]]:
    """(text, type) of each, in the order of their ids (sentencepiece_model.proto)."""
    for number, value in _fields(model):
        if number == 1:
            piece = dict(_fields(value))
            yield piece[1].decode(), piece.get(3, _NORMAL)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message; numbers of fixed length stay bytes."""
    at, value = 0, cast("Any", None)
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in _FIXED or kind == 2:
            length, at = (_FIXED[kind], at) if kind in _FIXED else _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"there is no wire type {kind}")
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(number, where the next begins)."""
    number = shift = 0
    while True:
        byte = message[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at
