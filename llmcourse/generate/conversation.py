"""A conversation keeps the cache of its earlier turns, so that each turn costs only what is new.

Taught in Part 3. A chat sends its whole history again at every turn. Keys and values of a token
depend on nothing that comes after it, so those of the history are still right, and only the tokens
behind it are run. If the history is changed (an answer is edited, a turn taken back), what is kept
goes as far as the old and the new text agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcourse.errors import CacheError
from llmcourse.generate.decode import stream
from llmcourse.generate.request import check_room, context_of, open_cache
from llmcourse.generate.sampling import Sampling
from llmcourse.tokenizers import Tokenizer

if TYPE_CHECKING:
    from llmcourse.generate.cache import Cache
    from llmcourse.model import Transformer


class Conversation:
    """One text that two sides write in turns: `say` adds to it, `reply` lets the model go on.

    Args:
        model: the one who replies.
        tokenizer: needed where text is given or wanted instead of ids.
        cache: "dense", "rolling", "paged", or an empty cache for one row.
        capacity: tokens the cache has room for; None means the model's context.

    Attributes:
        ids: the whole text so far, a list of ids.
        prefilled: tokens that the last reply had to run before its first new one. The last token
            of a reply is among those of the next: it was written, but never read.
        total_prefilled: the sum of these over all replies.

    Raises:
        ValueError: an unknown cache, one for several rows, one that is not empty.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None = None,
        *,
        cache: str | Cache = "dense",
        capacity: int | None = None,
    ) -> None:
        if cache == "none":
            raise ValueError('a conversation lives from its cache; choose another than "none"')
        self.model, self.tokenizer = model, tokenizer
        self.ids: list[int] = []
        self.prefilled, self.total_prefilled = 0, 0
        room = capacity or context_of(model) or model.config.context_length
        self._cache = open_cache(cache, model, 1, room)
        if self.held:
            raise ValueError(f"the cache holds {self.held} tokens already; hand in an empty one")

    @property
    def held(self) -> int:
        """Tokens of the text whose keys and values are kept."""
        return int(self._cache.lengths[0])

    def say(self, said: str | Sequence[int] | Tensor) -> None:
        """Add to the text. Special tokens in a str are read as the plain characters they are.

        Raises:
            ValueError: ids outside the vocabulary, or more than the model's context holds; nothing
                is added then.
        """
        self._become(self.ids + self._ids_of(said))

    def set_history(self, history: str | Sequence[int] | Tensor) -> None:
        """Replace the whole text; what is kept goes as far as both agree.

        Raises:
            ValueError: as `say`.
        """
        self._become(self._ids_of(history))

    def reply(
        self,
        max_new_tokens: int,
        *,
        sampling: Sampling | None = None,
        stop: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> list[int]:
        """The model goes on; its tokens, the stop token among them, become part of the text.

        The same ids as `generate` writes after the whole text.

        Raises:
            ValueError: nothing has been said yet, a context overflow, what `generate` refuses.
        """
        return list(self.stream(max_new_tokens, sampling=sampling, stop=stop, generator=generator))

    def reply_text(
        self,
        max_new_tokens: int,
        *,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        generator: torch.Generator | None = None,
    ) -> str:
        """`reply` as text, without the stop token; `stop` names special tokens.

        Raises:
            ValueError: there is no tokenizer, or what `reply` refuses.
        """
        tokenizer = self._tokenizer_for("a reply as text")
        stops = [tokenizer.special_id(name) for name in stop]
        ids = self.reply(max_new_tokens, sampling=sampling, stop=stops, generator=generator)
        return tokenizer.decode(ids[:-1] if ids[-1] in stops else ids)

    def stream(
        self,
        max_new_tokens: int,
        *,
        sampling: Sampling | None = None,
        stop: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> Iterator[int]:
        """`reply`, token by token. Whoever stops early has what was written so far in the text."""
        if not self.ids:
            raise ValueError("nothing has been said yet; say something before asking for a reply")
        advice = "; the text so far can be shortened with set_history"
        check_room(self.model, len(self.ids), max_new_tokens, "the context", advice)
        self._keep(len(self.ids) - 1)  # the last token is read again, for what follows it
        ids = torch.tensor([self.ids], device=next(self.model.parameters()).device)  # (1, T)
        tokens = stream(
            self.model, ids, max_new_tokens,
            sampling=sampling, stop=stop, generator=generator, cache=self._cache,
        )  # fmt: skip
        return self._written(tokens, len(self.ids) - self.held)

    def _written(self, tokens: Iterator[Tensor], prefilled: int) -> Iterator[int]:
        for n, token in enumerate(tokens):
            if n == 0:
                self.prefilled = prefilled
                self.total_prefilled += prefilled
            self.ids.append(int(token))
            yield self.ids[-1]

    def _become(self, ids: list[int]) -> None:
        vocabulary, context = self.model.config.vocab_size, context_of(self.model)
        wrong = next((id for id in ids if not 0 <= id < vocabulary), None)
        if wrong is not None:
            raise ValueError(f"token id {wrong} is outside the vocabulary of {vocabulary}")
        if context is not None and len(ids) > context:
            raise ValueError(
                f"the text would have {len(ids)} tokens and overflow the context of {context}, "
                f"in which {len(self.ids)} stand now; set_history gives it a shorter one"
            )
        self._keep(common_prefix(self.ids, ids))
        self.ids = ids

    def _keep(self, length: int) -> None:
        if self.held > length:
            try:
                self._cache.truncate(length)
            except CacheError:
                # A rolling buffer has overwritten what the shorter text would need: begin anew.
                self._cache.reset()

    def _ids_of(self, said: str | Sequence[int] | Tensor) -> list[int]:
        if isinstance(said, str):
            return self._tokenizer_for("text").encode(said)
        return said.reshape(-1).tolist() if isinstance(said, Tensor) else list(said)

    def _tokenizer_for(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(f"{what} needs a tokenizer; give the conversation one, or use ids")
        return self.tokenizer


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first ids two texts share."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
