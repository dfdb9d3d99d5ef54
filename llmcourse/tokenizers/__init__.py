"""Text to ids and back. Part 2 uses bytes, characters and words; Part 4 byte-pair encoding.

>>> from llmcourse.tokenizers import ByteTokenizer
>>> tokenizer = ByteTokenizer()
>>> tokenizer.decode(tokenizer.encode("hello"))
'hello'
"""

from __future__ import annotations

from typing import Any

from llmcourse.tokenizers.base import END_OF_TEXT, Tokenizer
from llmcourse.tokenizers.bpe import COURSE_SPECIAL_TOKENS, BPETokenizer
from llmcourse.tokenizers.bytes import ByteTokenizer
from llmcourse.tokenizers.characters import CharacterTokenizer
from llmcourse.tokenizers.words import WordTokenizer

__all__ = [
    "COURSE_SPECIAL_TOKENS",
    "END_OF_TEXT",
    "BPETokenizer",
    "ByteTokenizer",
    "CharacterTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "load_tokenizer",
]

_KINDS = {
    "bytes": ByteTokenizer,
    "characters": CharacterTokenizer,
    "words": WordTokenizer,
    "bpe": BPETokenizer,
}


def load_tokenizer(data: dict[str, Any]) -> Tokenizer:
    """The tokenizer that wrote `data` with its `to_dict`, as it is kept beside a checkpoint.

    Raises:
        ValueError: `data` is no saved tokenizer, or of a kind there is none of.
    """
    if not isinstance(data, dict):
        raise ValueError(f"a saved tokenizer is a dict, got {type(data).__name__}")
    if data.get("kind") not in _KINDS:
        raise ValueError(
            f"no tokenizer of kind {data.get('kind')!r}; there are: {', '.join(_KINDS)}"
        )
    return _KINDS[data["kind"]].from_dict(data)
