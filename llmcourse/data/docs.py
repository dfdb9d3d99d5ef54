"""The corpus "docs": Python's own language reference, as it ships inside every Python. Part 2.

`pydoc_data.topics` is what `help("for")` prints: some eighty topics, real English with real code,
on every machine that runs Python and in no need of a download.

It holds a trap worth meeting early. The topics overlap: "compound" contains the whole of "if",
"while", "for", "try" and "with"; "specialnames" contains "customization" and more. About a fifth of
all bytes are there twice. Split such a text naively and a good part of the validation text sits,
word for word, in the training text: the validation loss then measures memory. So paragraphs that
occur more than once are kept once, in the longest topic that has them, *before* anything is split.

The text differs a little between Python releases, and with it the fingerprint.
"""

from __future__ import annotations

import platform
import re

from llmcourse.data.corpus import Corpus, held_out

COPY_LENGTH = (
    40  # characters: a shorter paragraph ("For example:") may repeat, it gives nothing away
)
MIN_LENGTH = 200  # characters: what is left of a topic must be worth reading
MIN_SHARE = 0.5  # of a topic that must be left, or the remainder is rubble
LONGEST_HELD_OUT = 16_000  # characters: one huge topic must not make up the whole validation part
HELD_OUT_SHARE = 0.25  # of the topics; as the huge ones stay in training, 10% of the bytes


def docs_corpus() -> Corpus:
    """The language reference, without repetitions, about a tenth of it held out by topic.

    A topic is held out when it is at most 16,000 characters long and its name hashes into the
    lowest quarter: the same topics on every release that has them.
    """
    from pydoc_data.topics import topics

    train, validation = [], []
    for name, text in sorted(without_repetitions(topics).items()):
        hold_out = len(text) <= LONGEST_HELD_OUT and held_out(f"docs:{name}", HELD_OUT_SHARE)
        (validation if hold_out else train).append(text)
    source = (
        f"The language reference inside Python {platform.python_version()} (pydoc_data.topics),"
        " repeated paragraphs kept once, held out by topic;"
        " Python Software Foundation License, version 2."
    )
    return Corpus("docs", tuple(train), tuple(validation), source)


def without_repetitions(topics: dict[str, str]) -> dict[str, str]:
    """Topics in which no paragraph of `COPY_LENGTH` characters or more occurs twice.

    The longest topic goes first and stays whole; a later one loses the paragraphs that were there
    already. One that loses more than half is dropped: it was contained in a longer one, and what
    remains of it are headings and loose ends.
    """
    seen: set[str] = set()
    unique: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        kept: list[str] = []
        new: set[str] = set()
        for paragraph in paragraphs(topics[name]):
            key = normal_form(paragraph)
            if len(key) >= COPY_LENGTH:
                if key in seen or key in new:
                    continue
                new.add(key)
            kept.append(paragraph)
        text = "\n\n".join(kept)
        if len(text) >= MIN_LENGTH and len(text) >= MIN_SHARE * len(topics[name]):
            unique[name] = text
            seen |= new
    return unique


def paragraphs(text: str) -> list[str]:
    """The parts between blank lines, indentation kept: in the reference, it marks code."""
    parts = re.split(r"\n(?:[ \t]*\n)+", text.strip("\n"))
    return [part.rstrip() for part in parts if part.strip()]


def normal_form(paragraph: str) -> str:
    """What two copies of a paragraph have in common.

    The reference breaks lines elsewhere where it indents deeper, and numbers its footnotes anew in
    each topic: neither makes a paragraph new.
    """
    return re.sub(r"\s+", " ", re.sub(r"\[\d+\]", "", paragraph)).strip()
