"""GGUF files: what their headers say, and where each tensor lies in them.

Reads headers, never weights, and passes over their vocabularies unless asked: the package `gguf`
takes ten seconds and half a gigabyte for that of a Qwen, and lists of models are asked for often.
Knows neither torch nor transformers.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .model_files import Header, StoredTensor

GGUF = ".gguf"
ARCHITECTURE = "general.architecture"
"""The first value in a file's metadata, as they are written."""


class Block(NamedTuple):
    """How a format packs numbers. numbers: in a block. parts: bytes of each of its parts."""

    numbers: int
    parts: tuple[int, ...]


BLOCKS = {
    "Q4_0": Block(32, (2, 16)),
    "Q4_1": Block(32, (2, 2, 16)),
    "Q5_0": Block(32, (2, 4, 16)),
    "Q5_1": Block(32, (2, 2, 4, 16)),
    "Q8_0": Block(32, (2, 32)),
    "Q2_K": Block(256, (16, 64, 2, 2)),
    "Q3_K": Block(256, (32, 64, 12, 2)),
    "Q4_K": Block(256, (2, 2, 12, 128)),
    "Q5_K": Block(256, (2, 2, 12, 32, 128)),
    "Q6_K": Block(256, (128, 64, 16, 2)),
    "IQ4_NL": Block(32, (2, 16)),
    "IQ4_XS": Block(256, (2, 2, 4, 128)),
}
"""Formats that are read here, besides F32, F16 and BF16."""
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}

# ggml's formats in its own order; "" where there is none any more
_FORMATS = (
    *("F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S"),
    *("IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M"),
    *("BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "", "MXFP4", "NVFP4"),
)
# llama.cpp's mixtures of them, by the number in a file's metadata
_MIXTURES = {
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M",
}  # fmt: skip
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
            10: "<Q", 11: "<q", 12: "<d"}  # fmt: skip
_TEXT, _LIST = 8, 9
_VERSIONS = 2, 3
_MOST_DIMENSIONS = 4
_ALIGNMENT = 32  # of the weights, in bytes, where the file does not say
_MOST = 1 << 16  # values, or tensors
# Entries of all lists together, or bytes of a text: a vocabulary of 262,144 has less than a third
_LONGEST = 1 << 22


@dataclass(frozen=True)
class PackedTensor(StoredTensor):
    """dtype: as ggml names it. shape: as torch has it. begin, size: bytes in the file."""

    begin: int
    size: int


@dataclass(frozen=True)
class GgufHeader(Header):
    """metadata: lists as tuples, but None for one that was passed over."""

    tensors: dict[str, PackedTensor]


class _Cursor:
    """Reads numbers, texts and lists from bytes, one after the other."""

    def __init__(self, content: Any, lists: bool) -> None:
        self._content, self._lists, self.place = content, lists, 0
        self._left = _LONGEST

    def numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(form, self._content, self.place)
        self.place += struct.calcsize(form)
        return found

    def text(self) -> str:
        (length,) = self.numbers("<Q")
        begin, self.place = self.place, self.place + length
        if length > _LONGEST or self.place > len(self._content):
            raise ValueError("a text in it is too long")
        return str(self._content[begin : self.place], "utf-8", "replace")

    def value(self, kind: int) -> Any:
        """None for a list that nobody asked for."""
        if kind in _NUMBERS:
            return self.numbers(_NUMBERS[kind])[0]
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            raise ValueError(f"values of kind {kind} are unknown")
        of, count = self.numbers("<IQ")
        self._left -= count
        if self._left < 0:
            raise ValueError("its lists are too long")
        if of in _NUMBERS:
            form = f"<{count}{_NUMBERS[of][1]}"
            if self._lists:
                return self.numbers(form)
            self.place += struct.calcsize(form)
            return None
        if of != _TEXT:
            raise ValueError(f"lists of kind {of} are unknown")
        if self._lists:
            return tuple(self.text() for _ in range(count))
        for _ in range(count):
            (length,) = self.numbers("<Q")
            self.place += length
        return None


def read_gguf(path: Path, *, lists: bool = False, of: Container[str] | None = None) -> GgufHeader:
    """The header of a GGUF file.

    lists: whether lists are read, as vocabularies are. of: the architectures that are asked for;
    where the file names another, nothing after it is read. Raises ValueError for a file that does
    not begin with such a header.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            return _header(_Cursor(held, lists), len(held), of)
    except (struct.error, TypeError, ArithmeticError, MemoryError) as error:
        raise ValueError("its header cannot be read as GGUF's, or is cut off") from error


def _header(cursor: _Cursor, size: int, of: Container[str] | None) -> GgufHeader:
    magic, version, tensor_count, value_count = cursor.numbers("<4sIQQ")
    if magic != b"GGUF" or version not in _VERSIONS:
        raise ValueError("it does not begin with a header of GGUF")
    if max(tensor_count, value_count) > _MOST:
        raise ValueError("its header says that it has too many values or tensors")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.text()
        metadata[key] = cursor.value(*cursor.numbers("<I"))
        if key == ARCHITECTURE and of is not None and metadata[key] not in of:
            return GgufHeader({}, metadata, whole=True)
    entries = [_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its weights are aligned to {alignment} bytes")
    start = math.ceil(cursor.place / alignment) * alignment
    tensors = {
        name: PackedTensor(kind, shape, start + begin, _bytes(kind, shape))
        for name, kind, shape, begin in entries
    }
    end = max((tensor.begin + tensor.size for tensor in tensors.values()), default=0)
    return GgufHeader(tensors, metadata, end <= size)


def _entry(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int]:
    name = cursor.text()
    (dimensions,) = cursor.numbers("<I")
    if dimensions > _MOST_DIMENSIONS:
        raise ValueError("a tensor has too many dimensions")
    shape = cursor.numbers(f"<{dimensions}Q")
    kind, begin = cursor.numbers("<IQ")
    known = _FORMATS[kind] if kind < len(_FORMATS) else ""
    return name, known or f"format {kind}", shape[::-1], begin


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    """0 where the format is not known here."""
    if kind in BLOCKS:
        return math.prod(shape) // BLOCKS[kind].numbers * sum(BLOCKS[kind].parts)
    return math.prod(shape) * _SIZES.get(kind, 0)


def mixture(header: Header) -> str:
    """What a file is said to be packed as: llama.cpp's mixture, or the format of most numbers."""
    numbers: Counter[str] = Counter()
    for tensor in header.tensors.values():
        numbers[tensor.dtype] += math.prod(tensor.shape)
    said = _MIXTURES.get(header.metadata.get("general.file_type", -1))
    return said or numbers.most_common(1)[0][0]
