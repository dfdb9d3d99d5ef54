"""Exact probabilities of texts, and the entropy floor that no model can beat.

Taught in Part 2. The log-probability of a text is the sum of the log choice probabilities of its
sentences, with the beliefs of `state.py` in place of hidden variables. It is that of the *text*,
since different choices make different texts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from llmcourse.data.tales.parse import follow
from llmcourse.data.tales.score import score_events
from llmcourse.data.tales.simulate import simulate
from llmcourse.data.tales.state import State
from llmcourse.data.tales.world import VILLAGE, World


def sentence_log_probabilities(text: str, world: World = VILLAGE) -> list[float]:
    """Log-probability in nats of each sentence given those before it; -inf from the first
    impossible one on. Raises ParseError for text outside the grammar."""
    scores: list[float] = []
    for step in follow(text, State(world)):
        impossible = step.reason or (scores and scores[-1] == -math.inf)
        scores.append(-math.inf if impossible else step.factors.total)
    return scores


def log_probability(text: str, world: World = VILLAGE) -> float:
    """Log-probability in nats of exactly this text as a whole story, its ending included.

    -inf for sentences that are well formed but cannot make a story of this world (an impossible
    event, no ending). Raises ParseError, naming the sentence, for text outside the grammar.
    """
    state = State(world)
    total = 0.0
    for step in follow(text, state):
        # Read on after an impossible sentence: a later one may be outside the grammar.
        total = -math.inf if step.reason else total + step.factors.total
    return total if state.ended else -math.inf


@dataclass(frozen=True)
class Floor:
    """The lowest loss a model of these texts can have on average, and how sure we are.

    `nats` and `bytes` are sums over the given texts; no model has a lower expected loss than
    `expected` nats per byte over fresh stories, known to within `standard_error`.
    """

    nats: float  # minus the log-probability of the texts, nats
    bytes: int  # bytes of the texts, endings included, no separators
    stories: int
    nats_per_byte: float  # of the given texts
    bits_per_byte: float
    expected: float  # nats per byte over fresh stories
    standard_error: float  # of `expected`, nats per byte


def entropy_floor(
    texts: Sequence[str], world: World = VILLAGE, fresh: int = 0, seed: int = 0
) -> Floor:
    """The entropy floor of stories.

    With fresh = 0 the expectation is estimated from `texts` themselves (they must be an honest
    sample); otherwise from that many newly sampled stories. A ratio of means; its standard error
    is by the delta method. Raises ValueError for no texts, or for one that is impossible.
    """
    if not texts:
        raise ValueError("no texts: the floor needs at least one story")
    pairs = []
    for i, text in enumerate(texts):
        score = log_probability(text, world)
        if score == -math.inf:
            raise ValueError(f"text {i} is not a story of this world: {text[:60]!r}")
        pairs.append((-score, len(text.encode())))
    nats, size = math.fsum(p[0] for p in pairs), sum(p[1] for p in pairs)
    sample = [story_cost(seed + i, world) for i in range(fresh)] if fresh else pairs
    ratio = math.fsum(p[0] for p in sample) / sum(p[1] for p in sample)
    m = len(sample)
    mean_bytes = sum(p[1] for p in sample) / m
    spread = math.fsum((a - ratio * b) ** 2 for a, b in sample)
    error = math.sqrt(spread / max(m - 1, 1) / m) / mean_bytes if m > 1 else math.inf
    per_byte = nats / size
    return Floor(nats, size, len(pairs), per_byte, per_byte / math.log(2), ratio, error)


def story_cost(seed: int, world: World = VILLAGE) -> tuple[float, int]:
    """(nats, bytes) of a freshly sampled story, without parsing it."""
    steps = list(simulate(random.Random(f"floor {seed}"), world))
    scores, state = score_events([s[0] for s in steps], world)
    return -math.fsum(scores), state.bytes - 1
