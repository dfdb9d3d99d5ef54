"""The exercises of Part 5: gates, balance, capacity, who looks ahead, upcycling, dispatch."""

from llmcourse.grading.part05.balance import BALANCE
from llmcourse.grading.part05.capacity import CAPACITY
from llmcourse.grading.part05.counts import COUNTS
from llmcourse.grading.part05.dispatch import DISPATCH
from llmcourse.grading.part05.expert_choice import EXPERT_CHOICE
from llmcourse.grading.part05.gates import GATES
from llmcourse.grading.part05.groups import GROUPS
from llmcourse.grading.part05.layer import LAYER
from llmcourse.grading.part05.leak import LEAK
from llmcourse.grading.part05.selection_bias import SELECTION_BIAS
from llmcourse.grading.part05.upcycle import UPCYCLE
from llmcourse.grading.part05.z_loss import Z_LOSS

EXERCISES = (
    GATES,
    Z_LOSS,
    COUNTS,
    EXPERT_CHOICE,
    BALANCE,
    CAPACITY,
    SELECTION_BIAS,
    GROUPS,
    LEAK,
    UPCYCLE,
    DISPATCH,
    LAYER,
)
