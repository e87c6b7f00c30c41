"""The demo world tells the truth about its pictures; its exporter keeps the model's function."""

import collections
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from laser_core.models.families import load_image_processor
from laser_core.models.loading import load_lvlm
from laser_core.settings import PromptSettings
from tools.demo_model import evaluate, examples, network, questions, qwen, scenes, world
from tools.demo_model.architectures import ARCHITECTURES
from tools.demo_model.batches import IGNORED, ask_views, patch_labels
from tools.demo_model.dataset import make_shard
from tools.demo_model.export import build_tokenizer, export
from tools.demo_model.forward import decode, tower_features
from tools.demo_model.muon import orthogonalise
from tools.demo_model.network import GRID, PATCHES, build_network


@pytest.fixture(scope="module")
def items():
    return world.held_out_items("dev", 126, seed=5)


@pytest.fixture(scope="module")
def views():
    return make_shard(1, 12, split="dev")


def dev_scene(index):
    return scenes.sample_scene(world.scene_generator("dev", 5, index))


def objects_named(objects, name):
    """What "star", "red object" or "red star" can mean among the objects."""
    words = set(name.split()) - {"object", "thing"}
    return [o for o in objects if words <= {o.shape, o.colour}]


def test_a_scene_is_the_same_every_time():
    first, second = dev_scene(3), dev_scene(3)
    assert first == second
    assert np.array_equal(np.asarray(scenes.render(first)), np.asarray(scenes.render(second)))


def test_splits_share_no_scene():
    backgrounds = [
        scenes.sample_scene(world.scene_generator(split, seed, index)).background
        for split, seed, index in itertools.product(world.SPLITS, range(3), range(10))
    ]
    assert len(set(backgrounds)) == len(backgrounds)


def test_unknown_split_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="train, dev, test"):
        world.held_out_items("validation", 3)


def test_outlines_stay_inside_the_evidence_box():
    for shape, outline in scenes.OUTLINES.items():
        for tilt in (-0.12, 0.0, 0.12):
            turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
            assert np.abs(outline @ turn).max() <= 1.24, shape  # radii: 1.2 is the box


def test_an_object_is_painted_inside_its_box():
    scene = dev_scene(0)
    thing = scene.objects[0]
    bare = scenes.Scene(
        scene.objects[1:], scene.clutter, scene.background, scene.slope, scene.noise_index
    )
    both = [np.asarray(scenes.render(s)).astype(int) for s in (scene, bare)]
    rows, columns, _ = np.nonzero(both[0] != both[1])
    x1, y1, x2, y2 = thing.box
    assert x1 - 1 <= columns.min() and columns.max() <= x2 + 1
    assert y1 - 1 <= rows.min() and rows.max() <= y2 + 1
    assert columns.max() - columns.min() > 0.6 * thing.side_px


def test_items_are_balanced_and_repeatable(items):
    again = world.held_out_items("dev", 126, seed=5)
    assert [(i.question, i.answer) for i in again] == [(i.question, i.answer) for i in items]
    cells = collections.Counter((i.type, i.size_class) for i in items if i.type != "exist")
    assert len(cells) == 18 and set(cells.values()) == {6}
    exist = [i for i in items if i.type == "exist"]
    assert collections.Counter(i.answer for i in exist) == {"yes": 9, "no": 9}
    assert collections.Counter(i.exist_kind for i in exist if i.answer == "no") == dict.fromkeys(
        questions.EXIST_KINDS, 3
    )


def test_answers_and_evidence_agree_with_the_objects(items):
    for item in items:
        objects = dev_scene(item.scene_index).objects
        by_box = {o.box: o for o in objects}
        evidence = [by_box[box] for box in item.evidence_boxes]
        if item.type == "exist":
            words = [w for w in item.question.split() if w in scenes.SHAPES or w in scenes.COLOURS]
            assert bool(objects_named(objects, " ".join(words))) == (item.answer == "yes")
            assert bool(evidence) == (item.answer == "yes")
            continue
        target = evidence[0]
        assert item.answer in {target.shape, target.colour, str(target.digit)}
        assert item.size_class == target.size_class
        if item.type in ("digit", "colour", "shape"):
            words = item.question.replace("?", "").replace(".", "").split()
            named = [w for w in words if w in (*scenes.SHAPES, *scenes.COLOURS)]
            assert objects_named(objects, " ".join(named)) == [target]
        if item.type in ("rel", "reldigit"):
            anchor = evidence[1]
            right, down = target.centre_x - anchor.centre_x, target.centre_y - anchor.centre_y
            side = max(
                {"left": -right, "right": right, "above": -down, "below": down}.items(),
                key=lambda pair: pair[1],
            )[0]
            said = item.question.replace("over", "above").replace("under", "below").split()
            assert side in said


def test_oracle_window_holds_the_evidence_inside_the_picture(items):
    for item in items:
        box = world.oracle_window(item)
        if box is None:
            assert not item.evidence_boxes
            continue
        assert min(box) >= 0 and max(box) <= 448
        assert box[2] - box[0] == box[3] - box[1] >= 224
        for x1, y1, x2, y2 in item.evidence_boxes:
            assert box[0] - 1 <= x1 and box[1] - 1 <= y1 and x2 <= box[2] + 1 and y2 <= box[3] + 1


def test_prior_items_are_half_against_the_prior():
    found = world.prior_items("dev", 20)
    assert collections.Counter(i.conflict for i in found) == {True: 10, False: 10}


def test_every_word_can_occur_and_none_is_unknown():
    rng = random.Random(0)
    texts = [questions.INSTRUCTION, *questions.GENERIC_PROMPTS, questions.caption([])]
    for index in range(150):
        seen = scenes.seen_objects(dev_scene(index))
        texts.append(questions.caption(seen))
        for kind in questions.QUESTION_TYPES * 3:
            question = questions.ask(kind, seen, rng)
            if question:
                texts += [question.text, question.answer]
                assert len(question.text.split()) <= questions.MAX_QUESTION_WORDS
    used = {word for text in texts for word in text.split()}
    assert used == set(questions.WORDS)


def test_tokenizer_reads_ordinary_typing_as_the_world_writes_it():
    ids = build_tokenizer()("What color is the RED star?\nAnswer briefly.")["input_ids"]
    plain = "what color is the red star ? answer briefly ."
    assert ids == [questions.VOCABULARY["<s>"], *questions.encode(plain)]


def test_patch_labels_name_the_object_at_its_centre(views):
    shape, colour, digit = (labels.numpy() for labels in patch_labels(views.objects))
    for row, objects in enumerate(views.objects):
        for x1, y1, x2, y2, *looks, visible in objects:
            if visible < 0.99 or (x2 - x1) < 0.15:
                continue
            patch = int((y1 + y2) / 2 * GRID) * GRID + int((x1 + x2) / 2 * GRID)
            assert shape[row, patch] == looks[0] + 1
            assert colour[row, patch] == looks[1]
            assert digit[row, patch] == (10 if looks[2] < 0 else looks[2])


def test_segments_ask_for_the_answer_right_after_the_prompt(views):
    rows = np.arange(6) * 3
    opening = (questions.VOCABULARY["ASSISTANT:"],)
    segments = ask_views(views, rows, np.random.default_rng(0), 10, 16, opening)
    words = list(questions.VOCABULARY)
    for row, tokens, labels in zip(
        rows.repeat(10), segments.tokens.flatten(0, 1), segments.labels.flatten(0, 1), strict=True
    ):
        if not tokens.any():
            continue
        first = int((labels != IGNORED).nonzero()[0])
        assert words[tokens[first]] == "ASSISTANT:"
        answer = [words[i] for i in labels[labels != IGNORED]]
        assert answer[-1] == "</s>"
        asked = [*views.answers[row].tolist(), views.captions[row, :2].tolist()]
        ids = [questions.VOCABULARY[word] for word in answer[:-1]][:2]
        assert any(known[: len(ids)] == ids for known in asked)


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices, steps=5))
    assert values.min() > 0.5 and values.max() < 1.3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo_model")
    export(build_network(seed=3), out)
    return out


@pytest.fixture(scope="module")
def exported_qwen(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo_model_qwen")
    export(qwen.build_network(seed=3), out)
    return out


@pytest.mark.parametrize("pictures", [1, 2])
def test_qwen_read_by_the_project_gives_the_logits_of_the_training_forward(
    exported_qwen, items, pictures
):
    lvlm = load_lvlm(str(exported_qwen))
    item = items[0]
    seen = lvlm.encode(item.picture, tokens=PATCHES)
    prompt = lvlm.prompt([seen] * pictures, lvlm.locating_text(item.question, PromptSettings()))
    inputs = {name: torch.cat([value] * pictures) for name, value in seen.tensors.items()}
    if lvlm.takes_token_types:
        inputs["mm_token_type_ids"] = lvlm.token_types(prompt.input_ids)
    architecture = ARCHITECTURES["qwen2_5_vl"]
    with torch.no_grad():
        theirs = lvlm.model(input_ids=prompt.input_ids, **inputs).logits[0, -1]
        view = np.array(scenes.cut_view(item.picture, scenes.WHOLE))[None]
        features = architecture.features(lvlm.model, torch.from_numpy(view)).repeat(1, pictures, 1)
        text = questions.encode(f"{item.question} {questions.INSTRUCTION}")
        tokens = torch.tensor([[[*text, *architecture.answer_opening]]])
        ours = lvlm.model.lm_head(architecture.decode(lvlm.model, features, tokens))[0, 0, -1]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [60, 97, 100, 224, 448, 600, 777, 896, 1023])
def test_every_square_picture_has_the_tokens_qwen_was_trained_on(exported_qwen, side):
    processor = load_image_processor(str(exported_qwen))
    rows_and_columns = processor(Image.new("RGB", (side, side)))["image_grid_thw"][0][1:]
    assert [int(n) // qwen.MERGE for n in rows_and_columns] == [GRID, GRID]


def test_qwens_patches_know_their_place_after_the_first_layer(views):
    """Of the four place heads two change along rows and two along columns, in every picture."""
    model = qwen.build_network()
    noted = []
    second = model.model.language_model.layers[1].input_layernorm
    second.register_forward_pre_hook(lambda _, inputs: noted.append(inputs[0]))
    with torch.no_grad():
        pictures = network.word_targets(model, patch_labels(views.objects[:2]), places=False)
        model.model.visual.merger.mlp = torch.nn.Identity()  # the words as a fitted one gives them
        qwen.decode(model, pictures.flatten(0, 1)[None], torch.tensor([[[7]]]))
    for start in (3, 3 + PATCHES + 2):
        places = noted[0][0, start : start + PATCHES, :4].unflatten(0, (GRID, GRID))
        along_rows, along_columns = places.mean(1).std(0), places.mean(0).std(0)
        assert (along_rows[[0, 2]] > 3 * along_columns[[0, 2]]).all()
        assert (along_columns[[1, 3]] > 3 * along_rows[[1, 3]]).all()


@pytest.mark.parametrize("pictures", [1, 2])
def test_library_gives_the_logits_of_the_training_forward(exported, items, pictures):
    processor = AutoProcessor.from_pretrained(exported)
    model = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32).eval()
    item = items[0]
    content = [{"type": "image"}] * pictures
    content = [*content, {"type": "text", "text": f"{item.question}\n{questions.INSTRUCTION}"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=[item.picture] * pictures, text=prompt, return_tensors="pt")
    assert int((inputs["input_ids"] == questions.VOCABULARY["<image>"]).sum()) == pictures * PATCHES
    with torch.no_grad():
        theirs = model(**inputs).logits[0, -1]
        view = np.array(scenes.cut_view(item.picture, scenes.WHOLE))[None]
        features = tower_features(model, torch.from_numpy(view)).repeat(1, pictures, 1)
        text = questions.encode(f"{item.question} {questions.INSTRUCTION}")
        tokens = torch.tensor([[[*text, questions.VOCABULARY["ASSISTANT:"]]]])
        ours = model.lm_head(decode(model, features, tokens))[0, 0, -1]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_export_uses_the_hub_names_and_stays_small(exported):
    from safetensors import safe_open

    with safe_open(exported / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert all(".vision_model." in n for n in names if n.startswith("vision_tower."))
    assert (exported / "model.safetensors").stat().st_size < 10e6


def test_evaluation_counts_per_group(items):
    right = {"plain": np.ones(len(items), bool)}
    assert "| all | 126 | 100.0 |" in evaluate.table(items, right)


def test_shift_matrix_turns_one_places_code_into_its_neighbours():
    code = network._position_code().reshape(GRID, GRID, -1)
    shifted = code[4, 5] @ network._shift_matrix(2, -1).T
    torch.testing.assert_close(shifted, code[6, 4], atol=1e-5, rtol=0)


def test_shipped_examples_are_the_ones_the_tool_paints(tmp_path):
    examples.paint_examples(tmp_path)
    shipped = Path(__file__).parents[2] / "pictures"
    for name in examples.EXAMPLES:
        fresh, kept = (np.asarray(Image.open(d / name)).astype(int) for d in (tmp_path, shipped))
        # Fonts may differ by a pixel between Pillow versions.
        assert fresh.shape == kept.shape and np.abs(fresh - kept).mean() < 1
