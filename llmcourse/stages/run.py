"""A stage in the making: what a recipe hands to whoever carries it out. Part 4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llmcourse.model import Transformer
from llmcourse.tokenizers import Tokenizer
from llmcourse.train import StepRecord


@dataclass(frozen=True)
class Run:
    """Everything made, nothing trained yet; each `next(run.updates)` is one update of `run.model`.

    The same recipe on the same corpora gives the same updates: all randomness comes from its seed.
    """

    model: Transformer
    tokenizer: Tokenizer
    updates: Iterator[StepRecord]  # ends after `n_updates`
    n_updates: int
    facts: dict[str, Any] = field(default_factory=dict)  # JSON-ready: corpora, floor ...
