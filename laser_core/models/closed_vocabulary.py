"""What a model that knows few words answers to unknown ones. Knows neither pictures nor weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

NAMED_WORDS = 5  # of those a model does not know


@dataclass(frozen=True)
class ClosedVocabulary:
    """What a model that knows few words says to a question with other words.

    example: a question that it knows, {} in place of what the model sees in the picture. Raises
    TypeError unless both are texts.
    """

    message: str
    example: str

    def __post_init__(self) -> None:
        if not isinstance(self.message, str) or not isinstance(self.example, str):
            raise TypeError("message and example of closed_vocabulary must be texts")

    def check(
        self, text: str, tokenizer: Any, harmless: Callable[[str], str], seen: Callable[[], str]
    ) -> None:
        """Raise ValueError, which says what is known, for words that the tokenizer lacks.

        harmless: breaks up control tokens, which are no words a user may say. seen: the model's
        word for what is in the picture, "" if it has none; called only to refuse.
        """
        words = text.split()
        shown = [harmless(word) for word in words]
        read = tokenizer(" ".join(shown), add_special_tokens=False, return_offsets_mapping=True)
        ends = list(accumulate(len(word) + 1 for word in shown))
        unknown = [
            words[bisect_right(ends, start)]
            for token, (start, _) in zip(read["input_ids"], read["offset_mapping"], strict=True)
            if token == tokenizer.unk_token_id
        ]
        if unknown:
            named = dict.fromkeys(word.rstrip("?!.,") or word for word in unknown)
            raise ValueError(self.reply([*named], seen()))

    def reply(self, unknown: Sequence[str], seen: str) -> str:
        short = [word if len(word) <= 40 else word[:37] + "..." for word in unknown[:NAMED_WORDS]]
        words = ", ".join(f'"{word}"' for word in short)
        if len(unknown) > NAMED_WORDS:
            words += f" and {len(unknown) - NAMED_WORDS} more"
        remedy = f"try {self.example.replace('{}', seen)!r}" if seen else "use other words"
        return f"{remedy}: this model does not know {words}. {self.message}"
