"""The exercises of Part 1: the pieces of a transformer, each checked against plain loops."""

from llmcourse.grading.part01.attention import ATTENTION
from llmcourse.grading.part01.block import PRE_NORM_BLOCK
from llmcourse.grading.part01.causal_mask import CAUSAL_MASK
from llmcourse.grading.part01.counting import PARAMETER_COUNT
from llmcourse.grading.part01.gelu import GELU
from llmcourse.grading.part01.heads import MERGE_HEADS, SPLIT_HEADS
from llmcourse.grading.part01.layer_norm import LAYER_NORM
from llmcourse.grading.part01.masked_attention import MASKED_ATTENTION
from llmcourse.grading.part01.positions import POSITIONS
from llmcourse.grading.part01.softmax import SOFTMAX

EXERCISES = (
    POSITIONS,
    SOFTMAX,
    ATTENTION,
    CAUSAL_MASK,
    MASKED_ATTENTION,
    SPLIT_HEADS,
    MERGE_HEADS,
    LAYER_NORM,
    GELU,
    PRE_NORM_BLOCK,
    PARAMETER_COUNT,
)
