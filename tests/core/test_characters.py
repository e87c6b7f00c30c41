"""Characters that a tokenizer spells with several tokens: whole in tokens, stream and answer."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from laser_core.models.lvlm import Lvlm
from laser_core.settings import DecodeSettings, LaserSettings
from laser_core.steps.answer_input import make_plain_stream
from laser_core.steps.decode import decode
from tools.testbed import tiny
from tools.testbed.lvlms import noise_picture

TEXT = "心は🫠a"
BYTES = TEXT.encode()
WHOLE_AFTER = {3: "心", 6: "は", 10: "🫠", 11: "a"}  # bytes: the character they complete


def byte_level():
    """As GPT-2's and Qwen's: every byte has a letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def byte_fallback():
    """As Llama's: bytes are tokens of their own, and one that is missing spoils those around it."""
    vocabulary = {
        name: i for i, name in enumerate(["<unk>", *(f"<0x{i:02X}>" for i in range(256))])
    }
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return core


@pytest.fixture(params=[byte_level, byte_fallback])
def lvlm(request, monkeypatch):
    core = request.param()
    core.add_special_tokens([AddedToken(name, special=True) for name in tiny._QWEN_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    monkeypatch.setattr(tiny, "_tokenizer", lambda row: tokenizer)
    built = tiny.build("qwen3_vl")
    return Lvlm(built.model, tokenizer, built.image_processor)


def said(lvlm, count, text=BYTES):
    """The answer of `count` given tokens and the stream of its texts."""
    tokens = lvlm.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert len(tokens) == len(BYTES)  # a token each
    given = [tokens[BYTES.index(byte)] for byte in text] + [lvlm.tokenizer.eos_token_id]
    stream, seen = make_plain_stream(lvlm, noise_picture(), "what ?", LaserSettings()), []

    def only_the_given(sequence, scores):
        chosen = torch.full_like(scores, float("-inf"))
        chosen[:, given[sequence.shape[1] - stream.prompt.length]] = 0
        return chosen

    answer = decode(
        lvlm, stream, None, DecodeSettings(max_tokens=count),
        on_text=seen.append, logits_processor=[only_the_given],
    )  # fmt: skip
    return answer, seen


@pytest.mark.parametrize("count", range(1, len(BYTES) + 1))
def test_a_cut_answer_and_its_stream_hold_whole_characters_alone(lvlm, count):
    answer, seen = said(lvlm, count)
    whole = ["".join(WHOLE_AFTER.get(i, "") for i in range(n + 1)) for n in range(1, count + 1)]
    assert answer.text == whole[-1]
    assert seen == whole


def test_a_character_belongs_to_the_token_that_completes_it(lvlm):
    answer, _ = said(lvlm, 64)
    texts = [token.text for token in answer.tokens]
    assert texts == [WHOLE_AFTER.get(n, "") for n in range(1, len(BYTES) + 1)] + ["<|im_end|>"]
    others = [other.text for token in answer.tokens for other in token.alternatives]
    assert not any("\ufffd" in text for text in others)


def test_bytes_that_make_no_character_have_no_text(lvlm):
    answer, seen = said(lvlm, 64, text=BYTES[:2] + b"a")
    assert not any("\ufffd" in text for text in [answer.text, *seen])
    assert not any("\ufffd" in token.text for token in answer.tokens)
