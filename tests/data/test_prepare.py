"""From text to shards: every source, any number of processes, a stop at any moment."""

from __future__ import annotations

import builtins
import errno
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import prepare as prepare_module
from llmcourse.data import shard_writer
from llmcourse.data.huggingface import HuggingFaceSource, open_source
from llmcourse.data.prepare import PrepareConfig, Progress, portions_of, prepare
from llmcourse.data.records import FileSource, file_fingerprint, text_of
from llmcourse.data.shards import Shards
from llmcourse.errors import CorpusError
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer, CharacterTokenizer

TOKENIZER = ByteTokenizer((END_OF_TEXT,))
TEXTS = ["Anna opens the box.", "é\nü", "", "line\r\nline", "the end" * 9, " ", "日本"]


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch):
    """Waiting for the disk protects from power cuts only, and is nearly all the time it takes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def write_jsonl(path: Path, texts, field: str = "text") -> Path:
    lines = [json.dumps({"id": n, field: text}) for n, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, texts, field: str = "text") -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"id": list(range(len(texts))), field: texts})
    parquet.write_table(table, path, row_group_size=2)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file there is, hidden ones too."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def documents(shards: Shards) -> list[list[int]]:
    return [shards.document(n).tolist() for n in range(shards.n_documents)]


def expected(texts, tokenizer=TOKENIZER) -> list[list[int]]:
    end = tokenizer.special_id(END_OF_TEXT)
    return [[*tokenizer.encode(text), end] for text in texts if text]


class TestSources:
    def test_jsonl(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
        shards = prepare(FileSource((path,)), TOKENIZER, tmp_path / "out")
        assert documents(shards) == expected(TEXTS)
        assert shards.index["empty_documents"] == 1
        assert shards.index["records"] == len(TEXTS)

    def test_jsonl_packed_by_gzip_with_blank_lines_and_a_mark(self, tmp_path):
        lines = [b'\xef\xbb\xbf{"text": "one"}', b"", b"  ", b'{"text": "two"}']
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
        shards = prepare(FileSource((tmp_path / "a.jsonl.gz",)), TOKENIZER, tmp_path / "out")
        assert documents(shards) == expected(["one", "two"])

    def test_another_field_and_no_end(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", ["one", "two"], "content")
        config = PrepareConfig(end_of_text=False)
        shards = prepare(FileSource((path,), "content"), ByteTokenizer(), tmp_path / "out", config)
        assert documents(shards) == [list(b"one"), list(b"two")]

    def test_parquet(self, tmp_path):
        path = write_parquet(tmp_path / "a.parquet", TEXTS)
        shards = prepare(FileSource((path,)), TOKENIZER, tmp_path / "out")
        assert documents(shards) == expected(TEXTS)

    def test_text_files_and_folders(self, tmp_path):
        folder = tmp_path / "in"
        (folder / "b").mkdir(parents=True)
        (folder / ".hidden").mkdir()
        (folder / "z.txt").write_bytes(b"last\r\n")
        (folder / "b" / "x.md").write_text("first")
        (folder / "picture.png").write_bytes(b"\x89PNG")
        (folder / ".hidden" / "a.txt").write_text("no")
        write_jsonl(folder / "m.jsonl", ["middle", "too"])
        extra = tmp_path / "extra.dat"
        extra.write_text("by name")
        shards = prepare(FileSource((folder, extra)), TOKENIZER, tmp_path / "out")
        assert documents(shards) == expected(["first", "middle", "too", "last\r\n", "by name"])
        names = [f["name"] for f in shards.index["source"]["files"]]
        assert names == ["b/x.md", "m.jsonl", "z.txt", "extra.dat"]
        assert str(tmp_path) not in (tmp_path / "out/index.json").read_text()

    @pytest.mark.parametrize("kind", ["saved", "saved splits", "files"])
    def test_hugging_face_from_a_folder(self, tmp_path, kind):
        datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
        folder = tmp_path / "set"
        if kind == "files":
            folder.mkdir()
            write_jsonl(folder / "train.jsonl", TEXTS)
        else:
            rows = datasets.Dataset.from_dict({"text": TEXTS})
            saved = rows if kind == "saved" else datasets.DatasetDict({"train": rows})
            saved.save_to_disk(str(folder))
        source = open_source([f"hf:{folder}"])
        assert isinstance(source, HuggingFaceSource)
        shards = prepare(source, TOKENIZER, tmp_path / "out", PrepareConfig(tokens_per_shard=30))
        assert documents(shards) == expected(TEXTS)
        assert [r.payload for r in source.records(skip=4)] == TEXTS[4:]
        assert str(tmp_path) not in (tmp_path / "out/index.json").read_text()

    @pytest.mark.parametrize("skip", [0, 1, 5, 11, 12, 99])
    def test_skipping_is_skipping(self, tmp_path, skip):
        paths = [
            write_jsonl(tmp_path / "a.jsonl", ["one", "two", "three", "four"]),
            tmp_path / "b.txt",
            write_parquet(tmp_path / "c.parquet", [f"row {n}" for n in range(7)]),
        ]
        paths[1].write_text("text")
        source = FileSource(tuple(paths))
        whole = list(source.records())
        assert len(whole) == 12
        assert list(source.records(skip)) == whole[skip:]
        opened = [text_of(r, "text") for r in whole]
        assert opened == ["one", "two", "three", "four", "text", *(f"row {n}" for n in range(7))]


class TestAlwaysTheSameBytes:
    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(st.lists(st.text(max_size=30), min_size=1, max_size=20), st.integers(1, 60))
    def test_any_texts(self, tmp_path_factory, texts, size):
        texts = [text.encode("utf-8", "ignore").decode() for text in texts]
        folder = tmp_path_factory.mktemp("any")
        source = FileSource((write_jsonl(folder / "a.jsonl", texts),))
        if not any(texts):
            with pytest.raises(CorpusError, match="every document in it is empty"):
                prepare(source, TOKENIZER, folder / "out")
            assert contents(folder / "out") == {}
            return
        config = PrepareConfig(tokens_per_shard=size)
        shards = prepare(source, TOKENIZER, folder / "out", config)
        assert documents(shards) == expected(texts)
        assert len(list(shards.verify())) == len(shards.index["shards"])
        for entry in shards.index["shards"]:
            assert entry["tokens"] <= size or entry["documents"] == 1

    def test_several_processes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(prepare_module, "PORTION_SIZE", 2000)
        generator = random.Random(0)
        texts = ["word " * generator.randint(0, 80) for _ in range(300)]
        source = FileSource((write_jsonl(tmp_path / "a.jsonl", texts),))
        for n in (1, 3):
            config = PrepareConfig(tokens_per_shard=10_000, workers=n)
            prepare(source, TOKENIZER, tmp_path / str(n), config)
        assert contents(tmp_path / "1") == contents(tmp_path / "3")
        assert len(contents(tmp_path / "1")) > 8

    def test_portions_keep_the_order(self, tmp_path, monkeypatch):
        monkeypatch.setattr(prepare_module, "PORTION_RECORDS", 3)
        source = FileSource((write_jsonl(tmp_path / "a.jsonl", list("abcdefgh")),))
        portions = list(portions_of(source.records()))
        assert [len(p) for p in portions] == [3, 3, 2]
        assert list(chain(*portions)) == list(source.records())

    def test_progress_counts_what_there_is(self, tmp_path):
        seen: list[Progress] = []
        source = FileSource((write_jsonl(tmp_path / "a.jsonl", TEXTS),))
        shards = prepare(source, TOKENIZER, tmp_path / "out", progress=seen.append)
        assert seen[-1].tokens == shards.n_tokens
        assert seen[-1].records == len(TEXTS)


def children(pid: int) -> list[int]:
    """Processes that one has started; none where the system has no /proc."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def is_running(pid: int) -> bool:
    """Whether a process is there and does more than wait to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Stopped(BaseException):
    """As a kill: nobody catches it."""


class TestRestart:
    """One run is stopped at each of its writes, once before and once behind it."""

    @pytest.fixture
    def source(self, tmp_path) -> FileSource:
        return FileSource((write_jsonl(tmp_path / "a.jsonl", [*TEXTS, *TEXTS]),))

    config = PrepareConfig(tokens_per_shard=60)

    def test_a_stop_at_any_write(self, tmp_path, source, monkeypatch):
        prepare(source, TOKENIZER, tmp_path / "whole", self.config)
        whole = contents(tmp_path / "whole")
        assert len(whole) > 8
        write = shard_writer.atomic_write
        calls = 0
        stops = 0
        for stop_at in range(100):
            for behind in (False, True):
                folder = tmp_path / f"{stop_at}-{behind}"
                calls = 0

                def stopping(path, data, stop_at=stop_at, behind=behind):
                    nonlocal calls
                    calls += 1
                    if calls - 1 == stop_at:
                        if behind:
                            write(path, data)
                        else:
                            (path.parent / f".{path.name}.xyz.tmp").write_bytes(data[:3])
                        raise Stopped
                    write(path, data)

                monkeypatch.setattr(shard_writer, "atomic_write", stopping)
                try:
                    prepare(source, TOKENIZER, folder, self.config)
                except Stopped:
                    stops += 1
                    if not (folder / "index.json").exists():
                        with pytest.raises(CorpusError, match=r"unfinished|no shards"):
                            Shards(folder)
                monkeypatch.setattr(shard_writer, "atomic_write", write)
                prepare(source, TOKENIZER, folder, self.config)
                assert contents(folder) == whole, (stop_at, behind)
            if calls <= stop_at:
                break
        # Three writes for each shard, and the index.
        assert stops == 2 * (3 * len(json.loads(whole["index.json"])["shards"]) + 1)

    def test_what_is_done_is_not_done_again(self, tmp_path, source, monkeypatch):
        self.stop_after(5, tmp_path / "out", source, monkeypatch)
        done = json.loads((tmp_path / "out/progress.json").read_text())["shards"]
        assert len(done) == 1
        skipped = []
        original = FileSource.records
        monkeypatch.setattr(
            FileSource, "records", lambda s, skip=0: skipped.append(skip) or original(s, skip)
        )
        prepare(source, TOKENIZER, tmp_path / "out", self.config)
        assert skipped == [done[-1]["records"]] != [0]
        # Finished: nothing is read any more.
        before = contents(tmp_path / "out")
        prepare(source, TOKENIZER, tmp_path / "out", self.config)
        assert len(skipped) == 1
        assert contents(tmp_path / "out") == before

    def stop_after(self, writes, folder, source, monkeypatch, error=Stopped):
        write, calls = shard_writer.atomic_write, []

        def stopping(path, data):
            calls.append(path)
            if len(calls) > writes:
                raise error
            write(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(shard_writer, "atomic_write", stopping)
            with pytest.raises((Stopped, CorpusError)) as caught:
                prepare(source, TOKENIZER, folder, self.config)
        return caught.value

    @pytest.mark.parametrize("writes", [0, 1, 4, 5])
    def test_a_full_disk(self, tmp_path, source, monkeypatch, writes):
        full = OSError(errno.ENOSPC, "No space left on device")
        error = self.stop_after(writes, tmp_path / "out", source, monkeypatch, full)
        assert isinstance(error, CorpusError)
        assert f"the disk is full. {writes // 3} shards are whole" in str(error)
        assert not [name for name in contents(tmp_path / "out") if name.endswith(".tmp")]
        prepare(source, TOKENIZER, tmp_path / "out", self.config)
        prepare(source, TOKENIZER, tmp_path / "whole", self.config)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    @pytest.mark.parametrize("finished", [False, True])
    def test_a_damaged_shard_is_made_again(self, tmp_path, source, monkeypatch, finished):
        prepare(source, TOKENIZER, tmp_path / "whole", self.config)
        if finished:
            prepare(source, TOKENIZER, tmp_path / "out", self.config)
        else:
            self.stop_after(8, tmp_path / "out", source, monkeypatch)
        path = tmp_path / "out/shard-00001.bin"
        path.write_bytes(b"\xff" + path.read_bytes()[1:])
        prepare(source, TOKENIZER, tmp_path / "out", self.config)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    @pytest.mark.parametrize("finished", [False, True])
    @pytest.mark.parametrize("field", ["tokens_per_shard", "dtype", "tokenizer", "source", "end"])
    def test_another_preparation_in_the_folder_is_refused(
        self, tmp_path, source, monkeypatch, finished, field
    ):
        if finished:
            prepare(source, TOKENIZER, tmp_path / "out", self.config)
        else:
            self.stop_after(5, tmp_path / "out", source, monkeypatch)
        before = contents(tmp_path / "out")
        tokenizer, config = TOKENIZER, self.config
        if field == "tokenizer":
            tokenizer = CharacterTokenizer.train(TEXTS, special_tokens=(END_OF_TEXT,))
            field = "vocab_size"
        elif field == "source":
            write_jsonl(tmp_path / "a.jsonl", [*TEXTS, *TEXTS, "more"])
        elif field == "end":
            config = PrepareConfig(tokens_per_shard=60, end_of_text=False)
            field = "end_of_text"
        elif field == "dtype":
            config = PrepareConfig(tokens_per_shard=60, dtype="uint32")
        else:
            config = PrepareConfig(tokens_per_shard=41)
        with pytest.raises(ValueError, match=f"holds another preparation: its {field} is"):
            prepare(source, tokenizer, tmp_path / "out", config)
        assert contents(tmp_path / "out") == before

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
    def test_killed_from_outside(self, tmp_path):
        generator = random.Random(1)
        texts = ["some words " * generator.randint(1, 60) for _ in range(10_000)]
        source = FileSource((write_jsonl(tmp_path / "a.jsonl", texts),))
        config = PrepareConfig(tokens_per_shard=100_000)
        prepare(source, TOKENIZER, tmp_path / "whole", config)
        program = (
            "from llmcourse.cli import main\n"
            f"if __name__ == '__main__': main(['data', 'prepare', {str(tmp_path / 'a.jsonl')!r},"
            f" '--output', {str(tmp_path / 'out')!r}, '--tokens-per-shard', '100000',"
            " '--workers', '2'])\n"
        )
        script = tmp_path / "run.py"
        script.write_text(program)
        root = str(Path(__file__).resolve().parents[2])
        kills = 0
        for shards in (2, 12):
            run = subprocess.Popen(
                [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": root}
            )
            awaited = tmp_path / f"out/shard-{shards:05d}.bin"
            end = time.monotonic() + 30
            while not awaited.exists() and run.poll() is None and time.monotonic() < end:
                time.sleep(0.001)
            workers = children(run.pid)
            run.send_signal(signal.SIGKILL)
            kills += run.wait() == -signal.SIGKILL
            end = time.monotonic() + 10
            while any(map(is_running, workers)) and time.monotonic() < end:
                time.sleep(0.01)
            assert not any(map(is_running, workers)), "a worker outlived the one it worked for"
        assert kills == 2
        assert (tmp_path / "out/progress.json").exists()
        prepare(source, TOKENIZER, tmp_path / "out", config)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class TestBadInput:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"text": "a"', r"a.jsonl, line 3: not JSON \("),
            ("[1]", "a.jsonl, line 3: must be a JSON object, got list"),
            ('{"body": "a"}', "a.jsonl, line 3: no field 'text'; there are: 'body'"),
            ('{"text": null}', "a.jsonl, line 3: 'text' must be text, got NoneType"),
            (r'{"text": "\ud800"}', "a.jsonl, line 3: .*lone surrogate"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path, line, message):
        path = tmp_path / "a.jsonl"
        path.write_text(f'{{"text": "one"}}\n\n{line}\n{{"text": "two"}}\n')
        # From another process as from this one.
        for workers in (1, 2) if line == "[1]" else (1,):
            config = PrepareConfig(workers=workers)
            with pytest.raises(CorpusError, match=message):
                prepare(FileSource((path,)), TOKENIZER, tmp_path / "out", config)
            assert not (tmp_path / "out/index.json").exists()

    def test_bytes_that_are_no_text(self, tmp_path):
        (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}\n')
        (tmp_path / "b.txt").write_bytes(b"ab\xfe")
        for name, message in (
            ("a.jsonl", "a.jsonl, line 1: not text"),
            ("b.txt", "byte 2 is 0xfe"),
        ):
            with pytest.raises(CorpusError, match=message):
                prepare(FileSource((tmp_path / name,)), TOKENIZER, tmp_path / "out")

    def test_nothing_there(self, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "a.jsonl").write_text("\n \n")
        (tmp_path / "a.jsonl.zst").write_text("x")
        with pytest.raises(CorpusError, match="there is no file or folder nowhere"):
            FileSource(("nowhere",))
        with pytest.raises(CorpusError, match="holds none of the files"):
            FileSource((tmp_path / "empty",))
        with pytest.raises(CorpusError, match="zstd"):
            FileSource((tmp_path / "a.jsonl.zst",))
        with pytest.raises(CorpusError, match="the source is empty"):
            prepare(FileSource((tmp_path / "a.jsonl",)), TOKENIZER, tmp_path / "out")
        with pytest.raises(ValueError, match="no input"):
            open_source([])

    def test_tables(self, tmp_path):
        wrong = write_parquet(tmp_path / "wrong.parquet", ["a"], "content")
        null = write_parquet(tmp_path / "null.parquet", ["a", None])
        damaged = tmp_path / "damaged.parquet"
        damaged.write_bytes(null.read_bytes()[:-9])
        for path, message in (
            (wrong, "wrong.parquet has no column 'text'; it has: id, content"),
            (null, "null.parquet, row 2: 'text' must be text, got NoneType"),
            (damaged, "damaged.parquet is no Parquet file, or a damaged one"),
        ):
            with pytest.raises(CorpusError, match=message):
                list(FileSource((path,)).records())

    def test_a_truncated_gzip(self, tmp_path):
        data = gzip.compress(b'{"text": "abc"}\n' * 1000)
        (tmp_path / "a.jsonl.gz").write_bytes(data[:-20])
        with pytest.raises(CorpusError, match=r"a.jsonl.gz is damaged"):
            list(FileSource((tmp_path / "a.jsonl.gz",)).records())

    @pytest.mark.parametrize("package", ["pyarrow", "datasets"])
    def test_a_package_that_is_missing(self, tmp_path, monkeypatch, package):
        original = builtins.__import__

        def without(name, *rest):
            if name.partition(".")[0] == package:
                raise ImportError(name)
            return original(name, *rest)

        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        name = str(tmp_path / "a.parquet") if package == "pyarrow" else f"hf:{tmp_path}"
        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(CorpusError, match=f"pip install {package}"):
            list(open_source([name]).records())

    def test_hugging_face(self, tmp_path):
        datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
        rows = datasets.Dataset.from_dict({"body": ["a"]})
        datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "set"))
        with pytest.raises(CorpusError, match="no column 'text'; it has: body"):
            list(open_source([f"hf:{tmp_path / 'set'}"]).records())
        with pytest.raises(CorpusError, match="no split 'test'; it has: train"):
            list(open_source([f"hf:{tmp_path / 'set'}"], split="test").records())
        with pytest.raises(CorpusError, match="cannot be opened"):
            list(open_source(["hf:nobody/nothing"]).records())
        with pytest.raises(ValueError, match="must be the only input"):
            open_source(["a.txt", "hf:x"])
        with pytest.raises(ValueError, match="needs a name"):
            open_source(["hf:"])

    def test_the_tokenizer_and_the_dtype(self, tmp_path):
        source = FileSource((write_jsonl(tmp_path / "a.jsonl", ["abc"]),))
        with pytest.raises(ValueError, match=r"no special token .* end_of_text to false"):
            prepare(source, ByteTokenizer(), tmp_path / "out")

        class Large(ByteTokenizer):
            vocab_size = 70_000

        with pytest.raises(ValueError, match="70000 ids is too large for uint16"):
            config = PrepareConfig(dtype="uint16")
            prepare(source, Large((END_OF_TEXT,)), tmp_path / "out", config)
        assert not (tmp_path / "out").exists()
        few = CharacterTokenizer.train(["ab"], special_tokens=(END_OF_TEXT,))
        with pytest.raises(CorpusError, match=r"a\.jsonl, line 1: "):
            prepare(source, few, tmp_path / "out")

    def test_a_process_that_dies(self, tmp_path, monkeypatch):
        source = FileSource((write_jsonl(tmp_path / "a.jsonl", ["abc"] * 3),))
        monkeypatch.setattr(prepare_module, "_start", os._exit)
        monkeypatch.setattr(
            prepare_module._Encoder, "__call__", lambda *_: pytest.fail("must not run here")
        )
        with pytest.raises(CorpusError, match="a process that encodes text was killed"):
            prepare(source, TOKENIZER, tmp_path / "out", PrepareConfig(workers=2))

    @pytest.mark.parametrize("change", [{"workers": 0}, {"tokens_per_shard": 2.5}])
    def test_sizes(self, change):
        with pytest.raises(ValueError, match=next(iter(change))):
            PrepareConfig(**change)


def test_a_fingerprint_sees_a_change_at_either_end_and_of_size(tmp_path):
    path = tmp_path / "a"
    data = bytearray(200_000)
    seen = set()
    for place in (None, 0, 199_999, 65_535, 134_464):
        changed = bytearray(data)
        if place is not None:
            changed[place] = 1
        path.write_bytes(changed)
        seen.add(file_fingerprint(path))
    path.write_bytes(data + b"\0")
    seen.add(file_fingerprint(path))
    assert len(seen) == 6
