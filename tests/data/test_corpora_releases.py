"""The corpora that depend on the Python release, on every release installed on this machine.

The course's modules for corpora need the standard library alone, so a bare interpreter will do.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import llmcourse

RELEASES = ("3.11", "3.12", "3.13")

PROGRAM = """
import json, platform, sys
from llmcourse.data import load_corpus
from llmcourse.data.docs import normal_form, paragraphs
assert "torch" not in sys.modules
report = {"release": platform.python_version()}
for name in ("docs", "code"):
    corpus = load_corpus(name)
    train = {normal_form(p) for text in corpus.train for p in paragraphs(text)}
    validation = [normal_form(p) for text in corpus.validation for p in paragraphs(text)]
    report[name] = {
        "train": corpus.bytes.train,
        "validation": corpus.bytes.validation,
        "documents": [len(corpus.train), len(corpus.validation)],
        "leaks": [p for p in validation if len(p) > 40 and p in train],
        "titles": sorted(text.splitlines()[0] for text in corpus.validation),
        "same": corpus.fingerprint == load_corpus(name).fingerprint,
        "described": platform.python_version() in corpus.description,
    }
report["tales"] = load_corpus("tales", n_stories=30).fingerprint
assert "torch" not in sys.modules
print(json.dumps(report))
"""


@cache
def interpreter(release: str) -> str | None:
    """A Python of this release that runs: this one, one on the PATH, or one of pyenv's."""
    candidates = [sys.executable, shutil.which(f"python{release}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    candidates += sorted(map(str, pyenv.glob(f"versions/{release}.*/bin/python")))
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", question], capture_output=True, text=True)
        # A pyenv shim is on the PATH for every release, but runs only those that are switched on.
        if answer.returncode == 0 and answer.stdout.strip() == release:
            return candidate
    return None


@cache
def report(release: str) -> dict:
    python = interpreter(release)
    if python is None:
        pytest.skip(f"Python {release} is not installed on this machine")
    environment = {**os.environ, "PYTHONPATH": str(Path(llmcourse.__file__).parents[1])}
    run = subprocess.run(
        [python, "-S", "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["release"].startswith(f"{release}.")
    return result


@pytest.mark.parametrize("release", RELEASES)
class TestRelease:
    def test_docs(self, release):
        docs = report(release)["docs"]
        total = docs["train"] + docs["validation"]
        assert 350_000 < total < 480_000
        assert 0.08 < docs["validation"] / total < 0.13
        assert docs["documents"][0] >= 35 and docs["documents"][1] >= 10
        assert docs["leaks"] == []
        assert docs["same"] and docs["described"]

    def test_code(self, release):
        code = report(release)["code"]
        total = code["train"] + code["validation"]
        assert 1_900_000 < total <= 2_000_000
        assert 0.05 < code["validation"] / total < 0.15
        assert code["documents"][0] >= 80 and code["documents"][1] >= 8
        assert code["same"] and code["described"]


def test_what_does_not_depend_on_the_release():
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    others = [r for r in RELEASES if r != here and interpreter(r)]
    if not others:
        pytest.skip("only one Python release is installed on this machine")
    for other in others:
        assert report(other)["docs"]["titles"] == report(here)["docs"]["titles"]
        # The village, which is made and not found, is the same to the last letter.
        assert report(other)["tales"] == report(here)["tales"]
