"""`--model laser` of lmms-eval: the harness asks, `answerer` answers.

The harness divides the questions among the processes that `accelerate launch` started. Each answers
its share on its own device, as many questions side by side as --batch_size says, in the harness's
order. That order keeps questions about one picture together: at batch size 1 the picture is read
once for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from ..engine.together import run_together
from ..models.loading import DEMO, load_lvlm
from ..models.lvlm import Lvlm
from ..out_of_memory import is_out_of_memory
from .answerer import Answerer, UnsuitableTask, ignored_arguments, read_arguments

FULL = "the GPU's memory is full: choose a quantization or a smaller model"


class Laser(lmms):
    """LASER (arXiv 2602.04304), or with mode=plain its model alone.

    pretrained: demo, a model folder or a hub id. device: of the harness's --device; auto, a GPU
    ("cuda", "cuda:1") or cpu. mode, look_for: as in `answerer.ModelArguments`. Every other
    argument is a setting by its name, such as alpha=0.5.
    A decoding setting that is given overrides the task's generation arguments.

    batch_size: questions at a time; auto: as many as the device's memory has room for.

    Raises ValueError for an unknown argument or a bad value.
    """

    is_simple = True  # question and pictures come apart; a chat would have to be taken apart

    def __init__(
        self,
        pretrained: str = DEMO,
        device: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,  # of automatic batches, which have their own
        **settings: Any,
    ) -> None:
        super().__init__()
        self._batch = _batch(batch_size)
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        arguments = read_arguments({**settings, "device": _device(device, self._world_size)})
        self._lvlm = load_lvlm(str(pretrained), arguments.load)
        self._answer = Answerer(arguments)
        self._told: set[tuple[str, str]] = set()

    @property
    def device(self) -> torch.device:
        """Where the harness puts what it gathers from all processes."""
        return self.accelerator.device

    def clean(self) -> None:
        """Free the model, which the harness asks for once all answers are there."""
        del self._lvlm, self._answer
        super().clean()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """One answer per request, in order.

        A request that fails (GPU memory full, too long a prompt) is answered with an empty text,
        which the task counts as wrong: it is logged, and the harness's --use_cache asks it again
        in the next run. Raises UnsuitableTask for tasks that are not about single pictures, and
        ValueError if every request fails.
        """
        answers: list[str] = []
        failures: Counter[str] = Counter()
        found = run_together(self._lvlm, _asked(requests), self._one, self._batch)
        bar = tqdm(requests, desc="LASER", disable=self._rank != 0)
        for request in bar:
            result = "" if _evens_out(request) else next(found)
            if isinstance(result, UnsuitableTask):
                raise result
            answers.append("" if isinstance(result, Exception) else result)
            if isinstance(result, Exception):
                failure = FULL if is_out_of_memory(result) else str(result)
                failures[failure] += 1
                logger.error(f"{request.task_name}, question {request.doc_id}: {failure}")
        self._report(failures, len(answers))
        return answers

    def _one(self, lvlm: Lvlm, asked: tuple[Instance, int]) -> str:
        """The answer to a request; of several to the same one, the one of this number."""
        request, repeat = asked
        context, generation, doc_to_visual, doc_id, task, split = request.args
        for name in ignored_arguments(generation):
            self._tell_once(task, f"the generation argument {name} is not used")
        try:
            pictures = doc_to_visual(self.task_dict[task][split][doc_id]) if doc_to_visual else None
            post_prompt = _post_prompt(doc_to_visual)
            found = self._answer(lvlm, context, pictures, generation, post_prompt, repeat)
        except UnsuitableTask as error:
            raise UnsuitableTask(f"{error} ({task}, question {doc_id})") from None
        if found.stop_reason == "max tokens" and "max_new_tokens" not in generation:
            self._tell_once(
                task, "the task sets no limit, and answers were cut off: raise max_tokens"
            )
        return found.text

    def _tell_once(self, task: str, text: str) -> None:
        if self._rank == 0 and (task, text) not in self._told:
            self._told.add((task, text))
            logger.warning(f"{task}: {text}")

    def _report(self, failures: Counter[str], requests: int) -> None:
        count = failures.total()
        if not count:
            return
        reasons = "; ".join(f"{reason} ({times})" for reason, times in failures.most_common(5))
        if count == requests:
            raise ValueError(f"no question could be answered: {reasons}")
        logger.error(
            f"{count} of {requests} questions have no answer, which counts as wrong: {reasons}"
        )

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Raises NotImplementedError: the method writes answers and rates no given text."""
        raise NotImplementedError(
            "choose tasks of output type generate_until: LASER generates answers and gives no "
            "likelihood of a given one"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Raises NotImplementedError: each question is located on its own."""
        raise NotImplementedError(
            "choose tasks of output type generate_until: LASER answers single questions, not "
            "dialogues of several rounds"
        )


def _asked(requests: Iterable[Instance]) -> Iterator[tuple[Instance, int]]:
    """What is to be answered: each request, and how often it was there before."""
    repeats: Counter[int] = Counter()
    for request in requests:
        if not _evens_out(request):
            yield request, repeats[id(request)]
            repeats[id(request)] += 1


def _evens_out(request: Instance) -> bool:
    """Whether it only makes the processes' shares equal; nobody reads its answer."""
    return bool((request.metadata or {}).get("__padding_only__"))


def _batch(batch_size: int | str) -> int:
    """The harness's --batch_size, "auto" or "auto:N" as 0. Raises ValueError for another text."""
    text = str(batch_size).partition(":")[0]
    if text == "auto":
        return 0
    if not text.isdecimal() or not int(text):
        raise ValueError(f"set --batch_size to a number from 1 on, or to auto: it is {batch_size}")
    return int(text)


def _post_prompt(doc_to_visual: Any) -> str:
    """The answer-format instruction that the task puts after its questions, if it says so.

    The request does not hold it. The task's configuration does: `doc_to_visual` is its method.
    """
    configured = getattr(doc_to_visual, "__self__", None)
    specific = getattr(configured, "lmms_eval_specific_kwargs", None) or {}
    return specific.get("post_prompt") or ""


def _device(device: str, processes: int) -> str:
    """The loading setting for the harness's --device; makes that GPU the current one."""
    device = str(device)
    if device.startswith("cuda:") and processes == 1:  # accelerate gives each process its own
        torch.cuda.set_device(device)
    return "auto" if device.startswith("cuda") else device
