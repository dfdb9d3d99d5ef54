"""The one download, against a server on this machine and against no network at all."""

import hashlib
import http.server
import socket
import threading
import time
import urllib.error

import pytest

from llmcourse.data import load_corpus, shakespeare
from llmcourse.errors import CorpusError, OfflineError

TEXT = ("First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 20).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        body = TEXT if self.path != "/other" else TEXT.replace(b"hear", b"fear")
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:100] if self.path == "/truncated" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    # A proxy set in the environment must not come between the test and its own server.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as instance:
        instance.requests = []
        instance.url = f"http://127.0.0.1:{instance.server_port}"
        thread = threading.Thread(target=instance.serve_forever, daemon=True)
        thread.start()
        yield instance
        instance.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and a checksum that fits the server's text."""
    monkeypatch.setenv("LLMCOURSE_HOME", str(tmp_path))
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(TEXT).hexdigest())
    return tmp_path / "corpora"


def test_the_checksum_is_that_of_the_published_file():
    assert shakespeare.SHA256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert shakespeare.URL.endswith("/char-rnn/master/data/tinyshakespeare/input.txt")


def test_it_is_fetched_once_and_split_at_nine_tenths(server, folder):
    corpus = load_corpus("shakespeare", url=f"{server.url}/good")
    assert corpus.train_text + corpus.validation_text == TEXT.decode()
    assert len(corpus.train_text) == int(0.9 * len(TEXT))
    assert [path.name for path in folder.iterdir()] == ["shakespeare.txt"]
    again = load_corpus("shakespeare", url=f"{server.url}/good")
    assert again.fingerprint == corpus.fingerprint
    assert server.requests == ["/good"]


def test_a_damaged_copy_is_fetched_again(server, folder):
    load_corpus("shakespeare", url=f"{server.url}/good")
    (folder / "shakespeare.txt").write_bytes(TEXT[:-1])
    corpus = load_corpus("shakespeare", url=f"{server.url}/good")
    assert corpus.train_text + corpus.validation_text == TEXT.decode()
    assert len(server.requests) == 2


def test_another_file_is_refused_and_not_kept(server, folder):
    with pytest.raises(CorpusError) as caught:
        load_corpus("shakespeare", url=f"{server.url}/other")
    found = hashlib.sha256(TEXT.replace(b"hear", b"fear")).hexdigest()
    for part in (f"{server.url}/other", f"{len(TEXT):,} bytes", found, shakespeare.SHA256):
        assert part in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize("path", ["/truncated", "/missing"])
def test_a_broken_answer_is_as_good_as_none(server, folder, path):
    with pytest.raises(OfflineError, match="cannot be fetched"):
        load_corpus("shakespeare", url=f"{server.url}{path}")
    assert not folder.exists()


def test_offline_it_says_at_once_what_works_offline(folder, monkeypatch):
    def no_network(url, timeout):
        raise urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(shakespeare.urllib.request, "urlopen", no_network)
    start = time.perf_counter()
    with pytest.raises(OfflineError) as caught:
        load_corpus("shakespeare")
    assert time.perf_counter() - start < 1
    for part in (shakespeare.URL, "name resolution", '"docs"', '"code"', '"tales"', '"file:PATH"'):
        assert part in str(caught.value)
    assert not folder.exists()


def test_a_server_that_does_not_answer_is_given_up(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(shakespeare, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(OfflineError, match="timed out"):
            load_corpus("shakespeare", url=url)
