"""The training teaches, and the library runs what it exported with the same logits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from laser_core.models.families import load_image_processor
from laser_core.models.loading import DEMO, DEMO_FOLDERS, load_lvlm
from laser_core.settings import LoadSettings, PromptSettings
from tools.demo_model.export import build_tokenizer, export, library_model
from tools.demo_model.muon import orthogonalise
from tools.demo_model.questions import INSTRUCTION, VOCABULARY, encode
from tools.demo_model.train import ARCHITECTURES, Recipe, Trainer, train

SMALL = {"side": 64, "tower_width": 64, "tower_layers": 2, "tower_mlp": 64, "width": 64,
         "layers": 2, "mlp": 64, "kv_heads": 2}  # fmt: skip
QUESTION = "what number is on the dog ?"


def network(arch, seed=3):
    """A small one; what starts at nothing or one is moved off it, as training does."""
    build, shape = ARCHITECTURES[arch]
    made = build(dataclasses.replace(shape, **SMALL), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim < 2:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.fixture(scope="module", params=ARCHITECTURES)
def exported(request, tmp_path_factory):
    """A network and the folder it was exported to, its weights as coarse as in the folder."""
    made = network(request.param)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(parameter.bfloat16().float())
    folder = tmp_path_factory.mktemp(request.param)
    export(library_model(made), folder)
    return made, folder


@pytest.mark.parametrize("pictures", [1, 2])
@torch.no_grad()
def test_the_project_reads_the_logits_of_the_training(exported, pictures):
    made, folder = exported
    lvlm = load_lvlm(str(folder), LoadSettings(precision="fp32"))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    seen = lvlm.encode(Image.fromarray(noise))
    prompt = lvlm.prompt([seen] * pictures, lvlm.locating_text(QUESTION, PromptSettings()))
    inputs = {name: torch.cat([value] * pictures) for name, value in seen.tensors.items()}
    inputs |= lvlm.token_types(prompt.input_ids)
    theirs = lvlm.model(input_ids=prompt.input_ids, **inputs).logits[0, -1]
    picture = torch.from_numpy(noise).permute(2, 0, 1)[None] / 255
    projected = [made.project(made.features(picture))] * pictures
    tokens = torch.tensor([[*encode(f"{QUESTION} {INSTRUCTION}"), *made.answer_opening]])
    ours = made.first_words(projected, tokens, torch.tensor([tokens.shape[1] - 1]))[0]
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


@torch.no_grad()
def test_questions_in_slots_are_answered_as_if_alone():
    made = network("llava")
    picture = [made.project(made.features(torch.rand(1, 3, 64, 64)))]
    texts = [encode(text) for text in (QUESTION, "is there a cat ?", "what do you see ?")]
    tokens = torch.tensor([[token for text in texts for token in text]])
    together = made.hidden(picture, tokens, tuple(map(len, texts)))
    start = 0
    for text in texts:
        alone = made.hidden(picture, torch.tensor([text]), (len(text),))
        torch.testing.assert_close(together[:, start : start + len(text)], alone)
        start += len(text)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_few_steps_teach_what_is_practised(arch, tmp_path):
    """One batch again and again: its loss falls, and the folder holds what was learned."""
    made = network(arch)
    recipe = Recipe(batch=2, tower_share=0.0, paired_from=0.0)
    trainer = Trainer(made, recipe, seed=0, device=torch.device("cpu"), workers=0)
    batch = next(trainer._loader)
    trainer._loader = iter(lambda: batch, None)
    losses = [float(trainer.step(True, 1.0, 1.0)[0][0]) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    export(library_model(made), tmp_path)
    lvlm = load_lvlm(str(tmp_path), LoadSettings(precision="fp32"))
    head = lvlm.model.get_output_embeddings().weight
    torch.testing.assert_close(head, made.head, atol=0.02, rtol=0.01)


def test_a_run_ends_in_time_with_a_log():
    made = network("llava")
    trainer = Trainer(made, Recipe(batch=2), 0, torch.device("cpu"), workers=0)
    log = train(trainer, seconds=1.0, check=None, every=0.2)
    assert log[-1].endswith((" in 1 s", " in 2 s"))
    assert "answers" in log[0]


def test_rates_follow_the_share_of_the_time():
    trainer = Trainer(network("llava"), Recipe(), 0, torch.device("cpu"), workers=0)
    assert trainer.follow(0.1)[0] is False
    asks, tower, rest = trainer.follow(0.5)
    assert asks and rest == 1.0 and tower == Recipe.tower_rate
    assert float(trainer.batches.paired) == 0.0
    assert trainer.follow(1.0) == (True, 0.0, 0.0)
    assert float(trainer.batches.paired) == pytest.approx(Recipe.paired)
    assert float(trainer.batches.easy) == pytest.approx(Recipe.easy)


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5 and values.max() < 1.3


# ---- folders -----------------------------------------------------------------------------------


def test_weights_of_a_llava_carry_the_names_of_the_hub(exported):
    from safetensors import safe_open

    made, folder = exported
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = list(file.keys())
    towers = [name for name in names if name.startswith("vision_tower.")]
    assert all(".vision_model." in name for name in towers)
    assert bool(towers) == (not made.biases)


@pytest.mark.parametrize("side", [60, 97, 224, 600, 777, 1023])
def test_every_square_picture_has_the_tokens_a_qwen_was_trained_on(tmp_path_factory, side):
    folder = tmp_path_factory.mktemp("qwen")
    export(library_model(network("qwen2_5_vl")), folder)
    rows_and_columns = load_image_processor(str(folder))(Image.new("RGB", (side, side)))
    grid = SMALL["side"] // 16
    assert [int(n) // 2 for n in rows_and_columns["image_grid_thw"][0][1:]] == [grid, grid]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("What color is the RED car?", "what color is the red car ?"),
        ("What's on the dog?", "what is on the dog ?"),
        ("What\N{RIGHT SINGLE QUOTATION MARK}s on the dog?", "what is on the dog ?"),
        ("Is there any dog?", "is there a dog ?"),
        ("Do you see any orange car?", "do you see an orange car ?"),
        ("is there any bread ?", "is there some bread ?"),
        ("Describe the picture.\nAnswer briefly.", "describe the picture . answer briefly ."),
    ],
)
def test_the_shipped_tokenizer_reads_plain_typing_as_the_world_writes_it(typed, read):
    shipped = AutoTokenizer.from_pretrained(DEMO_FOLDERS[DEMO])
    ids = [VOCABULARY["<s>"], *encode(read)]
    assert shipped(typed)["input_ids"] == build_tokenizer()(typed)["input_ids"] == ids


def test_the_shipped_model_has_the_words_of_the_world():
    tokenizer = json.loads((DEMO_FOLDERS[DEMO] / "tokenizer.json").read_text("utf-8"))
    assert tokenizer["model"]["vocab"] == VOCABULARY
    assert tokenizer == json.loads(build_tokenizer().backend_tokenizer.to_str())


def test_the_shipped_weights_are_those_of_the_trained_shape():
    folder: Path = DEMO_FOLDERS[DEMO]
    build, shape = ARCHITECTURES["llava"]
    expected = sum(tensor.numel() for tensor in build(shape).library_state().values())
    assert load_lvlm(DEMO).model.num_parameters() == expected
    assert (folder / "model.safetensors").stat().st_size <= 16e6
