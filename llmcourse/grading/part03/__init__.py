"""The exercises of Part 3: rotary positions, grouped heads, caches, windows, FlashAttention."""

from llmcourse.grading.part03.cache_bytes import CACHE_BYTES
from llmcourse.grading.part03.cached_attention import CACHED_ATTENTION
from llmcourse.grading.part03.flash_attention import FLASH_ATTENTION
from llmcourse.grading.part03.grouped_attention import GROUPED_ATTENTION
from llmcourse.grading.part03.latent_attention import LATENT_ATTENTION
from llmcourse.grading.part03.merge_parts import MERGE_PARTS
from llmcourse.grading.part03.rms_norm import RMS_NORM
from llmcourse.grading.part03.rolling_buffer import ROLLING_BUFFER
from llmcourse.grading.part03.rotary_angles import ROTARY_ANGLES
from llmcourse.grading.part03.rotate import ROTATE
from llmcourse.grading.part03.speculative import SPECULATIVE
from llmcourse.grading.part03.swiglu import SWIGLU
from llmcourse.grading.part03.window_mask import WINDOW_MASK

EXERCISES = (
    RMS_NORM,
    SWIGLU,
    ROTARY_ANGLES,
    ROTATE,
    GROUPED_ATTENTION,
    CACHE_BYTES,
    WINDOW_MASK,
    CACHED_ATTENTION,
    ROLLING_BUFFER,
    MERGE_PARTS,
    SPECULATIVE,
    LATENT_ATTENTION,
    FLASH_ATTENTION,
)
