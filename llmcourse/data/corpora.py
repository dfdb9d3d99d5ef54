"""One name for each corpus: `load_corpus("docs")`. Part 2.

| name          | text                                   | needs          |
|---------------|----------------------------------------|----------------|
| `docs`        | Python's language reference            | nothing        |
| `code`        | the standard library's sources         | nothing        |
| `tales`       | made-up stories from a small village   | nothing        |
| `arithmetic`  | sums and word problems, worked out     | nothing        |
| `file:PATH`   | your own file or folder                | the file       |
| `shakespeare` | a megabyte of plays                    | a network, once|
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

from llmcourse.data.arithmetic.corpus import arithmetic_corpus
from llmcourse.data.code import code_corpus
from llmcourse.data.corpus import Corpus, hash_position
from llmcourse.data.docs import docs_corpus
from llmcourse.data.shakespeare import shakespeare_corpus
from llmcourse.data.textfiles import file_corpus


def tales_corpus(
    *, n_stories: int = 10_000, seed: int = 0, n_validation: int | None = None
) -> Corpus:
    """Stories from the village, each a document.

    Validation is drawn with a seed of its own, and is a fair sample: it is not thinned out, or its
    exact floor would no longer be the one to compare with. Where a short story happens to come up
    in both draws it is the training part that gives it up, so `train` can be a few stories short.

    Args:
        n_stories: stories drawn for training.
        seed: another seed, other stories.
        n_validation: stories held out; by default a tenth of `n_stories`, at least one.

    Raises:
        ValueError: a number of stories is not positive.
    """
    from llmcourse.data import tales

    n_validation = max(1, n_stories // 10) if n_validation is None else n_validation
    for name, value in (("n_stories", n_stories), ("n_validation", n_validation)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    # Seeds from a hash lie far apart: seeds 0 and 1 of the same kind could share stories where the
    # sampler counts on from its seed.
    validation = tales.sample_stories(n_validation, seed=_seed("tales validation", seed))
    held_out = set(validation)
    drawn = tales.sample_stories(n_stories, seed=_seed("tales train", seed))
    train = tuple(story for story in drawn if story not in held_out)
    source = f"Stories from the village, seed {seed}; made by this package, under its licence."
    return Corpus("tales", train, tuple(validation), source)


CORPORA: dict[str, Callable[..., Corpus]] = {
    "docs": docs_corpus,
    "code": code_corpus,
    "tales": tales_corpus,
    "arithmetic": arithmetic_corpus,
    "shakespeare": shakespeare_corpus,
}


def load_corpus(name: str, **options: object) -> Corpus:
    """The corpus of that name, the same documents every time.

    Args:
        name: "docs", "code", "tales", "arithmetic", "shakespeare", or "file:" and the path of a
            text file or of a folder with .txt, .md or .py files.
        options: "code" takes `max_bytes`; "tales" takes `n_stories`, `seed` and `n_validation`;
            "arithmetic" takes `n_problems`, `difficulty`, `seed` and `n_validation`;
            "shakespeare" takes `url`.

    Raises:
        ValueError: no such corpus, or no such option; the message names the nearest there is.
        CorpusError: the text is missing, empty, damaged, or no text.
        OfflineError: it must be fetched, and cannot be.
    """
    if not isinstance(name, str):
        raise ValueError(f"a corpus is named by a str, got {type(name).__name__}")
    if name.startswith("file:"):
        _check_options(name, options, allowed=())
        return file_corpus(name.removeprefix("file:"))
    if name not in CORPORA:
        near = difflib.get_close_matches(name.lower(), CORPORA, n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(map(repr, CORPORA))
        raise ValueError(f"there is no corpus {name!r}.{guess} There are: {known}, 'file:PATH'")
    loader = CORPORA[name]
    _check_options(name, options, allowed=tuple(inspect.signature(loader).parameters))
    return loader(**options)


def _check_options(name: str, options: dict[str, object], allowed: tuple[str, ...]) -> None:
    for option in options:
        if option not in allowed:
            choices = ", ".join(allowed) or "none"
            raise ValueError(f"corpus {name!r} has no option {option!r}; its options: {choices}")


def _seed(purpose: str, seed: int) -> int:
    return int(hash_position(f"{purpose} {seed}") * 2**53)
