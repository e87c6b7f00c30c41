"""One question of a benchmark, answered by the method or by the model alone.

Model arguments and a task's generation arguments become settings here; nothing is declared
twice. Knows no harness.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image

from ..models.chat import Stream
from ..models.lvlm import Lvlm
from ..pipeline import answer
from ..results import Answer
from ..settings import DecodeSettings, LaserSettings, LoadSettings, removal
from ..settings_text import flags, read_named
from ..steps.decode import decode

MODES = ("laser", "plain")  # the method, or the model alone for comparison

# Generation arguments of tasks by the setting they stand for; do_sample, until and num_beams, which
# must be 1, have no setting.
GENERATION_SETTINGS = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "repetition_penalty": "repetition_penalty",
}
_UNDERSTOOD = {*GENERATION_SETTINGS, "do_sample", "num_beams", "until"}


class UnsuitableTask(ValueError):
    """A task whose questions can never be answered: its score would mean nothing."""


@dataclass(frozen=True)
class ModelArguments:
    """mode: one of MODES. given: names of the settings that were given, which tasks cannot set.

    look_for: what locates in place of the question, {} its first line; or "".
    """

    mode: str
    load: LoadSettings
    settings: LaserSettings
    given: frozenset[str]
    look_for: str = ""


def read_arguments(given: Mapping[str, Any]) -> ModelArguments:
    """Model arguments by name, as lmms-eval parsed them from `name=value,...`.

    Raises ValueError, remedy first, for an unknown name and for a value out of range.
    """
    names = ["mode", "look_for", *(flag.spec.name for flag in flags())]
    for name in given:
        removed = removal(name)
        if removed:
            raise ValueError(removed)
        if name not in names:
            alike = difflib.get_close_matches(name, [*names, "pretrained"], n=1)
            remedy = f"did you mean {alike[0]}?" if alike else f"choose from {', '.join(names)}:"
            raise ValueError(f"{remedy} There is no model argument {name!r}")
    texts = {name: _typed(value) for name, value in given.items()}
    mode, look_for = texts.pop("mode", MODES[0]), texts.pop("look_for", "")
    if mode not in MODES:
        raise ValueError(f"set mode to one of {', '.join(MODES)}: it is {mode!r}")
    load, settings = read_named(texts)
    return ModelArguments(mode, load, settings, frozenset(texts), look_for)


def _typed(value: Any) -> str:
    """A value as it was typed: the harness turns what looks like a number into one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""  # kept around commas
    return text[1:-1] if quoted else text


def decode_settings(
    settings: DecodeSettings, generation: Mapping[str, Any], given: Collection[str]
) -> DecodeSettings:
    """How a task wants its answers generated, except for the settings that were `given`.

    Greedy where do_sample is false or the temperature 0; do_sample without a temperature samples
    at 1, as transformers does. A limit beyond a setting's range becomes the range's end. Raises
    UnsuitableTask for a beam search.
    """
    if int(generation.get("num_beams") or 1) > 1:
        raise UnsuitableTask(
            "set num_beams to 1 (--gen_kwargs num_beams=1), or choose another task: LASER decodes "
            f"one answer, without a beam search, and this task asks for {generation['num_beams']} "
            "beams"
        )
    wanted = {
        name: generation[key]
        for key, name in GENERATION_SETTINGS.items()
        if generation.get(key) is not None
    }
    sampling = generation.get("do_sample", wanted.get("temperature", 0) > 0)
    wanted["temperature"] = wanted.get("temperature", 1.0) if sampling else 0.0
    values = {}
    for spec in fields(settings):
        if spec.name in wanted and spec.name not in given:
            kind, meta = type(getattr(settings, spec.name)), spec.metadata
            values[spec.name] = kind(min(max(wanted[spec.name], meta["low"]), meta["high"]))
    return dataclasses.replace(settings, **values)


def ignored_arguments(generation: Mapping[str, Any]) -> list[str]:
    """Generation arguments of a task that no setting stands for."""
    return sorted(set(generation) - _UNDERSTOOD)


def stop_texts(generation: Mapping[str, Any]) -> list[str]:
    """The texts that end an answer. Raises ValueError where `until` is neither text nor list."""
    until = generation.get("until") or []
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, (list, tuple)) or not all(isinstance(text, str) for text in until):
        raise ValueError(f"write the task's until as a text or a list of texts: it is {until!r}")
    return [text for text in until if text]


def split_instruction(context: str, post_prompt: str) -> tuple[str, str]:
    """A task's text as (question, answer-format instruction), without picture placeholders.

    post_prompt: what the task says it puts after its questions. The instruction is empty unless
    question, line break and instruction together give exactly the task's text.
    """
    text, instruction = context.replace("<image>", "").strip(), post_prompt.strip()
    question = text.removesuffix(f"\n{instruction}")
    if instruction and question != text and question == question.strip():
        return question, instruction
    return text, ""


class Answerer:
    """Answers requests as the model arguments say."""

    def __init__(self, arguments: ModelArguments) -> None:
        self._arguments = arguments

    def __call__(
        self,
        lvlm: Lvlm,
        context: str,
        pictures: Sequence[Any] | None,
        generation: Mapping[str, Any],
        post_prompt: str = "",
        repeat: int = 0,
    ) -> Answer:
        """The answer to a task's text, cut where the task says.

        context: question and instruction, as the task joined them: what is answered; post_prompt:
        the instruction at its end, which does not locate. An instruction among the model arguments
        replaces it. repeat: which of several answers to the same request, each with its own seed.

        Raises UnsuitableTask for a request without pictures, with anything but pictures, or with
        several pictures in mode laser; ValueError for what the model cannot take.
        """
        settings = self._arguments.settings
        question, instruction = split_instruction(context, post_prompt)
        asked = settings.answer
        if "instruction" not in self._arguments.given:
            asked = dataclasses.replace(asked, instruction=instruction)
        decoding = decode_settings(settings.decode, generation, self._arguments.given)
        decoding = dataclasses.replace(decoding, seed=decoding.seed + repeat)
        settings = dataclasses.replace(settings, answer=asked, decode=decoding)
        pictures = _checked(pictures, self._arguments.mode)
        if self._arguments.mode == "plain":
            found = _plain(lvlm, question, pictures, settings)
        else:
            first_line = question.partition("\n")[0]
            look_for = self._arguments.look_for.replace("{}", first_line)
            found = answer(lvlm, pictures[0], question, settings, look_for=look_for).answer
        text = found.text
        for stop in stop_texts(generation):
            text = text.split(stop)[0]
        return dataclasses.replace(found, text=text.strip())


def _plain(
    lvlm: Lvlm, question: str, pictures: Sequence[Image.Image], settings: LaserSettings
) -> Answer:
    """All pictures, then the question: what the model alone makes of them."""
    inputs = [lvlm.encode(picture, settings.prompt.framing) for picture in pictures]
    stream = Stream(lvlm.answer_prompt(inputs, question, settings), shared_prefix=True)
    return decode(lvlm, stream, None, settings.decode)


def _checked(pictures: Sequence[Any] | None, mode: str) -> Sequence[Image.Image]:
    pictures = [] if pictures is None else list(pictures)
    others = {type(item).__name__ for item in pictures if not isinstance(item, Image.Image)}
    if others:
        raise UnsuitableTask(
            f"choose a task about pictures: this one shows something else ({', '.join(others)})"
        )
    if not pictures:
        raise UnsuitableTask("choose a task about pictures: a question of this one has none")
    if len(pictures) > 1 and mode != "plain":
        raise UnsuitableTask(
            f"choose a task with one picture a question, or mode=plain: LASER looks into one "
            f"picture, and a question of this task has {len(pictures)}"
        )
    return pictures
