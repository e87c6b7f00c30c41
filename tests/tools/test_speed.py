"""The fast paths give the slow ones' results, and spend what the method needs: counted."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from laser_core import pipeline
from laser_core.models.chat import Stream
from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.pictures import PictureInputs
from laser_core.settings import DecodeSettings, LaserSettings, LoadSettings
from laser_core.steps.attention import read_attention
from laser_core.steps.decode import decode
from tools.benchmarks import bench_speed
from tools.benchmarks.bench_speed import options, save
from tools.benchmarks.speed import bench, ways
from tools.benchmarks.speed.bench import Bench
from tools.benchmarks.speed.count import (
    ATTENTION,
    Arithmetic,
    Counts,
    flops,
    prefill_tokens,
    shared_tokens,
)
from tools.benchmarks.speed.modes import MODES, QUARTER_MODES, QUESTION
from tools.benchmarks.speed.shapes import lvlm_of_shape, picture_of
from tools.benchmarks.speed.timing import Clock, unless_full
from tools.demo_model.world import held_out_items
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.tiny import REPRESENTATIVES, WITH_STATES

SQUARE = "what colour is the square ?"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def counted(lvlm, picture, mode):
    """(prompt tokens of the plain answer, prefill tokens of ours)."""
    settings = mode.settings(1)
    crop = dataclasses.replace(settings.crop, min_side_px=1)
    asked = dataclasses.replace(settings.answer, instruction=lvlm.locate_instruction)
    settings = dataclasses.replace(settings, crop=crop, answer=asked)
    plain = prefill_tokens(lvlm, lambda: ways.plain(lvlm, picture, QUESTION, settings))
    ours = prefill_tokens(lvlm, lambda: ways.ours(lvlm, picture, QUESTION, settings))
    return plain, ours


REAL_SIZES = {"llava": (336, (672, 672)), "qwen2_5_vl": (1002, (1120, 896))}


@pytest.mark.parametrize("model_type", REAL_SIZES)
@pytest.mark.parametrize("mode", MODES[:2], ids=lambda mode: mode.name)
def test_prefill_tokens_are_three_plain_prompts(model_type, mode):
    side, size = REAL_SIZES[model_type]
    lvlm = lvlm_of(model_type, vision=side, layers=2)
    plain, ours = counted(lvlm, noise_picture(size), mode)
    assert plain > 600
    assert ours / plain <= 3.02  # 3, and the suffix without the question, which is read too


# The prompt's 1,324 tokens, 16 of the suffix without the question, and twice a crop of 320: alone
# with 44 of text (together 2,068, 1.562 of the prompt), after the picture with 31 (2,042, 1.542)
@pytest.mark.parametrize(("mode", "bound"), [*zip(QUARTER_MODES, (1.562, 1.543), strict=True)])
def test_prefill_tokens_of_a_quarter_crop_are_half_of_that(mode, bound):
    side, size = REAL_SIZES["qwen2_5_vl"]
    lvlm = lvlm_of("qwen2_5_vl", vision=side, layers=2)
    plain, ours = counted(lvlm, noise_picture(size), mode)
    assert ours / plain <= bound


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_prefill_tokens_are_what_the_prompts_do_not_share(model_type, mode):
    lvlm, picture, settings = lvlm_of(model_type), noise_picture((90, 60)), mode.settings(1)
    lvlm.release()
    found = pipeline.locate(lvlm, picture, SQUARE, settings)
    result = pipeline.answer_from(lvlm, found)
    asked, free = lvlm.branch_prompts(found.inputs, SQUARE, settings.prompt)
    shared = asked.prefix_length
    expected = shared + (asked.length - shared) + (free.length - shared)
    for stream, length in enumerate(result.answer.prompt_tokens):
        continued = mode.answer_input == "picture + crop" and (stream == 0 or mode.block == "crop")
        expected += length - shared * continued
    run = ways.ours
    assert prefill_tokens(lvlm, lambda: run(lvlm, picture, SQUARE, settings)) == expected


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_peers_way_gives_the_same_answer(model_type, mode):
    lvlm = lvlm_of(model_type)
    settings = mode.settings(5)
    looks = lvlm, noise_picture((90, 60)), SQUARE, settings
    peers, ours = ways.peers(*looks), ways.ours(*looks)
    assert lvlm.attention == "sdpa"
    assert ours.layer == peers.layer
    stop = lvlm.model.generation_config.eos_token_id
    assert ours.tokens == _until(peers.tokens, stop)


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_the_peers_way_prepares_each_picture_once_and_heads_one_token_a_forward(
    model_type, monkeypatch
):
    lvlm, prepared, rows = lvlm_of(model_type), [], []
    encode = Lvlm.encode

    def noted(self, picture, *args, **kwargs):
        prepared.extend([] if isinstance(picture, PictureInputs) else [picture])
        return encode(self, picture, *args, **kwargs)

    monkeypatch.setattr(Lvlm, "encode", noted)
    hook = lvlm.model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: rows.append(args[0].numel() // args[0].shape[-1])
    )
    try:
        ways.peers(lvlm, noise_picture((90, 60)), SQUARE, MODES[1].settings(3))
    finally:
        hook.remove()
    assert len(prepared) == 3  # the picture, the crop, and the crop with the evidence blocked
    assert rows == [1] * 2 * 3


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_the_peers_way_runs_the_kernels_of_the_published_codes(model_type):
    """As ViCrop loads its models: LLaVA eager throughout, Qwen only where weights are returned."""
    lvlm = lvlm_of(model_type, fresh=True)
    parts = {"vision": lvlm.model.model.get_submodule(VISION[model_type]),
             "decoder": lvlm.model.get_decoder()}  # fmt: skip
    ran = {name: [] for name in parts}
    for name, part in parts.items():
        part.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: ran[name].append(
                (module.config._attn_implementation, bool(kwargs.get("output_attentions")))
            ),
            with_kwargs=True,
        )
    ways.peers(lvlm, noise_picture((90, 60)), SQUARE, MODES[1].settings(2))
    library = "sdpa" if lvlm.family.native_resolution else "eager"
    assert {kernel for kernel, _ in ran["vision"]} == {library}
    # both branches' readings, then two streams of two steps
    assert ran["decoder"] == [("eager", True)] * 2 + [(library, False)] * 4
    assert {part.config._attn_implementation for part in parts.values()} == {"sdpa"}


VISION = dict.fromkeys(REPRESENTATIVES, "visual") | dict.fromkeys(
    ("llava", "llava_next"), "vision_tower"
)


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_the_bytes_counted_for_the_peers_weights_are_those_they_keep(model_type):
    lvlm = lvlm_of(model_type, fresh=True)
    prompt = ways.prompt_of(lvlm, noise_picture((90, 60)), SQUARE, LaserSettings())
    kept = ways.eager_attention(lvlm, prompt)
    assert ways.kept_bytes(lvlm, prompt.length) == sum(layer.nbytes for layer in kept)


@pytest.mark.parametrize(("free_gb", "fit"), [(6, True), (5, False)])
def test_the_peers_are_left_out_only_where_half_the_free_memory_is_too_little(
    monkeypatch, free_gb, fit
):
    model = lvlm_of_shape("qwen2.5-vl-7b", "meta", torch.bfloat16)
    assert ways.peers_fit(model, 1324)  # 28 layers x 28 heads x 1324^2 x 2 bytes: 2.75 GB
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=model.dtype, model=model.model)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((free_gb - 1) * 1e9, 80e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20e9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 19e9)
    assert ways.peers_fit(on_gpu, 1324) is fit


def _until(tokens, stop):
    return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens


def test_the_demo_model_gets_the_slow_ways_rows_logits_and_tokens():
    lvlm = load_lvlm("demo", LoadSettings(precision="fp32"))
    settings = LaserSettings(decode=DecodeSettings(max_tokens=3, adaptive=0.0))
    stop = lvlm.model.generation_config.eos_token_id
    for item in held_out_items("dev", 4):
        asked = lvlm, item.picture, item.question, settings
        slow, fast = ways.peers(*asked), pipeline.answer(*asked)
        assert [token.token_id for token in fast.answer.tokens] == _until(slow.tokens, stop)
        assert fast.location.evidence.choice.layer == slow.layer
        first, maps = fast.answer.tokens[0], fast.location.maps
        for ours, theirs in zip((first.logit_with, first.logit_without), slow.logits, strict=True):
            assert abs(ours - float(theirs[first.token_id])) <= 1e-4
        for ours, theirs in (
            (maps.with_query, slow.maps.with_query),
            (maps.without_query, slow.maps.without_query),
        ):
            assert float((ours - theirs).abs().max()) <= 1e-4


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_counted_operations_are_those_of_the_models_shape(model_type):
    lvlm = lvlm_of(model_type)
    prompt = ways.prompt_of(lvlm, noise_picture((90, 60)), SQUARE, LaserSettings())
    cost, length = Arithmetic.of(lvlm), prompt.length
    embeddings = torch.randn(1, length, lvlm.model.config.get_text_config().hidden_size)
    decoder = lvlm.model.get_decoder()
    with torch.inference_mode():
        # With a cache, as prompts are read: without one, 4.57 gives some decoders a written-out
        # mask, and with it the half of the attention that is masked is computed too
        counted = flops(lambda: decoder(inputs_embeds=embeddings, use_cache=True))
    # the library multiplies positions and frequencies, too: a few operations a token
    assert counted == pytest.approx(cost.read(length), rel=0.01)


@pytest.mark.parametrize("kernel", ATTENTION)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_kernels_count_half_only_where_they_are_causal(kernel, causal):
    run = getattr(torch.ops.aten, kernel)
    names = [argument.name for argument in run.default._schema.arguments]
    query = torch.empty(1, 2, 64, 32, device="meta", dtype=torch.bfloat16)
    log_sum = (None, True) if "compute_log_sumexp" in names else ()
    counted = flops(lambda: run(query, query, query, *log_sum, 0.0, causal))
    pairs = 64 * 65 // 2 if causal else 64 * 64
    assert counted == 2 * 2 * pairs * (32 + 32)


@pytest.mark.parametrize("way", [ways.plain, ways.peers, ways.ours])
def test_operations_of_a_long_answer_follow_from_short_ones(way):
    lvlm, picture = lvlm_of_shape("tiny-qwen2.5-vl", "cpu", torch.float32), noise_picture((90, 60))

    def answer(tokens):
        return way(lvlm, picture, SQUARE, MODES[0].settings(tokens))

    counts = Counts.of(lvlm, answer)
    assert counts.operations(5) == flops(lambda: answer(5))
    assert counts.prefill_tokens == prefill_tokens(lvlm, lambda: answer(1))


def test_the_floor_is_the_plain_answers_operations_and_at_most_ours():
    name = "tiny-qwen2.5-vl"
    measured = Bench(name, lvlm_of_shape(name, "cpu", torch.float32), "cpu", rounds=1)
    check_floor(measured.whole(MODES[2], tokens=4, with_peers=False))


def check_floor(table):
    floor, entries = table["floor"], table["ways"]
    assert entries["plain"]["gflop"] == pytest.approx(floor["plain_gflop"], rel=1e-3)
    assert 0.999 <= floor["operations_over_floor"] <= 1.05
    assert floor["ratio"] == pytest.approx(floor["gflop"] / floor["plain_gflop"])
    assert entries["ours"]["prefill_tokens_ratio"] == pytest.approx(
        entries["ours"]["prefill_tokens"] / entries["plain"]["prefill_tokens"]
    )


def test_prompts_share_tokens_up_to_the_first_other_picture():
    lvlm = lvlm_of("qwen2_5_vl")
    first, second = (lvlm.encode(noise_picture((90, 60), seed)) for seed in (1, 2))
    one = lvlm.prompt([first, second], "what is it ?")
    other = lvlm.prompt([first, first], "what is it ?")
    assert shared_tokens(one, other) == one.spans[1].start
    assert shared_tokens(one, lvlm.prompt([second], "what ?")) == one.spans[0].start
    assert shared_tokens(one, one) == one.length


def test_what_is_cached_is_not_read_again():
    lvlm, picture = lvlm_of("qwen2_5_vl", fresh=True), noise_picture((90, 60))
    prompt = ways.prompt_of(lvlm, picture, SQUARE, LaserSettings())
    first = prefill_tokens(lvlm, lambda: read_attention(lvlm, picture, SQUARE))
    again = prefill_tokens(lvlm, lambda: read_attention(lvlm, picture, "is there a star ?"))
    assert first - again >= prompt.prefix_length - 2
    shared = prefill_tokens(
        lvlm,
        lambda: decode(
            lvlm,
            Stream(prompt, shared_prefix=True),
            None,
            DecodeSettings(max_tokens=1),
        ),
    )
    assert shared == prompt.length - prompt.prefix_length


@pytest.mark.parametrize(
    ("name", "parameters", "tokens"),
    [("llava-1.5-7b", 7_063_427_072, 576), ("qwen2.5-vl-7b", 8_292_166_656, 1280)],
)
def test_large_shapes_are_those_of_the_published_models(name, parameters, tokens):
    lvlm = lvlm_of_shape(name, "meta", torch.bfloat16)
    assert sum(parameter.numel() for parameter in lvlm.model.parameters()) == parameters
    assert lvlm.encode(picture_of(name)).token_count == tokens


# ---- timing, options, records -------------------------------------------------------------------


def test_rounds_begin_with_another_way_each():
    order = []
    runs = {name: partial(order.append, name) for name in ("plain", "peers", "ours")}
    Clock("cpu").interleaved(runs, 3)
    rounds = [order[start : start + 3] for start in range(3, 12, 3)]  # after the warm-up
    assert {tuple(sorted(one)) for one in rounds} == {("ours", "peers", "plain")}
    assert [one[0] for one in rounds] == ["plain", "peers", "ours"]


def _fill_the_memory():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def test_only_memory_that_runs_out_leaves_a_way_out():
    def library_without_room():
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")

    assert unless_full("peers", library_without_room) is None
    with pytest.raises(ZeroDivisionError):
        unless_full("peers", lambda: 1 / 0)


def test_a_way_that_memory_does_not_suffice_for_is_left_out_with_a_note(capsys):
    runs = {"plain": lambda: sum(range(1000)), "peers": _fill_the_memory}
    assert set(Clock("cpu").interleaved(runs, 2)) == {"plain"}
    assert capsys.readouterr().err == (
        "peers: left out, CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    )


def test_a_row_that_memory_does_not_suffice_for_costs_no_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Bench, "decoding", lambda self: _fill_the_memory())
    monkeypatch.setattr(Bench, "reading", lambda self, peers: {"plain": dict.fromkeys(ENTRY, 1)})
    path = tmp_path / "speed.json"
    only = ["--only", "reading", "decoding", "--shapes", "tiny-llava", "tiny-qwen2.5-vl"]
    monkeypatch.setattr("sys.argv", ["bench_speed.py", *only, "--json", str(path)])
    bench_speed.main()
    assert "tiny-llava, decoding: left out" in capsys.readouterr().err
    written = json.loads(path.read_text("utf-8"))["shapes"]
    assert {name: list(entry) for name, entry in written.items()} == {
        "tiny-llava": ["reading"],
        "tiny-qwen2.5-vl": ["reading"],
    }


ENTRY = ("seconds", "ratio", "spread", "peak_mb", "tokens")


def test_the_benchmarks_run_from_end_to_end(monkeypatch, tmp_path, capsys):
    path = tmp_path / "speed.json"
    monkeypatch.setattr(bench, "DECODED", (2, 4))
    monkeypatch.setattr(bench_speed, "modes_of", lambda lvlm: MODES[:1])  # the rest are alike
    monkeypatch.setattr(bench_speed, "BATCH_TOKENS", 2)
    shape = ["--shapes", "tiny-llava", "--json", str(path)]
    lengths = ["--answers", "2", "--batches", "2", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["bench_speed.py", *shape, *lengths])
    bench_speed.main()
    record = json.loads(path.read_text("utf-8"))
    entry = record["shapes"]["tiny-llava"]
    assert list(entry) == ["reading", "decoding", "crop only, 2", "batch of 2"]
    assert record["measured_with"]["torch"] == torch.__version__
    check_floor(entry["crop only, 2"])
    ours, peers = (entry["crop only, 2"]["ways"][name] for name in ("ours", "peers"))
    assert 0 < ours["peak_mb"] < peers["peak_mb"]
    assert peers["gflop"] > 1.2 * ours["gflop"]
    assert "| tiny-llava | crop only |" in capsys.readouterr().out


def test_every_mode_is_measured_at_one_length_before_the_next_the_last_with_the_crop_alone():
    chosen = options(["--answers", "2", "3", "4", "--only", "whole"])
    modes = bench_speed.modes_of(lvlm_of("llava"))
    measured = bench_speed.measurements(Bench("demo", lvlm_of("llava"), "cpu", 1), chosen)
    names = [f"{mode.name}, {tokens}" for tokens in (2, 3) for mode in modes]
    assert [name for _, name, _ in measured] == [*names, "crop only, 4"]


def test_the_gpu_option_changes_defaults_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = options(["--gpu"])
    assert (chosen.shapes, chosen.device) == (["llava-1.5-7b", "qwen2.5-vl-7b"], "cuda")
    assert (chosen.answers, chosen.batches, chosen.dtype) == ([20], [1, 4, 16], "bf16")
    by_hand = ["--shapes", "tiny-llava", "--answers", "10", "--batches", "--dtype", "fp32"]
    chosen = options(["--gpu", *by_hand])
    assert (chosen.shapes, chosen.answers, chosen.batches) == (["tiny-llava"], [10], [])
    assert (chosen.device, chosen.dtype) == ("cuda", "fp32")


def test_a_record_cut_off_while_it_is_written_leaves_the_last_whole_one(tmp_path):
    path = tmp_path / "speed.json"
    save({"shapes": {"llava": 1}}, path)
    with pytest.raises(TypeError):
        save({"shapes": {"llava": 1, "qwen": object()}}, path)
    assert json.loads(path.read_text("utf-8")) == {"shapes": {"llava": 1}}
