"""The schedule designer: a learning rate over a run, and what a resumed run asks it.

Taught in: Part 4. The curve is `llmcourse.train.schedules` at every step. A schedule is a function
of the step: a run that resumes at step 700 asks for step 700's rate, and nothing had to be saved
for it. Two other answers stand beside that one: the rate if the run is made longer as it resumes,
and the rate of a schedule that begins anew, which is what a scheduler that was not saved does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from llmcourse.show import style
from llmcourse.show.schedules import NAMES, peak_updates, rate_axes, rates
from llmcourse.show.widgets import chart, html, layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PEAKS = (1e-4, 2e-4, 3e-4, 6e-4, 1e-3, 2e-3, 3e-3, 6e-3, 1e-2)
TOTALS = (100, 200, 500, 1_000, 2_000, 5_000)  # updates
LONGER = 2  # times the run, for the answer "and if the run is made longer"
POINTS = 400  # of a line, at most
UNIT = 1e-4  # of the axis


class ScheduleDesigner(ipywidgets.VBox):
    """The widget; made by `schedule_designer`, which documents the arguments.

    Attributes:
        schedule, peak, warmup, total, decay_share, decay, floor, step: the controls.
        view: the HTML that shows the curve and the rates.
        rates: (total,) the rate of every update.
    """

    def __init__(self, schedule: str, peak: float, total: int, step: int) -> None:
        from llmcourse.train.schedules import DECAYS, SCHEDULES

        known = {"schedule": SCHEDULES, "peak": PEAKS, "total": TOTALS}
        for name, value in (("schedule", schedule), ("peak", peak), ("total", total)):
            if value not in known[name]:
                raise ValueError(f"{name}={value!r} is not there; choose one of {[*known[name]]}")
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < total:
            raise ValueError(f"step={step!r} must be a whole number from 0 to {total - 1}")
        self.schedule = ipywidgets.Dropdown(
            options=[(NAMES.get(name, name), name) for name in SCHEDULES], value=schedule,
            description="schedule", **layout.control(),
        )  # fmt: skip
        self.peak = ipywidgets.SelectionSlider(
            options=[(f"{rate:g}", rate) for rate in PEAKS], value=peak, description="peak rate",
            **layout.control(),
        )  # fmt: skip
        self.total = ipywidgets.SelectionSlider(
            options=[(f"{n:,}", n) for n in TOTALS], value=total, description="updates in all",
            **layout.control(),
        )  # fmt: skip
        self.warmup = self._share("warm-up share", 0.05, 0.5, 0.01)
        self.decay_share = self._share("decay share", 0.2, 0.99, 0.01)
        self.decay_share.min = 0.01
        self.decay = ipywidgets.Dropdown(
            options=list(DECAYS), value="1-sqrt", description="decay shape", **layout.control()
        )
        self.floor = self._share("floor / peak", 0.0, 1.0, 0.05)
        self.step = ipywidgets.IntSlider(
            value=step, min=0, max=total - 1, description="resume at step", **layout.control()
        )
        self.view = ipywidgets.HTML()
        self.rates = np.zeros(0)
        super().__init__(
            layout.arranged(
                [self.schedule, self.peak, self.total, self.step],
                [self.warmup, self.decay_share, self.decay, self.floor],
                view=self.view,
            )
        )
        self.total.observe(self._on_total, "value")
        for control in (
            self.schedule, self.peak, self.warmup, self.decay_share, self.decay, self.floor,
            self.step,
        ):  # fmt: skip
            control.observe(self._on_choice, "value")
        self._draw()

    @staticmethod
    def _share(words: str, value: float, most: float, step: float) -> ipywidgets.FloatSlider:
        return ipywidgets.FloatSlider(
            value=value, min=0.0, max=most, step=step, description=words, readout_format=".2f",
            **layout.control(),
        )  # fmt: skip

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same whatever is chosen.
        return f"ScheduleDesigner({len(self.schedule.options)} schedules)"

    @property
    def settings(self) -> dict[str, Any]:
        """What the controls stand for, as keyword arguments of `schedules.learning_rate`."""
        return self._settings(self.total.value)

    def _settings(self, total: int) -> dict[str, Any]:
        # The warm-up stays where it was when a run is made longer: it has been and gone.
        warmup = min(round(self.warmup.value * self.total.value), total - 1)
        peak = self.peak.value
        chosen: dict[str, Any] = {
            "schedule": self.schedule.value, "peak": peak, "warmup_steps": warmup,
            "total_steps": total, "floor": round(self.floor.value, 2) * peak,
        }  # fmt: skip
        if self.schedule.value == "wsd":
            fall = max(1, round(self.decay_share.value * total))
            chosen |= {"decay_steps": min(fall, total - warmup), "decay": self.decay.value}
        return chosen

    def answers(self) -> dict[str, float]:
        """The rate of the next update of a run that resumes at the chosen step, three ways."""
        from llmcourse.train.schedules import learning_rate

        step, total = self.step.value, self.total.value
        return {
            "resumed": learning_rate(step, **self._settings(total)),
            "longer": learning_rate(step, **self._settings(LONGER * total)),
            "anew": learning_rate(0, **self._settings(total)),
        }

    def _on_total(self, _change: Any) -> None:
        self.step.unobserve(self._on_choice, "value")  # one redraw, not two
        self.step.max = self.total.value - 1  # ipywidgets lowers the value if it is too high
        self.step.observe(self._on_choice, "value")
        self._draw()

    def _on_choice(self, _change: Any) -> None:
        self._draw()

    def _curve_of(self, total: int) -> np.ndarray:
        settings = self._settings(total)
        name, count = settings.pop("schedule"), settings.pop("total_steps")
        return rates(name, count, **settings)

    def _draw(self) -> None:
        for control in (self.decay_share, self.decay):
            control.disabled = self.schedule.value != "wsd"
        self.floor.disabled = self.schedule.value == "constant"
        self.rates = self._curve_of(self.total.value)
        self.view.value = html.page(html.summary(self._sentence()), self._chart(), self._table())

    def _sentence(self) -> str:
        settings, peak = self.settings, self.peak.value
        area, total = peak_updates(self.rates, peak), self.total.value
        parts = [f"Warm-up of {settings['warmup_steps']:,} updates"]
        if "decay_steps" in settings:
            parts.append(f"fall over the last {settings['decay_steps']:,}")
        return (
            f"{', '.join(parts)}. Area under the curve: {self.rates.sum():.4g}, as much as "
            f"<b>{area:,.0f} updates at the peak</b> ({area / total:.0%} of {total:,}). "
            f"Step {self.step.value:,}: rate <b>{_rate(self.rates[self.step.value])}</b>."
        )

    def _longer(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and rates of the longer run from the chosen step to the end of this one."""
        total, step = self.total.value, self.step.value
        return np.arange(step, total), self._curve_of(LONGER * total)[step:total]

    def _anew(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and rates of a schedule that begins again at the chosen step."""
        steps = np.arange(self.step.value, self.total.value)
        return steps, self.rates[: len(steps)]

    def _chart(self) -> str:
        total, peak, step = self.total.value, self.peak.value, self.step.value
        picture = chart.Chart(
            860, 240, (0, 1.03 * total), (0, 1.06 * peak / UNIT),
            x_label="optimiser step (updates made)", y_label="learning rate (× 10⁻⁴)",
        )  # fmt: skip
        steps = np.arange(total)
        if self.settings["warmup_steps"]:
            picture.band(0, self.settings["warmup_steps"], "rgba(128,128,128,.13)")
        for (x, y), color, dash in (
            (self._anew(), style.VERMILLION, "2 3"),
            (self._longer(), style.ORANGE, "8 3"),
            ((steps, self.rates), style.BLUE, ""),
        ):
            kept = _thinned(len(x))
            picture.line(x[kept], y[kept] / UNIT, color, dash=dash, width=2.4 if not dash else 1.8)
        picture.dot(step, self.rates[step] / UNIT, style.BLUE, radius=5.5)
        legend = (
            chart.key(style.BLUE, "the schedule")
            + chart.key(style.ORANGE, f"resumed with {LONGER} × the updates", dash="8 3")
            + chart.key(style.VERMILLION, "resumed, begun anew", dash="2 3")
            + chart.box_key("rgba(128,128,128,.13)", "warm-up")
        )
        svg = picture.svg("learning rate against step")
        return f'<div style="font-size:12px;margin:2px 0">{legend}</div>{svg}'

    def _table(self) -> str:
        words = {
            "resumed": "resumed with the same settings: a function of the step, nothing to save",
            "longer": f"resumed with {LONGER} × the updates in all ({LONGER * self.total.value:,})",
            "anew": "resumed with a scheduler that was not saved: the mistake",
        }
        rows = "".join(
            f'<tr><td style="padding-right:18px">{words[name]}</td>'
            f'<td data-answer="{name}" data-rate="{rate!r}" style="text-align:right;'
            f'font-variant-numeric:tabular-nums"><b>{_rate(rate)}</b></td></tr>'
            for name, rate in self.answers().items()
        )
        return (
            f'<div style="{html.MUTED};margin-top:6px">rate of the next update of a run that '
            f"stopped after {self.step.value:,} updates</div>"
            f'<table style="font-size:13px">{rows}</table>'
        )

    def static(self) -> Figure:
        """The present curve as a matplotlib figure, with the three ways to go on."""
        total, peak, step = self.total.value, self.peak.value, self.step.value
        settings, answers = self.settings, self.answers()
        with style.applied():
            drawn, axes = style.figure(9.2, 3.4)
            ax = axes[0, 0]
            if settings["warmup_steps"]:
                ax.axvspan(0, settings["warmup_steps"], color=style.FAINT, alpha=0.5, linewidth=0)
            ax.plot(
                *self._anew(), color=style.VERMILLION, linestyle=(0, (1, 1.2)),
                label=f"resumed, begun anew: {_rate(answers['anew'])}",
            )  # fmt: skip
            ax.plot(
                *self._longer(), color=style.ORANGE, linestyle=(0, (5, 2)),
                label=f"resumed, {LONGER} × the updates: {_rate(answers['longer'])}",
            )  # fmt: skip
            ax.plot(
                np.arange(total), self.rates, color=style.BLUE, linestyle="-",
                label=f"{NAMES.get(settings['schedule'], settings['schedule'])}, "
                f"as {peak_updates(self.rates, peak):,.0f} updates at the peak",
            )  # fmt: skip
            ax.plot(
                [step], [self.rates[step]], color=style.BLUE, marker="o", markersize=7,
                linestyle="", label=f"resumed at step {step:,}: {_rate(answers['resumed'])}",
            )  # fmt: skip
            rate_axes(ax, peak)
            ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawn


def _rate(value: float) -> str:
    return f"{value:.3g}"


def _thinned(count: int) -> np.ndarray:
    """Numbers of the points that a line needs: all of a short one, spread ones of a long one."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))


def schedule_designer(
    *, schedule: str = "wsd", peak: float = 1e-3, total: int = 1_000, step: int = 400
) -> ScheduleDesigner:
    """A widget that draws a learning rate over a run and says what a resumed run would use.

    Args:
        schedule: one of `llmcourse.train.schedules.SCHEDULES` to begin with.
        peak: the highest rate to begin with, one of the slider's.
        total: updates of the run to begin with, one of the slider's.
        step: at which the run resumes, to begin with.

    Raises:
        ValueError: an unknown schedule, a peak or total that is not on its slider, or a step
            outside the run.
    """
    return ScheduleDesigner(schedule, peak, total, step)
