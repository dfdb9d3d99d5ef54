"""The exercises of Part 4: merges, optimisers, precision, resume, packing, processes."""

from llmcourse.grading.part04.accumulation import ACCUMULATION
from llmcourse.grading.part04.adamw import ADAMW
from llmcourse.grading.part04.batch_position import BATCH_POSITION
from llmcourse.grading.part04.chunked_loss import CHUNKED_LOSS
from llmcourse.grading.part04.encode_word import ENCODE_WORD
from llmcourse.grading.part04.frequent_pair import FREQUENT_PAIR
from llmcourse.grading.part04.loss_scaling import LOSS_SCALING
from llmcourse.grading.part04.merge_pair import MERGE_PAIR
from llmcourse.grading.part04.orthogonalise import ORTHOGONALISE
from llmcourse.grading.part04.packing import PACKING
from llmcourse.grading.part04.power_law import POWER_LAW
from llmcourse.grading.part04.split_layer import SPLIT_LAYER
from llmcourse.grading.part04.stable_decay import STABLE_DECAY

EXERCISES = (
    MERGE_PAIR,
    FREQUENT_PAIR,
    ENCODE_WORD,
    STABLE_DECAY,
    ADAMW,
    ORTHOGONALISE,
    ACCUMULATION,
    LOSS_SCALING,
    POWER_LAW,
    BATCH_POSITION,
    PACKING,
    SPLIT_LAYER,
    CHUNKED_LOSS,
)
