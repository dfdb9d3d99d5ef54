"""The text of the base model: what is drawn without end, and how all of it becomes ids. Part 4.

A corpus is either a row of texts or a function that begins to draw them, the same ones each time.
What is drawn as it is needed costs nothing before: the run starts at once, and no story is seen
twice but by chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from llmcourse.data import encode_documents
from llmcourse.data.arithmetic import sample
from llmcourse.data.arithmetic.corpus import is_held_out
from llmcourse.data.tales.simulate import sample_text
from llmcourse.tokenizers import BPETokenizer

Documents = Sequence[str] | Callable[[], Iterator[str]]
Ids = Callable[[], Iterator[list[int]]]


def stories(held_out: frozenset[str], seed: int) -> Iterator[str]:
    """Stories of the village without end, those that are held out left out."""
    rng = random.Random(f"base tales {seed}")
    while True:
        story = sample_text(rng)
        if story not in held_out:
            yield story


def problems(levels: Sequence[int], seed: int) -> Iterator[str]:
    """Problems with worked steps without end, each level as often; no held-out calculation."""
    rng = random.Random(f"base arithmetic {seed}")
    while True:
        [problem] = sample(1, rng.choice(levels), rng)
        if not is_held_out(problem):
            yield problem.text


def first_bytes(documents: Iterable[str], size: int) -> Iterator[str]:
    """Whole documents from the start, until there are at least `size` bytes of them."""
    total = 0
    for document in documents:
        if total >= size:
            return
        total += len(document.encode("utf-8"))
        yield document


def encode(documents: Iterable[str], tokenizer: BPETokenizer) -> list[list[int]]:
    """Ids between two end-of-text tokens: the first says that a text begins."""
    return encode_documents(documents, tokenizer, end_of_text=True, start_of_text=True)


def encoded(documents: Documents, tokenizer: BPETokenizer) -> list[list[int]] | Ids:
    """`encode` for texts; for a function that draws texts, one that draws ids."""
    if not callable(documents):
        return encode(documents, tokenizer)
    return lambda: (encode([text], tokenizer)[0] for text in documents())
