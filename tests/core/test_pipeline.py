"""The whole method on tiny models of every family: every option runs and means what it says."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from laser_core import pipeline
from laser_core.geometry import Window
from laser_core.models.closed_vocabulary import ClosedVocabulary
from laser_core.models.families import FAMILIES
from laser_core.output.report import report
from laser_core.pictures import to_tensor
from laser_core.results import Counterfactual, Location, Placement
from laser_core.settings import (
    AnswerSettings,
    ContrastSettings,
    CounterfactualSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
    LayerSettings,
    PromptSettings,
)
from laser_core.steps.answer_input import (
    make_crops_stream,
    make_negative_stream,
    make_plain_stream,
    make_positive_stream,
)
from laser_core.steps.attention import read_attention
from laser_core.steps.counterfactual import block, mask_patches, select_patches
from laser_core.steps.crop import place_windows
from laser_core.steps.decode import decode
from laser_core.steps.vaq import contrast, make_evidence, make_evidence_of_mask, select_layer
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import eager_rows, library_inputs, two_loops
from tools.testbed.tiny import REPRESENTATIVES, WITH_STATES

QUESTION = "what colour is the square ?"
SHORT = DecodeSettings(max_tokens=4, adaptive=0.0)


def settings(**groups):
    groups.setdefault("crop", CropSettings(min_side_px=20))
    groups.setdefault("decode", SHORT)
    groups.setdefault("layer", LayerSettings(first_depth=0.0, last_depth=1.0))
    return LaserSettings(**groups)


def located(lvlm, picture, windows, chosen):
    """A location at these windows, whatever the evidence."""
    found = make_evidence_of_mask(torch.ones(picture.height, picture.width))
    placement = Placement(tuple(windows), (0.0,) * len(windows))
    return Location(picture, lvlm.encode(picture), QUESTION, chosen, None, found, placement)


def reference_answer(lvlm, picture, chosen):
    """The method by eager attention from scratch and two loops from scratch; NumPy for VAQ."""
    inputs = lvlm.encode(picture)
    prompts = lvlm.branch_prompts(inputs, QUESTION, chosen.prompt)
    rows = [eager_rows(lvlm, prompt).numpy() for prompt in prompts]
    moved = np.maximum(rows[0] - rows[1], 0)
    vaq = np.sqrt((moved**2).sum(-1)).mean(-1)  # (L,): all of 4 heads count
    if chosen.layer.rule == "argmax":
        vaq = np.where(np.arange(len(vaq)) == vaq.argmax(), vaq, 0)
    weights = vaq / vaq.sum()
    evidence_map = np.einsum("l,lhn->n", weights, moved) / moved.shape[1]
    return int(vaq.argmax()), evidence_map.reshape(inputs.grid.rows, inputs.grid.columns)


@pytest.mark.parametrize("rule", ["fuse", "argmax"])
@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
def test_layer_and_map_equal_a_numpy_reference_over_eager_attention(model_type, rule):
    lvlm, picture = lvlm_of(model_type), noise_picture((90, 60))
    chosen = settings(layer=LayerSettings(rule=rule, first_depth=0.0, last_depth=1.0))
    layer, evidence_map = reference_answer(lvlm, picture, chosen)
    found = pipeline.locate(lvlm, picture, QUESTION, chosen)
    choice = found.evidence.choice
    assert choice.numbers.index(choice.layer) == layer
    np.testing.assert_allclose(found.evidence.map.numpy(), evidence_map, atol=1e-5)


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
def test_a_familys_own_band_of_depth_is_searched(model_type):
    lvlm, picture = lvlm_of(model_type), noise_picture((90, 60))
    found = pipeline.locate(lvlm, picture, QUESTION, settings(layer=LayerSettings()))
    first, last = FAMILIES[model_type].band
    given = LayerSettings(first_depth=first, last_depth=last)
    expected = pipeline.locate(lvlm, picture, QUESTION, settings(layer=given))
    assert found.evidence.choice.weights == expected.evidence.choice.weights
    assert torch.equal(found.evidence.map, expected.evidence.map)


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
@pytest.mark.parametrize("answer_input", ["crop", "picture + crop"])
@pytest.mark.parametrize("blocked", ["crop", "picture and crop"])
def test_answers_equal_two_loops_over_cropped_and_blocked_pictures(
    model_type, answer_input, blocked
):
    lvlm, picture = lvlm_of(model_type), noise_picture((90, 60))
    chosen = settings(
        # Whose window the library, too, reads beside the picture
        layer=LayerSettings(rule="fuse", first_depth=0.0, last_depth=1.0),
        answer=AnswerSettings(answer_input=answer_input),
        counterfactual=CounterfactualSettings(block=blocked, amount=0.2),
    )
    result = pipeline.answer(lvlm, picture, QUESTION, chosen)
    window = result.location.placement.windows[0]
    mask = result.counterfactual.mask
    hidden = block(picture, mask, chosen.counterfactual, lvlm.mean_colour)
    budget = lvlm.encode(picture).token_count
    prompts = []
    for whole, shown in ((picture, picture), (hidden, hidden)):
        crop = lvlm.encode(shown.crop(window), tokens=budget)
        first = picture if blocked == "crop" else whole
        pictures = [crop] if answer_input == "crop" else [lvlm.encode(first), crop]
        prompts.append(lvlm.answer_prompt(pictures, QUESTION, chosen))
    expected, _ = two_loops(lvlm, *prompts, 1.0, 4)
    assert [token.token_id for token in result.answer.tokens] == expected


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_the_plain_answer_is_the_librarys_own(model_type):
    lvlm, picture = lvlm_of(model_type), noise_picture((90, 60))
    result = pipeline.answer(lvlm, picture, QUESTION, settings(), with_plain=True)
    prompt = make_plain_stream(lvlm, picture, QUESTION, settings()).prompt
    generated = lvlm.model.generate(
        **library_inputs(lvlm, prompt), max_new_tokens=4, do_sample=False
    )
    expected = generated[0, prompt.length :].tolist()
    assert [token.token_id for token in result.plain.tokens] == expected


OPTIONS = {
    "prompt": [
        PromptSettings(query_free="image only"),
        PromptSettings(query_free="generic question"),
        PromptSettings(framing="processor"),
        PromptSettings(locate_instruction=""),
        PromptSettings(system="what is it ?"),
    ],
    "contrast": [ContrastSettings(kind=kind) for kind in ("contrastive", "raw", "relative")],
    "layer": [
        LayerSettings(rule="argmax"),
        LayerSettings(layer=2),
        LayerSettings(first_depth=0.5),
        LayerSettings(top_heads=1),
    ],
    "crop": [
        CropSettings(placement=placement, min_side_px=20)
        for placement in ("most mass", "peak", "top patches box", "adaptive")
    ]
    + [CropSettings(windows=3, min_side_px=10, scale=0.3), CropSettings(scale=1.0)],
    "counterfactual": [
        CounterfactualSettings(fill=fill) for fill in ("mean", "blur", "noise", "visual tokens")
    ],
    "answer": [AnswerSettings(crop_budget=0.25), AnswerSettings(instruction="Read the text.")],
    "decode": [DecodeSettings(max_tokens=3, temperature=1.0, seed=4, adaptive=0.0)],
}


def test_visual_tokens_are_refused_where_finer_tokens_would_still_show_the_evidence():
    chosen = settings(counterfactual=CounterfactualSettings(fill="visual tokens"))
    with pytest.raises(ValueError, match="choose another fill than 'visual tokens'"):
        pipeline.answer(lvlm_of("llava_next"), noise_picture(), QUESTION, chosen)


def test_blocked_visual_tokens_are_those_under_the_mask():
    lvlm, picture = lvlm_of("llava"), noise_picture((84, 84))
    chosen = settings(
        answer=AnswerSettings(answer_input="picture + crop"),
        counterfactual=CounterfactualSettings(block="picture and crop"),
    )
    grid = lvlm.encode(picture).grid
    mask = torch.zeros(84, 84)
    box = grid.cell_box(2, 3)
    mask[round(box.y1) : round(box.y2), round(box.x1) : round(box.x2)] = 1
    window = Window(42, 28, 84, 70)  # half the picture: its cells are half as large
    found = located(lvlm, picture, [window], chosen)
    positive = make_positive_stream(lvlm, found)
    negative = make_negative_stream(lvlm, found, positive.prompt, Counterfactual(mask, None))
    whole, crop = negative.prompt.spans
    in_crop = [lvlm.encode(picture.crop(window)).grid.cell_at(x, y) for x, y in ((1, 1), (13, 13))]
    cells = {row * grid.columns + column for row, column in in_crop}
    assert whole.start + 2 * grid.columns + 3 in negative.blocked
    assert {crop.start + cell for cell in cells} <= set(negative.blocked)
    assert len(negative.blocked) == 1 + 4


def by_hand(lvlm, picture, chosen):
    """The answer's tokens from the steps, one after the other, each with its own settings."""
    inputs = lvlm.encode(picture, chosen.prompt.framing)
    maps = read_attention(lvlm, inputs, QUESTION, chosen.prompt)
    contrasted = contrast(maps, chosen.contrast)
    found = make_evidence(contrasted, select_layer(contrasted, chosen.layer, maps.band), maps)
    placement = place_windows(found, chosen.crop)
    patches = select_patches(found, chosen.counterfactual, placement.windows)
    mask = mask_patches(patches, found)

    def stream(seen):
        crops = [seen.crop(window) for window in placement.windows]
        return make_crops_stream(lvlm, inputs, crops, QUESTION, chosen)

    if chosen.counterfactual.fill == "visual tokens":
        where = Location(picture, inputs, QUESTION, chosen, maps, found, placement)
        negative = make_negative_stream(
            lvlm, where, stream(picture).prompt, Counterfactual(mask, None)
        )
    else:
        negative = stream(block(picture, mask, chosen.counterfactual, lvlm.mean_colour))
    return decode(lvlm, stream(picture), negative, chosen.decode).tokens


# How a picture becomes tokens differs where resolution is native, and with it what these change
OF_TOKENS = "prompt", "counterfactual", "answer"


@pytest.mark.parametrize(
    ("model_type", "group", "chosen"),
    [
        (model_type, group, chosen)
        for model_type, groups in (("llava", OPTIONS), ("qwen2_5_vl", OF_TOKENS))
        for group in groups
        for chosen in OPTIONS[group]
    ],
    ids=str,
)
def test_every_option_reaches_its_step(model_type, group, chosen):
    lvlm, picture, chosen = (
        lvlm_of(model_type),
        noise_picture((96, 80)),
        settings(**{group: chosen}),
    )
    result = pipeline.answer(lvlm, picture, QUESTION, chosen)
    assert result.answer.tokens == by_hand(lvlm, picture, chosen)
    assert result.answer.contrasted


def test_pictures_may_be_pil_numpy_or_tensor():
    lvlm, picture = lvlm_of("llava"), noise_picture((90, 60))
    answers = [
        pipeline.answer(lvlm, form, QUESTION, settings()).answer.tokens
        for form in (picture, np.asarray(picture), to_tensor(picture))
    ]
    assert answers[0] == answers[1] == answers[2]


def test_nothing_found_is_answered_on_the_whole_picture():
    lvlm, picture = lvlm_of("llava"), noise_picture((90, 60))
    # The question is the one that the query-free branch asks: nothing is moved.
    chosen = settings(prompt=PromptSettings(locate_instruction="", query_free="generic question"))
    question = "Write a general description of the image."
    result = pipeline.answer(lvlm, picture, question, chosen, with_plain=True)
    assert result.location.evidence.degenerate
    assert result.location.placement.windows == (Window(0, 0, 90, 60),)
    assert result.counterfactual is None
    assert result.answer.tokens == result.plain.tokens


def test_words_outside_a_closed_vocabulary_are_refused_with_what_is_known():
    lvlm = lvlm_of("llava", fresh=True)
    lvlm.closed_vocabulary = ClosedVocabulary("I know shapes only.", "what colour is the star ?")
    said = (
        "try 'what colour is the star ?': this model does not know \"zebra\". I know shapes only."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        pipeline.answer(lvlm, noise_picture(), "what is the zebra ?", settings())


def test_an_alpha_of_0_reads_no_counterfactual():
    lvlm = lvlm_of("llava")
    chosen = settings(decode=dataclasses.replace(SHORT, alpha=0.0))
    result = pipeline.answer(lvlm, noise_picture(), QUESTION, chosen)
    assert len(result.answer.prompt_tokens) == 1


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (320, 20)], ids=str)
def test_extreme_pictures_are_answered(model_type, size):
    result = pipeline.answer(lvlm_of(model_type), noise_picture(size), QUESTION, settings())
    assert result.answer.tokens


def crop_tokens(window, budget=1.0, windows=1):
    lvlm, picture = lvlm_of("qwen2_5_vl", vision=448), noise_picture((448, 448))
    assert lvlm.encode(picture).token_count == 256
    chosen = settings(answer=AnswerSettings(crop_budget=budget))
    found = located(lvlm, picture, [Window(*window)] * windows, chosen)
    stream = make_positive_stream(lvlm, found)
    return [one.token_count for one in stream.prompt.pictures[1:]]


def test_crops_of_native_resolution_models_get_their_share_of_the_pictures_tokens():
    small = (0, 0, 112, 112)  # 16 of the picture's tokens
    assert crop_tokens(small) == [256]
    assert crop_tokens(small, budget=0.25) == [64]
    assert crop_tokens(small, windows=4) == [64] * 4
    assert crop_tokens(small, budget=2.25) == [576]


def test_a_small_budget_still_magnifies_the_crop():
    half = (0, 0, 224, 224)  # 64 of the picture's tokens, 100 when magnified 1.25 times
    assert crop_tokens(half, budget=0.25) == [100]
    assert crop_tokens((0, 0, 448, 448), budget=0.25) == [256]  # never above the picture's own


def adaptive(threshold, **groups):
    decode = dataclasses.replace(SHORT, adaptive=threshold)
    return settings(decode=decode, **groups)


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_a_sure_model_answers_at_once(model_type):
    lvlm, picture = lvlm_of(model_type), noise_picture((90, 60))
    plain = pipeline.answer(lvlm, picture, QUESTION, settings(), with_plain=True).plain
    sure = plain.tokens[0].alternatives[0].probability_with
    result = pipeline.answer(lvlm, picture, QUESTION, adaptive(sure * 0.99), with_plain=True)
    assert result.answer is result.plain  # decoded once
    assert not result.looked_closer
    assert result.answer.tokens == result.plain.tokens
    assert result.counterfactual is None
    above = pipeline.answer(lvlm, picture, QUESTION, adaptive(min(1.0, sure * 1.01)))
    assert len(above.looks) > 1


@pytest.mark.parametrize("with_plain", [False, True])
def test_the_text_grows_where_the_model_answers_at_once(with_plain):
    lvlm, texts = lvlm_of("llava"), []
    result = pipeline.answer(
        lvlm, noise_picture(), QUESTION, adaptive(1e-6), with_plain=with_plain, on_text=texts.append
    )
    assert not result.looked_closer
    assert len(texts) == len(result.answer.tokens)


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
def test_a_sure_crop_is_answered_without_the_comparison(model_type, monkeypatch):
    lvlm, picture = lvlm_of(model_type), noise_picture((90, 60))
    alone = settings(decode=dataclasses.replace(SHORT, alpha=0.0))
    found = pipeline.locate(lvlm, picture, QUESTION, alone)
    expected = pipeline.answer_from(lvlm, found).answer
    sure = expected.tokens[0].alternatives[0].probability_with
    found = dataclasses.replace(found, maps=None)  # whose window is believed
    with monkeypatch.context() as patched:
        patched.delattr(pipeline, "make_counterfactual")  # it is not drawn either
        below = dataclasses.replace(found, settings=adaptive(sure * 0.99))
        result = pipeline.answer_from(lvlm, below)
    assert result.skipped
    assert result.counterfactual is None
    assert [t.token_id for t in result.answer.tokens] == [t.token_id for t in expected.tokens]
    above = dataclasses.replace(found, settings=adaptive(min(1.0, sure * 1.01)))
    assert not pipeline.answer_from(lvlm, above).skipped


@pytest.mark.parametrize(
    ("model_type", "fill"),
    [("llava_next", "mean"), ("qwen2_5_vl", "mean"), ("qwen2_5_vl", "visual tokens")],
)
def test_where_picture_and_crop_do_not_fit_both_streams_read_the_crop_alone(model_type, fill):
    lvlm = lvlm_of(model_type, fresh=True)
    both = settings(counterfactual=CounterfactualSettings(fill=fill))
    crop_alone = dataclasses.replace(both, answer=AnswerSettings(answer_input="crop"))
    found = pipeline.locate(lvlm, noise_picture(), QUESTION, both)
    together = pipeline.answer_from(lvlm, found).answer
    alone = pipeline.answer_from(lvlm, dataclasses.replace(found, settings=crop_alone)).answer
    longest, most = together.prompt_tokens[0], both.decode.max_tokens
    lvlm.release()
    lvlm.model.config.get_text_config().max_position_embeddings = longest + most - 1
    fallen_back = pipeline.answer_from(lvlm, found)
    assert fallen_back.answer.tokens == alone.tokens
    assert fallen_back.answer.prompt_tokens == alone.prompt_tokens
    figures = f"would take {longest} tokens, the answer up to {most}, and the model takes"
    notes = report(fallen_back, lvlm)["notes"]
    assert any(f"{figures} {longest + most - 1}: answered from the crop" in one for one in notes)
    lvlm.model.config.get_text_config().max_position_embeddings = longest + most
    enough = pipeline.answer_from(lvlm, found)
    assert (enough.answer.prompt_tokens, enough.answer.notes) == (together.prompt_tokens, ())


@pytest.mark.parametrize("evidence", ["nothing found", "a sure model"])
def test_a_window_by_hand_is_looked_at_in_any_case(evidence):
    lvlm, picture, window = lvlm_of("llava"), noise_picture((90, 60)), Window(10, 5, 60, 45)
    mask = torch.zeros(60, 90) if evidence == "nothing found" else None
    found = pipeline.locate(lvlm, picture, QUESTION, adaptive(1e-6), mask=mask, window=window)
    result = pipeline.answer_from(lvlm, found, with_plain=True)
    assert result.location.windows == (window,)
    assert result.looked_closer
    assert result.answer.prompt_tokens[0] > result.plain.prompt_tokens[0]  # the crop's too
    assert not result.answer.contrasted
    assert any("by hand" in note for note in report(result, lvlm)["notes"])


def test_a_prompt_that_leaves_no_room_for_the_answer_is_refused():
    lvlm = lvlm_of("llava", fresh=True)
    alone = settings(answer=AnswerSettings(answer_input="crop"))
    found = pipeline.locate(lvlm, noise_picture(), QUESTION, alone)
    longest = max(pipeline.answer_from(lvlm, found).answer.prompt_tokens)
    text_config = lvlm.model.config.get_text_config()
    for limit, message in (
        (longest + 3, "choose fewer windows, answer input 'crop' or a smaller max_tokens"),
        (longest - 1, "shorten the question: pictures take 36 of the prompt's"),
    ):
        text_config.max_position_embeddings = limit
        for chosen in (alone, settings()):  # from picture and crop too: not even the crop fits
            with pytest.raises(ValueError, match=f"^{message}"):
                pipeline.answer_from(lvlm, dataclasses.replace(found, settings=chosen))


def test_a_prompt_that_is_too_long_is_shortened_where_it_is_longest():
    remedies = {
        ("llava", 10, 1): "shorten the question",
        ("llava", 10, 2): "choose fewer windows, or choose answer input 'crop', or shorten",
        ("qwen2_5_vl", 10, 1): "lower max_visual_tokens, or shorten the question",
        ("qwen2_5_vl", 10_000, 1): "shorten the question, or lower max_visual_tokens",
    }
    for (model_type, text_tokens, pictures), said in remedies.items():
        assert lvlm_of(model_type)._shortening(text_tokens, pictures).startswith(said)


def test_the_mask_of_an_answer_can_be_changed_in_place():
    for mode in (False, True):  # as called from Python, and as ComfyUI calls a node
        with torch.inference_mode(mode):
            result = pipeline.answer(lvlm_of("llava"), noise_picture(), QUESTION, settings())
        assert not result.counterfactual.mask.is_inference()
        result.counterfactual.mask.mul_(0.5)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="resize the mask"):
        pipeline.locate(lvlm_of("llava"), noise_picture(), QUESTION, mask=torch.ones(10, 10))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_locate_says_what_answer_says_about_numbers_that_overflow(value):
    lvlm = lvlm_of("llava", fresh=True)
    with torch.no_grad():
        lvlm.model.lm_head.weight[3].fill_(value)
    said = []
    for run in (pipeline.locate, pipeline.answer):
        with pytest.raises(
            ValueError, match=r"^choose precision bf16 or fp32, .*not fin"
        ) as caught:
            run(lvlm, noise_picture(), QUESTION, settings())
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_mask_takes_the_place_of_the_models_evidence():
    lvlm, picture = lvlm_of("llava"), noise_picture((90, 60))
    mask = torch.zeros(60, 90)
    mask[5:15, 60:80] = 1
    found = pipeline.locate(lvlm, picture, QUESTION, settings(), mask=mask)
    assert found.maps is None
    assert found.placement.shares == (1.0,)
    assert torch.equal(pipeline.answer_from(lvlm, found).counterfactual.mask, mask)


def test_the_plain_answer_has_no_cut_off():
    lvlm = lvlm_of("llava")
    chosen = settings(decode=DecodeSettings(max_tokens=3, beta=1.0, adaptive=0.0))
    result = pipeline.answer(lvlm, noise_picture(), QUESTION, chosen, with_plain=True)
    assert all(token.probability == token.probability_with for token in result.plain.tokens)
