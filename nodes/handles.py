"""What travels along LASER links: a record per picture of a batch, readable in a preview."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..laser_core.output.sentences import describe_answer, describe_evidence
from . import runtime

if TYPE_CHECKING:
    from PIL import Image

    from ..laser_core.models.lvlm import Lvlm
    from ..laser_core.pictures import PictureInputs
    from ..laser_core.results import Answer, AttentionMaps, Evidence
    from ..laser_core.settings import ContrastSettings, LoadSettings, PromptSettings

MAPS_BYTES = 512 * 2**20  # of maps that a loaded model remembers: 100 readings of a 7B model
TOKENS_OF_A_RUN = 4096  # both streams, the kept prefix and the merged batch
PICTURES_OF_A_RUN = 5  # that hold tokens: picture and crop of both streams, the prefix
BYTES_OF_A_TOKEN = 64  # of working memory, per hidden unit of a layer in flight


class LvlmHandle:
    """LASER_LVLM: a loaded model; after it was unloaded, it is loaded again on use.

    load: gives (the model, ComfyUI's manager of its memory or None). All use of the model goes
    through `running`, which brings it to its device.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Lvlm, Any]],
        settings: LoadSettings,
        keep_loaded: bool = True,
    ) -> None:
        self.settings = settings
        self._load, self._keep_loaded = load, keep_loaded
        self._lvlm: Lvlm | None = None
        self._patcher: Any = None
        self._name = "a model"
        self._maps: OrderedDict[tuple, AttentionMaps] = OrderedDict()
        self._ensure()

    @contextmanager
    def running(self) -> Iterator[Lvlm]:
        """The model on its device, for a `with` block.

        An error or interrupt drops the cached prefix; running out of memory also drops the maps.
        """
        from ..laser_core.out_of_memory import is_out_of_memory

        try:
            lvlm = self._ensure()
            if self._patcher is not None:
                runtime.bring(self._patcher, _memory_of_a_run(lvlm, self.settings))
            else:
                runtime.make_room(lvlm.device, _memory_of_a_run(lvlm, self.settings))
            yield lvlm
        except BaseException as error:  # ComfyUI's interrupt is no Exception
            if is_out_of_memory(error):
                self.release()
            elif self._lvlm is not None:
                self._lvlm.release()
            raise
        finally:
            if not self._keep_loaded:
                self._leave_the_gpu()

    def read(
        self,
        lvlm: Lvlm,
        picture: Image.Image | PictureInputs,
        question: str,
        settings: PromptSettings,
        progress: runtime.Progress | None,
    ) -> AttentionMaps:
        """Step 2, remembered: nodes that ask the same of a picture share one reading."""
        from ..laser_core.steps.attention import read_attention

        inputs = lvlm.encode(picture, settings.framing)
        key = inputs.digest, inputs.grid, inputs.picture_size, question.strip(), settings
        if key not in self._maps:
            self._maps[key] = read_attention(lvlm, inputs, question, settings, progress)
            while len(self._maps) > 1 and self._maps_bytes > MAPS_BYTES:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]

    def release(self) -> None:
        """Forget maps and cached prefix; the weights stay."""
        self._maps.clear()
        if self._lvlm is not None:
            self._lvlm.release()

    def unload(self) -> None:
        """Free all memory; the model is loaded again when it is next used."""
        self.release()
        if self._patcher is not None:
            runtime.send_away(self._patcher)
        self._lvlm = self._patcher = None
        _empty_caches()

    @property
    def loaded(self) -> bool:
        return self._lvlm is not None

    def get_ram_usage(self) -> int:
        """Bytes this handle keeps alive: weights, maps, the cached prefix and a step's caches."""
        total = self._maps_bytes
        if self._lvlm is not None:
            total += sum(parameter.nbytes for parameter in self._lvlm.model.parameters())
            kept = self._lvlm.prefix, *self._lvlm.steps
            total += sum(one.nbytes for one in kept if one)
        return total

    def __str__(self) -> str:
        return str(self._lvlm) if self.loaded else f"{self._name} (unloaded)"

    @property
    def _maps_bytes(self) -> int:
        return sum(maps.nbytes for maps in self._maps.values())

    def _leave_the_gpu(self) -> None:
        """Move the weights to ordinary memory; quantized ones cannot move and are unloaded."""
        if self._patcher is not None:
            runtime.send_away(self._patcher)
        elif self._lvlm is not None and self._lvlm.device.type != "cpu":
            self.unload()

    def _ensure(self) -> Lvlm:
        if self._lvlm is None:
            self._lvlm, self._patcher = self._load()
            self._name = self._lvlm.name
        return self._lvlm


@dataclass(frozen=True)
class AttentionHandle:
    """LASER_ATTENTION: the maps of each picture and how to compare their branches.

    pictures: at the size they are drawn at. question: what was asked of them.
    """

    pictures: list[Image.Image]
    maps: list[AttentionMaps]
    contrast: ContrastSettings
    mean_colour: tuple[int, int, int]
    question: str

    def get_ram_usage(self) -> int:
        return sum(maps.nbytes for maps in self.maps) + _bytes_of(self.pictures)

    def __str__(self) -> str:
        return "\n".join(
            "{} layers, {} heads, {} x {} patches".format(*maps.with_query.shape)
            + f" on a picture of {maps.picture_size[0]} x {maps.picture_size[1]}"
            for maps in self.maps
        )


@dataclass(frozen=True)
class EvidenceHandle:
    """LASER_EVIDENCE: where the question looks, in each picture."""

    items: list[Evidence]
    mean_colour: tuple[int, int, int]
    question: str

    def get_ram_usage(self) -> int:
        return sum(item.map.nbytes for item in self.items)

    def __str__(self) -> str:
        return "\n".join(describe_evidence(item) for item in self.items)


@dataclass(frozen=True)
class TraceHandle:
    """LASER_TRACE: the answers, token by token."""

    answers: list[Answer]

    def get_ram_usage(self) -> int:
        maps = [answer.maps.nbytes for answer in self.answers if answer.maps]
        return sum(len(answer.tokens) for answer in self.answers) * 2048 + sum(maps)

    def __str__(self) -> str:
        return "\n".join(describe_answer(answer) for answer in self.answers)


@dataclass(frozen=True)
class SettingsHandle:
    """LASER_SETTINGS: values of settings by name."""

    values: dict[str, Any]

    def get_ram_usage(self) -> int:
        return 64 * len(self.values)

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {'(empty)' if value == '' else value}" for name, value in self.values.items()
        )


def _bytes_of(pictures: list[Image.Image]) -> int:
    return sum(3 * picture.width * picture.height for picture in pictures)


def _memory_of_a_run(lvlm: Lvlm, settings: LoadSettings) -> int:
    """A generous guess at the bytes that a run needs in addition to the weights."""
    text = lvlm.model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cached = 2 * text.num_hidden_layers * heads * head_dim * lvlm.dtype.itemsize
    tokens = TOKENS_OF_A_RUN
    if lvlm.family.native_resolution:
        tokens = max(tokens, PICTURES_OF_A_RUN * settings.max_visual_tokens)
    return tokens * (cached + BYTES_OF_A_TOKEN * text.hidden_size)


def _empty_caches() -> None:
    import gc

    gc.collect()
    if runtime.in_comfyui():
        import comfy.model_management

        comfy.model_management.soft_empty_cache()
