"""How many bytes a key/value cache takes, for every way of sharing or forgetting what it keeps.

Taught in: Part 3. Nothing is run: a cache keeps (numbers per token and layer) × (tokens that each
layer keeps) × batch × bytes per number, and all four follow from the config.

Numbers per token and layer, with H query heads of width D (DeepSeek-V2 2024, arXiv 2405.04434,
table 1): MHA 2 H D, GQA 2 G D, MQA 2 D (Shazeer 2019, arXiv 1911.02150; Ainslie et al. 2023, arXiv
2305.13245), MLA d_latent + d_rope. A windowed layer keeps its window and the sinks, no more.

Deviation: for a model without latent attention the MLA row supposes that paper's proportions,
d_latent = 4 D and d_rope = D / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcourse.show import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmcourse.model import ModelConfig

DTYPES = {"float32": 4, "bfloat16": 2, "int8": 1}  # bytes per number
UNITS = ("bytes", "KB", "MB", "GB", "TB")  # powers of 1000


@dataclass(frozen=True)
class CacheRow:
    """One way to keep keys and values."""

    name: str  # "MHA", "GQA (4 heads)", ...
    formula: str  # numbers per token and layer, as a product or sum
    numbers: int  # per token and layer
    kept: tuple[int, ...]  # tokens that each layer keeps
    n_bytes: int  # for the whole batch
    own: bool  # the way that the model itself has


def size_text(n_bytes: float) -> str:
    """Three digits and a unit, in powers of 1000: 37.7 MB."""
    power = 0
    while power < len(UNITS) - 1 and n_bytes >= 999.5:  # 999.5 would be written as 1,000
        n_bytes, power = n_bytes / 1000, power + 1
    return f"{n_bytes:.3g} {UNITS[power]}" if n_bytes < 999.5 else f"{n_bytes:,.0f} {UNITS[power]}"


def weights_bytes(config: ModelConfig, dtype: str = "bfloat16") -> int:
    """Bytes of the model's parameters."""
    from llmcourse.model.summary import summary

    return bytes_per_number(dtype) * summary(config).total_parameters


def bytes_per_number(dtype: str) -> int:
    """Refuses a dtype whose width is not known here."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose one of {list(DTYPES)}")
    return DTYPES[dtype]


def kept_tokens(windows: tuple[int | None, ...], sinks: int, tokens: int) -> tuple[int, ...]:
    """Tokens that each layer keeps of a text of `tokens`: a window and the sinks, or all."""
    return tuple(tokens if w is None else min(tokens, w + sinks) for w in windows)


def groups_between(config: ModelConfig) -> list[int]:
    """Numbers of key/value heads that are neither MQA's nor MHA's: the divisors of H between."""
    return [g for g in range(2, config.n_heads) if config.n_heads % g == 0]


def usual_groups(config: ModelConfig) -> int | None:
    """The model's own number of shared heads, else a quarter of its heads; None: H is prime."""
    between = groups_between(config)
    if config.n_kv_heads in between:
        return config.n_kv_heads
    return min(between, key=lambda g: abs(g - config.n_heads / 4), default=None)


def _kinds(config: ModelConfig, kv_heads: int | None) -> list[tuple[str, str, int]]:
    """(name, formula, numbers per token and layer) of MHA, GQA, MQA and MLA, where they differ.

    GQA appears twice for a model that has it, if another number of heads is asked for.
    """
    heads, latent = config.n_heads, config.latent
    key, value = (config.d_head,) * 2
    if latent is not None:
        key, value = latent.d_nope + latent.d_rope, latent.d_value
    pair = f"2 · {key}" if key == value else f"({key} + {value})"

    def shared(count: int) -> tuple[str, int]:
        return (f"{count} · {pair}" if count > 1 else pair), count * (key + value)

    kinds = [("MHA", *shared(heads))]
    asked = set() if kv_heads is None else {kv_heads}
    own = {config.n_kv_heads} & set(groups_between(config))
    kinds += [(f"GQA ({count} heads)", *shared(count)) for count in sorted(own | asked)[::-1]]
    if heads > 1:
        kinds.append(("MQA", *shared(1)))
    d_latent = 4 * config.d_head if latent is None else latent.d_latent
    d_rope = config.d_head // 2 if latent is None else latent.d_rope
    return [*kinds, ("MLA", f"{d_latent} + {d_rope}", d_latent + d_rope)]


def cache_rows(
    config: ModelConfig,
    tokens: int | None = None,
    *,
    batch_size: int = 1,
    dtype: str = "bfloat16",
    kv_heads: int | None = None,
    window: int | None = None,
    sinks: int | None = None,
) -> list[CacheRow]:
    """What a cache takes with MHA, GQA, MQA, MLA, and with the model's own kind and a window.

    Args:
        config: the model.
        tokens: of context, per row of the batch; None: the model's own context length.
        batch_size: rows.
        dtype: one of `DTYPES`.
        kv_heads: of a GQA row beside the model's own; None: its own, else a quarter of its heads.
        window: tokens that every layer of the window row sees; None: as the model has it, and no
            such row if it has none.
        sinks: first tokens kept besides the window; None: as the model has it.

    Raises:
        ValueError: a number below 1, heads that do not divide, an unknown dtype.
    """
    tokens = config.context_length if tokens is None else tokens
    sinks = config.sinks if sinks is None else sinks
    width = bytes_per_number(dtype)
    least = (("tokens", tokens, 1), ("batch_size", batch_size, 1), ("sinks", sinks, 0))
    for name, number, low in (*least, ("window", 1 if window is None else window, 1)):
        if isinstance(number, bool) or not isinstance(number, int) or number < low:
            raise ValueError(f"{name}={number!r} must be a whole number of at least {low}")
    if kv_heads is None:
        kv_heads = usual_groups(config)
    elif kv_heads not in groups_between(config):
        raise ValueError(
            f"kv_heads={kv_heads} is no GQA of {config.n_heads} heads; "
            f"choose one of {groups_between(config)}"
        )
    (key_heads, key), (value_heads, value) = config.cache_widths
    own_numbers = key_heads * key + value_heads * value
    if config.latent is not None:
        own_name = "MLA"
    else:
        # A single head that serves a single head is MHA: the later entry wins.
        own_name = {1: "MQA", config.n_heads: "MHA"}.get(config.n_kv_heads, "GQA")
    windowed = any(config.windows) or window is not None
    everything = (tokens,) * config.n_layers
    rows = []
    for name, formula, numbers in _kinds(config, kv_heads):
        own = name.startswith(own_name) and numbers == own_numbers and not any(config.windows)
        n_bytes = width * batch_size * numbers * sum(everything)
        rows.append(CacheRow(name, formula, numbers, everything, n_bytes, own))
    if windowed:
        windows = config.windows if window is None else (window,) * config.n_layers
        kept = kept_tokens(windows, sinks, tokens)
        formula = f"{own_numbers:,}, as {own_name}"
        n_bytes = width * batch_size * own_numbers * sum(kept)
        own = windows == config.windows and sinks == config.sinks
        rows.append(CacheRow(f"{own_name} + window", formula, own_numbers, kept, n_bytes, own))
    return rows


def draw_bars(ax: Axes, rows: list[CacheRow], weights: int) -> None:
    """A bar for each row, the model's own darker, and the weights hatched beneath."""
    names = [f"{row.name}\n(this model)" if row.own else row.name for row in rows] + ["weights"]
    sizes = [*(row.n_bytes for row in rows), weights]
    largest = max(sizes)
    power = min(len(UNITS) - 1, int(math.log10(largest) // 3))
    scale, unit = 1000**power, UNITS[power]
    for place, (size, row) in enumerate(zip(sizes, [*rows, None], strict=True)):
        look: dict[str, Any] = {"facecolor": "#f3f3f3", "edgecolor": style.MUTED, "hatch": "////"}
        if row is not None:
            look = {"facecolor": style.BLUE if row.own else style.SKY, "edgecolor": style.BLUE}
        ax.barh(place, size / scale, height=0.62, linewidth=0.8, **look)
        ax.annotate(
            size_text(size), (size / scale, place), (4, 0), textcoords="offset points",
            va="center", fontsize=style.SMALL_SIZE,
        )  # fmt: skip
    ax.set_yticks(range(len(names)), names, fontsize=style.SMALL_SIZE)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, 1.22 * largest / scale)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"memory ({unit})")
    style.grid(ax, "x")


def contexts_around(tokens: int) -> list[int]:
    """Powers of two from an eighth of 1024 tokens to at least four times `tokens`."""
    last = max(2048, 4 * tokens)
    return [2**n for n in range(7, last.bit_length() + 1) if 2**n <= last]


def plot_cache_memory(
    config: ModelConfig,
    tokens: int | None = None,
    *,
    batch_size: int = 1,
    dtype: str = "bfloat16",
    kv_heads: int | None = None,
    window: int | None = None,
    sinks: int | None = None,
    title: str | None = None,
) -> Figure:
    """Bytes of the cache beside those of the weights: at one context length, and growing with it.

    Args:
        config, tokens, batch_size, dtype, kv_heads, window, sinks: as `cache_rows`.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: as `cache_rows`.
    """
    tokens = config.context_length if tokens is None else tokens
    options = {
        "batch_size": batch_size, "dtype": dtype, "kv_heads": kv_heads, "window": window,
        "sinks": sinks,
    }  # fmt: skip
    rows = cache_rows(config, tokens, **options)
    weights = weights_bytes(config, dtype)
    lengths = contexts_around(tokens)
    lines = [cache_rows(config, length, **options) for length in lengths]
    with style.applied():
        drawn, axes = style.figure(9.6, 3.7, 1, 2)
        left, right = axes[0]
        draw_bars(left, rows, weights)
        left.set_title(f"{tokens:,} tokens, batch {batch_size}, {dtype}", fontsize=style.TEXT_SIZE)
        for number, row in enumerate(rows):
            look = style.series(number)
            right.plot(
                lengths, [at[number].n_bytes for at in lines], color=look.color,
                linestyle=look.linestyle, marker=look.marker, markevery=(number % 2, 2),
                label=row.name,
            )  # fmt: skip
        right.axhline(weights, color=style.MUTED, linewidth=1.2, linestyle=(0, (6, 3)))
        right.annotate(
            "weights", (0.99, weights), (0, 3), xycoords=right.get_yaxis_transform(),
            textcoords="offset points", ha="right", color=style.MUTED, fontsize=style.SMALL_SIZE,
        )  # fmt: skip
        right.axvline(tokens, color=style.FAINT, linewidth=1.2, zorder=0)
        right.set_xscale("log", base=2)
        right.set_yscale("log")
        right.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        right.yaxis.set_major_formatter(lambda value, _: size_text(value))
        right.set_xlabel("context (tokens, logarithmic)")
        right.set_ylabel("cache (bytes, logarithmic)")
        style.grid(right)
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
