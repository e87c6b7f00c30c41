"""What an exported model answers on held-out items: plain, with the oracle's crop, with both.

    python -m tools.demo_model.evaluate --model laser_core/demo_model --split test --items 1050

Greedy, first word only (every held-out answer is one word). The oracle's crop is a window of half
the picture's side around the evidence, larger where a relation needs it; items without evidence
keep the whole picture. This measures the model; LASER itself is measured through `laser_core`.
"""

import argparse
import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from .architectures import ARCHITECTURES
from .questions import INSTRUCTION, VOCABULARY, encode
from .scenes import WHOLE, Window, cut_view
from .world import HeldOutItem, held_out_items, oracle_window

INPUTS = ("plain", "crop", "picture + crop")


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    items: Sequence[HeldOutItem],
    answer_input: str,
    batch: int = 50,
) -> list[str]:
    """The first word of each greedy answer to question + instruction."""
    architecture = ARCHITECTURES[model.config.model_type]
    words = list(VOCABULARY)
    opening = architecture.answer_opening
    prompts = [[*encode(f"{item.question} {INSTRUCTION}"), *opening] for item in items]
    length = max(len(prompt) for prompt in prompts)
    found = []
    for start in range(0, len(items), batch):
        part = slice(start, start + batch)
        views = [_views(item, answer_input) for item in items[part]]
        features = [
            architecture.features(model, torch.from_numpy(np.stack(pictures)))
            for pictures in zip(*views, strict=True)
        ]
        tokens = torch.zeros(len(views), 1, length, dtype=torch.int64)
        for row, prompt in enumerate(prompts[part]):
            tokens[row, 0, : len(prompt)] = torch.tensor(prompt)
        hidden = architecture.decode(model, torch.cat(features, 1), tokens)[:, 0]
        last = torch.tensor([len(prompt) - 1 for prompt in prompts[part]])
        logits = model.lm_head(hidden[torch.arange(len(last)), last])
        found += [words[i] for i in logits[:, : len(words)].argmax(-1).tolist()]
    return found


def _views(item: HeldOutItem, answer_input: str) -> list[np.ndarray]:
    box = oracle_window(item)
    window = WHOLE if box is None else Window(box[0], box[1], box[2] - box[0])
    windows = {"plain": [WHOLE], "crop": [window], "picture + crop": [WHOLE, window]}
    return [np.asarray(cut_view(item.picture, w)) for w in windows[answer_input]]


def table(items: Sequence[HeldOutItem], right: dict[str, np.ndarray]) -> str:
    """A Markdown table: accuracy in per cent by type, by size, by existence kind, by prior."""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for index, item in enumerate(items):
        groups["all"].append(index)
        groups[f"type: {item.type}"].append(index)
        groups[f"size: {item.size_class}"].append(index)
        if item.type == "digit":
            groups[f"digit, {item.size_class}"].append(index)
        if item.exist_kind:
            groups[f"exist, no, {item.exist_kind}"].append(index)
        if item.conflict is not None:
            groups["against the prior" if item.conflict else "with the prior"].append(index)
    lines = [f"| held-out items | n | {' | '.join(right)} |", "|---" * (2 + len(right)) + "|"]
    for name in sorted(groups, key=lambda name: (name != "all", name)):
        rows = groups[name]
        cells = (f"{100 * hits[rows].mean():.1f}" for hits in right.values())
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--items", type=int, default=1050)
    options = parser.parse_args()
    model = AutoModelForImageTextToText.from_pretrained(options.model, dtype=torch.float32)
    items = held_out_items(options.split, options.items)
    truth = [item.answer for item in items]
    right = {
        name: np.array([a == b for a, b in zip(answers(model, items, name), truth, strict=True)])
        for name in INPUTS
    }
    print(table(items, right))


if __name__ == "__main__":
    main()
