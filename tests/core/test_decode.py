"""Two-stream decoding against the library's generate() and an obvious two-loop reference."""

from __future__ import annotations

import math
import threading
from copy import deepcopy
from itertools import product

import pytest
import torch
from accelerate import cpu_offload
from PIL import ImageFilter
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TextIteratorStreamer,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from laser_core.engine import reading
from laser_core.engine.caches import ROOM
from laser_core.engine.reading import read_blocked, read_prefix, read_stream
from laser_core.models.chat import Stream
from laser_core.settings import DecodeSettings
from laser_core.steps.attention import read_attention
from laser_core.steps.certainty import read_certainty
from laser_core.steps.decode import decode, mix_logits
from tools.testbed import tiny
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reciting import chain, reciting_lvlm
from tools.testbed.reference import library_inputs, next_logits, two_loops
from tools.testbed.tiny import AVAILABLE, REPRESENTATIVES, WITH_MASKS, WITH_STATES

from .test_capture import BARE

QUESTION = "what colour is the square ?"
TOKENS = 4


def streams(lvlm, layout, size=(90, 60)):
    """(positive, negative) prompts: a crop alone, or after the picture, which may be shared."""
    picture = noise_picture(size)
    crop = picture.crop((10, 5, 60, 45))
    blocked = crop.filter(ImageFilter.GaussianBlur(6))
    whole = lvlm.encode(picture)
    prompts = []
    for last in (crop, blocked):
        pictures = [lvlm.encode(last, tokens=8)]
        if layout != "crop":
            pictures.insert(0, whole)
        prompts.append(lvlm.prompt(pictures, QUESTION))
    return [Stream(prompt, shared_prefix=layout == "shared picture + crop") for prompt in prompts]


def settings(**values):
    return DecodeSettings(max_tokens=TOKENS, **values)


def ids(answer):
    return [token.token_id for token in answer.tokens]


LAYOUTS = ["crop", "picture + crop", "shared picture + crop"]
DISTINCT = (*REPRESENTATIVES, *WITH_STATES, *WITH_MASKS)
OTHERS = [name for name in AVAILABLE if name not in DISTINCT]


@pytest.mark.parametrize(
    ("model_type", "layout"),
    [*product(DISTINCT, LAYOUTS), *product(OTHERS, LAYOUTS[2:])],
)
def test_two_streams_equal_two_loops(model_type, layout):
    lvlm = lvlm_of(model_type)
    positive, negative = streams(lvlm, layout)
    expected, logits = two_loops(lvlm, positive.prompt, negative.prompt, 1.5, TOKENS)
    answer = decode(lvlm, positive, negative, settings(alpha=1.5))
    assert ids(answer) == expected
    for token, (with_evidence, without) in zip(answer.tokens, logits, strict=True):
        assert token.logit_with == pytest.approx(float(with_evidence[token.token_id]), abs=1e-4)
        assert token.logit_without == pytest.approx(float(without[token.token_id]), abs=1e-4)


@pytest.mark.parametrize(
    ("model_type", "window"),
    [("llava", 24), ("qwen2_vl", 24), *((name, 40) for name in WITH_MASKS)],
)
def test_two_streams_equal_two_loops_with_sliding_windows(model_type, window):
    lvlm = lvlm_of(model_type, sliding_window=window)
    positive, negative = streams(lvlm, "shared picture + crop")
    expected, _ = two_loops(lvlm, positive.prompt, negative.prompt, 1.0, TOKENS)
    assert ids(decode(lvlm, positive, negative, settings())) == expected


@pytest.mark.parametrize("model_type", AVAILABLE)
def test_alpha_0_is_the_librarys_own_answer(model_type):
    lvlm = lvlm_of(model_type)
    positive, negative = streams(lvlm, "picture + crop")
    inputs = library_inputs(lvlm, positive.prompt)
    generated = lvlm.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    answer = decode(lvlm, positive, negative, settings(alpha=0.0))
    assert ids(answer) == generated[0, positive.prompt.length :].tolist()
    assert all(token.logit_without is None for token in answer.tokens)
    assert len(answer.prompt_tokens) == 1  # the second stream was not read


@pytest.mark.parametrize("model_type", DISTINCT)
def test_streams_of_unequal_length_equal_two_loops(model_type):
    lvlm = lvlm_of(model_type)
    positive, negative = streams(lvlm, "picture + crop")
    longer = lvlm.prompt(negative.prompt.pictures, f"{QUESTION} left or right or top ?")
    for pair in ((positive, Stream(longer)), (Stream(longer), positive)):
        expected, _ = two_loops(lvlm, pair[0].prompt, pair[1].prompt, 1.0, TOKENS)
        assert ids(decode(lvlm, *pair, settings())) == expected


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.7}, {"temperature": 1.3, "top_k": 5}, {"temperature": 1.0, "top_p": 0.6}],
    ids=str,
)
def test_seeded_sampling_equals_two_loops(model_type, options):
    lvlm = lvlm_of(model_type)
    positive, negative = streams(lvlm, "crop")
    warpers = LogitsProcessorList([TemperatureLogitsWarper(options["temperature"])])
    if "top_k" in options:
        warpers.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(TopPLogitsWarper(options["top_p"]))

    def sample(scores):
        return int(torch.multinomial(warpers(None, scores[None]).softmax(-1), 1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        expected, _ = two_loops(lvlm, positive.prompt, negative.prompt, 1.0, TOKENS, sample)
    assert ids(decode(lvlm, positive, negative, settings(seed=11, **options))) == expected


def test_beta_cuts_implausible_tokens_off():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    expected, _ = two_loops(lvlm, positive.prompt, negative.prompt, 10.0, TOKENS, beta=0.9)
    answer = decode(lvlm, positive, negative, settings(alpha=10.0, beta=0.9))
    assert ids(answer) == expected
    free, _ = two_loops(lvlm, positive.prompt, negative.prompt, 10.0, TOKENS, beta=0.0)
    assert expected != free, "the case must need the cut-off"


def test_mixed_logits_follow_the_papers_formula():
    positive, negative = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.5, 3.0, -4.0])
    mixed = mix_logits(positive, negative, alpha=2.0, beta=0.0)
    assert torch.equal(mixed, torch.tensor([2.0, 0.0, 5.0]))
    cut = mix_logits(positive, negative, alpha=2.0, beta=0.1)
    assert torch.equal(cut, torch.tensor([2.0, 0.0, float("-inf")]))
    assert torch.equal(mix_logits(positive, None, alpha=2.0, beta=0.9), positive)


def test_records_hold_both_streams_probabilities():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    answer = decode(lvlm, positive, negative, settings(alpha=1.0))
    with_evidence = next_logits(lvlm, positive.prompt, [])
    without = next_logits(lvlm, negative.prompt, [])
    mixed = mix_logits(with_evidence, without, 1.0, DecodeSettings().beta).softmax(-1)
    first = answer.tokens[0]
    assert first.vat == pytest.approx(float((with_evidence - without)[first.token_id]), abs=1e-4)
    assert first.probability == pytest.approx(float(mixed[first.token_id]), abs=1e-5)
    assert first.probability_with == pytest.approx(
        float(with_evidence.softmax(-1)[first.token_id]), abs=1e-5
    )
    top = mixed.topk(5)
    assert [other.token_id for other in first.alternatives[:5]] == top.indices.tolist()
    assert [other.probability for other in first.alternatives[:5]] == pytest.approx(
        top.values.tolist(), abs=1e-5
    )


def test_records_hold_what_would_be_said_without_the_evidence_once():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    answer = decode(lvlm, positive, negative, settings(alpha=1.0))
    before: list[int] = []
    for token in answer.tokens:
        without = next_logits(lvlm, negative.prompt, before).softmax(-1)
        ids = [other.token_id for other in token.alternatives]
        assert len(ids) == len(set(ids)) in range(5, 9)
        for best in without.topk(3).indices.tolist():
            blind = token.alternatives[ids.index(best)]
            assert blind.probability_without == pytest.approx(float(without[best]), abs=1e-5)
        before.append(token.token_id)
    plain = decode(lvlm, positive, None, settings(alpha=1.0))
    assert {len(token.alternatives) for token in plain.tokens} == {5}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_mix_logits_in_full(dtype):
    lvlm = lvlm_of("llava", fresh=True)
    lvlm.model.to(dtype)
    first = decode(lvlm, *streams(lvlm, "crop"), settings(alpha=1.5, beta=0)).tokens[0]
    for other in first.alternatives:  # the normalisers cancel out
        mixed, positive, negative = (
            math.log(getattr(first, name) / getattr(other, name))
            for name in ("probability", "probability_with", "probability_without")
        )
        assert mixed == pytest.approx(positive + 1.5 * (positive - negative), abs=1e-4)


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
def test_the_tokens_texts_join_to_the_answer_spaces_and_all(model_type):
    lvlm = lvlm_of(model_type)
    answer = decode(lvlm, *streams(lvlm, "crop"), settings())
    text = "".join(token.text for token in answer.tokens)
    assert text == lvlm.tokenizer.decode(ids(answer))
    assert len(text.split()) > 1


@pytest.mark.parametrize("model_type", [name for name in DISTINCT if name != "llava_next"])
@pytest.mark.parametrize("shared", [False, True])
def test_blocked_tokens_equal_a_decoder_fed_their_pictures_mean(model_type, shared):
    lvlm = lvlm_of(model_type)
    positive, _ = streams(lvlm, "picture + crop")
    positive = Stream(positive.prompt, shared_prefix=shared)
    spans = positive.prompt.spans
    blocked = [spans[0].start + 3, spans[1].start, spans[1].start + 5]
    negative = Stream(positive.prompt, blocked=tuple(blocked))

    def feed_mean(decoder, args, kwargs):
        embeddings = kwargs["inputs_embeds"].clone()
        deep = kwargs.get("deepstack_visual_embeds")
        deep = None if deep is None else [layer.clone() for layer in deep]
        first = 0
        for span in spans:
            mean = embeddings[:, span].mean(1)
            for index in blocked:
                if span.start <= index < span.stop:
                    embeddings[:, index] = mean
                    for layer in deep or ():
                        row = slice(first, first + span.stop - span.start)
                        layer[first + index - span.start] = original(layer, row)
            first += span.stop - span.start
        kwargs = {**kwargs, "inputs_embeds": embeddings}
        if deep is not None:
            kwargs["deepstack_visual_embeds"] = deep
        return args, kwargs

    means = {}

    def original(layer, row):  # the mean before any of its rows was replaced
        return means.setdefault((id(layer), row.start), layer[row].mean(0))

    hook = lvlm.model.get_decoder().register_forward_pre_hook(feed_mean, with_kwargs=True)
    try:
        expected = next_logits(lvlm, positive.prompt, [])
    finally:
        hook.remove()
    token = decode(lvlm, positive, negative, settings(alpha=1.0)).tokens[0]
    assert token.logit_without == pytest.approx(float(expected[token.token_id]), abs=1e-4)
    assert token.logit_without != pytest.approx(token.logit_with, abs=1e-4)


@pytest.mark.parametrize(
    ("model_type", "window"),
    [*((name, None) for name in DISTINCT), ("llava", 24), ("qwen2_vl", 24)],
)
def test_a_prompt_read_in_stretches_is_read_as_at_once(model_type, window, monkeypatch):
    lvlm = lvlm_of(model_type, **({"sliding_window": window} if window else {}))
    positive, _ = streams(lvlm, "shared picture + crop")
    spans = positive.prompt.spans
    blocked = Stream(positive.prompt, True, blocked=(spans[1].start, spans[1].start + 2))
    lengths, read = [], {}
    hook = lvlm.attention_modules[0].register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["hidden_states"].shape[1]),
        with_kwargs=True,
    )
    try:
        for stretch in (10_000, 5):
            monkeypatch.setattr(reading, "STRETCH", stretch)
            whole = read_stream(lvlm, positive)
            read[stretch] = [*whole.own, *read_blocked(lvlm, blocked, whole).own]
            lengths.append(0)
    finally:
        hook.remove()
    at_once, in_stretches = lengths[: lengths.index(0)], lengths[lengths.index(0) + 1 : -1]
    continued = positive.prompt.length - 1 - positive.prompt.prefix_length
    assert at_once[-2:] == [continued, continued]
    uncut = spans[1].stop - spans[1].start if lvlm.whole_pictures else 0
    assert max(in_stretches) == max(5, uncut) and sum(in_stretches) == 2 * continued
    for one, other in zip(read[10_000], read[5], strict=True):
        for tensors in zip(one, other, strict=True):
            torch.testing.assert_close(*tensors, atol=1e-5, rtol=1e-5)
    assert "forward" not in vars(lvlm.model.get_decoder())


def test_a_forward_that_loads_weights_is_put_back():
    lvlm = lvlm_of("llava", fresh=True)
    decoder, calls = lvlm.model.get_decoder(), []
    run = decoder.forward

    def loading(*args, **kwargs):  # as accelerate replaces it
        calls.append(1)
        return run(*args, **kwargs)

    decoder.forward = loading
    read_stream(lvlm, streams(lvlm, "shared picture + crop")[0])
    assert decoder.forward is loading
    assert len(calls) == 2


def test_offloaded_weights_are_loaded_once_for_each_picture(monkeypatch):
    lvlm = lvlm_of("qwen2_5_vl", fresh=True)
    positive, _ = streams(lvlm, "shared picture + crop")
    expected = read_stream(lvlm, positive)
    lvlm.release()
    monkeypatch.setattr(reading, "STRETCH", 5)
    cpu_offload(lvlm.model, execution_device="cpu")
    assert lvlm.offloaded
    forwards = []
    hook = lvlm.attention_modules[0].register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        read = read_stream(lvlm, positive)
    finally:
        hook.remove()
    assert len(forwards) == 2
    for one, other in zip(read.own, expected.own, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_options_of_generate_that_the_settings_set_are_refused():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    with pytest.raises(ValueError, match=r"^set assistant_model, num_beams in"):
        decode(lvlm, positive, negative, settings(), num_beams=2, assistant_model=None)


def test_a_prompt_of_one_token_behind_the_picture_is_answered():
    lvlm = lvlm_of("llava", fresh=True)
    lvlm.chat.template = BARE
    prompt = lvlm.prompt([lvlm.encode(noise_picture())], "?")
    assert prompt.suffix_length == 1
    expected, _ = two_loops(lvlm, prompt, prompt, 0.0, TOKENS)
    assert ids(decode(lvlm, Stream(prompt, shared_prefix=True), None, settings())) == expected


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("layout", ["crop", "shared picture + crop"])
def test_a_stream_read_for_its_certainty_is_compared_as_one_that_is_not(layout, blocked):
    lvlm = lvlm_of("qwen3_vl")
    positive, negative = streams(lvlm, layout)
    if blocked:
        tokens = (positive.prompt.spans[-1].start,)
        negative = Stream(positive.prompt, positive.shared_prefix, blocked=tokens)
    expected = decode(lvlm, positive, negative, settings())
    read = read_certainty(lvlm, positive)
    for _ in range(2):  # it stays as it was
        answer = decode(lvlm, read, negative, settings())
        assert answer.contrasted
        for one, other in zip(answer.tokens, expected.tokens, strict=True):
            assert one.token_id == other.token_id
            assert one.logit_with == pytest.approx(other.logit_with, abs=1e-4)
            assert one.logit_without == pytest.approx(other.logit_without, abs=1e-4)
    assert not decode(lvlm, read, negative, settings(adaptive=read.certainty)).contrasted


def test_certainty_and_blocked_tokens_go_together():
    lvlm = lvlm_of("llava")
    positive, _ = streams(lvlm, "shared picture + crop")
    negative = Stream(positive.prompt, True, blocked=(positive.prompt.spans[1].start,))
    sure = decode(lvlm, positive, negative, settings(adaptive=1.0))
    assert ids(sure) == ids(decode(lvlm, positive, negative, settings()))
    whole = read_stream(lvlm, positive, certainty=True)
    lengths = {
        tensor.shape[2] for layer in read_blocked(lvlm, negative, whole).own for tensor in layer
    }
    assert lengths == {tensor.shape[2] for layer in whole.own for tensor in layer}


def test_blocked_tokens_need_no_second_vision_pass():
    lvlm = lvlm_of("qwen2_5_vl")
    positive, _ = streams(lvlm, "crop")
    negative = Stream(positive.prompt, blocked=(positive.prompt.spans[0].start,))
    passes = []
    tower = lvlm.model.model.visual
    hook = tower.register_forward_hook(lambda *args: passes.append(1))
    try:
        decode(lvlm, positive, negative, settings())
    finally:
        hook.remove()
    assert len(passes) == 1


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
def test_a_shared_prefix_gives_the_same_answer_bit_for_bit_whatever_ran_before(model_type):
    lvlm = lvlm_of(model_type, fresh=True)
    positive, negative = streams(lvlm, "shared picture + crop")
    first = decode(lvlm, positive, negative, settings())
    again = decode(lvlm, positive, negative, settings())
    read_attention(lvlm, noise_picture((60, 60), seed=5), QUESTION)
    later = decode(lvlm, positive, negative, settings())
    assert first.tokens == again.tokens == later.tokens


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
def test_the_shared_prefix_is_whole_again_after_decoding(model_type):
    lvlm = lvlm_of(model_type, fresh=True)
    positive, negative = streams(lvlm, "shared picture + crop")
    before = [[t.clone() for t in layer] for layer in read_prefix(lvlm, positive.prompt).layers]
    decode(lvlm, positive, negative, settings())
    prefix = lvlm.prefix
    for old, new in zip(before, prefix.layers, strict=True):
        for one, other in zip(old, new, strict=True):
            assert torch.equal(one, other)
            assert other.untyped_storage().nbytes() == other.nbytes  # not a part of a larger one


def test_answers_longer_than_a_caches_room_equal_two_loops():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    count = 2 * ROOM + 3
    expected, _ = two_loops(lvlm, positive.prompt, negative.prompt, 1.0, count)
    answer = decode(lvlm, positive, negative, DecodeSettings(max_tokens=count))
    assert len(expected) > ROOM, "the case must outgrow the room"
    assert ids(answer) == expected


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_librarys_own_generate_works_after_decoding(model_type):
    lvlm = lvlm_of(model_type, fresh=True)
    positive, negative = streams(lvlm, "crop")

    def generated():
        inputs = library_inputs(lvlm, positive.prompt)
        return lvlm.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False).tolist()

    expected = generated()
    decode(lvlm, positive, negative, settings())
    assert lvlm.model.model.rope_deltas is None
    assert generated() == expected


def test_another_thread_runs_the_model_undisturbed_while_it_decodes():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    inputs = library_inputs(lvlm, positive.prompt)
    with torch.no_grad():
        expected = lvlm.model(**inputs).logits
    seen = []

    def elsewhere():
        with torch.no_grad():
            seen.append(lvlm.model(**inputs).logits)

    def on_text(text):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    decode(lvlm, positive, negative, settings(), on_text=on_text)
    assert seen
    assert all(torch.equal(logits, expected) for logits in seen)


def test_another_thread_runs_the_decoder_undisturbed_while_prompts_are_read(monkeypatch):
    monkeypatch.setattr(reading, "STRETCH", 5)
    lvlm = lvlm_of("llava", fresh=True)
    positive, _ = streams(lvlm, "shared picture + crop")
    blocked = Stream(positive.prompt, True, blocked=(positive.prompt.spans[1].start,))
    expected = decode(lvlm, positive, blocked, settings())
    lvlm.release()
    ids_elsewhere, lengths = torch.arange(5, 25)[None], []

    def elsewhere():
        with torch.no_grad():
            cache = {lvlm.cache_name: DynamicCache()}
            lvlm.model(input_ids=ids_elsewhere[:, :8], **cache)
            lvlm.model(input_ids=ids_elsewhere[:, 8:], **cache)

    def begin(*_):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    def note(module, args, kwargs):
        if threading.current_thread() is not threading.main_thread():
            lengths.append(kwargs["hidden_states"].shape[1])

    hooks = [
        lvlm.model.model.vision_tower.register_forward_hook(begin),
        lvlm.attention_modules[0].register_forward_pre_hook(note, with_kwargs=True),
    ]
    try:
        answer = decode(lvlm, positive, blocked, settings())
    finally:
        for hook in hooks:
            hook.remove()
    assert answer.tokens == expected.tokens
    assert lengths == [8, 12] * 2  # one run for each picture, none of it in stretches


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


@pytest.mark.parametrize("error", [None, RuntimeError, Interrupt])
@pytest.mark.parametrize("stage", ["reading the evidence", "answering"])
def test_no_hook_is_left_and_the_model_is_usable_after(error, stage):
    lvlm = lvlm_of("llava", fresh=True)
    positive, negative = streams(lvlm, "crop")
    expected = ids(decode(lvlm, positive, negative, settings()))

    def progress(now, done, total):
        if error and now == stage and done == 1:
            raise error

    if error:
        with pytest.raises(error):
            decode(lvlm, positive, negative, settings(), progress=progress)
    else:
        decode(lvlm, positive, negative, settings(), progress=progress)
    for module in (lvlm.model, lvlm.model.get_decoder()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert ids(decode(lvlm, positive, negative, settings())) == expected


def test_an_interrupt_stops_at_the_next_token():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    seen = []

    def on_text(text):
        seen.append(text)
        if len(seen) == 2:
            raise Interrupt

    with pytest.raises(Interrupt):
        decode(lvlm, positive, negative, settings(), on_text=on_text)
    assert len(seen) == 2


def test_text_grows_to_the_answer_while_it_is_generated():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    texts = []
    answer = decode(lvlm, positive, negative, settings(), on_text=texts.append)
    assert texts[-1] == answer.text
    assert len(texts) == len(answer.tokens)


@pytest.fixture(scope="module")
def bytes_lvlm():
    """A model whose tokens are bytes, as the rarer characters of Qwen's vocabulary are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    marks += ["<|image_pad|>", "<|video_pad|>"]
    core.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "_tokenizer", lambda row: tokenizer)
        return lvlm_of("qwen3_vl", fresh=True)


def saying(lvlm, text, max_tokens):
    """(the answer, the texts it grew by) where every step's token is that of `text`, then the
    end."""
    ends = [lvlm.tokenizer.eos_token_id]
    said = [*lvlm.tokenizer(text, add_special_tokens=False)["input_ids"], *ends]
    stream = Stream(lvlm.prompt([lvlm.encode(noise_picture())], "what ?"))

    def force(sequence, scores):
        forced = torch.full_like(scores, float("-inf"))
        forced[:, said[sequence.shape[1] - stream.prompt.length]] = 0
        return forced

    grown = []
    limit = DecodeSettings(max_tokens=max_tokens)
    answer = decode(
        lvlm,
        stream,
        None,
        limit,
        on_text=grown.append,
        logits_processor=LogitsProcessorList([force]),
    )
    return answer, grown


def test_a_character_of_several_tokens_belongs_to_the_one_that_completes_it(bytes_lvlm):
    answer, grown = saying(bytes_lvlm, "a é🫠.", 64)
    assert answer.text == "a é🫠."
    texts = [token.text for token in answer.tokens[:-1]]
    assert texts == ["a", " ", "", "é", "", "", "", "🫠", "."]
    assert grown == ["a", "a", "a", "a é", "a é", "a é", "a é", "a é🫠", "a é🫠.", "a é🫠."]
    others = [other.text for token in answer.tokens for other in token.alternatives]
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in others)


def test_an_answer_cut_off_within_a_character_ends_before_it(bytes_lvlm):
    answer, grown = saying(bytes_lvlm, "a é🫠.", 6)
    assert answer.text == grown[-1] == "a é"
    assert [token.text for token in answer.tokens] == ["a", " ", "", "é", "", ""]


@pytest.mark.parametrize("own", [None, 5])
def test_the_tokenizers_end_token_ends_an_answer_too(own, bytes_lvlm, monkeypatch):
    monkeypatch.setattr(bytes_lvlm.model.generation_config, "eos_token_id", own)
    answer, _ = saying(bytes_lvlm, "ab", 64)
    assert (answer.text, answer.stop_reason) == ("ab", "end of answer")


def test_the_stop_reason_tells_the_token_limit_from_the_end():
    lvlm = lvlm_of("llava", fresh=True)
    positive, negative = streams(lvlm, "crop")
    lvlm.model.generation_config.eos_token_id = None
    answer = decode(lvlm, positive, negative, settings())
    assert (answer.stop_reason, len(answer.tokens)) == ("max tokens", TOKENS)
    lvlm.model.generation_config.eos_token_id = ids(answer)[2]
    stopped = decode(lvlm, positive, negative, settings())
    assert stopped.stop_reason == "end of answer"
    assert ids(stopped) == ids(answer)[: len(stopped.tokens)]


def generation_defaults(first):
    """What a model's generation_config.json may hold, each enough to change an answer or fail."""
    return {
        "penalties": {"encoder_repetition_penalty": 5.0},
        "sampling": {"do_sample": True, "temperature": 0.1, "top_k": 1, "min_p": 0.9},
        "repeats": {"no_repeat_ngram_size": 1},
        "suppressed tokens": {"suppress_tokens": [first], "begin_suppress_tokens": [first]},
        "bad words": {"bad_words_ids": [[first]]},
        "bias": {"sequence_bias": [[[first], -100.0]]},
        "watermark": {"watermarking_config": {"greenlist_ratio": 0.5, "bias": 50.0}},
        "forced tokens": {"forced_eos_token_id": 5, "forced_bos_token_id": 9},
        "time": {"max_time": 1e-9},
        "lengths": {"max_length": 3, "min_new_tokens": 9},
        "stop strings": {"stop_strings": ["a"]},
        "guidance": {"guidance_scale": 2.0},
        "contrastive search": {"penalty_alpha": 0.5, "top_k": 4},
        "DoLa": {"dola_layers": "low"},
        "cache": {"cache_implementation": "static"},
        "beam groups": {"num_beam_groups": 2, "diversity_penalty": 1.0},
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
        "outputs": {"output_scores": True, "return_dict_in_generate": True},
        "unknown": {"laser": "x"},
    }


OWN_DEFAULTS = settings(), settings(temperature=1.5)


@pytest.fixture(scope="module")
def without_own_defaults():
    lvlm = lvlm_of("llava")
    return [decode(lvlm, *streams(lvlm, "crop"), chosen) for chosen in OWN_DEFAULTS]


@pytest.mark.parametrize("case", generation_defaults(0))
def test_the_models_own_generation_defaults_do_not_leak_in(case, without_own_defaults):
    lvlm = lvlm_of("llava", fresh=True)
    both, plain = streams(lvlm, "crop"), lvlm.model.generation_config
    for chosen, answer in zip(OWN_DEFAULTS, without_own_defaults, strict=True):
        lvlm.model.generation_config = defaults = deepcopy(plain)
        for name, value in generation_defaults(ids(answer)[0])[case].items():
            setattr(defaults, name, value)
        again = decode(lvlm, *both, chosen)
        assert (ids(again), again.stop_reason) == (ids(answer), answer.stop_reason)
        assert lvlm.model.generation_config is defaults


def repeating(model_type):
    """A model that may say again what its prompt has, except for the picture."""
    lvlm = lvlm_of(model_type, fresh=True)
    with torch.no_grad():
        lvlm.model.lm_head.weight[lvlm.image_token_id].zero_()
    return lvlm


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_with_alpha_0_the_folders_repetition_penalty_is_the_librarys(model_type):
    lvlm = repeating(model_type)
    positive, negative = streams(lvlm, "picture + crop")
    without = ids(decode(lvlm, positive, negative, settings(alpha=0.0)))
    lvlm.model.generation_config.repetition_penalty = 0.6  # repeats become likelier
    inputs = library_inputs(lvlm, positive.prompt)
    generated = lvlm.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    expected = generated[0, positive.prompt.length :].tolist()
    assert ids(decode(lvlm, positive, negative, settings(alpha=0.0))) == expected
    assert expected != without, "the case must need the penalty"
    off = settings(alpha=0.0, repetition_penalty=1.0)
    assert ids(decode(lvlm, positive, negative, off)) == without


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
def test_two_streams_with_a_repetition_penalty_equal_two_loops(model_type):
    lvlm = repeating(model_type)
    positive, negative = streams(lvlm, "shared picture + crop")
    prompts = positive.prompt, negative.prompt
    expected, logits = two_loops(lvlm, *prompts, 1.0, TOKENS, penalty=0.6)
    answer = decode(lvlm, positive, negative, settings(repetition_penalty=0.6))
    assert ids(answer) == expected
    for token, (with_evidence, without) in zip(answer.tokens, logits, strict=True):
        difference = float((with_evidence - without)[token.token_id])
        assert token.vat == pytest.approx(difference, abs=1e-3)
    assert expected != two_loops(lvlm, *prompts, 1.0, TOKENS)[0], "the case must need the penalty"


def test_a_loop_ends_where_the_folders_penalty_ends_it_in_both_streams():
    links = [*chain(["a", "red", "square", "and", "a"]), ("and", "!", 2.95), ("!", "<|im_end|>", 3)]
    lvlm = reciting_lvlm(links, kind="qwen2_5_vl")
    pair = streams(lvlm, "crop")
    assert decode(lvlm, *pair, DecodeSettings()).stop_reason == "max tokens"
    lvlm.model.generation_config.repetition_penalty = 1.05
    assert decode(lvlm, *pair, DecodeSettings()).text == "a red square and !"


@pytest.mark.parametrize("penalty", [0, -1.0, "x", float("nan"), float("inf"), True])
def test_a_repetition_penalty_that_is_none_is_refused(penalty):
    lvlm = lvlm_of("llava", fresh=True)
    lvlm.model.generation_config.repetition_penalty = penalty
    with pytest.raises(ValueError, match=r"^fix generation_config.json of .*repetition_penalty"):
        decode(lvlm, *streams(lvlm, "crop"), settings())


@pytest.mark.parametrize("end", ["x", [2, "x"], 1.5])
def test_an_end_token_that_is_none_is_refused(end):
    lvlm = lvlm_of("llava", fresh=True)
    lvlm.model.generation_config.eos_token_id = end
    with pytest.raises(ValueError, match=r"^fix generation_config.json of .*eos_token_id"):
        decode(lvlm, *streams(lvlm, "crop"), settings())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.5}, {"alpha": 0}], ids=str)
def test_scores_that_are_not_finite_are_no_answer(value, options):
    lvlm = lvlm_of("llava", fresh=True)
    positive, negative = streams(lvlm, "crop")
    with torch.no_grad():
        lvlm.model.lm_head.weight[3].fill_(value)
    with pytest.raises(ValueError, match=r"^choose precision bf16 or fp32, .*not finite"):
        decode(lvlm, positive, negative, settings(**options))


def test_sampling_leaves_the_global_random_state_alone():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    state = torch.get_rng_state()
    decode(lvlm, positive, negative, settings(temperature=1.0, seed=3))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("seeds", [(1, 1, 2, 3), (2**64 - 1, 2**64 - 1, 2**63, 2**53)])
def test_the_same_seed_gives_the_same_answer_and_another_one_another(seeds):
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    answers = [
        ids(decode(lvlm, positive, negative, settings(temperature=3.0, seed=seed)))
        for seed in seeds
    ]
    assert answers[0] == answers[1]
    assert len({tuple(answer) for answer in answers}) > 1


class _StopAt(StoppingCriteria):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == self.token


def test_streamers_and_stopping_criteria_of_the_library_keep_working():
    lvlm = lvlm_of("llava")
    positive, negative = streams(lvlm, "crop")
    tokens = ids(decode(lvlm, positive, negative, settings()))
    streamer = TextIteratorStreamer(lvlm.tokenizer, skip_prompt=True)
    answer = decode(
        lvlm,
        positive,
        negative,
        settings(),
        streamer=streamer,
        stopping_criteria=[_StopAt(tokens[2])],
    )
    assert ids(answer) == tokens[: tokens.index(tokens[2]) + 1]
    # 4.57's streamer drops the space after a line break
    assert "".join("".join(streamer).split()) == "".join(answer.text.split())
    assert answer.stop_reason == "stopping criteria"
