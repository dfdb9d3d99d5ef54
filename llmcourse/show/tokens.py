"""Tokens as short readable labels: a space, a newline or half a letter must be visible too.

Taught in: Part 2 (byte tokenization), used wherever tokens stand along an axis.
Every label is one token's; concatenating labels does not give the text back, and is not meant to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SPACE = "␣"
_CONTROL = {"\n": "↵", "\t": "→", "\r": "␍", " ": SPACE}


def readable(token: str | bytes) -> str:
    """One token as a visible label: space as ␣, newline as ↵, a byte that is no text as its hex."""
    if isinstance(token, bytes):
        try:
            token = token.decode("utf-8")
        except UnicodeDecodeError:
            # Part of a longer UTF-8 character: its bytes in hexadecimal, as in a hex dump.
            return "".join(f"{byte:02X}" for byte in token)
    if token == "":
        return "∅"
    if token.startswith("<|") and token.endswith("|>") and len(token) > 4:
        return f"⟨{token[2:-2]}⟩"
    shown = []
    for character in token:
        if character in _CONTROL:
            shown.append(_CONTROL[character])
        elif character.isprintable():
            shown.append(character)
        else:
            shown.append(f"{ord(character):02X}")
    return "".join(shown)


def token_labels(tokens: Any, tokenizer: Any = None) -> list[str]:
    """Labels for a sequence of tokens.

    Args:
        tokens: a str (one label per UTF-8 byte), a sequence of str or bytes (one label each), or a
            sequence or tensor (T,) of ids, with `tokenizer` to name them.
        tokenizer: has `token_bytes(id) -> bytes`; needed for ids only.

    Raises:
        ValueError: for ids without a tokenizer.
    """
    if isinstance(tokens, str):
        return [readable(bytes([byte])) for byte in tokens.encode("utf-8")]
    items: Sequence[Any] = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
    labels = []
    for item in items:
        if isinstance(item, (str, bytes)):
            labels.append(readable(item))
        elif isinstance(item, (int, np.integer)):
            if tokenizer is None:
                raise ValueError(
                    f"token {item} is an id: pass tokenizer=... to name it, or pass text labels"
                )
            labels.append(readable(tokenizer.token_bytes(int(item))))
        else:
            raise ValueError(f"a token is a str, bytes or an int id, not {type(item).__name__}")
    return labels
