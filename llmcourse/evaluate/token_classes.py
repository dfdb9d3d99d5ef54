"""What kind of word a token belongs to: names, verbs, things, digits, keywords and so on.

Taught in Part 5, which asks whether the experts of a mixture divide the kinds among themselves. The
village has a closed vocabulary, so there the kind of a word is looked up: a lexicon, not a parser,
and a word that may be two things (`the fine day`, `danced by the well`) has the kind under which
`village_lexicon` lists it first. Python is read with a small scanner; what stands in
a comment or in quotes is plain words, as in prose.

A token takes the class of the character it begins with, spaces skipped: every piece of a name is a
piece of a name, whatever the tokenizer. The class is that of the token an expert reads, not of the
one that the model is to predict.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor

from llmcourse.data.tales import vocabulary
from llmcourse.tokenizers import Tokenizer

CLASSES = (
    "names",
    "verbs",
    "objects",
    "places",
    "describing words",
    "function words",
    "plain words",
    "identifiers",
    "code keywords",
    "digits",
    "operators",
    "punctuation",
    "spaces",
    "text ends",
)
KINDS = ("tales", "arithmetic", "docs", "code")

# What the sentences of the village say besides the words of its free classes.
_VERBS = (
    "am argue asked be been began came could danced felt find found gave give grabbed had help "
    "hid hugged hurried looked lost made mend mended miss peered played poured put ran rested "
    "rose said sang sat saw shared showed slept smelled swept thank took wanted was went were "
    "wished would is are did do came go goes has have laughed smiled learned learn eat ate "
    "broke fell began turned stood "
)
_FUNCTION = (
    "a an the he she it they him her his them its my me you i we us our your of in on at by to "
    "for from with without under behind about up out over past along and or but not no yes oh "
    "please why what who perhaps then there that this these those some one so very as if than "
    "when while all again always once soon next later after before now how many much each "
)
_MORE_OBJECTS = (
    "smoke wool moss wood pine straw soap hay clover thyme earth grass ginger lilac air wind "
    "sun rain snow stars cat dog home bed bow wink laugh nod grin smile thanks pleasure child "
    "friends food "
)

_FUNCTION_WORDS = frozenset(_FUNCTION.split())
_PROSE = re.compile(r"(?P<space>\s+)|(?P<digit>\d)|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)?)|(?P<other>.)")
_CODE = re.compile(
    r"""(?P<space>\s+)
    |(?P<comment>\#[^\n]*)
    |(?P<string>[rbfuRBFU]{0,2}(?:\"{3}.*?(?:\"{3}|\Z)|'{3}.*?(?:'{3}|\Z)
        |"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))
    |(?P<number>\d[\w.]*)
    |(?P<word>[^\W\d]\w*)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPERATORS = frozenset("+-*/=<>%&|^~@")


def class_number(name: str) -> int:
    """The place of a class in CLASSES."""
    return CLASSES.index(name)


@cache
def village_lexicon() -> dict[str, str]:
    """Lower-case word -> class, for every word that the village's lists hold."""
    words = vocabulary.WORDS
    listed: dict[str, Sequence[str]] = {
        "names": [person.name for person in vocabulary.PEOPLE],
        "objects": [
            *(thing.noun for thing in vocabulary.THINGS),
            *(food.noun for food in vocabulary.FOODS),
            *_split(words, "leaf", "bag", "glue", "tune", "smile", "a_hare", "stars", "mint"),
            *vocabulary.TRADES,
            *_MORE_OBJECTS.split(),
        ],
        "places": [
            *(place.name for place in vocabulary.PLACES),
            *(spot.noun for place in vocabulary.PLACES for spot in place.spots),
            *_split(words, "path", "fields"),
            "village",
        ],
        "verbs": [
            *_split(words, "sat", "quarrelled", "came_by", "went", "looked", "said", "sighed"),
            *_split(words, "hummed", "shone", "fell", "blew", "dog_barked", "ran_past"),
            *_VERBS.split(),
        ],
        "describing words": [
            *vocabulary.ADJECTIVES,
            *vocabulary.WEATHERS,
            *_split(words, *vocabulary.MOODS, "very", "warm", "jolly", "muddy", "a_small"),
            *_split(words, "gladly", "sadly", "coldly", "bright", "merry", "slow", "lovely"),
            *_split(words, "long", "quiet", "soundly", "badly"),
            *("broken", "sorry", "missing", "hungry"),
        ],
        "plain words": [*vocabulary.TIMES, *_split(words, "day", "then")],
    }
    found: dict[str, str] = dict.fromkeys(_FUNCTION.split(), "function words")
    for kind, some in listed.items():
        for word in some:
            found.setdefault(word.lower(), kind)
    return found


def _split(words: dict[str, tuple[str, ...]], *names: str) -> list[str]:
    return [word for name in names for phrase in words[name] for word in phrase.split()]


def spans(text: str, kind: str) -> Iterator[tuple[int, int, str]]:
    """(start, stop, class) of every word, number, sign and space of a text, in order, gapless.

    Args:
        kind: the corpus: "tales", "arithmetic", "docs" or "code".

    Raises:
        ValueError: no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there are no token classes for {kind!r}; choose one of {list(KINDS)}")
    return _code_spans(text) if kind == "code" else _prose_spans(text, kind, 0)


def _prose_spans(text: str, kind: str, offset: int) -> Iterator[tuple[int, int, str]]:
    village = village_lexicon() if kind == "tales" else {}
    for match in _PROSE.finditer(text):
        group, word = match.lastgroup, match.group().lower()
        if group == "word":
            name = village.get(word.removesuffix("'s"), "plain words")
            if not village and word in _FUNCTION_WORDS:
                name = "function words"
        else:
            name = _sign(word) if group == "other" else f"{group}s"
        yield match.start() + offset, match.end() + offset, name


def _code_spans(text: str) -> Iterator[tuple[int, int, str]]:
    for match in _CODE.finditer(text):
        group, word = match.lastgroup, match.group()
        if group in ("comment", "string"):
            yield from _prose_spans(word, "docs", match.start())
            continue
        if group == "word":
            name = "code keywords" if keyword.iskeyword(word) else "identifiers"
        elif group == "number":
            name = "digits"
        else:
            name = "spaces" if group == "space" else _sign(word)
        yield match.start(), match.end(), name


def _sign(character: str) -> str:
    return "operators" if character in _OPERATORS else "punctuation"


def token_classes(text: str, ids: Sequence[int], tokenizer: Tokenizer, kind: str) -> Tensor:
    """The class of each token of a text.

    Args:
        text: the text.
        ids: its N tokens, as `tokenizer.encode(text)` gives them.
        tokenizer: that made them.
        kind: the corpus the text is from.

    Returns:
        (N,) int64, places in CLASSES.

    Raises:
        ValueError: the tokens do not spell the text, or no such kind.
    """
    pieces = [tokenizer.token_bytes(int(i)) for i in ids]
    raw = text.encode("utf-8")
    if b"".join(pieces) != raw:
        raise ValueError("the tokens do not spell the text; give the ids that encode(text) returns")
    of_byte = [0] * len(raw)  # class at each byte
    # Characters of several bytes: every byte has its character's class.
    ends = list(accumulate((len(c.encode("utf-8")) for c in text), initial=0))
    for start, stop, name in spans(text, kind):
        of_byte[ends[start] : ends[stop]] = [class_number(name)] * (ends[stop] - ends[start])
    found, place = [], 0
    for piece in pieces:
        inner = len(piece) - len(piece.lstrip())  # " cat" is a cat; "\n    " is space
        found.append(of_byte[place + (inner if inner < len(piece) else 0)])
        place += len(piece)
    return torch.tensor(found, dtype=torch.int64)
