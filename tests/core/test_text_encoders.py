"""Text encoders of image models: what is recognised, what it answers, what it holds in memory.

The oracle is a folder that transformers saved of the same weights, after the converter rounded
them.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from laser_core import pipeline
from laser_core.command_line.cli import main
from laser_core.models import catalogue, encoder_loading, text_encoders
from laser_core.models.catalogue import in_folders
from laser_core.models.encoder_configs import config_of
from laser_core.models.loading import load_lvlm
from laser_core.models.text_encoders import Size, read_encoder
from laser_core.models.widened import WidenedEmbedding, WidenedLinear, from_nvfp4
from laser_core.settings import CropSettings, DecodeSettings, LaserSettings, LoadSettings
from tools.testbed.encoders import (
    FORMATS,
    LAYERS,
    WIDTH,
    build_encoder,
    stored_as,
    train_sentencepiece,
    write,
    write_gemma,
    write_hollow,
)
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import build, save

QUESTION = "what colour is the square ?"
TYPES = ("qwen2_5_vl", "qwen3_vl", "gemma3")
SETTINGS = LaserSettings(
    crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=4, adaptive=0.0)
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(file, folder of the same weights) of a model type in a format; each is made once."""

    @cache
    def make(model_type: str, kind: str = "fp8 new", tied: bool = False) -> tuple[Path, Path]:
        home = tmp_path_factory.mktemp("encoder")
        tiny = build_encoder(model_type, tied=tied)
        tensors = stored_as(tiny.model, kind)
        old = kind != "fp8 new"
        return write(home / "any name.safetensors", tensors, old_names=old), save(tiny, home / "is")

    return make


@pytest.fixture
def small_is_tied(monkeypatch):
    """The small models as a published size whose output shares the input's embeddings."""
    for model_type in TYPES:
        size = Size("Small", LAYERS, True)
        monkeypatch.setitem(text_encoders.SIZES, (model_type, WIDTH), size)


def load(made_pair, **settings):
    """The file with the folder's tokenizer, and the folder."""
    file, folder = made_pair
    chosen = {"max_visual_tokens": 16, **settings}
    return (
        load_lvlm(str(file), LoadSettings(tokenizer=str(folder), **chosen)),
        load_lvlm(str(folder), LoadSettings(**chosen)),
    )


def located(lvlm):
    return pipeline.locate(lvlm, noise_picture(), QUESTION, SETTINGS)


def changed(path: Path, target: Path, *, without=(), cut_off: int = 0, **more) -> Path:
    """A copy of a file of safetensors, without tensors whose names hold a text, and with others."""
    from safetensors.torch import load_file

    kept = load_file(path).items()
    tensors = {key: value for key, value in kept if not any(text in key for text in without)}
    save_file({**tensors, **more}, target)
    if cut_off:
        target.write_bytes(target.read_bytes()[:-cut_off])
    return target


# ---- what it computes --------------------------------------------------------------------------


# How a format is read does not depend on the type
@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        *(("qwen2_5_vl", kind) for kind in FORMATS),
        *(("qwen3_vl", kind) for kind in ("bf16", "fp8 new")),
        *(("gemma3", kind) for kind in ("bf16", "fp8 new", "nvfp4 mixed")),
    ],
)
def test_rows_windows_and_tokens_are_those_of_the_same_weights_in_a_folder(model_type, kind, made):
    results = [
        pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS)
        for lvlm in load(made(model_type, kind))
    ]
    of_file, of_folder = (result.location for result in results)
    assert torch.equal(of_file.maps.with_query, of_folder.maps.with_query)
    assert torch.equal(of_file.maps.without_query, of_folder.maps.without_query)
    assert of_file.windows == of_folder.windows
    assert results[0].answer.tokens == results[1].answer.tokens


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [("qwen2_5_vl", "fp8 unscaled"), ("qwen3_vl", "bf16"), ("gemma3", "nvfp4 mixed")],
)
def test_an_output_that_no_file_holds_is_the_inputs_embeddings(
    model_type, kind, made, small_is_tied
):
    file, folder = load(made(model_type, kind, tied=True))
    answers = [
        pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS) for lvlm in (file, folder)
    ]
    assert answers[0].answer.tokens == answers[1].answer.tokens
    output, table = file.model.get_output_embeddings(), file.model.get_input_embeddings()
    assert output.weight is table.weight


@pytest.mark.parametrize("model_type", ["qwen3_vl", "gemma3"])
def test_a_file_with_names_of_newer_or_of_older_makers_is_the_same_model(
    model_type, made, tmp_path
):
    tensors = stored_as(build_encoder(model_type).model, "bf16")
    files = [
        write(tmp_path / f"{old}.safetensors", tensors, old_names=old) for old in (True, False)
    ]
    _, folder = made(model_type, "bf16")
    one, other = (
        load_lvlm(str(file), LoadSettings(tokenizer=str(folder))).model.state_dict()
        for file in files
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


_GEMMA_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 896,
}
PUBLISHED = {  # by their config.json
    "Qwen2.5-VL 7B": (
        "qwen2_5_vl",
        (152064, 3584, 18944, 28, 28, 4),
        {},
        {
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
    "Qwen3-VL 4B": (
        "qwen3_vl",
        (151936, 2560, 9728, 36, 32, 8),
        {},
        {
            "depth": 24,
            "hidden_size": 1024,
            "num_heads": 16,
            "intermediate_size": 4096,
            "out_hidden_size": 2560,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    ),
    "Gemma 3 12B": (
        "gemma3",
        (262208, 3840, 15360, 48, 16, 8),
        {"head_dim": 256, "query_pre_attn_scalar": 256},
        _GEMMA_TOWER,
    ),
    "Gemma 3 27B": (
        "gemma3",
        (262208, 5376, 21504, 62, 32, 16),
        {"head_dim": 128, "query_pre_attn_scalar": 168},
        _GEMMA_TOWER,
    ),
}


@pytest.mark.skipif(sys.platform == "win32", reason="there a file of zeros takes its room")
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_is_configured_as_published(name, tmp_path):
    model_type, sizes, more, vision = PUBLISHED[name]
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads")
    text = {**dict(zip(names, sizes, strict=True)), **more}
    tied = name != "Qwen2.5-VL 7B"
    with torch.device("meta"):
        hollow = build_encoder(model_type, tied=tied, text=text, vision=vision)
    encoder = read_encoder(write_hollow(tmp_path / "published.safetensors", hollow.model))
    config = config_of(encoder, hollow.tokenizer.convert_tokens_to_ids)
    config.get_text_config().tie_word_embeddings = tied
    assert encoder.name == name and not encoder.silent
    for part in ("text_config", "vision_config"):
        built, published = (getattr(one, part).to_dict() for one in (config, hollow.config))
        assert built == published


# ---- what it holds -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        *(("qwen2_5_vl", kind) for kind in ("fp8 old", "fp8 new", "fp8 unscaled")),
        *(("qwen3_vl", "fp8 new"), ("gemma3", "fp8 old"), ("gemma3", "nvfp4 mixed")),
    ],
)
def test_weights_of_few_bits_stay_so_and_the_model_takes_what_the_file_does(model_type, kind, made):
    file, _ = made(model_type, kind)
    lvlm, whole = load(made(model_type, kind), precision="bf16")
    held = [*lvlm.model.parameters(), *lvlm.model.buffers()]
    assert sum(tensor.nbytes for tensor in held) < file.stat().st_size * 1.01
    assert lvlm.parameter_count == whole.parameter_count
    widened = {
        module.weight.dtype
        for module in lvlm.model.modules()
        if isinstance(module, (WidenedLinear, WidenedEmbedding, torch.nn.Linear))
    }
    in_4_bits = {torch.uint8} if kind == "nvfp4 mixed" else set()
    assert widened == {torch.float8_e4m3fn} | in_4_bits


def test_what_the_file_holds_in_the_models_own_format_is_not_copied(made):
    """Two tensors that lie one after the other in the file do so in memory."""
    file, folder = made("qwen3_vl", "bf16")
    settings = LoadSettings(tokenizer=str(folder), precision="bf16")
    loaded = dict(load_lvlm(str(file), settings).model.named_parameters())
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    encoder = read_encoder(file)
    offsets = {key: header[encoder.weights[key].name]["data_offsets"][0] for key in loaded}
    starts = {loaded[key].data_ptr() - offset for key, offset in offsets.items()}
    assert len(starts) == 1


# ---- files that only locate --------------------------------------------------------------------


def test_without_an_output_it_locates_as_the_whole_model_does(made, tmp_path):
    file, folder = made("qwen2_5_vl")
    headless = changed(file, tmp_path / "headless.safetensors", without=["lm_head"])
    assert read_encoder(headless).description.endswith("text encoder, locates only")
    load = LoadSettings(tokenizer=str(folder), max_visual_tokens=16)
    without, whole = (located(load_lvlm(str(path), load)) for path in (headless, folder))
    assert torch.equal(whole.maps.with_query, without.maps.with_query)
    assert whole.windows == without.windows


@pytest.mark.parametrize("cut", [("layers.3.", "norm."), ("norm.",), ("layers.3.",)])
def test_the_layers_of_a_truncated_file_look_as_they_do_in_the_whole_model(
    cut, made, tmp_path, small_is_tied
):
    file, folder = made("qwen3_vl")
    without = [f"language_model.{part}" for part in cut]
    truncated = changed(file, tmp_path / "cut.safetensors", without=without)
    load = LoadSettings(tokenizer=str(folder), max_visual_tokens=16)
    one, whole = (load_lvlm(str(path), load) for path in (truncated, folder))
    maps = located(one).maps
    assert torch.equal(maps.with_query, located(whole).maps.with_query[: len(maps.with_query)])
    with pytest.raises(ValueError, match=r"^choose a model that writes"):
        one.check_answers()


def test_the_band_of_a_truncated_model_names_the_same_layers(made, tmp_path, monkeypatch):
    file, folder = made("qwen3_vl")
    first, last = load((file, folder))[1].family.band
    for layers in (LAYERS, 5, 16):
        size = Size("Small", layers, False)
        monkeypatch.setitem(text_encoders.SIZES, ("qwen3_vl", WIDTH), size)
        band = load((file, folder))[0].band
        found = (depth * (LAYERS - 1) for depth in (band.first, band.last))
        whole = (min(LAYERS - 1, depth * (layers - 1)) for depth in (first, last))
        assert list(found) == pytest.approx(list(whole))


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_what_answers_says_why_this_file_cannot_and_which_can(
    model_type, made, tmp_path, monkeypatch
):
    file, folder = made(model_type)
    name = {"qwen2_5_vl": "Qwen2.5-VL 7B", "qwen3_vl": "Qwen3-VL 8B"}[model_type]
    monkeypatch.setitem(text_encoders.SIZES, (model_type, WIDTH), Size(name, LAYERS, False))
    headless = changed(file, tmp_path / "headless.safetensors", without=["lm_head"])
    lvlm, _ = load((headless, folder))
    hub_id = f"Qwen/{name.replace(' ', '-')}-Instruct"
    for ask in (
        lambda: pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS),
        lambda: pipeline.answer_from(lvlm, located(lvlm)),
    ):
        with pytest.raises(ValueError, match=f"^choose a model that writes, such as {hub_id}, .*"
                                             "since it has no lm_head"):  # fmt: skip
            ask()


# ---- what is recognised ------------------------------------------------------------------------


def listed(folder):
    return in_folders([("text_encoders", folder)])


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("bf16", "bf16"), ("fp16", "fp16"), ("fp8 old", "fp8"), ("fp8 unscaled", "fp8")],
)
def test_a_file_is_listed_by_what_it_holds_whatever_its_name(kind, precision, made, monkeypatch):
    file, _ = made("qwen2_5_vl", kind)
    size = Size("Qwen2.5-VL 7B", LAYERS, False)
    monkeypatch.setitem(text_encoders.SIZES, ("qwen2_5_vl", WIDTH), size)
    catalogue._read_file.cache_clear()
    model = next(model for model in listed(file.parent) if model.is_file)
    catalogue._read_file.cache_clear()
    assert model.value == "text_encoders/any name.safetensors"
    assert (model.description, model.precision) == ("Qwen2.5-VL 7B, text encoder", precision)
    assert model.size_bytes == file.stat().st_size and not model.quantizable
    expected = file.stat().st_size * (2 if precision != "fp8" else 1)
    assert model.memory_bytes(4) == pytest.approx(expected * 1.05 + 1.5e9, rel=1e-3)


_QWEN3_VL = (  # what one is known by, besides its table of embeddings
    *("model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_norm.weight"),
    *("model.layers.0.mlp.down_proj.weight", "visual.patch_embed.proj.weight"),
    *("visual.blocks.0.norm1.weight", "visual.deepstack_merger_list.0.norm.weight"),
)
_FP8 = torch.zeros(4, 4).to(torch.float8_e4m3fn)
OTHERS = {
    "a diffusion model": {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)},
    "an image transformer": {
        "transformer_blocks.0.attn.to_q.weight": _FP8,
        "img_in.weight": torch.zeros(2, 2),
    },
    "T5": {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2),
           "shared.weight": torch.zeros(2, 2)},
    "CLIP-L": {"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2)},
    "a LoRA": {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 2),
               "visual.blocks.0.attn.qkv.lora_A.weight": torch.zeros(2, 2)},
    "a table of another format": {
        "model.embed_tokens.weight_packed": torch.zeros(2, 2),
        **{name: torch.zeros(2) for name in _QWEN3_VL},
    },
    "names without shapes": {
        name: torch.ones(()) for name in ("model.embed_tokens.weight", *_QWEN3_VL)
    },
    "a text model": {
        "model.embed_tokens.weight": torch.zeros(2, 2),
        "model.layers.0.input_layernorm.weight": torch.zeros(2),
        "model.layers.0.self_attn.q_norm.weight": torch.zeros(2),
        "model.layers.0.mlp.down_proj.weight": torch.zeros(2, 2),
    },
}  # fmt: skip


def _header(**entry) -> bytes:
    content = json.dumps({"a": entry}).encode()
    return len(content).to_bytes(8, "little") + content


BROKEN = {
    "nothing": b"",
    "no safetensors": b"GGUF" * 9,
    "a header of no tensors": _header(dtype="F32"),
    "an endless shape": _header(dtype="F32", shape=[float("inf")], data_offsets=[0, 0]),
}


@pytest.mark.parametrize("what", [*OTHERS, *BROKEN])
def test_other_files_are_not_listed_and_refused_by_their_tensors(what, tmp_path):
    path = tmp_path / "qwen_2.5_vl_7b_fp8_scaled.safetensors"
    if what in OTHERS:
        save_file(OTHERS[what], path)
    else:
        path.write_bytes(BROKEN[what])
    assert listed(tmp_path) == []
    with pytest.raises(ValueError, match=r"^choose a file with a whole Qwen2.5-VL, Qwen3-VL or"):
        load_lvlm(str(path))


_LAYER = "model.language_model.layers.1.mlp.up_proj"
UNREADABLE = {
    "nvfp4 without a scale a block": (
        {f"{_LAYER}.weight": torch.zeros(192, WIDTH // 2, dtype=torch.uint8),
         f"{_LAYER}.weight_scale_2": torch.ones(())}, "quantized"
    ),
    "nvfp4 beside 8 bits": ({f"{_LAYER}.weight_scale_2": torch.ones(())}, "quantized"),
    "awq": ({f"{_LAYER}.qweight": torch.zeros(4, 4, dtype=torch.int32),
             f"{_LAYER}.qzeros": torch.zeros(4, 4, dtype=torch.int32)}, "awq"),
    "a scale a block": ({f"{_LAYER}.weight_scale": torch.ones(192, 8)}, "quantized"),
    "integers": ({f"{_LAYER}.weight": torch.zeros(192, WIDTH, dtype=torch.int8)}, "quantized"),
    "an unknown scale": ({f"{_LAYER}.scale_of_mine": torch.ones(())}, "quantized"),
    "a scale of what is not scaled": (
        {"model.language_model.norm.weight_scale": torch.ones(())}, "quantized"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_format_that_is_not_read_is_listed_as_such_and_refused_by_its_header(
    what, made, tmp_path, monkeypatch
):
    more, precision = UNREADABLE[what]
    file, folder = made("qwen3_vl")
    path = changed(file, tmp_path / "odd.safetensors", **more)
    (model,) = listed(tmp_path)
    assert model.description == "Qwen3-VL, text encoder, not readable"
    assert model.precision == precision
    monkeypatch.delattr(encoder_loading, "_model")  # so that no weight can be read
    with pytest.raises(ValueError, match=r"^choose the same model in bf16, fp16, fp8"):
        load_lvlm(str(path), LoadSettings(tokenizer=str(folder)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "a Gemma 3 without a vision tower"),
        (["model.layers.0.layer_scalar"], "a Gemma 4"),
    ],
)
def test_a_gemma_that_is_not_read_is_named_for_what_it_is(more, said, tmp_path):
    names = ["post_feedforward_layernorm.weight", "self_attn.q_norm.weight"]
    names = [*(f"model.layers.0.{name}" for name in names), "model.embed_tokens.weight", *more]
    file = tmp_path / "gemma.safetensors"
    save_file({name: torch.zeros(2, 2) for name in names}, file)
    assert read_encoder(file) is None
    with pytest.raises(ValueError, match=f"^choose the model's folder .* is {said}, and no single"):
        load_lvlm(str(file))


def test_a_layer_that_names_another_format_is_refused_before_weights_are_read(
    made, tmp_path, monkeypatch
):
    file, folder = made("qwen3_vl")
    said = json.dumps({"format": "float8_of_tomorrow"}).encode()
    more = {f"{_LAYER}.comfy_quant": torch.tensor(list(said), dtype=torch.uint8)}
    path = changed(file, tmp_path / "odd.safetensors", **more)
    monkeypatch.delattr(encoder_loading, "_fill")
    with pytest.raises(ValueError, match=r"^choose the same model in .* in float8_of_tomorrow$"):
        load_lvlm(str(path), LoadSettings(tokenizer=str(folder)))


def test_4_bits_that_nobody_says_lie_as_comfyuis_do_are_not_read(made, tmp_path):
    """Other makers' tensors have the same names and shapes, and another order."""
    path = changed(made("gemma3", "nvfp4 mixed")[0], tmp_path / "odd.safetensors",
                   without=["comfy_quant"])  # fmt: skip
    (model,) = listed(tmp_path)
    assert model.description == "Gemma 3, text encoder, not readable"
    with pytest.raises(ValueError, match=r"^choose the same model in .* nothing says that the 4"):
        load_lvlm(str(path))


def test_4_bits_are_widened_as_comfy_kitchen_packs_them():
    """Bytes that its quantize_nvfp4 (0.2.40) made of -8 to 7 and back, and of a quarter of it."""
    row = [255, 238, 220, 186, 2, 52, 86, 103, 118, 101, 67, 32, 171, 205, 238, 255]
    blocks = torch.zeros(128 * 4, dtype=torch.uint8)
    blocks[[0, 1]], blocks[[16, 17]] = 112, 96
    widened = from_nvfp4(
        torch.tensor([row, row], dtype=torch.uint8),
        blocks.view(torch.float8_e4m3fn),
        torch.tensor(0.01),
        torch.ones(1),
        torch.float32,
    )
    steps = [-6, -6, -4, -4, -3, -2, -1.5, -1, 0, 1, 1.5, 2, 3, 4, 4, 6]
    there_and_back = torch.tensor([*steps, *reversed(steps)])
    assert torch.allclose(widened, torch.stack([1.28 * there_and_back, 0.32 * there_and_back]))


def test_formats_in_a_files_metadata_are_read_too(made, tmp_path):
    from safetensors.torch import load_file

    file, _ = made("qwen3_vl")
    for kind, unreadable in (("nvfp4", ""), ("mxfp8", "mxfp8 is not read here")):
        said = json.dumps({"layers": {_LAYER: {"format": kind}}})
        path = tmp_path / "odd.safetensors"
        save_file(load_file(file), path, {"_quantization_metadata": said})
        assert read_encoder(path).unreadable == unreadable


def test_a_file_that_is_cut_off_is_listed_as_incomplete_and_refused(made, tmp_path):
    file, folder = made("qwen3_vl")
    path = changed(file, tmp_path / "part.safetensors", cut_off=100)
    (model,) = listed(tmp_path)
    assert model.missing == ("its end",)
    with pytest.raises(ValueError, match=r"^download .*part.safetensors again: .* cut off$"):
        load_lvlm(str(path), LoadSettings(tokenizer=str(folder)))


@pytest.mark.parametrize(
    ("without", "more", "said"),
    [
        (["layers.1.mlp.up_proj"], {}, "it lacks model.language_model.layers.1.mlp.up_proj.weight"),
        (["visual.pos_embed"], {}, "it lacks model.visual.pos_embed.weight"),
        ([], {"model.visual.extra.weight": torch.ones(2)}, "holds model.visual.extra.weight"),
        (
            ["layers.1.input_layernorm"],
            {"model.language_model.layers.1.input_layernorm.weight": torch.ones(7)},
            r"with shape \[7\] instead of \[256\]",
        ),
    ],
)
def test_missing_odd_and_misshapen_tensors_are_named(without, more, said, made, tmp_path):
    file, folder = made("qwen3_vl")
    path = changed(file, tmp_path / "odd.safetensors", without=without, **more)
    with pytest.raises(ValueError, match=rf"^choose another file, or download .* again: .*{said}"):
        load_lvlm(str(path), LoadSettings(tokenizer=str(folder)))


def test_asked_again_the_list_opens_no_file_and_reads_a_changed_one(made, tmp_path, monkeypatch):
    file, _ = made("qwen3_vl")
    (tmp_path / "deep").mkdir()
    copy = changed(file, tmp_path / "deep" / "one.safetensors")
    save_file(OTHERS["T5"], tmp_path / "t5.safetensors")
    before = listed(tmp_path)
    opened = []
    monkeypatch.setattr(catalogue, "read_encoder", lambda path: opened.append(path))
    assert listed(tmp_path) == before and not opened
    copy.write_bytes(copy.read_bytes() + b" ")
    listed(tmp_path)
    assert opened == [copy]


# ---- the tokenizer -----------------------------------------------------------------------------


def test_without_a_tokenizer_the_error_says_where_one_is(made):
    file, _ = made("qwen3_vl")
    with pytest.raises(ValueError, match=r"^update ComfyUI, .*, or set tokenizer \(--tokenizer\)"):
        load_lvlm(str(file))
    with pytest.raises(ValueError, match=r"there is no folder '.*nowhere'"):
        load_lvlm(str(file), LoadSettings(tokenizer="/nowhere"))


def test_a_tokenizer_of_another_model_is_refused(made, tmp_path):
    file, _ = made("qwen3_vl")
    other = save(build("llava"), tmp_path / "llava")
    with pytest.raises(
        ValueError, match=r"^set tokenizer .*Qwen3-VL: .*\(it lacks <\|image_pad\|>"
    ):
        load_lvlm(str(file), LoadSettings(tokenizer=str(other)))


def test_a_tokenizer_with_more_words_than_the_file_is_refused(made, tmp_path):
    file, folder = made("qwen3_vl")
    short = changed(
        file,
        tmp_path / "short.safetensors",
        **{"model.language_model.embed_tokens.weight": torch.zeros(9, WIDTH)},
    )
    with pytest.raises(ValueError, match=r"belongs to another model \(\d+ tokens for 9 rows\)"):
        load_lvlm(str(short), LoadSettings(tokenizer=str(folder)))


_TEXTS = (
    "What colour is the square in the picture?",
    "Two  spaces,   three of them; a\ttab.\n\nThen a line.\n",
    "<start_of_turn>user\nIs it ünïcödé? 日本 😀<end_of_turn>\n",
    " begins and ends with a space ",
    "",
)


@pytest.fixture(scope="module")
def with_its_own(tmp_path_factory):
    """(SentencePiece's own tokenizer, a Gemma's file that holds it)."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs sentencepiece")
    path = write_gemma(tmp_path_factory.mktemp("gemma") / "gemma.safetensors", "bf16")
    trained = train_sentencepiece()
    return sentencepiece.SentencePieceProcessor(model_proto=trained), path


def test_a_tokenizer_in_the_file_is_sentencepieces_own(with_its_own):
    theirs, path = with_its_own
    ours = load_lvlm(str(path)).tokenizer
    for text in _TEXTS:
        ids = ours(text, add_special_tokens=False).input_ids
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours(text).input_ids == [theirs.bos_id(), *ids]
    assert ours.convert_tokens_to_ids("<image_soft_token>") == theirs.get_piece_size()


def test_a_model_with_a_tokenizer_in_its_file_takes_pictures_and_answers(with_its_own):
    lvlm = load_lvlm(str(with_its_own[1]), LoadSettings(tokenizer="/nowhere"))
    result = pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS)
    assert result.location.maps.with_query.shape[-2:] == (16, 16) and result.answer.tokens


@pytest.mark.parametrize(
    "stored",
    [
        b"no tokenizer",
        b"\n\x09\n\x07letters",
        b"\n\x02\x08\x05",  # a piece whose text is 5
    ],
)
def test_a_tokenizer_that_is_none_is_refused(stored, made, tmp_path):
    more = {"spiece_model": torch.tensor(list(stored), dtype=torch.uint8)}
    path = changed(made("gemma3", "bf16")[0], tmp_path / "odd.safetensors", **more)
    said = r"^choose another file: its tokenizer spiece_model cannot be read as SentencePiece's$"
    with pytest.raises(ValueError, match=said):
        load_lvlm(str(path))


def test_a_gemma_without_a_tokenizer_says_which_files_have_one(made):
    file, _ = made("gemma3", "bf16")
    with pytest.raises(ValueError, match=r"^choose a file that has its tokenizer in it, .*Gemma 3"):
        load_lvlm(str(file))


def test_flash_is_refused_for_a_file_where_it_is_for_the_models_folder(made):
    for path in made("gemma3", "bf16"):
        with pytest.raises(ValueError, match=r"^set attention to auto: under flash"):
            load_lvlm(str(path), LoadSettings(attention="flash"))


def test_weights_of_a_file_are_quantized_no_further(made):
    file, folder = made("qwen3_vl")
    with pytest.raises(
        ValueError, match=r"^set quantization to none, or choose the model's folder"
    ):
        load_lvlm(str(file), LoadSettings(tokenizer=str(folder), quantization="4-bit"))


def test_inside_comfyui_files_and_tokenizer_are_found(made, tmp_path, monkeypatch):
    file, folder = made("qwen3_vl")
    comfyui = tmp_path / "ComfyUI"
    pack = comfyui / "custom_nodes" / "laser"
    (comfyui / "models" / "clip").mkdir(parents=True)
    (comfyui / "models" / "clip" / "mine.safetensors").symlink_to(file)
    (comfyui / "comfy" / "text_encoders").mkdir(parents=True)
    (comfyui / "comfy" / "text_encoders" / "qwen25_tokenizer").symlink_to(folder)
    monkeypatch.setattr(catalogue, "_PACKAGE", pack / "laser_core")
    assert [model.value for model in in_folders(catalogue.own_roots())] == [
        "text_encoders/mine.safetensors"
    ]
    assert load_lvlm("text_encoders/mine.safetensors").family.name == "Qwen3-VL"


# ---- the command line --------------------------------------------------------------------------


def test_the_command_line_locates_with_a_file_and_a_tokenizer(made, tmp_path, capsys):
    file, folder = made("qwen2_5_vl")
    headless = changed(file, tmp_path / "headless.safetensors", without=["lm_head"])
    noise_picture().save(tmp_path / "picture.png")
    words = [str(tmp_path / "picture.png"), QUESTION, "--model", str(headless), "--json"]
    words += ["--tokenizer", str(folder), "--max-visual-tokens", "16"]
    words += ["--out", str(tmp_path / "out")]
    assert main(["locate", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    load = LoadSettings(tokenizer=str(folder), max_visual_tokens=16)
    windows = pipeline.locate(load_lvlm(str(headless), load), noise_picture(), QUESTION).windows
    assert [window["box"] for window in report["windows"]] == [*map(list, windows)]
    assert (tmp_path / "out" / "overlay.png").is_file()
    assert main(["ask", *words]) == 2
    assert "\nchoose a model that writes, such as " in capsys.readouterr().err


def test_the_list_of_the_command_line_has_the_files_of_a_folder(made, capsys):
    file, _ = made("qwen2_5_vl", "fp8 old")
    assert main(["models", "--folder", str(file.parent)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "any name" in line)
    size = f"{file.stat().st_size / 1e6:.1f}"
    assert line.split()[-3:] == [size, "MB", "fp8"] and "Qwen2.5-VL, text encoder" in line
