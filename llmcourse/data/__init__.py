"""Text, and how it becomes batches. Part 2.

    from llmcourse.data import load_corpus          # load_corpus("docs") and others
    from llmcourse.data import document_aligned     # and the other ways to cut batches
    from llmcourse.data import tales                # the village

Corpora and tales need no torch; the batches do. So that a program which only wants text need not
wait for torch, the names of `llmcourse.data.batches` are fetched when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmcourse.data.corpora import CORPORA, Corpus, load_corpus

if TYPE_CHECKING:
    from llmcourse.data.batches import (
        IGNORE_INDEX,
        Batch,
        document_aligned,
        encode_documents,
        padding_share,
        sliding_window,
        windows,
    )

__all__ = [
    "CORPORA",
    "IGNORE_INDEX",
    "Batch",
    "Corpus",
    "document_aligned",
    "encode_documents",
    "load_corpus",
    "padding_share",
    "sliding_window",
    "windows",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from llmcourse.data import batches

        return getattr(batches, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
