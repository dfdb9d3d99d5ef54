"""How short a text becomes in tokens: by corpus, and by the size of the vocabulary.

Taught in: Part 4. Bytes are the measure: one token per byte, whatever the text. A vocabulary
learned on one kind of text shortens other kinds less, and each doubling saves less than the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmcourse.show import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BYTES = 256  # tokens of the vocabulary that needs no training


def compression_rows(
    tokenizers: Iterable[Any], texts: Mapping[str, str]
) -> list[dict[str, str | int | float]]:
    """Tokens per byte of each tokenizer on each text, as rows for `plot_compression`.

    Args:
        tokenizers: each has `encode` and `vocab_size`.
        texts: by corpus.

    Raises:
        ValueError: an empty text.
    """
    rows: list[dict[str, str | int | float]] = []
    for tokenizer in tokenizers:
        for corpus, text in texts.items():
            n_bytes = len(text.encode("utf-8"))
            if not n_bytes:
                raise ValueError(f"the text of {corpus!r} is empty; there is nothing to measure")
            share = len(tokenizer.encode(text)) / n_bytes
            rows.append(
                {"corpus": corpus, "vocab_size": tokenizer.vocab_size, "tokens_per_byte": share}
            )
    return rows


def _by_corpus(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for number, row in enumerate(rows):
        for name in ("corpus", "vocab_size", "tokens_per_byte"):
            if name not in row:
                raise ValueError(f"row {number} has no {name!r}; it has {list(row)}")
        size, share = row["vocab_size"], row["tokens_per_byte"]
        # Byte-level tokens hold at least one byte each, so there are never more tokens than bytes.
        if not size >= BYTES or not 0 < share <= 1:
            raise ValueError(
                f"row {number} ({row['corpus']}): vocab_size={size} must be at least {BYTES} and "
                f"tokens_per_byte={share} above 0 and at most 1"
            )
        found.setdefault(row["corpus"], []).append((size, share))
    if not found:
        raise ValueError("there is nothing to draw: no rows")
    return {corpus: sorted(pairs) for corpus, pairs in found.items()}


def plot_compression(rows: Iterable[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """Tokens per byte against vocabulary size, a line for each corpus, bytes as the baseline.

    Args:
        rows: mappings with "corpus", "vocab_size" and "tokens_per_byte".
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no rows, one that lacks something, or numbers that cannot be.
    """
    lines = _by_corpus(rows)
    sizes = sorted({size for pairs in lines.values() for size, _ in pairs})
    with style.applied():
        drawn, axes = style.figure(8.6, 3.5)
        ax = axes[0, 0]
        ax.axhline(1.0, color=style.MUTED, linewidth=1.2, linestyle=(0, (6, 3)))
        ax.annotate(
            "bytes: one token per byte", (0.99, 1.0), (0, -4), xycoords=ax.get_yaxis_transform(),
            textcoords="offset points", ha="right", va="top", color=style.MUTED,
            fontsize=style.SMALL_SIZE,
        )  # fmt: skip
        for number, (corpus, pairs) in enumerate(lines.items()):
            look = style.series(number)
            size, share = pairs[-1]
            ax.plot(
                *zip(*pairs, strict=True), color=look.color, linestyle=look.linestyle,
                marker=look.marker,
                label=f"{style.drawable_label(corpus)}: {share:.2f} at {size:,}\n"
                f"({1 / share:.1f} bytes per token)",
            )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes if len(sizes) <= 9 else sizes[:: -(-len(sizes) // 9)])
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_ylim(0, 1.08)
        ax.set_xlabel("vocabulary (tokens, logarithmic)")
        ax.set_ylabel("tokens per byte")
        style.grid(ax)
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), labelspacing=0.8)
        if title:
            ax.set_title(title)
    return drawn
