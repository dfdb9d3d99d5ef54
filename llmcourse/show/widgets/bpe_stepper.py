"""The merge stepper: byte-pair encoding, one merge at a time.

Taught in: Part 4. *Training* learns merges from the text itself, from its bytes on; *encoding*
(where a trained tokenizer is given) joins what that tokenizer has learned. Both are the merges of
`llmcourse.tokenizers`. (Sennrich et al. 2015, arXiv 1508.07909, algorithm 1.)
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import ipywidgets

from llmcourse.show import style
from llmcourse.show.merges import (
    RANKED,
    Candidate,
    MergeState,
    encoding_states,
    pair_text,
    plot_merges,
    training_states,
)
from llmcourse.show.token_boxes import fill_of
from llmcourse.show.tokens import readable
from llmcourse.show.widgets import chart, html, layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmcourse.tokenizers import BPETokenizer

TEXTS = (
    "low lower lowest, slow slower slowest; new newer newest, slowly and newly",
    "She sells sea shells on the sea shore; the shells she sells are sea shells.",
    "aaaa aaa aaaa aa a aaaaaaaa",
    "for row in rows: for cell in row: cells.append(cell.value)",
    "12 + 12 = 24, 24 + 24 = 48, 124 + 124 = 248",
    "naïve café, naïveté, cafés, 日本 日本語",
)
LONGEST = 2_000  # bytes: every state recounts the text
LEARNED = 5  # merges listed under the tokens


class BPEStepper(ipywidgets.VBox):
    """The widget; made by `bpe_stepper`, which documents the arguments.

    Attributes:
        text, example, mode, step: the controls, ordinary ipywidgets.
        view: the HTML that shows tokens, pairs and length.
        states: all moments, a `MergeState` before each merge and one after the last.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: BPETokenizer | None, max_merges: int
    ) -> None:
        if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t for t in texts):
            raise ValueError("texts must be a list of at least one text, none of them empty")
        if isinstance(max_merges, bool) or not isinstance(max_merges, int) or max_merges < 1:
            raise ValueError(f"max_merges={max_merges!r} must be a whole number of at least 1")
        if tokenizer is not None and not hasattr(tokenizer, "merge_steps"):
            kind = type(tokenizer).__name__
            raise ValueError(f"merges are shown of a BPETokenizer, not of {kind}")
        self._tokenizer, self._max_merges = tokenizer, max_merges
        modes = ["training"] if tokenizer is None else ["training", "encoding"]
        self.text = ipywidgets.Text(value=texts[0], description="text", **layout.line(70))
        self.example = ipywidgets.Dropdown(
            options=[(_short(text), text) for text in texts], value=texts[0],
            description="example", **layout.control(70),
        )  # fmt: skip
        self.mode = ipywidgets.Dropdown(
            options=modes, value="training", description="mode", **layout.control(70)
        )
        self.mode.disabled = tokenizer is None
        self.step = ipywidgets.IntSlider(
            value=0, min=0, max=0, description="merges", **layout.control(70)
        )
        self.view = ipywidgets.HTML()
        self.states: list[MergeState] = []
        self._note = ""
        super().__init__(
            layout.arranged([self.example, self.mode], [self.step], above=self.text, view=self.view)
        )
        self.example.observe(self._on_example, "value")
        for control in (self.text, self.mode):
            control.observe(self._on_text, "value")
        self.step.observe(self._on_step, "value")
        self._on_text(None)

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same whatever is chosen.
        return f"BPEStepper(up to {self._max_merges} merges)"

    @property
    def state(self) -> MergeState:
        """The present moment.

        Raises:
            ValueError: the text gives none.
        """
        if not self.states:
            raise ValueError(f"there is nothing to show: {self._note}")
        return self.states[self.step.value]

    @property
    def encoding(self) -> bool:
        """Whether a trained tokenizer is at work, rather than a trainer."""
        return self.mode.value == "encoding"

    def _on_example(self, _change: object) -> None:
        self.text.value = self.example.value

    def _on_text(self, _change: object) -> None:
        """Another text or another mode: begin with its bytes."""
        self.states, self._note = [], ""
        text = self.text.value
        try:
            if not text:
                raise ValueError("Type a text: its merges are shown one by one.")
            if len(text.encode("utf-8", "replace")) > LONGEST:
                raise ValueError(f"The text is longer than {LONGEST:,} bytes; shorten it.")
            if self.encoding:
                self.states = encoding_states(text, self._tokenizer)
            else:
                self.states = training_states(text, self._max_merges)
        except ValueError as error:
            self._note = str(error)
        self.step.unobserve(self._on_step, "value")  # one redraw, not two
        self.step.value = 0
        self.step.max = max(0, len(self.states) - 1)
        self.step.disabled = not self.states
        self.step.observe(self._on_step, "value")
        self._draw()

    def _on_step(self, _change: object) -> None:
        self._draw()

    def _draw(self) -> None:
        if not self.states:
            self.view.value = html.message(self._note)
            return
        self.view.value = html.page(
            html.summary(self._sentence()),
            self._boxes(),
            '<div style="display:flex;gap:30px;flex-wrap:wrap;align-items:flex-start">',
            f'<div style="flex:1 1 400px">{self._pairs()}{self._learned()}</div>',
            f'<div style="flex:1 1 360px">{self._chart()}</div></div>',
        )

    def _sentence(self) -> str:
        state = self.state
        text = (
            f"{state.merges} {_plural('merge', state.merges)}: vocabulary "
            f"<b>{state.vocabulary:,}</b>, {state.n_bytes} {_plural('byte', state.n_bytes)} in "
            f"{state.n_tokens} {_plural('token', state.n_tokens)}, "
            f"<b>{state.tokens_per_byte:.2f} tokens per byte</b>. "
        )
        if state.done:
            if not self.encoding:
                return text + "No pair occurs twice: training ends here."
            ids = self._tokenizer.encode(self.text.value)
            return text + f"No two neighbours make a token: the ids are {_some(ids)}."
        best = state.candidates[0]
        pair = f"<b>{escape(pair_text(best.left, best.right))}</b>"
        if self.encoding:
            return text + f"Next: {pair}, of rank {best.number}, the lowest of this piece."
        if state.tied == 1:
            return text + f"Next: {pair}, the most frequent pair ({best.number} times)."
        return text + (
            f"Next: {pair} ({best.number} times), the first of {state.tied} equally frequent "
            "pairs: the smallest ids win."
        )

    def _boxes(self) -> str:
        """The text, a box for each token; what is joined next is framed."""
        state, chosen = self.state, self.state.next_places
        newest = None if state.last is None else state.last.left + state.last.right
        pieces = []
        for number, piece in enumerate(state.pieces):
            tokens = []
            for place, token in enumerate(piece):
                framed = (number, place) in chosen or (number, place - 1) in chosen
                edge = f"2px solid {style.VERMILLION}" if framed else f"1px solid {html.BORDER}"
                fill = fill_of(token)
                ink = "" if len(token) == 1 else f";background:{fill};color:{style.INK}"
                if token == newest:
                    ink += ";text-decoration:underline;text-underline-offset:3px"
                tokens.append(
                    f'<span data-token="{token.hex()}" title="{len(token)} '
                    f'{_plural("byte", len(token))}" style="border:{edge};border-radius:3px;'
                    f'padding:0 4px;margin:0 1px{ink}">{escape(readable(token))}</span>'
                )
            dimmed = state.current is not None and number > state.current
            pieces.append(
                f'<span style="display:flex;flex-wrap:wrap{";opacity:.55" if dimmed else ""}">'
                f"{''.join(tokens)}</span>"
            )
        legend = (
            chart.box_key("transparent", "a byte")
            + "".join(
                chart.box_key(fill_of(b"x" * size), words)
                for size, words in ((2, "2 bytes"), (4, "3 or 4"), (5, "more"))
            )
            + chart.box_key("transparent", "joined next", edge=style.VERMILLION)
            + f'<span style="{html.MUTED}">underlined: joined last; gaps: nothing is merged '
            "across them</span>"
        )
        return (
            f'<div style="{html.MONO};font-size:14px;display:flex;flex-wrap:wrap;gap:6px 9px;'
            f'max-height:230px;overflow:auto">{"".join(pieces)}</div>'
            f'<div style="font-size:12px;margin:6px 0 12px">{legend}</div>'
        )

    def _pairs(self) -> str:
        """The pairs that compete, best first."""
        state = self.state
        most = max((c.number or 0 for c in state.candidates), default=0)
        head = "pairs of neighbours, and how often they occur"
        if self.encoding:
            head = "pairs of neighbours in this piece, and the rank of the joined token"
        rows = []
        for place, candidate in enumerate(state.candidates[:RANKED]):
            chosen = place == 0 and not state.done
            width = 100 * (candidate.number or 0) / most if most else 0
            words = "no token" if candidate.number is None else f"{candidate.number:,}"
            rows.append(
                f'<div data-pair="{candidate.left.hex()},{candidate.right.hex()}" '
                f'data-number="{candidate.number}" style="display:flex;align-items:center;gap:8px;'
                f'margin:2px 0;font-weight:{"bold" if chosen else "normal"}">'
                f'<span style="{html.MONO};width:130px;text-align:right;white-space:nowrap">'
                f"{escape(pair_text(candidate.left, candidate.right))}</span>"
                f'<span style="flex:1;height:11px;border-radius:2px;'
                f'background:rgba(128,128,128,.14)"><span style="display:block;height:11px;'
                f"border-radius:2px;background:{style.BLUE if chosen else style.SKY};"
                f'width:{width:.1f}%"></span></span>'
                f'<span style="width:88px;font-variant-numeric:tabular-nums">{words}'
                f"{' ← next' if chosen else ''}</span></div>"
            )
        more = len(state.candidates) - RANKED
        if more > 0:
            rows.append(
                f'<div style="{html.MUTED};font-size:12px;text-align:center">and {more} more</div>'
            )
        if not rows:
            rows = [f'<div style="{html.MUTED}">there is no pair</div>']
        return f'<div style="{html.MUTED};margin-bottom:3px">{head}</div>{"".join(rows)}'

    def _learned(self) -> str:
        """The last merges made, with their ids or ranks."""
        reached = self.states[1 : self.step.value + 1]
        if not reached:
            return ""
        lines = []
        for state in reached[-LEARNED:][::-1]:
            lines.append(f"{state.merges}. {self._merge_text(state.last)}")
        return (
            f'<div style="{html.MUTED};margin:8px 0 2px">merges made, the last first</div>'
            f'<div style="{html.MONO};font-size:12.5px">{"<br>".join(lines)}</div>'
        )

    def _merge_text(self, merge: Candidate) -> str:
        joined = readable(merge.left + merge.right)
        return f"{escape(pair_text(merge.left, merge.right))} → <b>{escape(joined)}</b>"

    def _chart(self) -> str:
        """Tokens per byte against merges."""
        share = [state.tokens_per_byte for state in self.states]
        last = len(self.states) - 1
        picture = chart.Chart(
            400, 215, (0, max(1, last)), (0, 1.05), x_label="merges", y_label="tokens per byte"
        )
        picture.line([0, max(1, last)], [1, 1], "currentColor", dash="6 3", width=1.2, opacity=0.5)
        picture.line(range(last + 1), share, style.BLUE)
        picture.dot(self.step.value, share[self.step.value], style.VERMILLION, radius=5.5)
        legend = chart.key("currentColor", "bytes", dash="6 3") + chart.key(
            style.VERMILLION, "now", mark="dot"
        )
        svg = picture.svg("tokens per byte against merges")
        return f'<div style="font-size:12px">{legend}</div>{svg}'

    def static(self) -> Figure:
        """The present moment as a matplotlib figure: tokens above, pairs and length below."""
        state = self.state
        end = f"{state.merges} of {len(self.states) - 1} merges"
        words = "training" if not self.encoding else "encoding"
        return plot_merges(
            self.states, self.step.value,
            title=f"{words}, {end}: vocabulary {state.vocabulary:,}, {state.n_bytes} bytes in "
            f"{state.n_tokens} tokens",
        )  # fmt: skip


def _plural(word: str, number: int) -> str:
    return word if number == 1 else word + "s"


def _short(text: str, most: int = 46) -> str:
    """A text as an entry of a list."""
    line = text.replace("\n", "↵")
    return line if len(line) <= most else line[: most - 1] + "…"


def _some(ids: list[int], most: int = 12) -> str:
    shown = ", ".join(map(str, ids[:most]))
    return shown if len(ids) <= most else f"{shown}, … ({len(ids)} in all)"


def bpe_stepper(
    texts: Sequence[str] = TEXTS,
    tokenizer: BPETokenizer | None = None,
    *,
    max_merges: int = 40,
) -> BPEStepper:
    """A widget that makes one merge after the other, of a trainer or of a trained tokenizer.

    Args:
        texts: examples to choose from; any other text can be typed.
        tokenizer: a trained one; adds the mode "encoding".
        max_merges: of the trainer.

    Raises:
        ValueError: no text, a tokenizer that does not merge bytes, no merges.
    """
    return BPEStepper(texts, tokenizer, max_merges)
