"""The sampling playground: sliders that reshape the next-token distribution and the text.

Taught in: Part 2. The bars are `next_token_probabilities` and the text is `generate`, the same two
functions that everything else uses: what the sliders show is what sampling does.

Shapes: V vocabulary.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array
from llmcourse.show.sampling import draw_distribution, entropy, likeliest, vocabulary_labels
from llmcourse.show.tokens import readable
from llmcourse.show.widgets import html, layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

END_OF_TEXT = "<|endoftext|>"


def bars_svg(before: np.ndarray, after: np.ndarray, labels: list[str], top: int) -> str:
    """Outlined bars for the model's own distribution, filled ones for what is sampled from.

    Every bar carries its probability as `data-after`, so that it can be read back exactly.
    """
    width, height, base = 860, 230, 190  # pixels; bars stand on `base`
    order = likeliest(before, top)
    tallest = max(float(after[order].max()), float(before[order].max()), 1e-9)
    step = (width - 46) / len(order)
    parts = [f"<defs>{html.HATCH_SVG}</defs>"]
    for share in (0.0, 0.5, 1.0):
        y = base - share * (base - 22)
        parts.append(
            f'<line x1="40" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'opacity=".16"/><text x="34" y="{y + 4:.1f}" text-anchor="end" opacity=".65">'
            f"{share * tallest:.2f}</text>"
        )
    for place, token in enumerate(order):
        x = 44 + place * step
        old, new = float(before[token]), float(after[token])
        tall_old, tall_new = (value / tallest * (base - 22) for value in (old, new))
        cut = new == 0
        if not cut:
            parts.append(
                f'<rect x="{x + step * 0.18:.1f}" y="{base - tall_new:.1f}" '
                f'width="{step * 0.56:.1f}" height="{tall_new:.1f}" fill="{style.KEPT}"/>'
            )
        fill = "url(#llmcourse-hatch)" if cut else "none"
        dash = ' stroke-dasharray="3 2"' if cut else ""
        parts.append(
            f'<rect x="{x + step * 0.05:.1f}" y="{base - tall_old:.1f}" '
            f'width="{step * 0.82:.1f}" height="{tall_old:.1f}" fill="{fill}" '
            f'stroke="currentColor" stroke-width="1.1"{dash} opacity="{0.6 if cut else 0.85}" '
            f'data-token="{token}" data-after="{new!r}"><title>{escape(labels[token])}: '
            f"{old:.4f} before, {new:.4f} after</title></rect>"
        )
        shown = labels[token] if len(labels[token]) <= 4 else labels[token][:3] + "…"
        weight = "normal" if cut else "bold"
        parts.append(
            f'<text x="{x + step * 0.46:.1f}" y="{base + 17}" text-anchor="middle" '
            f'font-weight="{weight}" opacity="{0.55 if cut else 1}" '
            f'style="{html.MONO};font-size:13px">{escape(shown)}</text>'
        )
    parts.append(
        f'<text x="44" y="{height - 4}" opacity=".65">next token, the {len(order)} likeliest; '
        f"outline: the model’s own probability, filled: what is sampled from, hatched: cut</text>"
    )
    return (
        f'<svg role="img" aria-label="next-token probabilities" viewBox="0 0 {width} {height}" '
        f'style="width:100%;max-width:{width}px;font-size:11px" fill="currentColor">'
        f"{''.join(parts)}</svg>"
    )


class SamplingPlayground(ipywidgets.VBox):
    """The widget; made by `sampling_playground`, which documents the arguments.

    Attributes:
        prompt, temperature, top_k, top_p, min_p, seed: the controls, ordinary ipywidgets.
        view: the HTML that shows bars and text.
        before, after: (V,) probabilities of the next token, the model's own and as sampled from.
        continuation: the sampled text, without the prompt.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: str, length: int, top: int) -> None:
        if length < 1 or top < 1:
            raise ValueError(f"length and top must be at least 1 token, not {length} and {top}")
        self._model, self._tokenizer = model, tokenizer
        self._length, self._top = length, top
        vocabulary = model.config.vocab_size
        known = min(vocabulary, tokenizer.vocab_size)
        # A model may have more rows than the tokenizer has tokens (padded vocabularies).
        self._labels = vocabulary_labels(known, tokenizer=tokenizer) + [
            f"#{i}" for i in range(known, vocabulary)
        ]
        self.prompt = ipywidgets.Text(value=prompt, description="prompt", **layout.line())
        self.temperature = ipywidgets.FloatSlider(
            value=1.0, min=0.0, max=2.0, step=0.05, description="temperature",
            tooltip="0 is greedy: always the likeliest token",
            readout_format=".2f", **layout.control(),
        )  # fmt: skip
        self.top_k = ipywidgets.IntSlider(
            value=0, min=0, max=min(50, vocabulary), description="top-k (0: off)",
            **layout.control(),
        )  # fmt: skip
        self.top_p = ipywidgets.FloatSlider(
            value=1.0, min=0.05, max=1.0, step=0.05, description="top-p (1: off)",
            readout_format=".2f", **layout.control(),
        )  # fmt: skip
        self.min_p = ipywidgets.FloatSlider(
            value=0.0, min=0.0, max=0.5, step=0.01, description="min-p (0: off)",
            readout_format=".2f", **layout.control(),
        )  # fmt: skip
        self.seed = ipywidgets.IntSlider(
            value=0, min=0, max=20, description="seed", **layout.control()
        )
        self.view = ipywidgets.HTML()
        super().__init__(
            layout.arranged(
                [self.temperature, self.seed],
                [self.top_k, self.top_p, self.min_p],
                above=self.prompt,
                view=self.view,
            )
        )
        self.before = self.after = np.zeros(0)
        self.continuation = ""
        self._logits: Any = None
        self._ids: list[int] = []
        self._note = ""
        self.prompt.observe(self._on_prompt, "value")
        for control in (self.temperature, self.top_k, self.top_p, self.min_p, self.seed):
            control.observe(self._on_setting, "value")
        self._on_prompt(None)

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same on every machine.
        return f"SamplingPlayground({self._model.config.vocab_size} tokens)"

    @property
    def sampling(self) -> Any:
        """The `llmcourse.generate.Sampling` that the sliders stand for."""
        from llmcourse.generate import Sampling

        return Sampling(
            temperature=round(self.temperature.value, 2),
            top_k=self.top_k.value or None,
            top_p=None if self.top_p.value >= 1 else round(self.top_p.value, 2),
            min_p=None if self.min_p.value <= 0 else round(self.min_p.value, 2),
        )

    def _on_prompt(self, _change: Any) -> None:
        """Run the model on the prompt: its logits stay the same until the prompt changes."""
        import torch

        self._logits, self._note = None, ""
        try:
            self._ids = self._tokenizer.encode(self.prompt.value, allow_special=True)
        except ValueError as error:
            self._note = str(error)
        else:
            if not self._ids:
                self._note = "Type a prompt: the model continues a text."
        if not self._note:
            device = next(self._model.parameters()).device
            seen = self._ids[-self._model.config.context_length :]
            was_training = self._model.training
            self._model.eval()
            try:
                with torch.no_grad():
                    logits = self._model(torch.tensor([seen], device=device))  # (1, T, V)
            finally:
                self._model.train(was_training)
            self._logits = logits[0, -1].float()  # (V,)
        self._on_setting(None)

    def _on_setting(self, _change: Any) -> None:
        if self._logits is None:
            self.view.value = html.message(self._note)
            return
        from llmcourse.generate.sampling import next_token_probabilities

        self.before = to_array(self._logits.softmax(-1))
        self.after = to_array(next_token_probabilities(self._logits, self.sampling))
        self.continuation = self._sample()
        self.view.value = html.page(
            html.summary(self._sentence()),
            bars_svg(self.before, self.after, self._labels, self._top),
            self._text_box(),
        )

    def _sentence(self) -> str:
        kept = int((self.after > 0).sum())
        best = int(self.after.argmax())
        return (
            f"<b>{kept}</b> of {len(self.after)} tokens can be sampled. "
            f"Entropy {entropy(self.before):.2f} nats before, <b>{entropy(self.after):.2f}</b> "
            f"after. Likeliest: <b>{escape(self._labels[best])}</b> ({self.after[best]:.0%})."
        )

    def _sample(self) -> str:
        import torch

        from llmcourse.generate import generate

        device = next(self._model.parameters()).device
        generator = torch.Generator(device=device).manual_seed(self.seed.value)
        stop = ()
        if END_OF_TEXT in getattr(self._tokenizer, "special_tokens", ()):
            stop = (self._tokenizer.special_id(END_OF_TEXT),)
        prompt = torch.tensor([self._ids], device=device)  # (1, T)
        ids = generate(
            self._model, prompt, self._length, sampling=self.sampling, stop=stop,
            generator=generator, overflow="slide",
        )  # fmt: skip
        return self._tokenizer.decode(ids[0, len(self._ids) :].tolist())

    def _text_box(self) -> str:
        shown = escape(self.continuation).replace(
            escape(END_OF_TEXT), f"<b>{readable(END_OF_TEXT)}</b>"
        )
        return (
            f'<div style="border-left:3px solid {style.KEPT};padding:6px 14px;margin-top:10px;'
            f'white-space:pre-wrap;{html.MONO};font-size:14px;min-height:4.5em">'
            f'<span style="{html.MUTED}">{escape(self.prompt.value)}</span>{shown}</div>'
        )

    def static(self) -> Figure:
        """The present bars as a matplotlib figure, with the sampled text beneath."""
        if self._logits is None:
            raise ValueError(f"there is nothing to draw: {self._note}")
        import textwrap

        # Line by line, so that the text's own line breaks stay where they are.
        lines = [
            line
            for part in (self.prompt.value + self.continuation).split("\n")
            for line in textwrap.wrap(part, 96) or [""]
        ][:6]
        with style.applied():
            drawn, axes = style.figure(8.6, 3.4 + 0.2 * len(lines))
            ax = axes[0, 0]
            draw_distribution(ax, self.before, self.after, self._labels, self._top, True)
            chosen = self.sampling
            settings = [f"temperature {chosen.temperature:.2f}"]
            for name, value in (
                ("top-k", chosen.top_k), ("top-p", chosen.top_p), ("min-p", chosen.min_p),
            ):  # fmt: skip
                if value is not None:
                    settings.append(f"{name} {value}")
            ax.set_title(", ".join(settings) + f": {int((self.after > 0).sum())} tokens kept")
            ax.set_xlabel(
                f"next token (the {min(self._top, len(self.before))} likeliest of "
                f"{len(self.before)})\n"
            )
            mono = "DejaVu Sans Mono"
            # `parse_math` off: a dollar sign in the text is a dollar sign.
            drawn.supxlabel(
                style.drawable("\n".join(lines), mono), x=0.01, ha="left", family=mono,
                fontsize=style.SMALL_SIZE, parse_math=False,
            )  # fmt: skip
        return drawn


def sampling_playground(
    model: Any, tokenizer: Any, prompt: str, *, length: int = 60, top: int = 20
) -> SamplingPlayground:
    """A widget whose sliders reshape the next-token bars and a sampled continuation.

    Args:
        model: an `llmcourse.model.Transformer`.
        tokenizer: its tokenizer.
        prompt: to begin with.
        length: tokens to sample.
        top: bars to draw.

    Raises:
        ValueError: for a length or a number of bars below 1.
    """
    return SamplingPlayground(model, tokenizer, prompt, length, top)
