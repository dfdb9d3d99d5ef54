"""`file:PATH`: files and folders of the reader's own, and all that can be wrong with them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import load_corpus
from llmcourse.data.corpus import hash_position
from llmcourse.data.textfiles import split_tail
from llmcourse.errors import CorpusError


def test_a_file_is_split_between_paragraphs_near_nine_tenths(tmp_path):
    text = "\n\n".join(f"Paragraph {i} has two lines,\nand this is the second." for i in range(100))
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    corpus = load_corpus(f"file:{tmp_path / 'book.txt'}")
    [head], [tail] = corpus.train, corpus.validation
    assert head + tail == text
    assert tail.startswith("Paragraph 90 ") and head.endswith("\n\n")


def test_a_file_without_blank_lines_is_split_between_lines(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"name{i}" for i in range(50)))
    corpus = load_corpus(f"file:{tmp_path / 'names.txt'}")
    assert corpus.validation_text.split() == [f"name{i}" for i in range(45, 50)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text("ab \n\t", max_size=60), st.sampled_from([0.1, 0.5]))
def test_head_and_tail_are_the_text_cut_at_the_nearest_break(text, share):
    head, tail = split_tail(text, share)
    assert head + tail == text
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2:
        assert tail == ""
        return
    assert head.strip() and tail.strip()
    # Oracle: try every place there is.
    places = [i for i in range(1, len(text)) if text[:i].strip() and text[i:].strip()]
    blank = [i for i in places if is_after_blank_line(text, i)]
    line = [i for i in places if text[i - 1] == "\n"]
    wanted = len(text) * (1 - share)
    best = min(abs(i - wanted) for i in blank or line)
    assert abs(len(head) - wanted) == best


def is_after_blank_line(text: str, place: int) -> bool:
    """Whether a paragraph starts here, its first word or the white space before it, at the most."""
    before = text[:place]
    gap = before[len(before.rstrip()) :]
    return not text[place].isspace() and gap.count("\n") >= 2


def test_a_folder_is_split_by_file(tmp_path):
    for i in range(40):
        (tmp_path / f"sub{i % 3}").mkdir(exist_ok=True)
        suffix = (".txt", ".md", ".py")[i % 3]
        (tmp_path / f"sub{i % 3}" / f"f{i}{suffix}").write_text(f"text {i}")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "copy.txt").write_text("text 7")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("hidden")
    corpus = load_corpus(f"file:{tmp_path}")
    assert sorted(corpus.train + corpus.validation) == sorted(f"text {i}" for i in range(40))
    positions = {
        file.read_text(): hash_position(f"file:{file.relative_to(tmp_path).as_posix()}")
        for file in tmp_path.glob("sub*/*")
    }
    positions["text 7"] = hash_position("file:copy.txt")  # first of the two in order of name
    lowest = min(positions, key=positions.get)
    assert set(corpus.validation) == {lowest} | {t for t, p in positions.items() if p < 0.1}


@pytest.mark.parametrize("n_files", [2, 3])
def test_a_folder_of_few_files_still_has_two_parts(tmp_path, n_files):
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        for i in range(n_files):
            (folder / f"{attempt}-{i}.txt").write_text(f"text {i}")
        corpus = load_corpus(f"file:{folder}")
        assert len(corpus.train) >= 1 and len(corpus.validation) >= 1
        assert len(corpus.train) + len(corpus.validation) == n_files


def test_the_mark_some_editors_write_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\ntwo")
    assert load_corpus(f"file:{tmp_path / 'a.txt'}").train_text == "one\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty; give a file with text"),
        ("blank.txt", b" \n\n\t\n", "is empty; give a file with text"),
        ("line.txt", b"just one line\n", "needs at least two lines"),
        ("latin.txt", b"one\ncaf\xe9\n", r"latin.txt is not text in UTF-8 \(byte 7 is 0xe9\)"),
    ],
)
def test_files_that_are_no_corpus(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(f"file:{tmp_path / name}")
    assert name in str(caught.value)


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(CorpusError, match=r"no file or folder .*missing\.txt"):
        load_corpus(f"file:{tmp_path / 'missing.txt'}")
    with pytest.raises(CorpusError, match="no path was given"):
        load_corpus("file:")


def test_folders_that_are_no_corpus(tmp_path):
    with pytest.raises(CorpusError, match=r"holds no text; looked for \.txt, \.md, \.py"):
        load_corpus(f"file:{tmp_path}")
    (tmp_path / "only.md").write_text("one text")
    (tmp_path / "copy.md").write_text("one text")
    with pytest.raises(CorpusError, match=r"holds one text only \(copy\.md\)"):
        load_corpus(f"file:{tmp_path}")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(CorpusError, match=r"bad\.txt is not text in UTF-8"):
        load_corpus(f"file:{tmp_path}")
