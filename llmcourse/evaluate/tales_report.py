"""What a model knows of the village: its gap to the entropy floor, and its own stories judged.

Taught in Part 2. The floor is the expected loss of the process that wrote the stories, which no
model can beat; the verifier knows whether a sentence is grammatical and whether it can follow the
sentences before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmcourse.data import tales
from llmcourse.evaluate.language import Score, score_documents
from llmcourse.generate import Sampling, generate_text
from llmcourse.model import Transformer
from llmcourse.tokenizers import END_OF_TEXT, Tokenizer


@dataclass(frozen=True)
class TalesReport:
    """One model on the village tales. Printing it gives a few lines."""

    score: Score  # on held-out stories, ends included
    floor_nats_per_byte: float  # of the same stories, under the true process
    stories: tuple[str, ...]  # what the model wrote
    sentences: int  # finished sentences in them
    grammatical: int  # of those sentences
    consistent: int  # stories that are finished and in which every sentence can follow the others

    @property
    def gap_nats_per_byte(self) -> float:
        return self.score.nats_per_byte - self.floor_nats_per_byte

    @property
    def relative_gap(self) -> float:
        """The gap as a share of the floor."""
        return self.gap_nats_per_byte / self.floor_nats_per_byte

    @property
    def grammatical_share(self) -> float:
        return self.grammatical / max(1, self.sentences)

    @property
    def consistent_share(self) -> float:
        return self.consistent / max(1, len(self.stories))

    def __str__(self) -> str:
        return (
            f"loss          {self.score.nats_per_byte:.4f} nats per byte\n"
            f"floor         {self.floor_nats_per_byte:.4f}\n"
            f"gap           {self.gap_nats_per_byte:.4f} ({self.relative_gap:.1%} of the floor)\n"
            f"grammatical   {self.grammatical} of {self.sentences} sentences "
            f"({self.grammatical_share:.1%})\n"
            f"consistent    {self.consistent} of {len(self.stories)} stories "
            f"({self.consistent_share:.1%})"
        )


def tales_report(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    n_stories: int = 64,
    generator: torch.Generator | None = None,
    sampling: Sampling | None = None,
) -> TalesReport:
    """Score `model` on held-out stories and judge `n_stories` that it writes from nothing.

    Args:
        model: trained on stories with the end-of-text token on both sides.
        tokenizer: has an end-of-text token.
        texts: held-out stories of the village.
        n_stories: how many to sample, all in one batch.
        generator: source of the sampling's randomness.
        sampling: None is the model's own distribution, which is what its loss speaks of.

    Raises:
        ValueError: no texts, or a story longer than the model's context.
    """
    score = score_documents(model, tokenizer, texts)
    floor = tales.entropy_floor(texts).nats / score.bytes
    stories = write_stories(model, tokenizer, n_stories, generator, sampling)
    verdicts = [tales.verify(story) for story in stories]
    return TalesReport(
        score=score,
        floor_nats_per_byte=floor,
        stories=tuple(stories),
        sentences=sum(verdict.n_sentences for verdict in verdicts),
        grammatical=sum(verdict.grammatical_sentences for verdict in verdicts),
        consistent=sum(verdict.complete for verdict in verdicts),
    )


def write_stories(
    model: Transformer,
    tokenizer: Tokenizer,
    n_stories: int,
    generator: torch.Generator | None = None,
    sampling: Sampling | None = None,
) -> list[str]:
    """Stories from nothing: only the end-of-text token, which begins every story, is given."""
    return generate_text(
        model,
        tokenizer,
        [END_OF_TEXT] * n_stories,
        model.config.context_length - 1,
        sampling=sampling,
        stop=(END_OF_TEXT,),
        generator=generator,
    )
