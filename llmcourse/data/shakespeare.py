"""The corpus "shakespeare": a megabyte of plays that half the field has trained on. Part 2.

The one corpus of the course that is downloaded: a public-domain text that A. Karpathy put together
for char-rnn (2015), used here with the split that is published with it (the first nine tenths to
train on), so that losses compare. A download is checked against its SHA-256 before anything sees
it, kept for the next time, and checked again when it is read from there.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from pathlib import Path

from llmcourse.data.corpus import Corpus
from llmcourse.errors import CorpusError, OfflineError
from llmcourse.files import atomic_write, sha256_of
from llmcourse.paths import home

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TIMEOUT = 5.0  # seconds without an answer
TRAIN_SHARE = 0.9


def shakespeare_corpus(*, url: str = URL) -> Corpus:
    """The plays: the first nine tenths to train on, the last held out, one document each.

    Args:
        url: another place to fetch the same file from; the checksum is the same everywhere.

    Raises:
        OfflineError: the file is not on this machine yet and cannot be fetched.
        CorpusError: what was fetched is not the file.
    """
    path = cached_path()
    if not (path.is_file() and sha256_of(path) == SHA256):
        atomic_write(path, fetch(url, SHA256))
    text = path.read_bytes().decode("utf-8")
    cut = int(TRAIN_SHARE * len(text))
    source = (
        "Plays by William Shakespeare, collected for char-rnn (A. Karpathy, 2015), last tenth held"
        " out; public domain."
    )
    return Corpus("shakespeare", (text[:cut],), (text[cut:],), source)


def fetch(url: str, sha256: str) -> bytes:
    """The bytes behind a URL, once they have proved to be the expected ones.

    Raises:
        OfflineError: no answer within seconds, or the connection broke; names what works offline.
        CorpusError: the checksum differs.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            data: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        # OSError covers a missing network, a refused connection, HTTP errors and timeouts.
        raise OfflineError(
            f"{url} cannot be fetched ({error}). These corpora need no network:"
            ' "docs", "code", "tales", and "file:PATH" for a text of your own'
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CorpusError(
            f"{url} sent {len(data):,} bytes with SHA-256 {found}, but {sha256} was expected:"
            " the file was changed on the way, or is another one. Nothing was kept"
        )
    return data


def cached_path() -> Path:
    """Where the download is kept, whether it is there yet or not."""
    return home() / "corpora" / "shakespeare.txt"
