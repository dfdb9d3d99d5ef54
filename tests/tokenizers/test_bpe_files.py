"""The files of a byte-pair vocabulary, against the packages they come from."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import load_corpus
from llmcourse.tokenizers import COURSE_SPECIAL_TOKENS, END_OF_TEXT, BPETokenizer
from llmcourse.tokenizers.bpe_files import spell, unspell
from llmcourse.tokenizers.pretokenize import GPT2_PATTERN, GPT4_PATTERN

quick = settings(max_examples=100, deadline=None, derandomize=True)
any_text = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("sStTlL'ſ 019²\t\n\r\x1c\xa0\u2028é你🙂\u0301ab "),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def texts():
    return [*load_corpus("docs").train[:8], *load_corpus("code", max_bytes=150_000).train]


@pytest.fixture(scope="module", params=["gpt2", "gpt4"])
def tokenizer(request, texts):
    return BPETokenizer.train(texts, 600, COURSE_SPECIAL_TOKENS, pattern=request.param)


def gpt2_order():
    """Bytes in the order of their spelling, which is GPT-2's order of ids."""
    return sorted((bytes([value]) for value in range(256)), key=spell)


@pytest.fixture(scope="module")
def gpt2_files(texts, tmp_path_factory):
    """Merges and ids as OpenAI's files have them, made by Hugging Face's trainer and writer."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra huggingface")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = level
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=level.alphabet()
    )
    theirs.train_from_iterator(texts, trainer)
    theirs.add_special_tokens([END_OF_TEXT])
    folder = tmp_path_factory.mktemp("gpt2")
    theirs.save(str(folder / "tokenizer.json"))
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in data["model"]["merges"])]
    (folder / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "encoder.json").write_text(json.dumps(theirs.get_vocab()))
    return folder, theirs


def test_spelling_is_gpt2s():
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra huggingface")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [spell(bytes([value])) for value in range(256)]
    assert sorted(spelled) == sorted(level.alphabet())
    for text in (" the\n", "é你🙂", "".join(map(chr, range(300)))):
        assert level.pre_tokenize_str(text)[0][0] == spell(text.encode())
    assert [unspell(character) for character in spelled] == [bytes([v]) for v in range(256)]


@quick
@given(text=any_text)
def test_tokenizer_json_gives_the_same_ids(tokenizer, tmp_path_factory, text):
    theirs = _huggingface(tokenizer, tmp_path_factory)
    for some in (text, text + "<|user|>" + text, text * 6):
        assert theirs.encode(some).ids == tokenizer.encode(some, allow_special=True)
    ids = tokenizer.encode(text)
    assert theirs.decode(ids, skip_special_tokens=False) == text


def test_tokenizer_json_on_real_text_and_back(tokenizer, texts, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra huggingface")
    path = tmp_path / "tokenizer.json"
    tokenizer.to_huggingface(path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    for text in texts:
        assert theirs.encode(text).ids == tokenizer.encode(text)
    assert BPETokenizer.from_huggingface(path) == tokenizer
    # What tokenizers itself writes of it, with older merges as one string too, is read the same.
    theirs.save(str(path))
    assert BPETokenizer.from_huggingface(path) == tokenizer
    data = json.loads(path.read_text(encoding="utf-8"))
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["model"]["ignore_merges"] = False
    path.write_text(json.dumps(data))
    assert BPETokenizer.from_huggingface(path) == tokenizer


_CACHE = {}


def _huggingface(tokenizer, factory):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra huggingface")
    if tokenizer.pattern not in _CACHE:
        path = factory.mktemp("huggingface") / "tokenizer.json"
        tokenizer.to_huggingface(path)
        _CACHE[tokenizer.pattern] = tokenizers.Tokenizer.from_file(str(path))
    return _CACHE[tokenizer.pattern]


def test_their_trainer_and_ours_learn_the_same(gpt2_files, texts):
    # Ids of bytes differ (theirs are in the order of the spelling), and with them who wins a tie;
    # what is learned is the same but for a few ties at the end.
    folder, _ = gpt2_files
    theirs = BPETokenizer.from_huggingface(folder / "tokenizer.json")
    ours = BPETokenizer.train(texts, 600, pattern="gpt2")
    assert len(set(theirs.tokens) & set(ours.tokens)) > 590
    assert theirs.pattern == ours.pattern == GPT2_PATTERN


def test_gpt2s_two_files(gpt2_files, texts):
    folder, theirs = gpt2_files
    ours = BPETokenizer.from_gpt2(folder / "vocab.bpe", folder / "encoder.json")
    assert ours.special_tokens == (END_OF_TEXT,) and ours.special_id(END_OF_TEXT) == 600
    assert list(ours.tokens[:256]) == gpt2_order()
    for text in (*texts, "Hello, wörld!\n\n  you'LL see 你好🙂"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids == ours.to_tiktoken().encode_ordinary(text)
        assert ids == ours.encode_reference(text)
    assert ours == BPETokenizer.from_huggingface(folder / "tokenizer.json")


def test_gpt2s_two_files_in_transformers(gpt2_files):
    transformers = pytest.importorskip("transformers", reason="needs the extra huggingface")
    folder, _ = gpt2_files
    ours = BPETokenizer.from_gpt2(folder / "vocab.bpe", folder / "encoder.json")
    theirs = transformers.GPT2Tokenizer(
        vocab=json.loads((folder / "encoder.json").read_text()),
        merges=[tuple(line.split()) for line in _merge_lines(folder / "vocab.bpe")[1:]],
    )
    for text in ("The import statement isn't 1,234 lines.", "a  b\n\n", "ŻÓŁW<|endoftext|>x"):
        assert theirs.encode(text) == ours.encode(text, allow_special=True)


def _merge_lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def edited(gpt2_files, tmp_path, merges=None, encoder=None):
    """The two files with a change to their lines or ids; what from_gpt2 says to them."""
    folder, _ = gpt2_files
    lines = _merge_lines(folder / "vocab.bpe")
    vocabulary = json.loads((folder / "encoder.json").read_text())
    lines = merges(lines) if merges else lines
    vocabulary = encoder(vocabulary) if encoder else vocabulary
    (tmp_path / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "encoder.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError) as caught:
        BPETokenizer.from_gpt2(tmp_path / "vocab.bpe", tmp_path / "encoder.json")
    return str(caught.value)


def test_damaged_gpt2_files_are_refused_by_name(gpt2_files, tmp_path):
    def say(merges=None, encoder=None):
        return edited(gpt2_files, tmp_path, merges, encoder)

    said = say(merges=lambda lines: [*lines[:40], "onlyone", *lines[40:]])
    assert said == "vocab.bpe: line 41: a merge is two tokens, got ['onlyone']"
    said = say(merges=lambda lines: [*lines[:40], "a b c", *lines[41:]])
    assert said.startswith("vocab.bpe: line 41: a merge is two tokens")
    said = say(merges=lambda lines: [*lines[:40], "a 你", *lines[41:]])
    assert said.startswith("vocab.bpe: line 41: the token '你' holds '你', which spells no byte")
    swapped = say(merges=lambda lines: [*lines[:9], lines[10], lines[9], *lines[11:]])
    assert swapped.startswith("vocab.bpe: merges and ids do not belong together: merge 8 makes")
    missing = say(merges=lambda lines: [*lines[:9], *lines[10:]])
    assert missing.startswith("vocab.bpe: no merge makes the token")
    said = say(merges=lambda lines: lines[:200])
    assert said.startswith("vocab.bpe: no merge makes the token")
    assert say(merges=lambda lines: lines[:1]) == "vocab.bpe: holds no merges"
    said = say(encoder=lambda ids: {name: id for name, id in ids.items() if id != 300})
    assert "has the id" in said and "need the ids 0 to 599" in said
    said = say(encoder=lambda ids: {name: 7 if id == 8 else id for name, id in ids.items()})
    assert "both have the id 7" in said
    said = say(encoder=lambda ids: {name: str(id) for name, id in ids.items()})
    assert "has the id '0'" in said or "has the id '" in said

    folder, _ = gpt2_files
    whole = (folder / "vocab.bpe").read_bytes()
    good = folder / "encoder.json"
    for damaged, reason in ((whole[:-1], "no end"), (b"\xff" + whole, "no UTF-8 at byte 0")):
        (tmp_path / "vocab.bpe").write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"^vocab\.bpe: .*{reason}"):
            BPETokenizer.from_gpt2(tmp_path / "vocab.bpe", good)
    (tmp_path / "encoder.json").write_bytes(good.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^encoder\.json: no JSON from line 1"):
        BPETokenizer.from_gpt2(folder / "vocab.bpe", tmp_path / "encoder.json")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.bpe"):
        BPETokenizer.from_gpt2(tmp_path / "nowhere.bpe", good)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["model"].update(type="Unigram"), "model.type must be 'BPE', got 'Unigram'"),
        (lambda d: d["model"].update(dropout=0.1), "model.dropout is 0.1"),
        (lambda d: d["model"].update(byte_fallback=True), "model.byte_fallback is True"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "here text is left as it is"),
        (lambda d: d.update(pre_tokenizer=None), "pre_tokenizer must be ByteLevel"),
        (lambda d: d.update(pre_tokenizer={"type": "ByteLevel"}), "pre_tokenizer must be"),
        (lambda d: d["model"].update(vocab=[]), "model.vocab must be an object"),
        (lambda d: d["model"]["merges"].pop(5), "which is not in the file"),
        (lambda d: d["model"]["merges"].insert(5, ["a"]), r"model.merges\[5\]: a merge is two"),
        (lambda d: d["model"]["merges"].insert(5, ["zq", "a"]), "joins b'zq', which has no id"),
        (lambda d: d["added_tokens"].append({"id": 0, "content": "!!"}), "both have the id|need"),
        (lambda d: d["added_tokens"][0].update(lstrip=True), "asks for lstrip"),
        (lambda d: d["added_tokens"].append({"id": 65, "content": "A"}), "two ids|come last"),
    ],
)
def test_other_tokenizer_jsons_are_refused_by_name(tmp_path, change, said):
    path = tmp_path / "other.json"
    BPETokenizer.train(["the cat sat on the mat " * 5], 270, (END_OF_TEXT,)).to_huggingface(path)
    BPETokenizer.from_huggingface(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"^other.json: .*({said})"):
        BPETokenizer.from_huggingface(path)


def test_merges_that_cannot_be_in_their_order_are_refused(tmp_path):
    # "abc" by (a, bc) after "ab": the bytes of "abc" never come to (a, bc), so that pairs and ranks
    # would give different ids.
    tokens = (*(bytes([value]) for value in range(256)), b"ab", b"bc", b"abc")
    path = tmp_path / "odd.json"
    BPETokenizer(tokens).to_huggingface(path)
    data = json.loads(path.read_text())
    assert data["model"]["merges"] == [["a", "b"], ["b", "c"], ["ab", "c"]]
    data["model"]["merges"][2] = ["a", "bc"]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"^odd\.json: token b'abc' would come from the merge of"):
        BPETokenizer.from_huggingface(path)


def test_tokens_that_no_merge_makes_survive_the_export(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra huggingface")
    tokens = (*(bytes([value]) for value in range(256)), b"hello", b"lo")
    ours = BPETokenizer(tokens, (END_OF_TEXT,))
    path = tmp_path / "tokenizer.json"
    ours.to_huggingface(path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for text in ("hello", "hello hello", "Xhello", "lo", "hellolo"):
        assert theirs.encode(text).ids == ours.encode(text) == ours.encode_reference(text)
        assert ours.encode(text) == ours.to_tiktoken().encode_ordinary(text)
    assert ours.encode("hello") == [256]
    assert BPETokenizer.from_huggingface(path) == ours


def test_a_special_token_named_like_an_ordinary_one_is_not_exported(tmp_path):
    tokenizer = BPETokenizer.train(["abab" * 9], 257 + 1, ("ab",))
    with pytest.raises(ValueError, match="'ab' is spelled like an ordinary token"):
        tokenizer.to_huggingface(tmp_path / "tokenizer.json")
    assert not list(tmp_path.iterdir())


def test_tiktokens_rank_files(tokenizer, texts, tmp_path):
    from tiktoken.load import load_tiktoken_bpe

    path = tmp_path / "course.tiktoken"
    ranked = [*reversed(gpt2_order()), *tokenizer.tokens[256:]]  # any order of bytes will do
    lines = [f"{base64.b64encode(token).decode()} {i}" for i, token in enumerate(ranked)]
    path.write_text("\n".join(lines) + "\n")
    ours = BPETokenizer.from_tiktoken(path, COURSE_SPECIAL_TOKENS, pattern=tokenizer.pattern)
    assert load_tiktoken_bpe(str(path)) == {token: id for id, token in enumerate(ours.tokens)}
    assert [ours.token_bytes(id) for id in ours.encode(texts[0])] == [
        tokenizer.token_bytes(id) for id in tokenizer.encode(texts[0])
    ]
    assert BPETokenizer.from_tiktoken(path).pattern == GPT4_PATTERN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:9], b"!!!! 9", *lines[10:]], "line 10 should be a token in base64"),
        (lambda lines: [*lines[:9], b"AA==", *lines[10:]], "line 10 should .*not two columns"),
        (lambda lines: [*lines[:9], b"AA== x", *lines[10:]], "line 10 should be"),
        (lambda lines: [*lines[:9], *lines[10:]], "rank 9 is missing"),
        (lambda lines: [*lines, lines[9]], "line 257: rank 9 is there twice"),
        (lambda lines: [*lines, b"AA== 256"], "token b'.x00' is there twice"),
        (lambda lines: lines[:200], "56 of the 256 single bytes are missing"),
        (lambda lines: [], "256 of the 256 single bytes are missing"),
    ],
)
def test_damaged_rank_files_are_refused_by_name(tmp_path, change, said):
    lines = [base64.b64encode(bytes([value])) + b" %d" % value for value in range(256)]
    path = tmp_path / "ranks.tiktoken"
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert BPETokenizer.from_tiktoken(path).vocab_size == 256
    path.write_bytes(b"\n".join(change(lines)) + b"\n")
    with pytest.raises(ValueError, match=rf"^ranks\.tiktoken: .*{said}"):
        BPETokenizer.from_tiktoken(path)
