"""The corpus "file:PATH": the reader's own text, a file or a folder. Part 2."""

from __future__ import annotations

import re
from pathlib import Path

from llmcourse.data.corpus import Corpus, hash_position, held_out
from llmcourse.errors import CorpusError

SUFFIXES = (".txt", ".md", ".py")
HELD_OUT_SHARE = 0.1


def file_corpus(path: str) -> Corpus:
    """A corpus from a text file, or from the .txt, .md and .py files of a folder and below.

    A file: the last tenth is held out, cut between paragraphs (between lines, where there are no
    blank lines); the two documents put together are the file again. A folder: each file is a
    document, and about a tenth of the files, by a hash of the path inside the folder, is held out;
    empty files, second copies and hidden files are skipped.

    Raises:
        CorpusError: nothing there, nothing in it, not text in UTF-8, or too little to split.
    """
    if not path:
        raise CorpusError('no path was given; write "file:" and a path, as in "file:notes.txt"')
    place = Path(path).expanduser()
    if place.is_dir():
        return _folder_corpus(path, place)
    if not place.exists():
        raise CorpusError(f"there is no file or folder {path}; give the path of a text file")
    return _single_file_corpus(path, place)


def _single_file_corpus(path: str, place: Path) -> Corpus:
    text = _read(place)
    if not text.strip():
        raise CorpusError(f"the file {path} is empty; give a file with text in it")
    head, tail = split_tail(text, HELD_OUT_SHARE)
    if not head.strip() or not tail.strip():
        raise CorpusError(
            f"the file {path} is a single line; it needs at least two lines or paragraphs,"
            " one to train on and one to hold out"
        )
    source = f"The file {place.name}, its tail held out; terms as its author set them."
    return Corpus(f"file:{path}", (head,), (tail,), source)


def _folder_corpus(path: str, folder: Path) -> Corpus:
    documents: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if hidden or file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        text = _read(file)
        if text.strip() and text not in documents.values():
            documents[name] = text
    wanted = ", ".join(SUFFIXES)
    if not documents:
        raise CorpusError(f"the folder {path} holds no text; looked for {wanted} files with text")
    if len(documents) == 1:
        raise CorpusError(
            f"the folder {path} holds one text only ({next(iter(documents))}), but at least two are"
            f" needed, one to train on and one to hold out; name the file itself to have it split"
        )
    # Few files may all fall on one side; the file with the lowest hash is always held out, and the
    # one with the highest never.
    by_hash = sorted(documents, key=lambda name: hash_position(f"file:{name}"))
    validation = {n for n in by_hash[1:-1] if held_out(f"file:{n}", HELD_OUT_SHARE)} | {by_hash[0]}
    return Corpus(
        f"file:{path}",
        tuple(text for name, text in documents.items() if name not in validation),
        tuple(text for name, text in documents.items() if name in validation),
        f"The {wanted} files under {folder.name}, held out by file;"
        " terms as their authors set them.",
    )


def split_tail(text: str, share: float) -> tuple[str, str]:
    """Cuts off a tail of about `share` of the text, at the paragraph break nearest to that place.

    `head + tail == text`, always. Without a blank line anywhere it is cut between lines; a text of
    one line has an empty tail.
    """
    first = len(text) - len(text.lstrip())
    last = len(text.rstrip())
    for separator in (r"\n[ \t]*\n\s*", r"\n"):
        ends = (match.end() for match in re.finditer(separator, text))
        # A break counts only when there is text on both sides of it.
        breaks = [end for end in ends if first < end < last]
        if breaks:
            wanted = len(text) * (1 - share)
            cut = min(breaks, key=lambda position: abs(position - wanted))
            return text[:cut], text[cut:]
    return text, ""


def _read(file: Path) -> str:
    try:
        # utf-8-sig drops the mark that some editors put at the start of a file.
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise CorpusError(
            f"{file} is not text in UTF-8 (byte {error.start} is 0x{byte:02x});"
            " save it as UTF-8, or take it out of the folder"
        ) from None
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror}") from None
