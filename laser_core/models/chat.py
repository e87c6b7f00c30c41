"""A chat as token ids, with every picture's tokens located. Knows tokenizers; never weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..pictures import PictureInputs
from .chat_formats import THOUGHT_BEGIN, THOUGHT_END, TURN_MARKS, plain_text

_PROBE = "LASERPROBE"  # a text that no template writes
_OPENED = re.compile(rf"{THOUGHT_BEGIN}(\s*)\Z")  # at a chat's end: what is generated is a thought
# As Qwen and GLM write that nothing was thought: the line breaks after the mark, twice
_EMPTY_THOUGHT = rf"{THOUGHT_BEGIN}\1\1{THOUGHT_END}\1\1"
_THOUGHT = re.compile(rf"({THOUGHT_BEGIN}|{THOUGHT_END})\s*\Z")  # opened or closed at a chat's end
_TAIL = 8  # tokens that hold the mark of an opened thought or answer, even spelled out


@dataclass(frozen=True)
class Prompt:
    """One chat with its pictures, as the model takes it.

    input_ids: (1, N) on the CPU. spans: the tokens of each picture, in order.
    position_ids: (1, N), or (3, 1, N) with M-RoPE. delta: the token at index n >= N has position
    n + delta.
    """

    input_ids: torch.Tensor
    pictures: tuple[PictureInputs, ...]
    spans: tuple[slice, ...]
    position_ids: torch.Tensor
    delta: int

    @property
    def length(self) -> int:
        return self.input_ids.shape[1]

    @property
    def map_spans(self) -> tuple[slice, ...]:
        """Of each picture, the tokens that form its grid."""
        return tuple(
            slice(span.start + picture.map_tokens.start, span.start + picture.map_tokens.stop)
            for span, picture in zip(self.spans, self.pictures, strict=True)
        )

    @property
    def prefix_length(self) -> int:
        """Tokens up to the end of the first picture: the same with and without the question."""
        return self.spans[0].stop

    @property
    def suffix_length(self) -> int:
        """Tokens after the prefix."""
        return self.length - self.prefix_length

    def pictures_in(self, start: int, stop: int) -> list[PictureInputs]:
        """Those whose tokens begin at an index from `start` to `stop`."""
        placed = zip(self.spans, self.pictures, strict=True)
        return [picture for span, picture in placed if start <= span.start < stop]

    @property
    def prefix_key(self) -> tuple:
        """Equal for two prompts exactly when their prefixes are the same to the model."""
        return tuple(self.input_ids[0, : self.prefix_length].tolist()), self.pictures[0].digest


@dataclass(frozen=True)
class Stream:
    """A prompt to decode from.

    shared_prefix: continue from the cached prefix, computed if missing; for prompts that begin with
    the whole picture. blocked: indices of picture tokens whose embeddings are replaced by their
    picture's mean. certainty: probability of the likeliest first token of its answer, where that
    is known before it is read. note: what a user should know of it, a sentence, or "".
    """

    prompt: Prompt
    shared_prefix: bool = False
    blocked: tuple[int, ...] = ()
    certainty: float | None = None
    note: str = ""


class Chat:
    """How a model's conversations become token ids.

    template: the folder's, Jinja, or several of which one is named default; None: it has none.
    picture_ids: token ids that stand for a picture and, if not None, a video. known: how the makers
    of its text model write chats with pictures, None where that is not known. picture_text: how
    the family writes a picture, {} the placeholder; picture_mark: what stands for that in what
    templates write, or "". thinks: see `Family`. Raises ValueError for a template that is none, and
    where there is none at all.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Any,
        picture_ids: tuple[int, int | None],
        name: str,
        *,
        known: str | None,
        picture_text: str,
        thinks: str = "",
        picture_mark: str = "",
    ) -> None:
        if template:
            self.template = _default_of(template, name)
        elif known:
            self.template = known
        else:
            raise ValueError(
                f"put the model's chat template into its folder as chat_template.jinja: {name} has "
                "none, and how its text model is addressed is not known"
            )
        self._tokenizer, self._picture_ids, self._name = tokenizer, picture_ids, name
        self._known = known
        self._image = tokenizer.convert_ids_to_tokens(picture_ids[0])
        self._picture = picture_text.format(self._image)
        self._thinks, self._closed = bool(thinks), thinks or _EMPTY_THOUGHT
        self._mark = picture_mark or self._picture

    def ids(
        self, pictures: int, text: str, system: str = "", *, thought_closed: bool = False
    ) -> list[int]:
        """Token ids of a chat up to where the model goes on, one placeholder for each picture.

        Where the template lets a model be told not to think, it is told so. Others open a thought
        at the end, or it is opened for them. thought_closed: close it at once, so that the next
        token begins the answer.
        The texts may hold anything: control tokens and turn marks in them are read as plain
        characters, and inject neither a picture nor a role. Raises ValueError for a
        chat that the template refuses.
        """
        texts = self.harmless(text), self.harmless(system)
        ids = self._ids(pictures, *texts, thought_closed)
        # All control tokens must come from the template, whatever the tokenizer made of the texts
        bare = self._ids(pictures, "." if text else "", "." if system else "", thought_closed)
        if self._control_ids(ids) != self._control_ids(bare):
            raise ValueError(
                f"remove what looks like a control token from the texts: {self._name} would read a "
                "picture or a change of speaker there"
            )
        return ids

    def harmless(self, text: str) -> str:
        """The text with control tokens and turn marks broken up, to be read as characters."""
        return plain_text(text, {*self._control_tokens.values(), *self._template_marks})

    def opens_thought(self, prompt: Prompt) -> bool:
        """Whether a prompt of this chat ends within a thought that the template opened."""
        return bool(_OPENED.search(self._tail(prompt)))

    def answer_ids(self, pictures: int, text: str, answer: str, system: str = "") -> list[int]:
        """Token ids of an answer as the model would write it after this chat, thought closed.

        Where the chat ends with no blank ("ASSISTANT:"), one stands before the answer; none after
        the family's own mark of an answer.
        """
        texts = self.harmless(text), self.harmless(system)
        rendered = _OPENED.sub(self._closed, self._rendered(pictures, *texts))
        begun = rendered[-1:].isspace() or rendered.endswith(self._closed)
        written = self.harmless(answer) if begun else f" {self.harmless(answer)}"
        before, whole = self._read(rendered), self._read(rendered + written)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return self._tokenizer(written, add_special_tokens=False)["input_ids"]

    def answer_end(self, prompt: Prompt) -> list[int]:
        """Token ids of the mark that ends an answer, where the prompt ends with the one that begins
        it; none elsewhere."""
        begins = re.search(r"<(\w+)>\Z", self._closed)
        if not (begins and self._tail(prompt).endswith(begins[0])):
            return []
        return self._tokenizer(f"</{begins[1]}>", add_special_tokens=False)["input_ids"]

    def _tail(self, prompt: Prompt) -> str:
        return self._tokenizer.decode(prompt.input_ids[0, -_TAIL:].tolist())

    def _ids(self, pictures: int, text: str, system: str, thought_closed: bool) -> list[int]:
        rendered = self._rendered(pictures, text, system)
        return self._read(_OPENED.sub(self._closed, rendered) if thought_closed else rendered)

    def _read(self, rendered: str) -> list[int]:
        bos = self._tokenizer.bos_token
        begun = bool(bos) and rendered.startswith(bos)
        return self._tokenizer(rendered, add_special_tokens=not begun)["input_ids"]

    def _rendered(self, pictures: int, text: str, system: str) -> str:
        template, takes = self._form
        if takes == "parts":
            content: Any = _parts(pictures, text)
        else:
            content = self._mark * pictures + text if takes == "pictures in texts" else text
        chat = [{"role": "user", "content": content}]
        if system:
            chat.insert(0, {"role": "system", "content": system})
            if takes == "parts":
                chat[0]["content"] = _parts(0, system)
        rendered = self._apply(template, chat)
        if takes == "texts" and pictures != 1:  # its one picture with the marks around it, repeated
            marks = "|".join(map(re.escape, self._control_tokens.values()))
            picture = rf"(?:{marks})*{re.escape(self._image)}(?:{marks})*"
            rendered = re.sub(picture, lambda found: found[0] * pictures, rendered, count=1)
        if self._thinks and not _THOUGHT.search(rendered):
            rendered += THOUGHT_BEGIN  # what the model would write, whatever the question
        return rendered

    @cached_property
    def _form(self) -> tuple[str, str]:
        """The template to use, and what it takes as a turn.

        "parts": pictures and texts; "texts": texts, and it places the one picture itself;
        "pictures in texts": texts in which the picture is written.
        """
        refused = None
        try:
            rendered = self._apply(self.template, [_user(_parts(1, _PROBE))])
            if self._image in rendered and "'type'" not in rendered:  # of a list written out
                return self.template, "parts"
        except ValueError as error:
            refused = error
        try:
            plain = self._apply(self.template, [_user(_PROBE)])
        except ValueError as error:
            raise refused or error from error
        if self._image in plain:
            return self.template, "texts"
        if self._known and _PROBE in plain:  # a text model's own template
            return self._known, "parts"
        return self.template, "pictures in texts"

    def _apply(self, template: str, chat: list[dict[str, Any]]) -> str:
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                chat,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # what templates of models that may think or not ask for
            )
            return rendered.replace(self._mark, self._picture)
        except Exception as error:  # a template is a program and may raise anything
            raise ValueError(
                f"leave the system prompt empty, or fix the chat template of {self._name}: it "
                f"refuses this chat ({error})"
            ) from error

    @cached_property
    def _template_marks(self) -> list[str]:
        """What this very template writes around a user's text, such as "### Human:"."""
        around = self._rendered(1, _PROBE, "")
        for part in (_PROBE, *self._control_tokens.values()):
            around = around.replace(part, "\n")
        lines = [line.strip() for line in re.split(r"\n|(?<=[.!?]) ", around)]  # or sentences
        # Not bare words, such as "user" after a control token: questions have them too
        return [line for line in lines if len(line) > 2 and re.search(r"[^\w\s]", line)]

    @cached_property
    def _control_tokens(self) -> dict[int, str]:
        """What the model reads as more than its characters: special tokens and turn marks."""
        return {
            index: token.content
            for index, token in self._tokenizer.added_tokens_decoder.items()
            if (token.special or index in self._picture_ids or token.content in TURN_MARKS)
            and index != self._tokenizer.unk_token_id
            and token.content.strip()
        }

    def _control_ids(self, ids: list[int]) -> list[int]:
        return [index for index in ids if index in self._control_tokens]


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _parts(pictures: int, text: str) -> list[dict[str, str]]:
    """A turn's content as templates of vision-language models take it."""
    parts = [{"type": "image"} for _ in range(pictures)]
    return [*parts, {"type": "text", "text": text}] if text else parts


def _default_of(found: Any, name: str) -> str:
    """One template: of several, by name or as older files list them, the one named default."""
    if isinstance(found, list):
        found = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, str):
        raise ValueError(
            f"fix the chat template of {name}: it is neither a text nor texts with a default"
        )
    return found
