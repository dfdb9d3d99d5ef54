"""`llmcourse data`."""

from __future__ import annotations

import json

import pytest

from llmcourse.cli import main
from llmcourse.data.shards import Shards
from llmcourse.tokenizers import END_OF_TEXT, BPETokenizer, CharacterTokenizer


@pytest.fixture
def stories(tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\n{"text": "three"}\n')
    return path


def test_prepare_and_verify(llmcourse, stories, tmp_path):
    out = tmp_path / "out"
    answer = llmcourse("data", "prepare", stories, "--output", out, "--workers", 1)
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "tokens     10 (uint16)",
        "documents  2, and 1 empty, left out",
        f"shards     1 in {out}",
    ]
    assert Shards(out).document(1).tolist() == [*b"three", 256]
    answer = llmcourse("data", "verify", out)
    assert (answer.code, answer.out.splitlines()[0]) == (0, "shard-00000.bin ok")


def test_damage_is_named(llmcourse, mistake, stories, tmp_path):
    out = tmp_path / "out"
    llmcourse("data", "prepare", stories, "--output", out, "--workers", 1)
    path = out / "shard-00000.bin"
    path.write_bytes(path.read_bytes()[:-2] + b"zz")
    assert "shard-00000.bin is corrupt" in mistake("data", "verify", out)


def test_a_tokenizer_of_ones_own(llmcourse, stories, tmp_path):
    saved = tmp_path / "tokenizer.json"
    tokenizer = CharacterTokenizer.train(["one three"], special_tokens=(END_OF_TEXT,))
    saved.write_text(json.dumps(tokenizer.to_dict()))
    out = tmp_path / "out"
    words = ("--output", out, "--tokenizer", saved, "--workers", 1, "--dtype", "uint32")
    assert llmcourse("data", "prepare", stories, *words).code == 0
    shards = Shards(out, tokenizer)
    assert shards.tokenizer.decode(shards.tokens(0, 4)) == f"one{END_OF_TEXT}"
    assert shards.index["dtype"] == "uint32"


def test_a_bpe_tokenizer_as_it_was_saved(llmcourse, stories, tmp_path):
    saved, out = tmp_path / "bpe.json", tmp_path / "out"
    tokenizer = BPETokenizer.train(["one three one three"], 262, (END_OF_TEXT,))
    tokenizer.save(saved)
    words = ("--output", out, "--tokenizer", saved, "--workers", 1)
    assert llmcourse("data", "prepare", stories, *words).code == 0
    shards = Shards(out, tokenizer)
    assert shards.tokenizer.decode(shards.tokens(0, shards.n_tokens).tolist()).startswith("one")
    saved.write_text(saved.read_text().replace("6", "7"))
    answer = llmcourse("data", "prepare", stories, "--output", tmp_path / "no", *words[2:])
    assert answer.code == 2 and "bpe.json" in answer.err


def test_several_inputs_and_processes(llmcourse, stories, tmp_path):
    more = tmp_path / "more.txt"
    more.write_text("more")
    out = tmp_path / "out"
    words = ("--output", out, "--end_of_text", "false", "--workers", 2)
    assert llmcourse("data", "prepare", more, stories, *words).code == 0
    shards = Shards(out)
    assert bytes(shards.tokens(0, shards.n_tokens).tolist()) == b"moreonethree"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "nowhere.txt", "--output", "x"], "no file or folder nowhere.txt"),
        (["prepare", "--output", "x"], "inputs"),
        (["prepare", "STORIES"], "output"),
        (["prepare", "STORIES", "--output", "OUT", "--field", "body"], "line 1: no field 'body'"),
        (["prepare", "STORIES", "--output", "OUT", "--dtype", "int8"], "dtype='int8' is unknown"),
        (["prepare", "STORIES", "--output", "OUT", "--workers", "-1"], "workers=-1"),
        (["prepare", "STORIES", "--output", "OUT", "--split", "test"], "split belongs to hf:NAME"),
        (["prepare", "STORIES", "--output", "OUT", "--tokenizer", "no.json"], "no.json"),
        (["prepare", "STORIES", "--output", "OUT", "--tokenizer", "STORIES"], "no tokenizer that"),
        (["verify", "OUT"], "holds no shards"),
        (["prepar"], "no action 'prepar'; there are: prepare, verify"),
    ],
)
def test_mistakes(mistake, stories, tmp_path, words, message):
    places = {"STORIES": str(stories), "OUT": str(tmp_path / "out")}
    assert message in mistake("data", *[places.get(word, word) for word in words])
    assert not (tmp_path / "out/index.json").exists()


@pytest.mark.parametrize("words", [[], ["--help"], ["prepare", "--help"], ["verify", "--help"]])
def test_help(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(["data", *words])
    assert stop.value.code == 0
    assert "usage: llmcourse data" in capsys.readouterr().out


def test_preparing_imports_no_torch(python, stories, tmp_path):
    program = (
        "import sys\n"
        "from llmcourse.cli import main\n"
        f"main(['data', 'prepare', {str(stories)!r}, '--output', {str(tmp_path / 'o')!r},"
        " '--workers', '1'])\n"
        "print('torch' in sys.modules)"
    )
    assert python("-c", program).stdout.splitlines()[-1] == "False"
