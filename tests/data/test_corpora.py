"""`load_corpus` and what every corpus promises: no leak, a stable split, a fingerprint."""

import hashlib
import subprocess
import sys

import pytest

from llmcourse.data import CORPORA, Corpus, load_corpus
from llmcourse.data.code import LEFT_OUT, module_of
from llmcourse.data.corpus import hash_position, held_out
from llmcourse.data.docs import normal_form, paragraphs, without_repetitions
from llmcourse.errors import CorpusError


class TestCorpus:
    def test_sizes_are_bytes_of_utf8(self):
        corpus = Corpus("made up", ("añb", "c"), ("日本",), "A test.")
        assert corpus.bytes == (5, 6)
        assert corpus.train_text == "añb\n\nc"
        assert corpus.validation_text == "日本"

    def test_the_description_says_what_it_is(self):
        corpus = Corpus("made up", ("a" * 3000, "b"), ("c" * 1000,), "A test.")
        for part in ("made up", "2 documents (3,001 bytes)", "1 (1,000 bytes, 25.0%)", "A test."):
            assert part in corpus.description
        assert corpus.fingerprint[:12] in corpus.description
        assert corpus.description in repr(corpus) and len(repr(corpus)) < 200

    def test_the_fingerprint_is_of_the_documents_and_of_nothing_else(self):
        def fingerprint(train, validation, name="x"):
            return Corpus(name, train, validation, "").fingerprint

        base = fingerprint(("ab", "c"), ("d",))
        assert len(base) == 64
        assert base == fingerprint(["ab", "c"], ["d"], name="another name")
        others = [
            fingerprint(("a", "bc"), ("d",)),
            fingerprint(("c", "ab"), ("d",)),
            fingerprint(("ab",), ("c", "d")),
            fingerprint(("ab", "c"), ("D",)),
            fingerprint(("ab", "c", ""), ("d",)),
        ]
        assert len({base, *others}) == 6

    @pytest.mark.parametrize(
        ("train", "validation", "part"), [((), ("a",), "train"), (("a",), (" \n",), "validation")]
    )
    def test_an_empty_part_is_refused(self, train, validation, part):
        with pytest.raises(CorpusError, match=f"no text in its {part} part"):
            Corpus("x", train, validation, "")

    def test_the_hash_splits_evenly_and_stays_put(self):
        keys = [f"document {i}" for i in range(10_000)]
        share = sum(held_out(key, 0.1) for key in keys) / len(keys)
        assert abs(share - 0.1) < 0.009  # three standard deviations
        # A larger share holds out the same documents and some more.
        assert all(held_out(key, 0.3) for key in keys if held_out(key, 0.1))
        first_eight = hashlib.sha256(b"document 0").hexdigest()[:16]
        assert hash_position("document 0") == int(first_eight, 16) / 16**16


class TestLoadCorpus:
    @pytest.mark.parametrize(
        ("wrong", "right"),
        [("doc", "docs"), ("Docs", "docs"), ("shakespear", "shakespeare"), ("tale", "tales")],
    )
    def test_an_unknown_name_gets_the_nearest(self, wrong, right):
        with pytest.raises(ValueError, match=f"no corpus '{wrong}'. Did you mean '{right}'"):
            load_corpus(wrong)

    def test_a_name_like_no_other_gets_the_list(self):
        with pytest.raises(ValueError) as caught:
            load_corpus("zzzzzz")
        assert "Did you mean" not in str(caught.value)
        assert all(repr(name) in str(caught.value) for name in [*CORPORA, "file:PATH"])

    @pytest.mark.parametrize("name", [None, 3, ("docs",)])
    def test_a_name_is_a_string(self, name):
        with pytest.raises(ValueError, match="named by a str"):
            load_corpus(name)

    @pytest.mark.parametrize(
        ("name", "choices"),
        [
            ("docs", "none"),
            ("code", "max_bytes"),
            ("tales", "n_stories, seed, n_validation"),
            ("shakespeare", "url"),
            ("file:x.txt", "none"),
        ],
    )
    def test_an_unknown_option_gets_the_list(self, name, choices):
        with pytest.raises(ValueError, match=f"no option 'n_storys'; its options: {choices}$"):
            load_corpus(name, n_storys=3)

    def test_corpora_do_not_import_torch(self):
        code = (
            "import sys; from llmcourse.data import load_corpus; load_corpus('docs');"
            "assert not {'torch', 'numpy'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_batch_functions_are_there_when_asked_for(self):
        import llmcourse.data as data

        assert all(hasattr(data, name) for name in data.__all__)
        assert set(data.__all__) <= set(dir(data))
        with pytest.raises(AttributeError, match="no attribute 'sliding_windows'"):
            data.sliding_windows  # noqa: B018


class TestDocs:
    def test_a_topic_inside_another_is_kept_once(self):
        body = "A paragraph that is certainly longer than forty characters, number {}."
        own = [body.format(i) for i in range(9)]
        topics = {
            "outer": "\n" + "\n\n".join(["Outer", *own[:6]]) + "\n",
            "inner": "\n\n".join(["Inner", *own[2:5]]),
            "overlapping": "\n\n".join(["Also", own[0], *own[6:9], "For example:"]),
            "alone": "Short ones may repeat.\n\nFor example:\n\n"
            + 5 * "No repetition at all. "
            + 99 * "x",
            "stub": "Too short to keep.",
        }
        unique = without_repetitions(topics)
        assert unique["outer"] == topics["outer"].strip()
        assert unique["overlapping"] == "\n\n".join(["Also", *own[6:9], "For example:"])
        assert unique["alone"] == topics["alone"]
        assert set(unique) == {"outer", "overlapping", "alone"}

    def test_copies_that_differ_in_line_breaks_or_footnote_numbers_are_copies(self):
        first = "An object's type determines the operations [1] that the\nobject supports."
        second = "   An object's type determines the\n   operations [12] that the object supports."
        assert normal_form(first) == normal_form(second)
        assert normal_form(first) != normal_form(first.replace("type", "value"))

    def test_paragraphs_keep_the_indentation_of_code(self):
        text = "\nTitle\n*****\n\nText::\n\n   if x:\n      y\n \n\nEnd.\n"
        assert paragraphs(text) == ["Title\n*****", "Text::", "   if x:\n      y", "End."]

    def test_the_raw_topics_leak_and_the_corpus_does_not(self):
        from pydoc_data.topics import topics

        everything = [p for text in topics.values() for p in long_paragraphs(text)]
        assert len(set(everything)) < 0.9 * len(everything)  # there was something to do
        corpus = load_corpus("docs")
        kept = [p for text in corpus.train + corpus.validation for p in long_paragraphs(text)]
        assert len(set(kept)) == len(kept)
        # And hardly anything was lost for it.
        assert sum(map(len, kept)) > 0.96 * sum(map(len, set(everything)))

    def test_no_long_stretch_of_validation_is_in_train(self):
        # Independent of paragraphs: stretches of 100 characters, whatever they start with.
        corpus = load_corpus("docs")
        train, text = corpus.train_text, corpus.validation_text
        stretches = {train[i : i + 100] for i in range(len(train) - 99)}
        copied = sum(text[i : i + 100] in stretches for i in range(len(text) - 99))
        assert copied / len(text) < 0.003


def long_paragraphs(text: str) -> list[str]:
    """Paragraphs of 40 characters and more with white space evened out: an oracle of its own."""
    blocks, block = [], []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            block.extend(line.split())
        elif block:
            blocks.append(" ".join(word for word in block if not footnote(word)))
            block = []
    return [b for b in blocks if len(b) >= 40]


def footnote(word: str) -> bool:
    return word.startswith("[") and word.endswith("]") and word[1:-1].isdigit()


class TestCode:
    def test_it_is_python_from_the_library(self):
        corpus = load_corpus("code", max_bytes=500_000)
        for text in corpus.train + corpus.validation:
            compile(text, "<code>", "exec", dont_inherit=True)
        assert 450_000 < sum(corpus.bytes) <= 500_000
        assert len(set(corpus.train + corpus.validation)) == len(corpus.train + corpus.validation)

    def test_modules_are_whole_on_one_side(self, tmp_path, monkeypatch):
        # A library of our own, so that the answer is known.
        for module in range(60):
            (tmp_path / f"m{module}").mkdir()
            for file in ("__init__", "a", "b"):
                (tmp_path / f"m{module}" / f"{file}.py").write_text(f"# m{module} {file}\n")
        left_out = ["test/x.py", "m1/tests/x.py", "site-packages/x.py", "_sysconfigdata_x.py"]
        for path in [*left_out, "lib2to3/x.py", "config-3/x.py"]:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text("# left out\n")
        (tmp_path / "m1" / "copy.py").write_text("# m1 a\n")
        (tmp_path / "m1" / "latin.py").write_bytes("# café\n".encode("latin-1"))
        (tmp_path / "m1" / "empty.py").write_text("\n")
        monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})

        corpus = load_corpus("code")
        in_train = {text.split()[1] for text in corpus.train}
        in_validation = {text.split()[1] for text in corpus.validation}
        assert not in_train & in_validation
        assert in_validation == {f"m{i}" for i in range(60) if held_out(f"code:m{i}", 0.15)}
        assert len(corpus.train) + len(corpus.validation) == 180
        assert "left out" not in corpus.train_text + corpus.validation_text

    def test_modules(self):
        assert module_of("json/decoder.py") == "json"
        assert module_of("_strptime.py") == module_of("strptime/x.py") == "strptime"
        assert {"test", "site-packages", "idlelib"} <= LEFT_OUT

    def test_bad_limits(self):
        with pytest.raises(ValueError, match="max_bytes must be positive, got 0"):
            load_corpus("code", max_bytes=0)
        with pytest.raises(CorpusError, match="at most 3 bytes"):
            load_corpus("code", max_bytes=3)

    def test_a_python_without_sources(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path / "zipped")})
        with pytest.raises(CorpusError, match="no Python sources"):
            load_corpus("code")


class TestTales:
    def test_parts_have_no_story_in_common(self):
        corpus = load_corpus("tales", n_stories=300, seed=5, n_validation=60)
        assert len(corpus.validation) == 60
        assert 290 <= len(corpus.train) <= 300
        assert not set(corpus.train) & set(corpus.validation)

    def test_the_seed_decides(self):
        def load(seed):
            return load_corpus("tales", n_stories=40, seed=seed)

        assert load(1).fingerprint == load(1).fingerprint != load(2).fingerprint
        assert len(load(1).validation) == 4
        # Neighbouring seeds share nothing, in either part.
        stories = [{*load(seed).train, *load(seed).validation} for seed in range(3)]
        assert len(set.union(*stories)) == sum(map(len, stories))

    def test_a_story_in_both_draws_stays_in_validation(self, monkeypatch):
        from llmcourse.data import tales

        monkeypatch.setattr(
            tales, "sample_stories", lambda n, seed: [f"story {i}" for i in range(n)]
        )
        corpus = load_corpus("tales", n_stories=10, n_validation=3)
        assert corpus.validation == ("story 0", "story 1", "story 2")
        assert corpus.train == tuple(f"story {i}" for i in range(3, 10))

    @pytest.mark.parametrize("options", [{"n_stories": 0}, {"n_validation": -1}])
    def test_numbers_of_stories(self, options):
        [(name, value)] = options.items()
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
            load_corpus("tales", **options)
