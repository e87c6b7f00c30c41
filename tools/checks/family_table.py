"""Every family beside the library, on a tiny random model of it: a table.

    python -m tools.checks.family_table [TYPE ...]

Runs on the transformers that is there. Knows the slow answers of `testbed`; holds nothing to a
limit, which tests do.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import transformers

from laser_core.models.chat import Stream
from laser_core.settings import DecodeSettings, PromptSettings
from laser_core.steps.attention import read_attention
from laser_core.steps.decode import decode
from tools.benchmarks.speed.count import flops, peak_bytes
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import eager_rows, library_inputs
from tools.testbed.tiny import AVAILABLE, library_ids

QUESTION = "what colour is the square ?"
SIDE, LARGE_SIDE = 84, 448  # pixels of a square picture, to compare and to weigh
TOKENS = 8
HEAD = (
    "| type | rows: largest error to eager | prompt = processor | tokens = generate() "
    "| operations, both branches / plain | peak memory, both branches / plain |"
)


def row(model_type: str) -> str:
    lvlm, picture = lvlm_of(model_type), noise_picture((SIDE, SIDE))
    asked, free = lvlm.branch_prompts(lvlm.encode(picture), QUESTION, PromptSettings())
    maps = read_attention(lvlm, picture, QUESTION)
    pairs = ((maps.with_query, asked), (maps.without_query, free))
    error = max(
        float((ours.flatten(2) - eager_rows(lvlm, prompt)).abs().max()) for ours, prompt in pairs
    )
    plain = DecodeSettings(max_tokens=TOKENS, alpha=0.0)
    answer = decode(lvlm, Stream(asked), Stream(free), plain)
    generated = lvlm.model.generate(
        **library_inputs(lvlm, asked), max_new_tokens=TOKENS, do_sample=False
    )
    same = [token.token_id for token in answer.tokens] == generated[0, asked.length :].tolist()
    text = f"{QUESTION}\n{lvlm.family.instruction}"
    written = asked.input_ids.tolist() == library_ids(model_type, picture, text)
    work, memory = (f"{ratio:.3f}" for ratio in weighed(model_type))
    cells = (model_type, f"{error:.1e}", yes(written), yes(same), work, memory)
    return f"| {' | '.join(cells)} |"


def weighed(model_type: str) -> tuple[float, float]:
    """Operations and peak memory of reading both branches, by those of the library's forward."""
    lvlm = lvlm_of(model_type, fresh=True, vision=LARGE_SIDE)
    inputs = lvlm.encode(noise_picture((LARGE_SIDE, LARGE_SIDE)))
    asked, _ = lvlm.branch_prompts(inputs, QUESTION, PromptSettings())

    def ours() -> Any:
        lvlm.release()
        return read_attention(lvlm, inputs, QUESTION)

    @torch.no_grad()
    def plain() -> Any:
        return lvlm.model(**library_inputs(lvlm, asked), logits_to_keep=1)

    return flops(ours) / flops(plain), peak_bytes(ours, "cpu") / peak_bytes(plain, "cpu")


def yes(equal: bool) -> str:
    return "yes" if equal else "NO"


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, tiny random models on the CPU\n")
    print(HEAD)
    print("|---" * HEAD.count(" | ") + "|---|")
    for name in names or AVAILABLE:
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
