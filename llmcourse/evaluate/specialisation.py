"""Do experts specialise? Which expert takes which kind of token, and could chance do it too?

Taught in Part 5. A table of experts by token classes always shows something: a few thousand tokens
dealt at random leave no row quite even. So the table comes with a number, the mutual information
between a token's class and the expert that takes it, and the number with two null hypotheses:

- *shuffled tokens*: the classes are dealt anew among the tokens. More information than that says
  that routing has to do with the text at all. Any router that looks at its input passes, an
  untrained one too: the same word always goes to much the same expert.
- *shuffled words*: every word keeps its experts and the classes are dealt anew among the words of
  the vocabulary. More information than that says that words of one class go together; a router that
  only knows words apart does not pass.

Shapes: L layers, N tokens, E experts, c classes, V words (distinct token ids), S shufflings.

Sources: Mixtral, arXiv 2401.04088, section 5, which found experts divided by syntax rather than by
subject; OpenMoE, arXiv 2402.01739, section 4, by token identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcourse.model import Transformer
from llmcourse.model.routing import record_routing


@dataclass(frozen=True)
class Routed:
    """What each layer did with some tokens."""

    chosen: Tensor  # (L, N, E) bool: which experts wanted each token, dropped or not
    ids: Tensor  # (N,) int64
    classes: Tensor  # (N,) int64

    def __post_init__(self) -> None:
        n = self.ids.shape[0]
        if self.chosen.ndim != 3 or self.chosen.shape[1] != n or self.classes.shape != (n,):
            raise ValueError(
                f"chosen must be (L, N, E) with N = {n} ids and as many classes, got "
                f"{tuple(self.chosen.shape)} and {tuple(self.classes.shape)}"
            )


@dataclass(frozen=True)
class Specialisation:
    """One layer's experts by token class, and how much more than chance that says."""

    counts: Tensor  # (E, c) int64 assignments
    information: float  # nats, between class and expert of an assignment
    shuffled_tokens: tuple[float, ...]  # (S,) the same, classes dealt anew among the tokens
    word_information: float  # nats, each word having its most frequent class
    shuffled_words: tuple[float, ...]  # (S,) the same, classes dealt anew among the words

    @property
    def shares(self) -> Tensor:
        """(E, c) share of each class that each expert takes; columns sum to 1, or 0 if empty."""
        counts = self.counts.double()
        return counts / counts.sum(0, keepdim=True).clamp(min=1)

    @property
    def by_text(self) -> bool:
        """Whether routing depends on the text: more information than any shuffling of tokens."""
        return self.information > max(self.shuffled_tokens)

    @property
    def by_class(self) -> bool:
        """Whether words of a class go together: more than any shuffling of the words."""
        return self.word_information > max(self.shuffled_words)


@torch.no_grad()
def route(
    model: Transformer, documents: Sequence[tuple[Sequence[int], Tensor]], skip: int = 0
) -> Routed:
    """Where every sparse layer sends the tokens of some documents, each read on its own.

    Args:
        model: with at least one sparse layer; its routers decide as they do in evaluation.
        documents: (ids, classes) of each: n ids and (n,) classes; at most the model's context.
        skip: so many tokens at the start of each are read but not counted.

    Raises:
        ValueError: no document, no sparse layer, or classes of another number than ids.
    """
    if not documents:
        raise ValueError("there are no documents to route")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    chosen, ids, classes = [], [], []
    try:
        for tokens, kinds in documents:
            if len(tokens) != len(kinds):
                raise ValueError(f"{len(tokens)} ids, but classes of {len(kinds)} tokens")
            row = torch.as_tensor(tokens, dtype=torch.int64)
            with record_routing(model) as routings:
                model(row[None].to(device))
            if not routings:
                raise ValueError("the model has no sparse layer; nothing in it is routed")
            tables = [routing.wanted_table().cpu()[skip:] for routing in routings]
            chosen.append(torch.stack(tables))
            ids.append(row[skip:])
            classes.append(torch.as_tensor(kinds, dtype=torch.int64)[skip:])
    finally:
        model.train(was_training)
    return Routed(torch.cat(chosen, dim=1), torch.cat(ids), torch.cat(classes))


def class_counts(chosen: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """Assignments by expert and class.

    Args:
        chosen: (N, E) bool, or counts.
        classes: (N,) int64, in [0, n_classes).
        n_classes: c.

    Returns:
        (E, c) int64.

    Raises:
        ValueError: not one class per token, or one that does not exist.
    """
    if classes.shape != chosen.shape[:1]:
        raise ValueError(f"classes of {len(classes)} tokens for {chosen.shape[0]} that were routed")
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < n_classes:
        raise ValueError(
            f"classes run from {int(classes.min())} to {int(classes.max())}; they must lie in "
            f"0 to {n_classes - 1}"
        )
    table = torch.zeros(n_classes, chosen.shape[1], dtype=torch.int64)
    return table.index_add_(0, classes, chosen.to(torch.int64)).T


def mutual_information(counts: Tensor) -> float:
    """How much a class says about the expert: Σ p(e, c) ln(p(e, c) / (p(e) p(c))), in nats.

    0 if no expert prefers any class; at most the smaller of ln E and the entropy of the classes.

    Args:
        counts: (E, c).

    Raises:
        ValueError: nothing was counted.
    """
    total = counts.sum()
    if total == 0:
        raise ValueError("there are no assignments to take information from")
    p = counts.double() / total
    apart = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    return float(torch.special.xlogy(p, p / apart.clamp(min=1e-300)).sum().clamp(min=0))


def specialisation(
    routed: Routed, n_classes: int, generator: torch.Generator, samples: int = 100
) -> list[Specialisation]:
    """Each layer's table, with its information and what shuffling leaves of it.

    Args:
        routed: of `route`.
        n_classes: c.
        generator: of the shufflings; all layers are compared with the same ones.
        samples: S; with 100, chance exceeds all of them once in 101 times.

    Raises:
        ValueError: fewer than one shuffling, or as `class_counts` and `mutual_information`.
    """
    if samples < 1:
        raise ValueError(f"samples={samples} must be at least 1")
    classes = routed.classes
    _, words = routed.ids.unique(return_inverse=True)  # (N,) in [0, V)
    of_word = _usual_class(words, classes, n_classes)  # (V,)
    token_orders = [torch.randperm(len(classes), generator=generator) for _ in range(samples)]
    word_orders = [torch.randperm(len(of_word), generator=generator) for _ in range(samples)]
    found = []
    for chosen in routed.chosen:
        counts = class_counts(chosen, classes, n_classes)
        # (V, E): what happens to a word does not change when its class does.
        by_word = class_counts(chosen, words, len(of_word)).T
        found.append(
            Specialisation(
                counts=counts,
                information=mutual_information(counts),
                shuffled_tokens=tuple(
                    mutual_information(class_counts(chosen, classes[order], n_classes))
                    for order in token_orders
                ),
                word_information=mutual_information(class_counts(by_word, of_word, n_classes)),
                shuffled_words=tuple(
                    mutual_information(class_counts(by_word, of_word[order], n_classes))
                    for order in word_orders
                ),
            )
        )
    return found


def _usual_class(words: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """(V,) the class that each word has most often."""
    n_words = int(words.max()) + 1
    cells = torch.bincount(words * n_classes + classes, minlength=n_words * n_classes)
    return cells.view(n_words, n_classes).argmax(1)
