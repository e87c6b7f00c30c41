"""A loaded model and the prompts it reads.

`Lvlm` joins what the method needs of a model: weights, tokenizer, image processor, chat and
family record. Knows nothing of attention maps or decoding.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..one_at_a_time import one_at_a_time
from ..pictures import PictureInputs, to_picture
from ..results import Band
from ..settings import AnswerSettings, LaserSettings, PromptSettings
from .chat import Chat, Prompt
from .closed_vocabulary import ClosedVocabulary
from .families import Family, chat_template_of, encode_picture, family_of, mean_colour
from .image_processors import own_token_range
from .widened import Widened

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .prefix import Kept, Prefix

GENERIC_QUESTION = "Write a general description of the image."  # ViCrop, arXiv 2502.17422


class Lvlm:
    """A vision-language model, ready to read prompts.

    model: a transformers image-text-to-text model in evaluation mode; tokenizer and
    image_processor: its own. folder: its `laser.json`, if any, holds the model's own instruction,
    its closed vocabulary, and the least and most visual tokens of the pictures it was made for
    (visual_tokens). silent: why the model cannot answer, remedy first, or "". all_layers: of
    the decoder as it was made, where the last are cut off. Raises ValueError for an unsupported
    model type.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        image_processor: Any,
        *,
        name: str = "",
        folder: Path | None = None,
        chat_template: str | None = None,
        silent: str = "",
        all_layers: int | None = None,
    ) -> None:
        self.model: PreTrainedModel = model.train(False)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.family: Family = family_of(model.config)
        self.name = name or self.family.name
        self.folder = folder
        self.silent = silent
        self._all_layers = all_layers
        self.chat = Chat(
            tokenizer,
            chat_template or tokenizer.chat_template,
            (self.image_token_id, getattr(model.config, "video_token_id", None)),
            self.name,
            known=chat_template_of(model.config, tokenizer),
            picture_text=self.family.picture_text,
            thinks=self.family.thinks,
            picture_mark=self.family.picture_mark,
        )
        extras = _read_extras(folder)
        own = extras.get("instruction")  # for both jobs
        self.locate_instruction: str = self.family.instruction if own is None else own
        self.instruction: str = own or ""
        self.closed_vocabulary: ClosedVocabulary | None = extras.get("closed_vocabulary")
        self.notice: str = extras.get("notice", "")  # said with every result
        self.visual_tokens: tuple[int, int] | None = extras.get("visual_tokens") or own_token_range(
            image_processor
        )
        self.prefix: Prefix | None = None  # the one cached prefix, managed by the engine
        self.steps: list[Kept] = []  # whose graphs are kept, managed by engine.two_streams
        self.graph_refused = ""  # why no graph can be made
        self._beside: Lvlm | None = None

    def beside(self) -> Lvlm:
        """The same model for a run beside others: with a prefix of its own."""
        other = copy.copy(self)
        other.prefix, other.steps, other._beside = None, [], self.shared
        return other

    @property
    def shared(self) -> Lvlm:
        """What runs side by side share: the model that this one is beside, or itself."""
        return self._beside or self

    def __str__(self) -> str:
        millions = self.parameter_count / 1e6
        size = f"{millions / 1e3:.1f} B" if millions >= 1e3 else f"{millions:.1f} M"
        return f"{self.name} ({self.family.name}, {size} parameters, {self.dtype}, {self.device})"

    @property
    def parameter_count(self) -> int:
        """The numbers of all weights, also of those that share a byte."""
        modules = self.model.modules()
        packed = {one.weight: one.numbers for one in modules if isinstance(one, Widened)}
        return sum(packed.get(one, one.numel()) for one in self.model.parameters())

    @property
    def body(self) -> torch.nn.Module:
        """The model without its output embeddings: picture and text to hidden states."""
        return self.model.get_submodule("model")

    @property
    def device(self) -> torch.device:
        """Where token embeddings live, hence where inputs go; a sharded model spans several."""
        embeddings = self.model.get_input_embeddings()
        hook = getattr(embeddings, "_hf_hook", None)  # accelerate's, on offloaded weights
        device = embeddings.get_parameter("weight").device
        return torch.device(hook.execution_device) if hook and device.type == "meta" else device

    @property
    def offloaded(self) -> bool:
        """True if weights of the decoder are loaded again for each forward."""
        return any(weight.device.type == "meta" for weight in self.model.get_decoder().parameters())

    @property
    def context_length(self) -> int:
        """Positions the decoder was made for, prompt and answer together."""
        return self.model.config.get_text_config().max_position_embeddings

    @property
    def band(self) -> Band:
        """The family's band, as depths of the layers that are there; at least the last of them."""
        layers = self.model.config.get_text_config().num_hidden_layers
        modules: list[Any] = self.attention_modules
        numbers = tuple(module.layer_idx for module in modules)
        scale = 1.0
        if self._all_layers is not None and layers > 1:
            scale = (self._all_layers - 1) / (layers - 1)
        first, last = (min(1.0, depth * scale) for depth in self.family.band)
        return Band(first, last, numbers, layers)

    def check_answers(self) -> None:
        """Raise ValueError, remedy first, if the model only locates."""
        if self.silent:
            raise ValueError(self.silent)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The image processor's mean, as an 8-bit colour."""
        return mean_colour(self.image_processor)

    @property
    def attention(self) -> str:
        """Name of the decoder's attention implementation in transformers' registry."""
        return self.model.config.get_text_config()._attn_implementation

    @cached_property
    def attention_modules(self) -> list[torch.nn.Module]:
        """The decoder's self-attention modules with a softmax, by layer."""
        modules: list[Any] = [
            module
            for module in self.model.get_decoder().modules()
            if isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "o_proj")
        ]
        return sorted(modules, key=lambda module: module.layer_idx)

    @cached_property
    def state_layers(self) -> frozenset[int]:
        """Numbers of the decoder's layers of linear attention, which carry a state, not keys."""
        kinds = getattr(self.model.config.get_text_config(), "layer_types", None) or ()
        return frozenset(n for n, kind in enumerate(kinds) if kind == "linear_attention")

    @property
    def mrope(self) -> bool:
        """True if a token has three positions: in time and on its picture."""
        return hasattr(self.body, "get_rope_index")

    @property
    def has_sliding_window(self) -> bool:
        """True if any decoder layer attends only to a window of past tokens."""
        text = self.model.config.get_text_config()
        kinds = getattr(text, "layer_types", None)
        if kinds is not None:
            return any("sliding" in kind for kind in kinds)
        return getattr(text, "sliding_window", None) is not None

    @property
    def whole_pictures(self) -> tuple[str, ...]:
        """The kinds of layers in which all tokens of a picture see each other."""
        return self.family.whole_picture_rule(self.model.config.get_text_config())

    @property
    def image_token_id(self) -> int:
        config = self.model.config
        token = getattr(config, "image_token_id", None)
        return config.image_token_index if token is None else token

    def release(self) -> None:
        """Free the cached prefix and the graphs of steps; the weights stay."""
        self.prefix, self.steps = None, []

    def encode(
        self, picture: Any, framing: str = "pad", tokens: int | None = None
    ) -> PictureInputs:
        """A picture (PIL, NumPy or tensor) as the model takes it; an encoded one as it is.

        framing, tokens: see `families.encode_picture`.
        """
        if isinstance(picture, PictureInputs):
            return picture
        return encode_picture(
            self.family,
            self.image_processor,
            self.model.config,
            to_picture(picture),
            framing,
            tokens,
        )

    def locating_text(self, question: str, settings: PromptSettings) -> str:
        """The user's turn that locates: the question and the sentence for a short answer."""
        return _joined(question.strip(), self._locate_instruction(settings))

    def answering_text(self, question: str, settings: AnswerSettings) -> str:
        """The user's turn that is answered: the question and the user's instruction, if any."""
        return _joined(question.strip(), settings.instruction.strip() or self.instruction)

    def presence_question(self, phrase: str) -> str:
        """Whether what a phrase names is there, as a question.

        Raises ValueError for an empty phrase.
        """
        if not phrase.strip():
            raise ValueError("write what to find: a phrase is empty")
        return f"Is there {with_article(phrase.strip())}?"

    def query_free_text(self, settings: PromptSettings) -> str:
        """The user's turn of the branch without the question (docs/method.md, step 1)."""
        if settings.query_free == "image only":
            return ""
        generic = GENERIC_QUESTION if settings.query_free == "generic question" else ""
        return _joined(generic, self._locate_instruction(settings))

    def _locate_instruction(self, settings: PromptSettings) -> str:
        automatic = settings.locate_instruction == "auto"
        return self.locate_instruction if automatic else settings.locate_instruction.strip()

    def _check(self, question: str, picture: PictureInputs) -> None:
        """Raise ValueError for an empty question, and for words outside a closed vocabulary."""
        if not question.strip():
            raise ValueError(
                "write what to look for: the question is empty, and the method compares the "
                "model's attention with and without it"
            )
        self.check_words(question, picture)

    def check_words(self, text: str, picture: PictureInputs) -> None:
        """Raise ValueError for words outside a closed vocabulary, with a question that has none.

        picture: what that question can be asked about.
        """
        if self.closed_vocabulary is not None:
            seen = partial(self._seen, picture)
            self.closed_vocabulary.check(text, self.tokenizer, self.chat.harmless, seen)

    @one_at_a_time
    @torch.inference_mode()
    def _seen(self, picture: PictureInputs) -> str:
        """The model's first word on the picture to its instruction alone; "" if it has none."""
        prompt = self.prompt([picture], self.instruction)
        inputs = {"input_ids": prompt.input_ids, **picture.tensors}
        inputs |= self.token_types(prompt.input_ids)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        word = int(self.model(**inputs).logits[0, -1].argmax())
        return self.tokenizer.decode([word], skip_special_tokens=True).strip()

    def answer_prompt(
        self,
        pictures: Sequence[PictureInputs],
        question: str,
        settings: LaserSettings,
        *,
        thought_closed: bool = False,
    ) -> Prompt:
        """The question on these pictures, to be answered.

        thought_closed: as for `Chat.ids`. Raises ValueError for an empty question, for words
        outside a closed vocabulary, and as `check_answers` and `prompt` do.
        """
        self.check_answers()
        self._check(question, pictures[0])
        text, system = self.answering_text(question, settings.answer), settings.prompt.system
        return self.prompt(pictures, text, system, thought_closed=thought_closed)

    def branch_prompts(
        self, picture: PictureInputs, question: str, settings: PromptSettings
    ) -> tuple[Prompt, Prompt]:
        """The prompts that locate: of both branches, with and without the question (step 1).

        Raises ValueError as `answer_prompt` does.
        """
        self._check(question, picture)
        texts = self.locating_text(question, settings), self.query_free_text(settings)
        # The last token must be the one that the answer follows. Where a thought is open, the next
        # word is "Okay" or "So", whatever was asked, and the row says little about the question
        asked, free = (
            self.prompt([picture], text, settings.system, thought_closed=True) for text in texts
        )
        return asked, free

    def prompt(
        self,
        pictures: Sequence[PictureInputs],
        text: str,
        system: str = "",
        *,
        thought_closed: bool = False,
    ) -> Prompt:
        """The chat `pictures, text` as token ids, ready for what the model writes.

        thought_closed: as for `Chat.ids`. Raises ValueError as that does, and for a chat longer
        than the model's context.
        """
        ids = self.chat.ids(len(pictures), text, system, thought_closed=thought_closed)
        return self._locate(ids, tuple(pictures))

    def _locate(self, ids: list[int], pictures: tuple[PictureInputs, ...]) -> Prompt:
        """Expand each placeholder to its picture's tokens and place every token."""
        found = ids.count(self.image_token_id)
        if found != len(pictures):
            raise ValueError(
                f"use the model's own chat template: this one leaves {found} places for "
                f"{len(pictures)} pictures"
            )
        expanded: list[int] = []
        spans: list[slice] = []
        for token in ids:
            if token != self.image_token_id:
                expanded.append(token)
                continue
            own = self._ids_of(pictures[len(spans)], len(spans))
            first, after = own.index(token), len(own) - own[::-1].index(token)
            spans.append(slice(len(expanded) + first, len(expanded) + after))
            expanded += own
        if len(expanded) > self.context_length:
            taken = self.picture_tokens(pictures)
            raise ValueError(
                f"{self._shortening(len(expanded) - taken, len(pictures))}: pictures take {taken} "
                f"of the prompt's {len(expanded)} tokens, and the model takes {self.context_length}"
            )
        input_ids = torch.tensor([expanded])
        positions = self._positions(input_ids, pictures)
        delta = int(positions.max()) + 1 - len(expanded)
        return Prompt(input_ids, pictures, tuple(spans), positions, delta)

    def picture_tokens(self, pictures: Sequence[PictureInputs]) -> int:
        """How many tokens of a prompt these pictures take, with what is written around them."""
        return sum(len(self._ids_of(picture, index)) for index, picture in enumerate(pictures))

    def _ids_of(self, picture: PictureInputs, index: int) -> list[int]:
        """The picture's tokens, as the prompt's picture of this index."""
        if not picture.written:
            return [self.image_token_id] * picture.token_count
        written = picture.written.replace("{index}", str(index))
        return self.tokenizer(written, add_special_tokens=False)["input_ids"]

    def _shortening(self, text_tokens: int, pictures: int) -> str:
        """What makes a prompt that is too long shorter: what takes most of it first."""
        remedies = ["lower max_visual_tokens"] if self.family.native_resolution else []
        if pictures > 1:
            remedies += ["choose fewer windows", "choose answer input 'crop'"]
        question = "shorten the question"
        long_text = text_tokens > self.context_length // 2 or not remedies
        return ", or ".join([question, *remedies] if long_text else [*remedies, question])

    @cached_property
    def cache_name(self) -> str:
        """What the library calls a forward's key-value cache: "cache" from 5.24 on."""
        parameters = inspect.signature(type(self.model.get_decoder()).forward).parameters
        return "cache" if "cache" in parameters else "past_key_values"

    @cached_property
    def _token_types_name(self) -> str:
        """What the model calls the types of tokens it wants to be told, or ""."""
        parameters = inspect.signature(type(self.model).forward).parameters
        names = ("mm_token_type_ids", "token_type_ids")
        return next((name for name in names if name in parameters), "")

    def token_types(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """1 on picture tokens, 0 elsewhere, shaped like `input_ids`, by the name the model has.

        Empty for a model that does not ask for it (older M-RoPE code, and LLaVA).
        """
        types = (input_ids == self.image_token_id).int()
        return {self._token_types_name: types} if self._token_types_name else {}

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores (..., V) of the token after one with these last hidden states (..., D)."""
        scores: torch.Tensor = self.model.get_output_embeddings()(hidden)
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return scores if cap is None else torch.tanh(scores / cap) * cap

    def _positions(
        self, input_ids: torch.Tensor, pictures: tuple[PictureInputs, ...]
    ) -> torch.Tensor:
        """(1, N) positions, or (3, 1, N) from the model's own M-RoPE index."""
        rope_index = getattr(self.body, "get_rope_index", None)
        if rope_index is None:
            return torch.arange(input_ids.shape[1])[None]
        grids = torch.cat([picture.tensors["image_grid_thw"] for picture in pictures])
        return rope_index(input_ids, image_grid_thw=grids, **self.token_types(input_ids))[0]


_DETERMINERS = """
a an this that these those some any all every each no my your his her its our their
one two three four five six seven eight nine ten someone something anyone anything
""".split()  # noqa: SIM905


def with_article(phrase: str) -> str:
    """ "dog", "the dog" -> "a dog"; as it is with another determiner or no Latin letter first."""
    the, _, rest = phrase.partition(" ")
    phrase = rest.strip() if the.lower() == "the" and rest.strip() else phrase
    first = phrase.split()[0].lower()
    if first in _DETERMINERS or not "a" <= first[0] <= "z":
        return phrase
    return f"an {phrase}" if first[0] in "aeiou" else f"a {phrase}"


def _joined(text: str, instruction: str) -> str:
    """A text and, unless it ends with that very sentence, the instruction."""
    if text.endswith(instruction):
        return text
    return f"{text}\n{instruction}" if text else instruction


def _read_extras(folder: Path | None) -> dict[str, Any]:
    """What the model folder's `laser.json` says of the model; empty if there is none."""
    path = folder / "laser.json" if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        extras = json.loads(path.read_text("utf-8"))
        closed, instruction = extras.get("closed_vocabulary"), extras.get("instruction")
        if not isinstance(instruction, str | None):
            raise TypeError("its instruction must be a text")
        notice = extras.get("notice", "")
        if not isinstance(notice, str):
            raise TypeError("its notice must be a text")
        visual_tokens = None
        if extras.get("visual_tokens"):
            low, high = extras["visual_tokens"]
            visual_tokens = int(low), int(high)
        return {
            "instruction": instruction,
            "notice": notice,
            "closed_vocabulary": ClosedVocabulary(**closed) if closed else None,
            "visual_tokens": visual_tokens,
        }
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(
            f"fix or remove laser.json in the model's folder: it cannot be read ({error})"
        ) from error
