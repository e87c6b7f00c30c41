"""What saved workflows rely on: ids, names, types, defaults; and what importing the pack costs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys

import pytest

from .pack import ROOT, inputs_of, node, pack, part

# Frozen: (required inputs, optional inputs, outputs with their types). Append, never change.
CONTRACT = {
    "LaserLoadLVLM": (
        "",
        "model custom_model precision quantization attention device max_visual_tokens weights "
        "keep_loaded",
        "lvlm:LASER_LVLM",
    ),
    "LaserContrastiveAttention": (
        "lvlm image question",
        "kind locate_instruction query_free framing system read_at",
        "attention:LASER_ATTENTION layers:IMAGE",
    ),
    "LaserVAQLayerSelect": (
        "attention",
        "top_heads rule layer first_depth last_depth",
        "evidence:LASER_EVIDENCE heat_map:MASK overlay:IMAGE layer:INT report:STRING chart:IMAGE",
    ),
    "LaserConViCrop": (
        "image",
        "scale min_side_px placement margin windows override multiple_of evidence mask",
        "crop:IMAGE region:MASK boxes:BOUNDING_BOX bbox:BBOX overlay:IMAGE points:STRING",
    ),
    "LaserCounterfactualMask": (
        "image",
        "amount fill evidence mask boxes",
        "counterfactual:IMAGE patches:MASK counterfactual_context:IMAGE",
    ),
    "LaserVATDecode": (
        "lvlm positive question",
        "answer_input alpha beta max_tokens temperature seed instruction top_p top_k system "
        "framing crop_budget adaptive counterfactual context counterfactual_context boxes "
        "max_thinking_tokens repetition_penalty map_of_tokens",
        "answer:STRING trace:LASER_TRACE json:STRING report:STRING token_map:MASK",
    ),
    "LaserAnswer": (
        "lvlm image question",
        "preset answer_input scale max_tokens temperature seed with_plain instruction mask "
        "settings override task map_of_tokens look_for",
        "answer:STRING plain_answer:STRING crop:IMAGE overlay:IMAGE heat_map:MASK "
        "boxes:BOUNDING_BOX json:STRING report:STRING points:STRING token_map:MASK",
    ),
    "LaserSettings": (
        "",
        "preset query_free framing system kind top_heads rule first_depth last_depth layer "
        "min_side_px placement margin windows amount fill block crop_budget alpha beta top_p "
        "top_k adaptive multiple_of locate_instruction max_thinking_tokens repetition_penalty "
        "looks read_at",
        "settings:LASER_SETTINGS",
    ),
    "LaserBoxPick": (
        "boxes",
        "format image_index box_index",
        "box:BOUNDING_BOX x:INT y:INT width:INT height:INT",
    ),
    "LaserPasteBack": ("image crop region", "feather_px boxes", "image:IMAGE"),
    "LaserUnload": ("lvlm", "any", "any:*"),
    "LaserFind": (
        "lvlm image phrases",
        "preset finder mask_share masks_of_boxes settings",
        "masks:MASK heat_maps:MASK boxes:BOUNDING_BOX bbox:BBOX points:STRING "
        "negative_points:STRING scores:FLOAT found:BOOLEAN overlay:IMAGE json:STRING "
        "report:STRING",
    ),
    "LaserPick": (
        "lvlm image phrase",
        "masks candidate_boxes preset settings",
        "mask:MASK boxes:BOUNDING_BOX index:INT score:FLOAT margin:FLOAT found:BOOLEAN "
        "report:STRING",
    ),
    "LaserCheck": (
        "lvlm image question",
        "options unsure_below preset settings",
        "is_first:BOOLEAN index:INT option:STRING probability:FLOAT unsure:BOOLEAN report:STRING",
    ),
}
OUTPUT_NODES = {
    "LaserAnswer", "LaserConViCrop", "LaserUnload", "LaserVAQLayerSelect", "LaserVATDecode",
    "LaserFind", "LaserPick", "LaserCheck",
}  # fmt: skip
LISTS = {
    "LaserVAQLayerSelect": {"layer", "report"},
    "LaserVATDecode": {"answer", "json", "report"},
    "LaserConViCrop": {"points"},
    "LaserAnswer": {"answer", "plain_answer", "json", "report", "points"},
    "LaserFind": {"points", "negative_points", "scores", "found", "json", "report"},
    "LaserCheck": {"is_first", "index", "option", "probability", "unsure", "report"},
}
SOCKETS = {
    "IMAGE", "MASK", "LASER_LVLM", "LASER_ATTENTION", "LASER_EVIDENCE", "LASER_TRACE",
    "LASER_SETTINGS", "BOUNDING_BOX", "BBOX", "BOUNDING_BOX,BBOX", "*",
}  # fmt: skip
# Which settings a node's widgets come from, and the widgets that have another name there.
GROUPS = {
    "LaserLoadLVLM": ["LoadSettings"],
    "LaserContrastiveAttention": ["ContrastSettings", "PromptSettings"],
    "LaserVAQLayerSelect": ["LayerSettings"],
    "LaserConViCrop": ["CropSettings"],
    "LaserCounterfactualMask": ["CounterfactualSettings"],
    "LaserVATDecode": ["PromptSettings", "AnswerSettings", "DecodeSettings"],
    "LaserAnswer": [
        "PresetSettings", "CropSettings", "AnswerSettings", "DecodeSettings",
    ],
    "LaserSettings": [
        "PresetSettings", "PromptSettings", "ContrastSettings", "LayerSettings", "CropSettings",
        "CounterfactualSettings", "AnswerSettings", "DecodeSettings",
    ],
    "LaserFind": ["PresetSettings", "FindSettings"],
}  # fmt: skip
LEFT_OUT = {
    # ComfyUI brings it along
    "LaserLoadLVLM": {"tokenizer"},
    # Where the picture is read with and without the question, how, and how often, are other nodes'
    "LaserVATDecode": {"query_free", "locate_instruction", "looks", "read_at"},
    # The two outputs of the node are what 'block' chooses between
    "LaserCounterfactualMask": {"block"},
    # Either node has what the other lacks
    "LaserAnswer": {
        "min_side_px", "placement", "margin", "windows", "multiple_of", "crop_budget", "alpha",
        "beta", "top_p", "top_k", "adaptive", "max_thinking_tokens", "repetition_penalty",
        "looks",
    },
    "LaserSettings": {
        "instruction", "scale", "answer_input", "max_tokens", "temperature", "seed",
    },
}  # fmt: skip

ids = pytest.mark.parametrize("node_id", CONTRACT)


def test_ids_and_display_names_are_the_frozen_ones():
    assert list(pack().NODE_CLASS_MAPPINGS) == list(CONTRACT)
    assert set(pack().NODE_DISPLAY_NAME_MAPPINGS) == set(CONTRACT)
    assert pack().WEB_DIRECTORY == "./web"


@ids
def test_names_types_and_order_are_the_frozen_ones(node_id):
    kind, (required, optional, outputs) = node(node_id), CONTRACT[node_id]
    types = kind.INPUT_TYPES()
    assert list(types["required"]) == required.split()
    assert list(types.get("optional", {})) == optional.split()
    pairs = zip(kind.RETURN_NAMES, kind.RETURN_TYPES, strict=True)
    assert [f"{name}:{kind_}" for name, kind_ in pairs] == outputs.split()
    assert getattr(kind, "OUTPUT_NODE", False) == (node_id in OUTPUT_NODES)
    flags = getattr(kind, "OUTPUT_IS_LIST", (False,) * len(kind.RETURN_NAMES))
    lists = {name for name, flag in zip(kind.RETURN_NAMES, flags, strict=True) if flag}
    assert lists == LISTS.get(node_id, set())


@ids
def test_everything_is_explained(node_id):
    kind = node(node_id)
    assert kind.CATEGORY == "LASER"
    assert len(kind.DESCRIPTION) > 40
    assert kind.SEARCH_ALIASES
    assert callable(getattr(kind, kind.FUNCTION))
    assert len(kind.OUTPUT_TOOLTIPS) == len(kind.RETURN_TYPES)
    assert all(len(tip) > 10 for tip in kind.OUTPUT_TOOLTIPS)
    for name, (_, options) in inputs_of(node_id).items():
        assert len(options["tooltip"]) > 10, name
    json.dumps(kind.INPUT_TYPES())


SEARCHED = [
    ("vqa", "視覚的質問応答", "视觉问答", "LaserAnswer"),
    ("llm", "視覚言語モデル", "大语言模型", "LaserLoadLVLM"),
    ("multimodal", "マルチモーダル", "多模态", "LaserLoadLVLM"),
    ("question", "質問", "提问", "LaserAnswer"),
    ("question", "質問", "提问", "LaserVATDecode"),
    ("describe", "画像説明", "描述", "LaserAnswer"),
    ("image to text", "画像からテキスト", "图生文", "LaserAnswer"),
    ("interrogate", "キャプション", "反推", "LaserAnswer"),
    ("detect", "検出", "检测", "LaserConViCrop"),
    ("locate", "位置", "定位", "LaserConViCrop"),
    ("segment", "セグメント", "分割", "LaserVAQLayerSelect"),
    ("detailer", "ディテーラー", "细节修复", "LaserPasteBack"),
    ("explain", "説明可能", "可解释", "LaserContrastiveAttention"),
    ("text to mask", "マスク", "遮罩", "LaserFind"),
    ("detect", "検出", "检测", "LaserFind"),
    ("boolean", "判定", "判断", "LaserCheck"),
    ("classify", "分類", "分类", "LaserCheck"),
    ("select mask", "マスクを選ぶ", "选择遮罩", "LaserPick"),
    ("heatmap", "ヒートマップ", "热力图", "LaserVAQLayerSelect"),
]


@pytest.mark.parametrize(("english", "japanese", "chinese", "node_id"), SEARCHED)
def test_nodes_are_found_by_the_words_people_search_with(english, japanese, chinese, node_id):
    assert {english, japanese, chinese} <= set(node(node_id).SEARCH_ALIASES)


@ids
def test_no_search_word_stands_twice(node_id):
    words = node(node_id).SEARCH_ALIASES
    assert len(words) == len(set(words))


@ids
def test_every_input_has_a_valid_type_and_default(node_id):
    for name, (kind, options) in inputs_of(node_id).items():
        default = options.get("default")
        if isinstance(kind, list):
            assert default in list(kind), name  # some say of every value that they hold it
        elif kind in ("INT", "FLOAT"):
            assert options["min"] <= default <= options["max"], name
            assert options["step"] > 0, name
        elif kind == "STRING":
            assert isinstance(default, str), name
        elif kind == "BOOLEAN":
            assert isinstance(default, bool), name
        else:
            assert kind in SOCKETS, name
            assert "default" not in options, name


@pytest.mark.parametrize("node_id", GROUPS)
def test_widgets_are_the_cores_settings(node_id):
    inputs, settings = inputs_of(node_id), part("laser_core.settings")
    for group in GROUPS[node_id]:
        for spec in dataclasses.fields(getattr(settings, group)):
            if spec.name in LEFT_OUT.get(node_id, ()):
                continue
            kind, options = inputs[spec.name]
            meta = spec.metadata
            assert options["default"] == spec.default
            if spec.name == "fill" and node_id == "LaserCounterfactualMask":
                assert kind == [fill for fill in meta["choices"] if fill != "visual tokens"]
                continue
            if (node_id, spec.name) != ("LaserVATDecode", "adaptive"):  # it looks no closer
                assert options["tooltip"].startswith(meta["help"])
            if spec.name == "device":
                assert kind == ["auto", "cpu"]  # without ComfyUI
                continue
            if meta["choices"]:
                assert kind == list(meta["choices"])
            elif meta["low"] is not None:
                assert options["min"] == meta["low"]
                assert options["max"] == meta["high"]
            if meta["advanced"]:
                assert options["advanced"] is True


@pytest.mark.parametrize("node_id", ["LaserAnswer", "LaserVATDecode"])
def test_a_seed_has_the_range_of_comfyuis_ksampler(node_id):
    options = inputs_of(node_id)["seed"][1]
    assert (options["min"], options["max"]) == (0, 0xFFFFFFFFFFFFFFFF)


def test_laser_answer_and_laser_settings_share_out_the_settings():
    """Each setting on exactly one of the two."""
    settings = part("laser_core.settings")
    answer, others = (set(inputs_of(name)) for name in ("LaserAnswer", "LaserSettings"))
    assert answer & others == {"preset"}
    assert set(settings.LaserSettings().by_name) == (answer | others) - {
        "lvlm", "image", "question", "with_plain", "mask", "settings", "override", "preset", "task",
        "map_of_tokens", "look_for",
    }  # fmt: skip


@ids
def test_only_what_is_asked_has_a_default_and_is_required(node_id):
    """A stored prompt from before an input existed still runs, since ComfyUI asks for no value."""
    required = node(node_id).INPUT_TYPES()["required"]
    assert {name for name, spec in required.items() if "default" in spec[1]} <= {
        "question", "phrases", "phrase",
    }  # fmt: skip


def test_models_are_listed_by_the_types_the_core_supports():
    families = part("laser_core.models.families").FAMILIES
    assert tuple(families) == part("laser_core.models.model_files").SUPPORTED


# ---- importing ---------------------------------------------------------------------------------

LOAD = f"""
import importlib.util, sys
sys.path[:] = [entry for entry in sys.path if entry not in ("", {str(ROOT)!r})]
spec = importlib.util.spec_from_file_location(
    "pack", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
"""
BLOCK = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bare_import_of_the_root_file_does_not_fail():
    python(
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import __init__ as root; "
        "assert root.WEB_DIRECTORY and root.NODE_CLASS_MAPPINGS == {}"
    )


def test_importing_the_pack_and_describing_its_nodes_imports_no_library():
    code = (
        LOAD
        + """
before = set(sys.modules)
spec.loader.exec_module(pack)
print(*set(sys.modules) - before)
for kind in pack.NODE_CLASS_MAPPINGS.values():
    kind.INPUT_TYPES()
print(*set(sys.modules) - before)
"""
    )
    imported, described = ({name.partition(".")[0] for name in line.split()} - {"pack"}
                           for line in python(code).splitlines())  # fmt: skip
    assert imported <= sys.stdlib_module_names
    # Its constants say where the hub's cache is
    assert described <= sys.stdlib_module_names | {"huggingface_hub"}


def test_without_transformers_the_pack_works_as_far_as_no_model_is_needed():
    code = (
        LOAD
        + "BLOCKED = {'transformers', 'accelerate', 'huggingface_hub'}\n"
        + BLOCK
        + """
spec.loader.exec_module(pack)
import torch
image, mask = torch.rand(1, 40, 40, 3), torch.zeros(1, 40, 40)
mask[:, 5:15, 5:15] = 1
crop = pack.NODE_CLASS_MAPPINGS["LaserConViCrop"]().crop(
    image, "", mask=mask, min_side_px=10)["result"]
assert crop[0].shape == (1, 20, 20, 3)
blocked = pack.NODE_CLASS_MAPPINGS["LaserCounterfactualMask"]().block(
    image, mask=mask, boxes=crop[2])
assert blocked[0].shape == (1, 20, 20, 3)
pasted = pack.NODE_CLASS_MAPPINGS["LaserPasteBack"]().paste(image, crop[0], crop[1], 0)[0]
assert torch.equal(pasted, image) or (pasted - image).abs().max() < 1 / 254
load = pack.NODE_CLASS_MAPPINGS["LaserLoadLVLM"]
model = load.INPUT_TYPES()["optional"]["model"][0][0]
try:
    load().load(model, "", True)
except ValueError as error:
    print(error)
"""
    )
    assert python(code).startswith("install huggingface_hub ")


def test_an_example_that_was_copied_in_part_is_not_offered(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("prestartup", ROOT / "prestartup_script.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def full_disk(source, target):
        target.write_bytes(source.read_bytes()[:100])
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfile", full_disk)
        script.offer_examples(tmp_path)
    assert not list(tmp_path.iterdir())
    script.offer_examples(tmp_path)
    offered = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    scenes = sorted((ROOT / "pictures").glob("scene*.*"))
    assert offered == {f"laser_{path.name}": path.read_bytes() for path in scenes}
