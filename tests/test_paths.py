"""Where things are kept, on machines of every kind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from llmcourse import paths
from llmcourse.paths import course_root, home


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No variable set, and a user's folder and a temporary folder of the test's own."""
    for name in ("LLMCOURSE_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "user"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


class TestHome:
    def test_the_variable_wins_and_the_folder_is_made(self, bare, monkeypatch):
        monkeypatch.setenv("LLMCOURSE_HOME", str(bare / "mine" / "deep"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "cache"))
        assert home() == bare / "mine" / "deep"
        assert home().is_dir() and not (bare / "cache").exists()

    def test_a_tilde_in_the_variable_is_the_user(self, bare, monkeypatch):
        monkeypatch.setenv("LLMCOURSE_HOME", "~/course")
        assert home() == bare / "user" / "course"

    def test_a_choice_that_cannot_be_written_is_refused_not_replaced(self, bare, monkeypatch):
        (bare / "file").write_text("in the way")
        monkeypatch.setenv("LLMCOURSE_HOME", str(bare / "file"))
        with pytest.raises(ValueError, match=r"LLMCOURSE_HOME=.*file cannot be written"):
            home()

    def test_then_the_cache_folder_of_the_system(self, bare, monkeypatch):
        assert home() == bare / "user" / ".cache" / "llmcourse"
        monkeypatch.setenv("LOCALAPPDATA", str(bare / "local"))
        assert home() == bare / "local" / "llmcourse"
        monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "cache"))
        assert home() == bare / "cache" / "llmcourse"

    def test_an_empty_variable_is_no_choice(self, bare, monkeypatch):
        monkeypatch.setenv("LLMCOURSE_HOME", "")
        assert home() == bare / "user" / ".cache" / "llmcourse"

    def test_a_read_only_home_falls_back_to_a_temporary_folder(self, bare, monkeypatch):
        (bare / "cache").write_text("a file, so no folder can be made in it")
        monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "cache"))
        folder = home()
        assert folder.parent == bare / "tmp" and folder.name.startswith("llmcourse-")
        assert folder == home(), "progress must be found again"
        (folder / "note").write_text("writable")

    def test_a_temporary_folder_that_is_taken_is_not_used(self, bare, monkeypatch):
        (bare / "cache").write_text("a file")
        monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "cache"))
        taken = home()
        taken.rmdir()
        taken.write_text("somebody else's")  # stands for a folder that belongs to another user
        folder = home()
        assert folder != taken and folder.is_dir() and folder.parent == bare / "tmp"

    def test_looking_leaves_nothing_in_the_folder(self, bare):
        assert list(home().iterdir()) == []


class TestCourseRoot:
    def make(self, folder: Path) -> Path:
        (folder / "notebooks").mkdir(parents=True)
        (folder / "llmcourse").mkdir()
        (folder / "llmcourse" / "parts.py").write_text("")
        return folder

    def test_the_working_directory_and_its_parents_come_first(self, tmp_path, monkeypatch):
        copy = self.make(tmp_path / "copy")
        monkeypatch.chdir(copy)
        assert course_root() == copy.resolve()
        monkeypatch.chdir(copy / "notebooks")
        assert course_root() == copy.resolve()

    def test_elsewhere_it_is_the_checkout_of_this_package(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(
            paths, "__file__", str(self.make(tmp_path / "x") / "llmcourse/paths.py")
        )
        assert course_root() == (tmp_path / "x").resolve()

    def test_without_a_checkout_there_is_none(self, tmp_path, monkeypatch):
        (tmp_path / "site-packages" / "llmcourse").mkdir(parents=True)
        (tmp_path / "work" / "notebooks").mkdir(parents=True)  # somebody's own notebooks
        monkeypatch.chdir(tmp_path / "work")
        monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages/llmcourse/paths.py"))
        assert course_root() is None
