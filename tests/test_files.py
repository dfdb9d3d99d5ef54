"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import threading

import pytest

from llmcourse import files
from llmcourse.files import atomic_write, sha256_of


def names(folder):
    return sorted(os.listdir(folder))


class TestAtomicWrite:
    def test_bytes_and_text_arrive_as_they_are(self, tmp_path):
        atomic_write(tmp_path / "a.bin", bytes(range(256)))
        assert (tmp_path / "a.bin").read_bytes() == bytes(range(256))
        atomic_write(str(tmp_path / "b.txt"), "é\r\n\n世界")
        assert (tmp_path / "b.txt").read_bytes() == "é\r\n\n世界".encode()
        atomic_write(tmp_path / "c", bytearray(b"xy"))
        atomic_write(tmp_path / "d", memoryview(b"xyz")[1:])
        atomic_write(tmp_path / "empty", b"")
        assert [(tmp_path / n).read_bytes() for n in ("c", "d", "empty")] == [b"xy", b"yz", b""]
        assert names(tmp_path) == ["a.bin", "b.txt", "c", "d", "empty"]

    def test_folders_are_made_and_an_old_file_is_replaced(self, tmp_path):
        target = tmp_path / "deep" / "er" / "file"
        atomic_write(target, "one, and longer than the next")
        atomic_write(target, "two")
        assert target.read_text() == "two"
        assert names(target.parent) == ["file"]

    @pytest.mark.parametrize("name", ["имя файла.txt", "文件 名", "ü" * 120, "n" * 250, ".hidden"])
    def test_any_name_the_system_allows(self, tmp_path, name):
        atomic_write(tmp_path / name, name)
        assert (tmp_path / name).read_text(encoding="utf-8") == name
        assert names(tmp_path) == [name]

    @pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
    def test_a_failure_at_any_step_leaves_the_old_file_alone(self, tmp_path, monkeypatch, step):
        target = tmp_path / "file"
        atomic_write(target, "old")

        def refuse(*arguments, **options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(files.os, step, refuse)
            with pytest.raises(OSError, match="No space left"):
                atomic_write(target, "new")
        assert target.read_text() == "old"
        assert names(tmp_path) == ["file"], "a temporary file was left behind"

    def test_a_stop_by_hand_counts_as_a_failure(self, tmp_path, monkeypatch):
        atomic_write(tmp_path / "file", "old")

        def stop(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(files.os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / "file", "new")
        assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]

    def test_the_data_is_on_the_disk_before_the_rename(self, tmp_path, monkeypatch):
        order = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(files.os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
        monkeypatch.setattr(
            files.os,
            "replace",
            lambda a, b: (order.append(("replace", os.path.getsize(a))), replace(a, b)),
        )
        atomic_write(tmp_path / "file", b"12345")
        assert order[:2] == ["fsync", ("replace", 5)]
        if os.name != "nt":
            assert order[2:] == ["fsync"]  # the folder, so that the rename itself lasts

    @pytest.mark.parametrize("data", [5, None, ["a"], 1.5])
    def test_other_data_is_refused_before_anything_is_written(self, tmp_path, data):
        with pytest.raises(TypeError, match=f"bytes or str, got {type(data).__name__}"):
            atomic_write(tmp_path / "folder" / "file", data)
        assert names(tmp_path) == []

    def test_text_without_bytes_is_refused_before_anything_is_written(self, tmp_path):
        with pytest.raises(UnicodeEncodeError):
            atomic_write(tmp_path / "file", "lone \ud800")
        assert names(tmp_path) == []

    def test_a_folder_is_not_replaced(self, tmp_path):
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError):
            atomic_write(tmp_path / "folder", "x")
        assert names(tmp_path) == ["folder"]

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
    def test_permissions_are_those_of_an_ordinary_write(self, tmp_path):
        old = os.umask(0o027)
        try:
            atomic_write(tmp_path / "new", "x")
            (tmp_path / "plain").write_text("x")
        finally:
            os.umask(old)
        modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("new", "plain")]
        assert modes == [0o640, 0o640]

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
    def test_a_private_file_stays_private(self, tmp_path):
        (tmp_path / "secret").write_text("old")
        (tmp_path / "secret").chmod(0o600)
        atomic_write(tmp_path / "secret", "new")
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
        assert (tmp_path / "secret").read_text() == "new"

    def test_a_reader_never_sees_a_mixture(self, tmp_path):
        target, versions = tmp_path / "file", [bytes([i]) * 50_000 for i in range(2)]
        atomic_write(target, versions[0])
        seen, done = set(), threading.Event()

        def read():
            while not done.is_set():
                seen.add(target.read_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(40):
            atomic_write(target, versions[i % 2])
        done.set()
        reader.join()
        assert seen and seen <= set(versions)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 7])
def test_sha256_of_is_that_of_the_bytes(tmp_path, size):
    data = (b"0123456789abcde" * (size // 15 + 1))[:size]
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_text("abc")  # the example of FIPS 180-2
    assert sha256_of(str(tmp_path / "abc")) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
