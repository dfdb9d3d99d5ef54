"""Key/value caches: what a model keeps so that each token is computed once. Part 3.

`DenseCache` is the plain one, `RollingCache` forgets what has left the window, `PagedCache` shares
what texts have in common.
"""

from llmcourse.generate.cache.base import Cache
from llmcourse.generate.cache.blocks import BlockPool
from llmcourse.generate.cache.dense import DenseCache
from llmcourse.generate.cache.paged import PagedCache
from llmcourse.generate.cache.rolling import RollingCache

__all__ = ["BlockPool", "Cache", "DenseCache", "PagedCache", "RollingCache"]
