"""Official scoring rules of benchmarks, each 0..1 for an answer. Knows texts only.

TextVQA and other VQA: https://visualqa.org/evaluation.html, as EvalAI's processor does it. POPE:
arXiv 2305.10355. V*: the letter, as lmms-eval's task takes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERS = dict(
    zip(
        "none zero one two three four five six seven eight nine ten".split(),  # noqa: SIM905
        "0 0 1 2 3 4 5 6 7 8 9 10".split(),  # noqa: SIM905
        strict=True,
    )
)
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# Written without one of their apostrophes, these are put right
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
_WITHOUT_ONE = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS
    for at, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # sic
_LETTER = (
    r"^([A-D])\s*[\.)\]]*",
    r"(?:THE\s+)?(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*(?:\.|\)|])",
    r"(?:^|\s)([A-D])(?:\s|$)",
)


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """VQA accuracy: the mean over leaving one of the people's answers out of min(1, equal / 3)."""
    said, wanted = normalised(answer), [normalised(truth) for truth in truths]
    equal = wanted.count(said)
    left_out = [min(1.0, (equal - (truth == said)) / 3) for truth in wanted]
    return sum(left_out) / len(left_out)


def yes_or_no(answer: str, truths: Sequence[str]) -> float:
    """POPE: whether the answer is the true word and nothing else, a final full stop aside."""
    said = answer.lower().strip().rstrip(".")
    return float(said == truths[0].lower().strip())


def letter(answer: str, truths: Sequence[str]) -> float:
    """V*: whether the option that the answer names is the true one."""
    text = answer.strip().upper()
    found = next(filter(None, (re.search(pattern, text) for pattern in _LETTER)), None)
    if found is None:
        letters = re.findall(r"[A-D]", text)
        return float(len(letters) == 1 and letters[0] == truths[0].strip().upper())
    return float(found[1] == truths[0].strip().upper())


def same_words(answer: str, truths: Sequence[str]) -> float:
    """Whether the answer is one of the true ones, both normalised; for data of one's own."""
    return float(normalised(answer) in [normalised(truth) for truth in truths])


def normalised(answer: str) -> str:
    """An answer as EvalAI's processor compares it."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in _PUNCTUATION:  # what stands beside a blank is dropped, else it becomes one
        beside = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside else " ")
    out = re.sub(r"(?!<=\d)(\.)(?!\d)", "", out)
    words = [_NUMBERS.get(word, word) for word in out.split()]
    return " ".join(_WITHOUT_ONE.get(word, word) for word in words if word not in _ARTICLES)
