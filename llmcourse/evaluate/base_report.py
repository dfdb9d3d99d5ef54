"""What the base model knows: bits per byte of each corpus, its stories, its sums. Part 4.

All text is held out by document, the sums by their calculation. Three of the four kinds of text can
be judged without a second model: a story by the village's verifier and its exact entropy floor, a
sum by working it out. Documentation and code have no floor that anybody knows; their bits per byte
are only to be compared with those of another model on the same text. That text differs a little
between Python releases, so a report says which release it scored.
"""

from __future__ import annotations

import platform
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from llmcourse.data import Corpus
from llmcourse.data.arithmetic import Problem, sample, verify
from llmcourse.data.arithmetic.corpus import is_held_out
from llmcourse.data.batches import document_aligned, encode_documents, windows
from llmcourse.evaluate.language import Score, total_loss
from llmcourse.evaluate.tales_report import TalesReport, tales_report
from llmcourse.generate import Sampling, generate_text
from llmcourse.model import Transformer
from llmcourse.tokenizers import END_OF_TEXT, Tokenizer

LEVELS = (1, 2, 3, 4)
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class SumsScore:
    """Problems of one level, each answered once, by the likeliest token at every step."""

    level: int
    asked: int
    right: int  # with the right answer
    worked: int  # of those, with right steps all the way

    @property
    def share(self) -> float:
        return self.right / self.asked


@dataclass(frozen=True)
class BaseReport:
    """One model on the course's four corpora. Printing it gives a page."""

    python: str  # the release whose docs and code were scored
    same_text: Mapping[str, bool]  # corpus -> whether it is the one that the model was trained on
    scores: Mapping[str, Score]  # corpus -> surprise over its held-out text
    tales: TalesReport
    sums: tuple[SumsScore, ...]

    @property
    def right_share(self) -> float:
        """The share of all problems asked that were answered rightly."""
        return sum(s.right for s in self.sums) / sum(s.asked for s in self.sums)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, JSON-ready, rounded to what a rerun can be held to."""
        t = self.tales
        return {
            "python": self.python,
            "corpora": {
                name: {"bytes": score.bytes, "bits_per_byte": round(score.bits_per_byte, 4)}
                for name, score in self.scores.items()
            },
            "tales": {
                "nats_per_byte": round(t.score.nats_per_byte, 5),
                "floor_nats_per_byte": round(t.floor_nats_per_byte, 5),
                "relative_gap": round(t.relative_gap, 4),
                "stories": len(t.stories),
                "sentences": t.sentences,
                "grammatical": t.grammatical,
                "consistent": t.consistent,
            },
            "sums": {
                str(s.level): {"asked": s.asked, "right": s.right, "worked": s.worked}
                for s in self.sums
            },
        }

    def markdown(self) -> str:
        """The numbers as tables, for the documentation."""
        return as_markdown(self.to_dict())

    def __str__(self) -> str:
        lines = ["held-out text   bits per byte"]
        for name, score in self.scores.items():
            other = "" if self.same_text.get(name, True) else "   (not the release trained on)"
            lines.append(f"  {name:<14}{score.bits_per_byte:.3f}{other}")
        lines += ["", "tales"]
        lines += [f"  {line}" for line in str(self.tales).split("\n")]
        lines += ["", f"sums            {self.right_share:.0%} right"]
        for s in self.sums:
            lines.append(
                f"  level {s.level}       {s.right} of {s.asked} right, {s.worked} with right steps"
            )
        lines += ["", f"docs and code are those of Python {self.python}"]
        return "\n".join(lines)


def as_markdown(numbers: Mapping[str, Any]) -> str:
    """A report's numbers, as `to_dict` gives them, as tables for the documentation."""
    t = numbers["tales"]
    grammatical = f"{t['grammatical']:,} of {t['sentences']:,}"
    rows = ["| held-out text | bytes | bits per byte |", "|---|---:|---:|"]
    rows += [
        f"| `{name}` | {score['bytes']:,} | {score['bits_per_byte']:.3f} |"
        for name, score in numbers["corpora"].items()
    ]
    rows += [
        "",
        "| tales | |",
        "|---|---:|",
        f"| loss, nats per byte | {t['nats_per_byte']:.4f} |",
        f"| exact floor | {t['floor_nats_per_byte']:.4f} |",
        f"| gap, share of the floor | {t['relative_gap']:.1%} |",
        f"| grammatical sentences in sampled stories | {grammatical} |",
        f"| finished and consistent stories | {t['consistent']:,} of {t['stories']:,} |",
        "",
        "| sums, level | asked | right answer | right steps too |",
        "|---:|---:|---:|---:|",
    ]
    for level, score in numbers["sums"].items():
        right, worked = score["right"] / score["asked"], score["worked"] / score["asked"]
        rows.append(f"| {level} | {score['asked']} | {right:.0%} | {worked:.0%} |")
    rows += ["", f"`docs` and `code` are those of Python {numbers['python']}."]
    return "\n".join(rows)


def base_report(
    model: Transformer,
    tokenizer: Tokenizer,
    corpora: Mapping[str, Corpus],
    trained_on: Mapping[str, Mapping[str, str]] | None = None,
    *,
    n_stories: int = 200,
    n_problems: int = 100,
    seed: int = 0,
) -> BaseReport:
    """Score a model on held-out text, let it tell stories and do sums.

    Args:
        model: trained with the end-of-text token on both sides of a document.
        tokenizer: has an end-of-text token.
        corpora: by name, "tales" among them.
        trained_on: the corpora the model was trained on, by name, each with its `fingerprint`.
        n_stories: how many stories it tells.
        n_problems: how many problems it is asked, per level (level 1 has fewer).
        seed: of the stories it tells; the problems are always the same.

    Raises:
        ValueError: no tales among the corpora, or a story longer than the model's context.
    """
    if "tales" not in corpora:
        raise ValueError(f"the report needs the corpus 'tales', got {sorted(corpora)}")
    village = tales_report(
        model,
        tokenizer,
        corpora["tales"].validation,
        n_stories=n_stories,
        generator=torch.Generator().manual_seed(seed),
    )
    scores = {
        name: village.score if name == "tales" else score_long(model, tokenizer, corpus.validation)
        for name, corpus in corpora.items()
    }
    trained_on = trained_on or {}
    same = {
        name: trained_on[name]["fingerprint"] == corpus.fingerprint
        for name, corpus in corpora.items()
        if name in trained_on
    }
    sums = tuple(score_sums(model, tokenizer, level, n_problems) for level in LEVELS)
    return BaseReport(platform.python_version(), same, scores, village, sums)


def score_long(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 16
) -> Score:
    """`score_documents` for documents of any length: windows that overlap by half.

    A token far into a document is predicted from at least half a context of what stands before it.
    """
    rows = encode_documents(texts, tokenizer, end_of_text=True, start_of_text=True)
    length = model.config.context_length
    short = [row for row in rows if len(row) <= length + 1]
    long = [row for row in rows if len(row) > length + 1]
    passes = [windows(row, length, batch_size, stride=max(1, length // 2)) for row in long]
    if short:
        passes.append(document_aligned(short, length, batch_size, shuffle=False, epochs=1))
    nats, tokens = total_loss(model, chain(*passes))
    return Score(nats, tokens, sum(len(text.encode("utf-8")) for text in texts))


def held_out_problems(level: int, n: int) -> list[Problem]:
    """Up to `n` distinct problems of a level, none of whose calculations the corpus trains on.

    Always the same ones; fewer where the level has no more (there are not many sums of two digits).
    """
    rng = random.Random(f"problems of the report, level {level}")
    drawn = (problem for problem in sample(40 * n, level, rng) if is_held_out(problem))
    return list({problem.question: problem for problem in drawn}.values())[:n]


def score_sums(model: Transformer, tokenizer: Tokenizer, level: int, n: int) -> SumsScore:
    """Ask held-out problems of one level; the verifier judges what is written."""
    problems = held_out_problems(level, n)
    written = generate_text(
        model,
        tokenizer,
        [END_OF_TEXT + problem.prompt for problem in problems],
        model.config.context_length // 2,
        sampling=GREEDY,
        stop=(END_OF_TEXT,),
        overflow="slide",
    )
    verdicts = [verify(p.prompt + text) for p, text in zip(problems, written, strict=True)]
    right = sum(verdict.answer_correct for verdict in verdicts)
    return SumsScore(level, len(problems), right, sum(verdict.correct for verdict in verdicts))
