"""Models in GGUF: how blocks are widened, which files belong together, what is read and refused.

The oracles are the package `gguf`, which reads and dequantizes its own format, and a folder that
transformers saved of the weights that the files hold.
"""

from __future__ import annotations

import struct
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from laser_core import pipeline
from laser_core.models import encoder_loading, text_encoders, widened
from laser_core.models.catalogue import in_folders
from laser_core.models.encoder_tokenizers import tokenizer_of
from laser_core.models.gguf_encoders import NoTower, joined_header
from laser_core.models.gguf_files import BLOCKS
from laser_core.models.gguf_weights import GgufWeights, from_blocks
from laser_core.models.loading import load_lvlm
from laser_core.models.text_encoders import Size, read_encoder
from laser_core.settings import CropSettings, DecodeSettings, LaserSettings, LoadSettings
from tools.testbed.encoders import LAYERS, WIDTH, build_encoder
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import save

gguf = pytest.importorskip("gguf", reason="pip install gguf to write such files")
write_gguf = pytest.importorskip("tools.testbed.gguf_files").write_gguf

QUESTION = "what colour is the square ?"
SETTINGS = LaserSettings(
    crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=4, adaptive=0.0)
)
NONE = MappingProxyType({})
KINDS = {"qwen2_5_vl": ("Q4_K_M", "F16"), "qwen3_vl": ("Q8_0", "Q8_0"), "gemma3": ("Q4_0", "F16")}
"""What each model type is packed as here: its decoder and its tower."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the decoder's file, folder of the same weights) of a model type; each is made once."""

    @cache
    def make(model_type: str) -> tuple[Path, Path]:
        home = tmp_path_factory.mktemp(model_type)
        tiny = build_encoder(model_type, tied=model_type == "gemma3")
        kind, tower = KINDS[model_type]
        return write_gguf(home / "gguf", tiny.model, kind, tower=tower), save(tiny, home / "is")

    return make


def load(file: Path, folder: Path, **settings):
    chosen = {"max_visual_tokens": 16, "tokenizer": str(folder), **settings}
    return load_lvlm(str(file), LoadSettings(**chosen))


def copied(file: Path, target: Path, *, tower: str | None = "mmproj-any name.gguf") -> Path:
    """The decoder, and the mmproj beside it under a name."""
    target.mkdir(exist_ok=True)
    (target / file.name).write_bytes(file.read_bytes())
    if tower:
        (target / tower).write_bytes(file.with_name(f"mmproj-{file.name}").read_bytes())
    return target / file.name


def listed(folder):
    return in_folders([("text_encoders", folder)])


# ---- what it computes --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_widened_to_the_numbers_that_ggml_reads(kind):
    form, rows = gguf.GGMLQuantizationType[kind], 7
    assert gguf.GGML_QUANT_SIZES[form] == (BLOCKS[kind].numbers, sum(BLOCKS[kind].parts))
    packed = np.random.default_rng(0).integers(
        0, 256, (rows, 3 * sum(BLOCKS[kind].parts)), np.uint8
    )
    with np.errstate(all="ignore"):  # random halves may be infinite
        theirs = torch.from_numpy(gguf.quants.dequantize(packed, form))
    ours = from_blocks(kind, torch.from_numpy(packed), torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("model_type", KINDS)
def test_rows_windows_and_tokens_are_those_of_the_same_weights_in_a_folder(model_type, made):
    file, folder = made(model_type)
    results = [
        pipeline.answer(load(path, folder), noise_picture(), QUESTION, SETTINGS)
        for path in (file, folder)
    ]
    of_file, of_folder = (result.location for result in results)
    assert torch.equal(of_file.maps.with_query, of_folder.maps.with_query)
    assert torch.equal(of_file.maps.without_query, of_folder.maps.without_query)
    assert of_file.windows == of_folder.windows
    assert results[0].answer.tokens == results[1].answer.tokens


def test_a_large_product_in_parts_is_the_product(made, monkeypatch):
    lvlm = load(*made("qwen2_5_vl"))
    output, states = lvlm.model.get_output_embeddings(), torch.randn(2, WIDTH)
    whole = output(states)
    monkeypatch.setattr(widened, "_AT_ONCE_ON_CPU", 50 * WIDTH)
    assert len(output.parts(50)) > 1
    torch.testing.assert_close(output(states), whole)


@pytest.mark.parametrize("model_type", KINDS)
def test_packed_weights_stay_so_and_the_model_takes_what_its_files_do(model_type, made):
    file, folder = made(model_type)
    model = load(file, folder, precision="fp16").model
    held = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    on_disk = sum(path.stat().st_size for path in file.parent.glob("*.gguf"))
    assert sum(tensor.nbytes for tensor in held.values()) < on_disk * 1.01


def test_pieces_of_a_weight_may_lie_in_any_order_and_in_unlike_formats(made, tmp_path):
    file, _ = made("qwen2_5_vl")
    name, copy = "visual.blocks.0.attn.qkv.weight", copied(file, tmp_path / "copy", tower=None)
    tower = file.with_name(f"mmproj-{file.name}")
    rewritten(tower, tmp_path / "copy" / "mmproj.gguf", backwards=True, form={"attn_k": "Q8_0"})
    before, after = (GgufWeights(joined_header(path)).get_tensor(name) for path in (file, copy))
    assert (before.dtype, after.dtype) == (torch.float16, torch.float32)
    torch.testing.assert_close(after, before.float(), rtol=0.01, atol=0.001)


def test_towers_of_old_with_their_layers_the_wrong_way_round_are_read_right(made, tmp_path):
    file, _ = made("gemma3")
    copy, tower = copied(file, tmp_path / "old", tower=None), file.with_name(f"mmproj-{file.name}")
    swap = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
    rewritten(tower, tmp_path / "old" / "mmproj.gguf", rename=swap)
    whole, old = (GgufWeights(joined_header(path)) for path in (file, copy))
    for part in ("fc1.weight", "fc1.bias", "fc2.weight"):
        name = f"vision_model.encoder.layers.1.mlp.{part}"
        assert torch.equal(whole.get_tensor(name), old.get_tensor(name))


# ---- which files belong together ---------------------------------------------------------------


def test_a_decoder_and_its_mmproj_are_listed_as_one_model(made, tmp_path, monkeypatch):
    file, _ = made("qwen2_5_vl")
    size = Size("Qwen2.5-VL 7B", LAYERS, False)
    monkeypatch.setitem(text_encoders.SIZES, ("qwen2_5_vl", WIDTH), size)
    copy = copied(file, tmp_path / "new")
    on_disk = sum(path.stat().st_size for path in copy.parent.iterdir())
    (copy.parent / "config.json").write_text('{"model_type": "qwen2_5_vl"}')  # as some come with
    (model,) = listed(tmp_path)
    assert model.value == "text_encoders/new/any name.gguf"
    assert (model.description, model.precision) == ("Qwen2.5-VL 7B, GGUF", "Q4_K_M")
    assert model.size_bytes == on_disk
    assert model.memory_bytes(2) == pytest.approx(model.size_bytes * 1.05 + 1.5e9)
    assert not model.missing and not model.quantizable


def test_a_decoder_alone_is_listed_as_incomplete_until_its_mmproj_is_there(made, tmp_path):
    file, folder = made("qwen2_5_vl")
    copy = copied(file, tmp_path, tower=None)
    other = made("qwen3_vl")[0]
    for beside, said in ((None, "none is there"), (other, "none of 1 there belongs to it")):
        if beside:
            tower = beside.with_name(f"mmproj-{beside.name}").read_bytes()
            (tmp_path / "mmproj-F16.gguf").write_bytes(tower)
        (model,) = listed(tmp_path)
        assert model.missing == ("an mmproj file with its vision tower",)
        with pytest.raises(
            ValueError, match=rf"^download the vision tower of this Qwen2.5-VL .*{said}$"
        ):
            load(copy, folder)
    copied(file, tmp_path)
    (model,) = listed(tmp_path)
    assert not model.missing and model.description == "Qwen2.5-VL, GGUF"


def test_of_several_mmproj_files_the_one_of_the_most_similar_name_is_taken(made, tmp_path):
    file, _ = made("qwen2_5_vl")
    (tmp_path / "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf").write_bytes(file.read_bytes())
    tower = file.with_name(f"mmproj-{file.name}").read_bytes()
    names = ("mmproj-Qwen2.5-VL-3B-Instruct-F16.gguf", "Qwen2.5-VL-7B-Instruct.mmproj-Q8_0.gguf")
    for name in (*names, "mmproj-F16.gguf"):
        (tmp_path / name).write_bytes(tower)
    encoder = read_encoder(tmp_path / "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf")
    assert encoder.beside.name == names[1]


def test_a_vision_tower_without_deepstack_is_none_of_a_qwen3_vl(made, tmp_path):
    file, _ = made("qwen3_vl")
    copy = copied(file, tmp_path, tower=None)
    tower = file.with_name(f"mmproj-{file.name}")
    rewritten(tower, tmp_path / tower.name, rename={"v.deepstack.": "v.other."})
    with pytest.raises(NoTower, match=r"this Qwen3-VL .*none of 1 there belongs to it$"):
        joined_header(copy)


# ---- what is refused ---------------------------------------------------------------------------


def _of(architecture: str, **metadata: int | str | bytes) -> bytes:
    """A header without tensors. metadata: with "__" for dots; bytes are a type and a value."""
    values = {"general.architecture": architecture} | metadata
    said = b"".join(_text(key.replace("__", ".")) + _value(value) for key, value in values.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + said


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: int | str | bytes) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return value if isinstance(value, bytes) else struct.pack("<II", 4, value)


# Half of what all lists of a file may hold together
_HALF_A_LIST = struct.pack("<IIQ", 9, 0, 1 << 21) + bytes(1 << 21)

OTHERS = {
    "a diffusion model": (_of("flux"), "choose a GGUF file of one of these: .* is a 'flux'"),
    "a text model": (_of("qwen2"), "choose a GGUF file of one of these: .* is a 'qwen2'"),
    "another model, however it goes on": (_of("qwen2", end=0)[:-1], "choose .* is a 'qwen2'"),
    "a Qwen2-VL by its name": (_of("qwen2vl", general__name="Qwen2 VL 2B"), "choose .* a Qwen2-VL"),
    "a Qwen2-VL by its length": (
        _of("qwen2vl", qwen2vl__context_length=32768),
        "choose a GGUF file of one of these: Qwen2.5-VL, .* odd.gguf is a Qwen2-VL",
    ),
    "a Gemma 3 1B": (_of("gemma3", gemma3__embedding_length=1152), "choose .* is a text model"),
    "a vision tower": (_of("clip"), "choose the model's other GGUF file"),
    "one of several": (_of("qwen3vl", split__count=3), "choose a GGUF file in one piece"),
    "cut off in its header": (_of("qwen2vl")[:-1], "download odd.gguf again"),
    "endless counts": (_of("qwen2vl")[:8] + b"\xff" * 16, "download odd.gguf again, .* too many"),
    "lists too long together": (
        _of("qwen2vl", **dict.fromkeys("abc", _HALF_A_LIST)),
        "download odd.gguf again, .*: its lists are too long",
    ),
    "aligned backwards": (
        _of("qwen2vl", general__alignment=struct.pack("<Ii", 5, -8)),
        "download odd.gguf again, .*: its weights are aligned to -8 bytes",
    ),
    "another version": (b"GGUF" + b"\1" + b"\0" * 99, "download odd.gguf again"),
    "nothing": (b"", "download odd.gguf again"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_files_are_not_listed_and_refused_for_what_they_are(what, tmp_path):
    content, said = OTHERS[what]
    (tmp_path / "odd.gguf").write_bytes(content)
    assert listed(tmp_path) == []
    with pytest.raises(ValueError, match=f"^{said}"):
        load_lvlm(str(tmp_path / "odd.gguf"))


def test_a_qwen2_5_vl_that_takes_short_texts_is_none_of_the_older(tmp_path):
    said = {"general__name": "Qwen2.5 VL 7B", "qwen2vl__context_length": 32768}
    (tmp_path / "new.gguf").write_bytes(_of("qwen2vl", **said))
    with pytest.raises(NoTower, match=r"^download the vision tower of this Qwen2\.5-VL"):
        joined_header(tmp_path / "new.gguf")


@pytest.mark.parametrize("cut", ["any name.gguf", "mmproj-any name.gguf"])
def test_a_file_that_is_cut_off_is_listed_as_incomplete_and_refused(cut, made, tmp_path):
    file, folder = made("qwen2_5_vl")
    copy = copied(file, tmp_path)
    (tmp_path / cut).write_bytes((tmp_path / cut).read_bytes()[:-99])
    (model,) = listed(tmp_path)
    assert model.missing == ("its end",)
    with pytest.raises(ValueError, match=r"^download .* again: .* cut off$"):
        load(copy, folder)


def test_a_format_that_is_not_read_is_listed_as_such_and_refused_by_name(
    made, tmp_path, monkeypatch
):
    file, folder = made("qwen2_5_vl")
    copied(file, tmp_path)
    copy = rewritten(file, tmp_path / file.name, form={"attn_q.weight": "IQ2_XXS"})
    (model,) = listed(tmp_path)
    assert model.description == "Qwen2.5-VL, GGUF, not readable"
    monkeypatch.delattr(encoder_loading, "_model")  # so that no weight can be read
    with pytest.raises(
        ValueError, match=r"^choose the same model in .* GGUF \(Q4_K_M, .* type IQ2_XXS are not"
    ):
        load(copy, folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "blk.1.attn_q.weight",
            "blk.1.attn_p.weight",
            r"lacks .*\.layers\.1\.self_attn\.q_proj\.w",
        ),
        ("output_norm.weight", "output_norm.width", r"reads its tensor model\.norm\.width$"),
    ],
)
def test_tensors_that_are_missing_or_unknown_are_named(old, new, said, made, tmp_path):
    file, folder = made("qwen2_5_vl")
    copied(file, tmp_path)
    with pytest.raises(ValueError, match=said):
        load(rewritten(file, tmp_path / file.name, rename={old: new}), folder)


# ---- the tokenizer -----------------------------------------------------------------------------

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
_TEXTS = (
    "What colour is the square in the picture?",
    "Two  spaces,   three; it's a\ttab.\n\nThen 2024 lines.\n",
    "<|im_start|>user\nIs it ünïcödé? 日本 😀<|im_end|>\n<tool_call>",
    "",
)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """(transformers' Qwen tokenizer, the metadata that llama.cpp's converter makes of it)."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    folder = tmp_path_factory.mktemp("words")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([QUESTION, *_TEXTS] * 9, trainer)
    trained.model.save(str(folder))
    theirs = Qwen2TokenizerFast.from_pretrained(str(folder))
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>")
    special += ("<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    added = [AddedToken(token, normalized=False, special=True) for token in special]
    theirs.add_tokens([*added, AddedToken("<tool_call>", normalized=False)])
    known = theirs.get_vocab()
    types = dict.fromkeys(special, _CONTROL) | {"<tool_call>": _USER_DEFINED}
    tokens = sorted(known, key=known.__getitem__)
    merges = (folder / "merges.txt").read_text("utf-8").splitlines()

    def add(writer, odd=()) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([*tokens, "[PAD1]"])
        writer.add_token_types([*(types.get(token, 1) for token in tokens), _UNUSED])
        writer.add_token_merges([*(line for line in merges if not line.startswith("#")), *odd])

    return theirs, len(tokens) + 1, add


def test_qwens_tokenizer_is_read_from_the_file(words, tmp_path):
    theirs, rows, add = words
    tiny = build_encoder("qwen3_vl", tokenizer=theirs, text={"vocab_size": rows})
    encoder = read_encoder(write_gguf(tmp_path, tiny.model, "F16", more=add))
    ours = tokenizer_of(encoder, "any name", Path("/nowhere"))
    assert ours.get_vocab() == theirs.get_vocab()
    for text in _TEXTS:
        ids = ours(text).input_ids
        assert ids == theirs(text).input_ids
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(
                ids, skip_special_tokens=skip
            )
    assert (ours.eos_token, ours.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_a_merge_that_names_no_token_is_refused(words, tmp_path):
    theirs, rows, add = words
    tiny = build_encoder("qwen3_vl", tokenizer=theirs, text={"vocab_size": rows})
    more = partial(add, odd=["no token"])
    encoder = read_encoder(write_gguf(tmp_path, tiny.model, "F16", more=more))
    with pytest.raises(ValueError, match=r"^choose another file: .* cannot be read as GGUF's$"):
        tokenizer_of(encoder, "any name", Path("/nowhere"))


def gemma(folder: Path, *, whole: int = _CONTROL, form: str = "llama") -> tuple[Path, int]:
    """(a Gemma, how many tokens it has), as the converter has them: with spaces, for which
    SentencePiece writes ▁. whole: the type of those that are found as a whole."""
    pieces = dict.fromkeys(("<pad>", "<eos>", "<bos>", "<unk>"), _CONTROL)
    pieces |= dict.fromkeys(("<start_of_turn>", "<end_of_turn>"), whole)
    pieces |= dict.fromkeys(("<start_of_image>", "<end_of_image>"), whole)
    pieces |= dict.fromkeys(("\n", "  "), _USER_DEFINED)
    pieces |= {f"<0x{byte:02X}>": _BYTE for byte in range(256)}
    pieces |= dict.fromkeys(("▁", *"abcdefghijklmnopqrstuvwxyz", "th", "the", "▁the"), _NORMAL)

    def add(writer) -> None:
        writer.add_tokenizer_model(form)
        writer.add_token_list([*pieces])
        writer.add_token_types([*pieces.values()])

    tiny = build_encoder("gemma3", tied=True, text={"vocab_size": len(pieces)})
    return write_gguf(folder, tiny.model, "Q8_0", more=add), len(pieces)


def test_gemmas_tokenizer_is_read_from_the_file_and_its_pictures_need_no_row(tmp_path):
    file, tokens = gemma(tmp_path)
    lvlm = load_lvlm(str(file))
    split = lvlm.tokenizer.tokenize("the  the<end_of_turn>\ta", add_special_tokens=False)
    assert split == ["the", "▁▁", "the", "<end_of_turn>", "<0x09>", "a"]
    assert lvlm.image_token_id == tokens
    assert pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS).answer.tokens


def test_marks_of_turns_that_a_file_calls_ordinary_are_found_as_a_whole(tmp_path):
    """As some published exports do."""
    file, _ = gemma(tmp_path, whole=_NORMAL)
    tokenizer = tokenizer_of(read_encoder(file), "any name", None)
    turn = ["<start_of_turn>", "the", "<end_of_turn>", "\n", "<start_of_image>"]
    assert tokenizer.tokenize("".join(turn), add_special_tokens=False) == turn


def test_a_gemmas_tokenizer_of_another_kind_is_named(tmp_path):
    file, _ = gemma(tmp_path, form="gpt2")
    said = r"^choose a file that has .*Gemma 3: .* is of a kind that is not read here \(gpt2\)$"
    with pytest.raises(ValueError, match=said):
        load_lvlm(str(file))


# ---- files -------------------------------------------------------------------------------------


def rewritten(source: Path, target: Path, *, rename=NONE, form=NONE, backwards=False) -> Path:
    """A copy. rename: parts of tensors' names; form: what tensors of such names are put into."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0])
    for tensor in reversed(reader.tensors) if backwards else reader.tensors:
        name, data, kind = tensor.name, tensor.data, tensor.tensor_type
        wanted = next((other for part, other in form.items() if part in name), None)
        if wanted and len(tensor.shape) > 1:
            kind = gguf.GGMLQuantizationType[wanted]
            numbers, size = gguf.GGML_QUANT_SIZES[kind]
            rows, columns = tensor.shape[::-1].tolist()
            if wanted == "Q8_0":
                data = gguf.quants.quantize(data.astype(np.float32), kind)
            else:  # nothing writes it
                data = np.zeros((rows, columns // numbers * size), np.uint8)
        old = next((part for part in rename if part in name), "")
        name = name.replace(old, rename.get(old, ""))
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
