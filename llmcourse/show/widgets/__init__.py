"""Things to play with: where a head looks, how sampling settings bend a distribution, how rotary
positions turn, what a cache weighs, how FlashAttention walks its tiles, how byte-pair encoding
merges, what a learning rate does over a run, which experts a token takes, and a loss curve that
draws itself while the model trains.

Taught in: Parts 1 (attention explorer), 2 (sampling playground, live curve), 3 (rotary explorer,
cache calculator, flash stepper), 4 (merge stepper, schedule designer) and 5 (routing viewer).

All are ordinary ipywidgets: sliders that the keyboard moves, and one HTML view that is replaced as
a whole, so that nothing flickers and nothing is printed. Each has `.static()`, the same content as
a matplotlib figure, for the page as it reads on the web and in print.
"""

from llmcourse.show.widgets.attention_explorer import AttentionExplorer, attention_explorer
from llmcourse.show.widgets.bpe_stepper import BPEStepper, bpe_stepper
from llmcourse.show.widgets.cache_calculator import CacheCalculator, cache_calculator
from llmcourse.show.widgets.flash_stepper import FlashStepper, flash_stepper
from llmcourse.show.widgets.live_curve import LiveCurve
from llmcourse.show.widgets.rotary_explorer import RotaryExplorer, rotary_explorer
from llmcourse.show.widgets.routing_viewer import RoutingViewer, routing_viewer
from llmcourse.show.widgets.sampling_playground import SamplingPlayground, sampling_playground
from llmcourse.show.widgets.schedule_designer import ScheduleDesigner, schedule_designer

__all__ = [
    "AttentionExplorer",
    "BPEStepper",
    "CacheCalculator",
    "FlashStepper",
    "LiveCurve",
    "RotaryExplorer",
    "RoutingViewer",
    "SamplingPlayground",
    "ScheduleDesigner",
    "attention_explorer",
    "bpe_stepper",
    "cache_calculator",
    "flash_stepper",
    "rotary_explorer",
    "routing_viewer",
    "sampling_playground",
    "schedule_designer",
]
