"""The tokenizer of a text encoder: its file's own, or a folder's.

Knows what SentencePiece and GGUF store, how the tokenizers of Gemma and Qwen are made up and
transformers' fast ones; knows no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .encoder_configs import KINDS
from .gguf_files import read_gguf
from .text_encoders import NAMES, TEXT, Encoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# SentencePiece's types of pieces, which are GGUF's
_NORMAL, _CONTROL, _USER_DEFINED, _FILLER = 1, 3, 4, 5
_FIXED = {1: 8, 5: 4}  # bytes of protobuf's types of fixed length
_BOS, _EOS, _UNK, _PAD = "<bos>", "<eos>", "<unk>", "<pad>"


def tokenizer_of(encoder: Encoder, name: str, folder: Path | None) -> Any:
    """The tokenizer in the file; the folder's where it has none.

    Raises ValueError, remedy first, where there is none and for one of another model.
    """
    if encoder.tokenizer:
        remedy, place = "choose another file", "the tokenizer in it"
        tokenizer = _own(encoder, name)
    else:
        remedy = f"set tokenizer (--tokenizer) to that of a {encoder.name}"
        place = f"the one in {folder}"
        tokenizer = _of_folder(encoder, name, folder)
    known, kind = tokenizer.get_vocab(), KINDS[encoder.model_type]
    lacking = [token for token in kind.needed if token not in known]
    rows = encoder.shape(TEXT + "embed_tokens.weight")[0]
    # What stands for pictures takes no row
    tokens = 1 + max(index for token, index in known.items() if token not in kind.tokens.values())
    if lacking or tokens > rows:
        what = f"it lacks {lacking[0]}" if lacking else f"{tokens} tokens for {rows} rows"
        raise ValueError(f"{remedy}: {place} belongs to another model ({what})")
    return tokenizer


def _of_folder(encoder: Encoder, name: str, folder: Path | None) -> Any:
    from transformers import AutoTokenizer

    if folder is not None and folder.is_dir():
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    found = f"there is no folder {str(folder)!r}" if folder else _found(encoder)
    here = "update ComfyUI, which has a tokenizer for it (comfy/text_encoders/qwen25_tokenizer)"
    if encoder.model_type == "gemma3":
        here = "choose a file that has its tokenizer in it, as ComfyUI's own do"
    raise ValueError(
        f"{here}, or set tokenizer (--tokenizer) to a folder with that of a "
        f"{NAMES[encoder.model_type]}: for {name}, {found}"
    )


def _found(encoder: Encoder) -> str:
    """What tokenizer a file has that is not read."""
    said = encoder.joined.metadata if encoder.joined else {}
    kind = str(said.get("tokenizer.ggml.model", ""))[:99]
    return f"its own is of a kind that is not read here ({kind})" if kind else "it holds none"


def _own(encoder: Encoder, name: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    kind = KINDS[encoder.model_type]
    try:
        pieces, merges = (_in_gguf if encoder.beside else _in_sentencepiece)(encoder)
        if encoder.model_type == "gemma3":
            backend = _gemmas(pieces, kind.needed)
            named = {"bos_token": _BOS, "eos_token": _EOS, "unk_token": _UNK, "pad_token": _PAD}
        else:
            backend = _qwens(pieces, merges, kind.needed)
            named = {"eos_token": kind.ends[0], "pad_token": kind.padding}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"choose another file: its tokenizer {encoder.tokenizer} cannot be read as "
            + ("GGUF's" if encoder.beside else "SentencePiece's")
        ) from error
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, padding_side="left", clean_up_tokenization_spaces=False, **named
    )


def _qwens(pieces: dict[str, int], merges: Iterable[str], special: tuple[str, ...]) -> Tokenizer:
    """As in tokenizer.json of Qwen's folders. pieces: their types, by id."""
    from transformers.convert_slow_tokenizer import Qwen2Converter

    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    pairs = [(merge.split(" ")[0], merge.split(" ")[1]) for merge in merges]
    if not all(vocabulary.keys() >= {left, right, left + right} for left, right in pairs):
        raise ValueError("a merge names no token")
    tokenizer = Qwen2Converter(None).converted(vocabulary, pairs)
    _add_whole(tokenizer, pieces, special)
    return tokenizer


def _gemmas(pieces: dict[str, int], special: tuple[str, ...]) -> Tokenizer:
    """As transformers' converter makes Gemma's tokenizer.json. pieces: their types, by id."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
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
    _add_whole(tokenizer, pieces, special)
    # What stands for pictures follows the pieces, and is none
    tokenizer.add_special_tokens([token for token in special if token not in pieces])
    return tokenizer


def _add_whole(tokenizer: Tokenizer, pieces: dict[str, int], special: tuple[str, ...]) -> None:
    """Have the pieces that no text is cut into found as a whole; special ones of any type."""
    from tokenizers import AddedToken

    tokenizer.add_tokens(
        [
            AddedToken(piece, normalized=False, special=kind == _CONTROL or piece in special)
            for piece, kind in pieces.items()
            if kind in (_CONTROL, _USER_DEFINED) or piece in special
        ]
    )


def _merges(pieces: dict[str, int], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs that become a piece. Pieces are in the order in which they were learned."""
    merges = []
    for piece, kind in pieces.items():
        if kind in (_NORMAL, _USER_DEFINED):
            pairs = ((piece[:cut], piece[cut:]) for cut in range(len(piece) - 1, 0, -1))
            merges += [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
    return merges


# ---- as files store them -----------------------------------------------------------------------


def _in_gguf(encoder: Encoder) -> tuple[dict[str, int], list[str]]:
    """(types of pieces in the order of their ids, merges)."""
    said = read_gguf(encoder.path, lists=True).metadata
    tokens, types = said[encoder.tokenizer], said["tokenizer.ggml.token_type"]
    if encoder.model_type == "gemma3":
        tokens = [token.replace(" ", "▁") for token in tokens]
    count = max(index for index, kind in enumerate(types) if kind != _FILLER) + 1
    pieces = dict(zip(tokens[:count], types[:count], strict=True))
    if len(pieces) < count:
        raise ValueError("two tokens have one text")
    return pieces, said.get("tokenizer.ggml.merges") or []


def _in_sentencepiece(encoder: Encoder) -> tuple[dict[str, int], list[str]]:
    """(types of pieces in the order of their ids, no merges: they follow from the pieces)."""
    from safetensors import safe_open

    with safe_open(str(encoder.path), framework="np") as file:
        return dict(_pieces(file.get_tensor(encoder.tokenizer).tobytes())), []


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
