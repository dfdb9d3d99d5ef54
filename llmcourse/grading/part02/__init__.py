"""The exercises of Part 2: data, loss, schedule and sampling of a language model."""

from llmcourse.grading.part02.clipping import CLIP
from llmcourse.grading.part02.cross_entropy import CROSS_ENTROPY
from llmcourse.grading.part02.documents import DOCUMENTS
from llmcourse.grading.part02.greedy import GREEDY
from llmcourse.grading.part02.min_p import MIN_P
from llmcourse.grading.part02.repetition import REPETITION
from llmcourse.grading.part02.schedule import SCHEDULE
from llmcourse.grading.part02.scores import SCORES
from llmcourse.grading.part02.top_k import TOP_K
from llmcourse.grading.part02.top_p import TOP_P
from llmcourse.grading.part02.windows import WINDOWS

EXERCISES = (
    WINDOWS,
    CROSS_ENTROPY,
    DOCUMENTS,
    SCORES,
    SCHEDULE,
    CLIP,
    TOP_K,
    TOP_P,
    MIN_P,
    REPETITION,
    GREEDY,
)
