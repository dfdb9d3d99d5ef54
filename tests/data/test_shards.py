"""Token shards against plain lists: reading, checking, refusing."""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data.shard_writer import ShardWriter
from llmcourse.data.shards import Shards, dtype_for, tokenizer_fingerprint
from llmcourse.errors import CorpusError
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer, CharacterTokenizer

quick = settings(max_examples=40, deadline=None, derandomize=True)
TOKENIZER = ByteTokenizer((END_OF_TEXT,))
DOCUMENTS = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 10, 11, 12, 13], [14, 256]]


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch):
    """Waiting for the disk protects from power cuts only, and is nearly all the time it takes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def write(folder: Path, documents=DOCUMENTS, tokens_per_shard=5, dtype="uint16") -> Shards:
    header = {
        "dtype": dtype,
        "vocab_size": 257,
        "tokenizer": TOKENIZER.to_dict(),
        "tokenizer_fingerprint": tokenizer_fingerprint(TOKENIZER),
    }
    writer = ShardWriter(folder, json.loads(json.dumps(header)), tokens_per_shard)
    for number, document in enumerate(documents):
        writer.add(np.array(document), number)
    writer.finish(len(documents))
    return Shards(folder)


def test_the_files_are_flat_little_endian_ids(tmp_path):
    write(tmp_path)
    # 3 + 2 tokens fill the first shard; 7 are more than a shard takes and stand alone.
    assert (tmp_path / "shard-00000.bin").read_bytes() == bytes([1, 0, 2, 0, 3, 0, 4, 0, 5, 0])
    assert (tmp_path / "shard-00003.bin").read_bytes() == bytes([14, 0, 0, 1])
    ends = np.fromfile(tmp_path / "shard-00000.documents.bin", "<u8")
    assert ends.tolist() == [3, 5]
    sizes = [e["tokens"] for e in json.loads((tmp_path / "index.json").read_text())["shards"]]
    assert sizes == [5, 1, 7, 2]
    wide = write(tmp_path / "wide", dtype="uint32")
    assert (tmp_path / "wide/shard-00003.bin").read_bytes() == bytes([14, 0, 0, 0, 0, 1, 0, 0])
    assert wide.tokens(0, 15).tolist() == list(chain(*DOCUMENTS))


class TestReading:
    @quick
    @given(
        st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=9), min_size=1, max_size=12),
        st.integers(1, 20),
        st.data(),
    )
    def test_any_stretch_and_any_document(self, tmp_path_factory, documents, size, data):
        shards = write(tmp_path_factory.mktemp("shards"), documents, size)
        text = list(chain(*documents))
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, len(text)))
        assert shards.tokens(start, stop).tolist() == text[start:stop]
        assert shards.tokens(start, stop).dtype == np.int64
        assert [shards.document(n).tolist() for n in range(shards.n_documents)] == documents
        assert shards.document_lengths.tolist() == [len(d) for d in documents]
        assert (shards.n_tokens, shards.n_documents) == (len(text), len(documents))

    @pytest.mark.parametrize("stretch", [(-1, 2), (3, 2), (0, 16), (16, 16)])
    def test_a_stretch_outside(self, tmp_path, stretch):
        with pytest.raises(ValueError, match=r"not inside 0 to 15"):
            write(tmp_path).tokens(*stretch)

    @pytest.mark.parametrize("number", [-1, 5])
    def test_a_document_that_is_not_there(self, tmp_path, number):
        with pytest.raises(ValueError, match="not one of the 5"):
            write(tmp_path).document(number)

    def test_the_fingerprint_follows_the_tokens_and_the_documents(self, tmp_path):
        first = write(tmp_path / "a").fingerprint
        assert write(tmp_path / "b").fingerprint == first
        assert write(tmp_path / "c", [*DOCUMENTS[:-1], [15, 256]]).fingerprint != first
        split = [[1, 2], [3, 4, 5], *DOCUMENTS[2:]]
        assert write(tmp_path / "d", split).fingerprint != first


class TestTokenizer:
    def test_it_comes_back(self, tmp_path):
        assert write(tmp_path).tokenizer == TOKENIZER

    @pytest.mark.parametrize("other", [ByteTokenizer(), ByteTokenizer(("<|other|>",))])
    def test_another_one_is_refused(self, tmp_path, other):
        write(tmp_path)
        Shards(tmp_path, TOKENIZER)
        with pytest.raises(CorpusError, match="another tokenizer") as error:
            Shards(tmp_path, other)
        assert tokenizer_fingerprint(other)[:12] in str(error.value)

    def test_equal_tokenizers_have_equal_fingerprints(self):
        one, two = CharacterTokenizer.train(["abc"]), CharacterTokenizer.train(["cba"])
        assert tokenizer_fingerprint(one) == tokenizer_fingerprint(two)
        assert tokenizer_fingerprint(one) != tokenizer_fingerprint(CharacterTokenizer.train(["ab"]))


class TestDtype:
    def test_the_narrowest_that_holds_every_id(self):
        assert dtype_for(65536) == "uint16"
        assert dtype_for(65537) == "uint32"
        assert dtype_for(300, "uint32") == "uint32"

    def test_too_large(self):
        with pytest.raises(ValueError, match=r"65537 ids is too large for uint16, .* uint32"):
            dtype_for(65537, "uint16")
        with pytest.raises(ValueError, match="too large for shards"):
            dtype_for(2**32 + 1)

    def test_unknown(self):
        with pytest.raises(ValueError, match="dtype='int8' is unknown"):
            dtype_for(10, "int8")


class TestDamage:
    @pytest.mark.parametrize("name", ["shard-00001.bin", "shard-00002.documents.bin"])
    def test_any_flipped_bit_is_found_and_named(self, tmp_path, name):
        shards = write(tmp_path)
        assert list(shards.verify()) == [f"shard-0000{n}.bin" for n in range(4)]
        path = tmp_path / name
        whole = path.read_bytes()
        for bit in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
            with pytest.raises(CorpusError, match=f"{name} is corrupt"):
                list(shards.verify())

    @pytest.mark.parametrize(("change", "word"), [(-1, "truncated"), (1, "too long")])
    @pytest.mark.parametrize("name", ["shard-00002.bin", "shard-00000.documents.bin"])
    def test_a_wrong_length_is_refused_at_once(self, tmp_path, name, change, word):
        shards = write(tmp_path)
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] if change < 0 else whole + b"x")
        with pytest.raises(CorpusError, match=f"{name} is {word}"):
            Shards(tmp_path)
        with pytest.raises(CorpusError, match=f"{name} is {word}"):
            list(shards.verify())

    def test_a_missing_file(self, tmp_path):
        write(tmp_path)
        (tmp_path / "shard-00001.bin").unlink()
        with pytest.raises(CorpusError, match=r"shard-00001.bin is missing"):
            Shards(tmp_path)

    def test_boundaries_that_do_not_fit_are_seen_without_verify(self, tmp_path):
        write(tmp_path)
        np.array([4, 4], "<u8").tofile(tmp_path / "shard-00000.documents.bin")
        with pytest.raises(CorpusError, match="do not fill the shard"):
            _ = Shards(tmp_path).document_starts

    def test_an_id_outside_the_vocabulary(self, tmp_path):
        shards = write(tmp_path, [[1, 2], [3, 257]], 2)
        with pytest.raises(CorpusError, match=r"shard-00001.bin holds the id 257"):
            list(shards.verify())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "damaged"),
            ("[]", "version None"),
            ('{"version": 2}', "version 2; this program reads 1"),
            ('{"version": 1, "dtype": "uint16"}', "fields are missing"),
            (
                '{"version": 1, "dtype": "uint16", "vocab_size": 1, "tokenizer_fingerprint": "",'
                ' "shards": [{"file": "x"}]}',
                "fields are missing",
            ),
        ],
    )
    def test_a_bad_index(self, tmp_path, text, message):
        write(tmp_path)
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(CorpusError, match=message):
            Shards(tmp_path)

    def test_no_index(self, tmp_path):
        with pytest.raises(CorpusError, match="holds no shards"):
            Shards(tmp_path)
        (tmp_path / "progress.json").write_text("{}")
        with pytest.raises(CorpusError, match="unfinished"):
            Shards(tmp_path)
