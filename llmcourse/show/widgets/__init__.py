"""Things to play with: where a head looks, how sampling settings bend a distribution, how rotary
positions turn, what a cache weighs, how FlashAttention walks its tiles, and a loss curve that draws
itself while the model trains.

Taught in: Parts 1 (attention explorer), 2 (sampling playground, live curve) and 3 (rotary explorer,
cache calculator, flash stepper).

All are ordinary ipywidgets: sliders that the keyboard moves, and one HTML view that is replaced as
a whole, so that nothing flickers and nothing is printed. Each has `.static()`, the same content as
a matplotlib figure, for the page as it reads on the web and in print.
"""

from llmcourse.show.widgets.attention_explorer import AttentionExplorer, attention_explorer
from llmcourse.show.widgets.cache_calculator import CacheCalculator, cache_calculator
from llmcourse.show.widgets.flash_stepper import FlashStepper, flash_stepper
from llmcourse.show.widgets.live_curve import LiveCurve
from llmcourse.show.widgets.rotary_explorer import RotaryExplorer, rotary_explorer
from llmcourse.show.widgets.sampling_playground import SamplingPlayground, sampling_playground

__all__ = [
    "AttentionExplorer",
    "CacheCalculator",
    "FlashStepper",
    "LiveCurve",
    "RotaryExplorer",
    "SamplingPlayground",
    "attention_explorer",
    "cache_calculator",
    "flash_stepper",
    "rotary_explorer",
    "sampling_playground",
]
