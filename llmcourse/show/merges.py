"""Byte-pair encoding one merge at a time: what a trainer sees, and what an encoder does.

Taught in: Part 4. *Training*: the pairs of neighbours are counted, the most frequent one becomes a
new token, and so on. *Encoding*: of all neighbours that make a token the pair of the lowest rank is
joined, the leftmost of equals, one piece of the text after the other.

Source: Sennrich et al. 2015, arXiv 1508.07909, algorithm 1. The merges are those of
`llmcourse.tokenizers`; the counts beside them are plain recounts of a small text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from llmcourse.show import style
from llmcourse.show.token_boxes import draw_token_lines, token_lines
from llmcourse.show.tokens import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmcourse.tokenizers import BPETokenizer

RANKED = 8  # pairs listed at once
COLUMNS = 66  # bytes on a line of the figure


@dataclass(frozen=True)
class Candidate:
    """Two neighbours that could be joined."""

    left: bytes
    right: bytes
    number: int | None  # training: occurrences; encoding: rank of the joined token, None: no token


@dataclass(frozen=True)
class MergeState:
    """Where a trainer or an encoder stands."""

    merges: int  # made so far
    pieces: tuple[tuple[bytes, ...], ...]  # the text, cut before any merge, and the tokens in each
    vocabulary: int  # tokens known (training: so far; encoding: to the tokenizer)
    candidates: tuple[Candidate, ...]  # pairs, best first; the first is joined next
    done: bool  # nothing is left to join
    last: Candidate | None = None  # the pair joined to come here
    current: int | None = None  # encoding: the piece that is worked on

    @property
    def n_bytes(self) -> int:
        """Length of the text in bytes."""
        return sum(len(token) for piece in self.pieces for token in piece)

    @property
    def n_tokens(self) -> int:
        """Length of the text in tokens."""
        return sum(map(len, self.pieces))

    @property
    def tokens_per_byte(self) -> float:
        """1 for bytes; the lower, the shorter the text has become."""
        return self.n_tokens / self.n_bytes

    @property
    def next_pair(self) -> tuple[bytes, bytes] | None:
        """The pair that is joined next."""
        return None if self.done else (self.candidates[0].left, self.candidates[0].right)

    @property
    def next_places(self) -> set[tuple[int, int]]:
        """(piece, place) of every left token that is joined next, without overlap."""
        pair, places = self.next_pair, set()
        if pair is None:
            return places
        numbers = range(len(self.pieces)) if self.current is None else [self.current]
        for number in numbers:
            piece, place = self.pieces[number], 0
            while place + 1 < len(piece):
                if (piece[place], piece[place + 1]) == pair:
                    places.add((number, place))
                    if self.current is not None:
                        return places  # an encoder joins one pair at a time
                    place += 1
                place += 1
        return places

    @property
    def tied(self) -> int:
        """How many of the candidates are as good as the first one."""
        if not self.candidates:
            return 0
        return sum(c.number == self.candidates[0].number for c in self.candidates)


def training_states(
    text: str, n_merges: int = 40, *, pattern: str = "gpt4", min_count: int = 2
) -> list[MergeState]:
    """Training on a small text, one state before each merge and one after the last.

    Args:
        text: to learn from; a few hundred bytes, as every state recounts it.
        n_merges: at most; fewer when no pair occurs often enough.
        pattern: how the text is cut before any merge; "gpt2", "gpt4" or a regular expression.
        min_count: a pair that occurs more seldom is not merged.

    Raises:
        ValueError: an empty text, or an argument that the trainer refuses.
    """
    from llmcourse.tokenizers.base import utf8
    from llmcourse.tokenizers.bpe_train import BYTES, count_words, learn_merges
    from llmcourse.tokenizers.pretokenize import named_pattern, split

    utf8(text)
    expression = named_pattern(pattern)
    cut = split(text, expression)
    if not cut:
        raise ValueError("the text holds nothing to learn merges from; give at least one character")
    merges = learn_merges(count_words([text], expression), n_merges, min_count=min_count)
    spelling = [bytes([value]) for value in range(BYTES)]
    pieces = [list(piece.encode("utf-8")) for piece in cut]  # ids
    states: list[MergeState] = []
    last = None
    for made in range(len(merges) + 1):
        counts = Counter(pair for piece in pieces for pair in pairwise(piece))
        # Ties go to the smallest left id, then the smallest right id: Python's order of pairs.
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        candidates = tuple(Candidate(spelling[a], spelling[b], n) for (a, b), n in ranked)
        states.append(
            MergeState(
                made, tuple(tuple(spelling[i] for i in piece) for piece in pieces), len(spelling),
                candidates, not candidates or candidates[0].number < min_count, last,
            )
        )  # fmt: skip
        if made < len(merges):
            last = candidates[0]
            pieces = [_joined(piece, merges[made], len(spelling)) for piece in pieces]
            spelling.append(last.left + last.right)
    return states


def _joined(piece: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`piece` with every `pair` replaced, from the left and without overlap."""
    result: list[int] = []
    place = 0
    while place < len(piece):
        found = tuple(piece[place : place + 2]) == pair
        result.append(new if found else piece[place])
        place += 2 if found else 1
    return result


def encoding_states(text: str, tokenizer: BPETokenizer) -> list[MergeState]:
    """Encoding a short text, one state before each merge and one after the last.

    Args:
        text: to encode; its pieces are worked on from left to right.
        tokenizer: a trained one.

    Raises:
        ValueError: an empty text, or a tokenizer that does not merge bytes.
    """
    from llmcourse.tokenizers.base import utf8
    from llmcourse.tokenizers.pretokenize import split

    if not hasattr(tokenizer, "merge_steps"):
        raise ValueError(f"merges are shown of a BPETokenizer, not of {type(tokenizer).__name__}")
    utf8(text)
    cut = split(text, tokenizer.pattern)
    if not cut:
        raise ValueError("the text holds nothing to encode; give at least one character")
    rank = {token: place for place, token in enumerate(tokenizer.tokens)}
    pieces = [tuple(_steps(piece, tokenizer, rank)[0]) for piece in cut]
    states: list[MergeState] = []
    last = None
    for number, piece in enumerate(cut):
        steps = _steps(piece, tokenizer, rank)
        for place, parts in enumerate(steps):
            pieces[number] = tuple(parts)
            ranked = _ranked(parts, rank)
            if place == len(steps) - 1 and number < len(cut) - 1:
                break  # the same moment as the next piece's first state
            states.append(
                MergeState(
                    len(states), tuple(pieces), tokenizer.vocab_size, ranked,
                    place == len(steps) - 1, last, number,
                )
            )  # fmt: skip
            last = ranked[0] if ranked else None
    return states


def _steps(piece: str, tokenizer: BPETokenizer, rank: dict[bytes, int]) -> list[list[bytes]]:
    """The tokenizer's own steps; a piece that is a token as a whole ends as that token."""
    steps = tokenizer.merge_steps(piece)
    whole = piece.encode("utf-8")
    return steps if len(steps[-1]) == 1 or whole not in rank else [*steps, [whole]]


def _ranked(parts: list[bytes], rank: dict[bytes, int]) -> tuple[Candidate, ...]:
    """Neighbours by rank, each pair once; those that make no token come last."""
    pairs = dict.fromkeys(pairwise(parts))
    found = [Candidate(a, b, rank.get(a + b)) for a, b in pairs]
    return tuple(sorted(found, key=lambda c: (c.number is None, c.number or 0)))


def pair_text(left: bytes, right: bytes) -> str:
    """Two tokens and a plus sign between them, spaces and odd bytes made visible."""
    return f"{readable(left)} + {readable(right)}"


def draw_candidates(ax: Axes, state: MergeState, ranked: int = RANKED) -> None:
    """Bars of the best pairs: how often they occur; the one joined next is darker, and named so."""
    shown = state.candidates[:ranked]
    for place, candidate in enumerate(shown):
        chosen = place == 0 and not state.done
        ax.barh(
            place, candidate.number or 0, height=0.66, linewidth=0.8, edgecolor=style.BLUE,
            facecolor=style.BLUE if chosen else "#cfe3f1",
        )  # fmt: skip
        words = "no token" if candidate.number is None else f"{candidate.number:,}"
        ax.annotate(
            words + (" ← next" if chosen else ""), (candidate.number or 0, place), (4, 0),
            textcoords="offset points", va="center", fontsize=style.SMALL_SIZE,
        )  # fmt: skip
    names = [style.drawable_label(pair_text(c.left, c.right)) for c in shown]
    ax.set_yticks(range(len(shown)), names, fontsize=style.SMALL_SIZE)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(max(len(shown), 3) - 0.4, -0.6)
    ax.set_xlim(0, 1.3 * max([c.number or 0 for c in shown], default=1) or 1)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel(
        "occurrences (the most frequent is joined)"
        if state.current is None
        else "rank of the joined token: its id (the lowest is joined)"
    )
    style.grid(ax, "x")


def draw_progress(ax: Axes, states: Sequence[MergeState], at: int) -> None:
    """Tokens per byte against merges, and where the present state stands."""
    made = [state.merges for state in states]
    share = [state.tokens_per_byte for state in states]
    ax.plot(made, share, color=style.BLUE, linestyle="-", marker="o" if len(made) == 1 else "")
    ax.plot([made[at]], [share[at]], color=style.VERMILLION, marker="o", markersize=7, linestyle="")
    ax.annotate(
        f"{share[at]:.2f}", (made[at], share[at]), (7, 5), textcoords="offset points",
        fontsize=style.SMALL_SIZE,
    )  # fmt: skip
    ax.axhline(1.0, color=style.MUTED, linewidth=1.0, linestyle=(0, (6, 3)))
    ax.set_ylim(0, 1.12)
    ax.margins(x=0.06)
    ax.set_xlabel("merges")
    ax.set_ylabel("tokens per byte")
    style.grid(ax)


def plot_merges(
    states: Sequence[MergeState], at: int | None = None, *, title: str | None = None
) -> Figure:
    """One moment of training or encoding: the tokens, the pairs that compete, the length so far.

    Args:
        states: of `training_states` or `encoding_states`.
        at: number of the state; None is the last.
        title: over the figure; None says where it stands.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no states, or one that is not there.
    """
    if not states:
        raise ValueError("there is no state to draw: the list is empty")
    at = len(states) - 1 if at is None else at
    if not 0 <= at < len(states):
        raise ValueError(f"state {at} does not exist; there are {len(states)}, from 0")
    state = states[at]
    tokens = [token for piece in state.pieces for token in piece]
    starts = [place for place, piece in enumerate(state.pieces) for _ in piece]
    lines = token_lines({"": tokens}, COLUMNS)
    marked, place = set(), 0
    chosen = state.next_places
    for number, piece in enumerate(state.pieces):
        for inside in range(len(piece)):
            if (number, inside) in chosen:
                marked |= {place, place + 1}
            place += 1
    if title is None:
        title = f"after {state.merges} of {states[-1].merges} merges: {state.n_tokens} tokens"
    with style.applied():
        tall = 0.33 * len(lines) + 0.3
        drawn, axes = style.figure(
            9.6, tall + 2.7, 2, 2, height_ratios=[tall, 2.5], width_ratios=[1.25, 1]
        )
        grid = axes[0, 0].get_gridspec()
        for ax in axes[0]:
            ax.remove()
        top = drawn.add_subplot(grid[0, :])
        draw_token_lines(top, lines, COLUMNS, marked=marked, groups=starts)
        draw_candidates(axes[1, 0], state)
        draw_progress(axes[1, 1], states, at)
        top.set_title(title)
    return drawn
