"""Three things to play with: where a head looks, how sampling settings bend a distribution, and a
loss curve that draws itself while the model trains.

Taught in: Parts 1 (attention explorer) and 2 (sampling playground, live curve).

All three are ordinary ipywidgets: sliders that the keyboard moves, and one HTML view that is
replaced as a whole, so that nothing flickers and nothing is printed. Each has `.static()`, the same
content as a matplotlib figure, for the page as it reads on the web and in print.
"""

from llmcourse.show.widgets.attention_explorer import AttentionExplorer, attention_explorer
from llmcourse.show.widgets.live_curve import LiveCurve
from llmcourse.show.widgets.sampling_playground import SamplingPlayground, sampling_playground

__all__ = [
    "AttentionExplorer",
    "LiveCurve",
    "SamplingPlayground",
    "attention_explorer",
    "sampling_playground",
]
