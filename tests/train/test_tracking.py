"""Trackers: what was written is read back by each tool's own reader, and no failure stops a run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.train import TrainConfig
from llmcourse.train.tracking import (
    ConsoleTracker,
    JsonlTracker,
    TensorBoardTracker,
    Tracker,
    Trackers,
    TrackingError,
    WandbTracker,
    read_jsonl,
)
from llmcourse.train.tracking.plain import json_line, plain_config, plain_values

quick = settings(max_examples=100, deadline=None, derandomize=True)
CONFIG = TrainConfig(steps=100, learning_rate=3e-4)


class Spy(Tracker):
    """Remembers its calls; fails in one of them on request."""

    def __init__(self, fails: str = "", error: BaseException | None = None, name: str = "spy"):
        super().__init__()
        self.name, self.fails, self.calls = name, fails, []
        self.error = error or OSError(28, "No space left on device")

    def _call(self, what: str, *arguments: object) -> None:
        self.calls.append((what, *arguments))
        if what == self.fails:
            raise self.error

    def _start(self, config, resume_step):
        self._call("start", config, resume_step)

    def _log(self, step, values):
        self._call("log", step, values)

    def _text(self, step, name, text):
        self._call("text", step, name, text)

    def _finish(self):
        self._call("finish")


class TestInterface:
    def test_the_four_calls_arrive_as_plain_values(self):
        spy = Spy()
        with spy.start({"folder": Path("runs")}) as tracker:
            assert tracker is spy
            tracker.log(1, {"loss": torch.tensor(2.5), "tokens": torch.tensor([7]), "none": None})
            tracker.log(2, {"validation": None})
            tracker.text(2, "sample", "Once")
        spy.finish()
        assert spy.calls == [
            ("start", {"folder": "runs"}, None),
            ("log", 1, {"loss": 2.5, "tokens": 7}),
            ("text", 2, "sample", "Once"),
            ("finish",),
        ]

    def test_a_run_that_breaks_is_finished_too(self):
        spy = Spy()
        with pytest.raises(ZeroDivisionError), spy.start():
            1 / 0  # noqa: B018
        assert spy.calls[-1] == ("finish",)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([("loss", 1)], "values must be a mapping"),
            ({"loss": "1.0"}, "loss must be one number, got '1.0'; texts go to text"),
            ({"loss": torch.ones(2)}, "loss must be one number, got tensor"),
            ({"loss": 1j}, "loss must be one number"),
            ({3: 1.0}, "a value's name must be a str"),
            ({"": 1.0}, "a value's name must be a str"),
        ],
    )
    def test_values_that_are_no_numbers(self, values, message):
        with pytest.raises(ValueError, match=message):
            Spy().start().log(1, values)

    @pytest.mark.parametrize("step", [-1, 1.0, True, "1", None])
    def test_steps_that_are_none(self, step):
        with pytest.raises(ValueError, match="a step must be a whole number of at least 0"):
            Spy().start().log(step, {"loss": 1.0})

    def test_steps_never_go_backwards(self):
        tracker = Spy().start(resume_step=5)
        tracker.log(5, {"loss": 1.0})
        tracker.text(9, "sample", "")
        with pytest.raises(ValueError, match="step 8 comes after step 9"):
            tracker.log(8, {"loss": 1.0})
        with pytest.raises(ValueError, match="step 4 comes after step 5"):
            Spy().start(resume_step=5).text(4, "sample", "")

    def test_texts_are_texts(self):
        with pytest.raises(ValueError, match="a text and its name must be str"):
            Spy().start().text(1, "sample", 3.0)

    def test_calls_out_of_order(self):
        spy = Spy()
        with pytest.raises(TrackingError, match="spy tracker has not been started"):
            spy.log(1, {"loss": 1.0})
        spy.finish()
        spy.start()
        with pytest.raises(TrackingError, match="has been started before"):
            spy.start()
        spy.finish()
        with pytest.raises(TrackingError, match="is finished"):
            spy.text(1, "sample", "")

    def test_configurations(self):
        @dataclasses.dataclass
        class Inner:
            path: Path = Path("a") / "b"
            sizes: tuple = (1, 2)

        plain = plain_config(
            {"inner": Inner(), "dtype": torch.float32, "names": {"b", "a"}, 3: None}
        )
        assert plain == {
            "inner": {"path": os.path.join("a", "b"), "sizes": [1, 2]},
            "dtype": "torch.float32",
            "names": ["a", "b"],
            "3": None,
        }
        assert plain_config(CONFIG) == dataclasses.asdict(CONFIG) and plain_config(None) == {}
        for wrong in ("steps=3", 3, TrainConfig):
            with pytest.raises(ValueError, match="config must be a dataclass or a mapping"):
                Spy().start(wrong)


class TestFailures:
    @pytest.mark.parametrize("fails", ["log", "text", "finish"])
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("x")])
    def test_a_failure_warns_once_and_the_run_goes_on(self, fails, error):
        spy = Spy(fails, error)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with spy.start() as tracker:
                for step in range(1, 6):
                    tracker.log(step, {"loss": 1.0})
                    tracker.text(step, "sample", "x")
        assert len(caught) == 1 and caught[0].category is RuntimeWarning
        message = str(caught[0].message)
        assert f"the spy tracker failed in {fails} at step" in message and str(error) in message
        assert [call[0] for call in spy.calls].count(fails) == 1
        if fails != "finish":
            assert caught[0].filename == __file__  # the warning points at who called

    def test_stopping_by_hand_is_no_failure(self):
        with pytest.raises(KeyboardInterrupt):
            Spy("log", KeyboardInterrupt()).start().log(1, {"loss": 1.0})

    def test_a_failure_at_the_start_is_an_error(self):
        with pytest.raises(TrackingError, match=r"spy tracker cannot start: .*No space left"):
            Spy("start").start()

    @pytest.mark.parametrize(
        ("package", "make"),
        [("tensorboard", TensorBoardTracker), ("wandb", WandbTracker)],
    )
    def test_a_missing_package_is_named(self, package, make, tmp_path, monkeypatch):
        for module in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(TrackingError, match=r"package.*pip install 'llmcourse\[tracking\]'"):
            make(tmp_path / "run").start()

    @pytest.mark.parametrize("make", [JsonlTracker, TensorBoardTracker])
    def test_a_place_that_cannot_be_written(self, make, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(TrackingError, match="tracker cannot start"):
            make(tmp_path / "file" / "run").start()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
    def test_a_full_disk_at_the_start(self):
        with pytest.raises(TrackingError, match=r"JSONL tracker cannot start: .*No space left"):
            JsonlTracker("/dev/full").start(CONFIG)

    def test_a_disk_that_fills_up_on_the_way(self, tmp_path, without_tensorflow):
        """A real limit on the size of files, in a process of its own, met in mid-run."""
        pytest.importorskip("resource", reason="file size limits are a matter of Unix")
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
        script = """
import resource, sys, warnings
from llmcourse.train.tracking import JsonlTracker, TensorBoardTracker, Trackers
warnings.simplefilter("always")
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
trackers = Trackers(JsonlTracker("run.jsonl"), TensorBoardTracker("board"))
with trackers.start({"steps": 200}) as tracker:
    for step in range(1, 201):
        tracker.log(step, {"loss": 1 / step})
print("trained to the end", "tensorflow" in sys.modules)
"""
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout == "trained to the end False\n", done.stderr
        assert done.stderr.count("RuntimeWarning") == 2, done.stderr
        for name in ("JSONL", "TensorBoard"):
            assert done.stderr.count(f"the {name} tracker failed in log") == 1
        # What was whole before the end is still read; the last line is not, and is left out.
        records = read_jsonl(tmp_path / "run.jsonl")
        assert (tmp_path / "run.jsonl").stat().st_size == 2000
        assert [r["step"] for r in records[1:]] == list(range(1, len(records)))
        assert len(records) > 20
        # The warning comes with the record that did not fit, not with the one after it.
        assert f"JSONL tracker failed in log at step {len(records)} " in done.stderr
        drawn = scalars(tmp_path / "board", "loss")
        assert [step for step, _ in drawn] == list(range(1, len(drawn) + 1))
        assert f"TensorBoard tracker failed in log at step {len(drawn) + 1} " in done.stderr


class TestTrackers:
    def test_all_get_everything_and_one_failure_silences_one(self):
        good, bad = Spy(), Spy("log", name="bad")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Trackers(bad, good).start({"a": 1}, resume_step=2) as tracker:
                tracker.log(3, {"loss": 1.0})
                tracker.log(4, {"loss": 2.0})
        assert [str(w.message).split(" failed")[0] for w in caught] == ["the bad tracker"]
        assert good.calls == [
            ("start", {"a": 1}, 2),
            ("log", 3, {"loss": 1.0}),
            ("log", 4, {"loss": 2.0}),
            ("finish",),
        ]

    def test_if_one_cannot_start_the_others_are_closed(self):
        first, second, third = Spy(), Spy("start", name="bad"), Spy()
        with pytest.raises(TrackingError, match="the bad tracker cannot start"):
            Trackers(first, second, third).start()
        assert [call[0] for call in first.calls] == ["start", "finish"]
        assert third.calls == []

    def test_none_at_all_does_nothing(self):
        with Trackers().start(CONFIG) as tracker:
            tracker.log(1, {"loss": 1.0})

    def test_only_trackers(self):
        with pytest.raises(ValueError, match="Trackers takes trackers"):
            Trackers("run.jsonl")


class TestConsole:
    def test_lines(self):
        out = io.StringIO()
        with ConsoleTracker(every=2, stream=out).start(CONFIG, resume_step=1) as tracker:
            for step in (1, 2, 3, 4):
                values = {"loss": 2.34567, "rate": 3e-4, "tokens": 12345, "speed": 98765.4}
                tracker.log(step, values)
            tracker.text(4, "sample", "Once\nupon")
            tracker.log(6, {"loss": float("nan")})
        assert out.getvalue() == (
            "going on after step 1\n"
            "step 2  loss 2.346  rate 0.0003  tokens 12,345  speed 98,765\n"
            "step 4  loss 2.346  rate 0.0003  tokens 12,345  speed 98,765\n"
            "step 4  sample:\n    Once\n    upon\n"
            "step 6  loss nan\n"
        )

    def test_it_prints_to_where_stdout_is_now(self):
        tracker = ConsoleTracker().start()
        with contextlib.redirect_stdout(io.StringIO()) as out:
            tracker.log(1, {"loss": 1})
        assert out.getvalue() == "step 1  loss 1\n"

    @pytest.mark.parametrize("every", [0, -1, 1.5, True])
    def test_bad_intervals(self, every):
        with pytest.raises(ValueError, match="every must be a whole number"):
            ConsoleTracker(every=every)


def write(path: Path, steps, resume_step=None, kill=False) -> None:
    tracker = JsonlTracker(path).start(CONFIG, resume_step=resume_step)
    for step in steps:
        tracker.log(step, {"loss": 1 / step})
        if step % 3 == 0:
            tracker.text(step, "sample", f"line\n{step} — ☃")
    if not kill:
        tracker.finish()


class TestJsonl:
    def test_every_line_is_an_object_there_at_once(self, tmp_path):
        path = tmp_path / "new" / "run.jsonl"
        tracker = JsonlTracker(path).start(CONFIG)
        for step in range(1, 4):
            tracker.log(step, {"loss": 1 / step})
            assert len(path.read_text("utf-8").splitlines()) == step + 1  # not finished, yet there
        tracker.text(3, "sample", 'a "b"\n\u2028☃')
        tracker.finish()
        records = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
        assert records[0] == {"config": dataclasses.asdict(CONFIG), "resumed_after": None}
        assert records[2] == {"step": 2, "values": {"loss": 0.5}}
        assert records[4] == {"step": 3, "name": "sample", "text": 'a "b"\n\u2028☃'}
        assert read_jsonl(path) == records

    def test_a_resumed_run_goes_on_and_forgets_what_came_after(self, tmp_path):
        path, straight = tmp_path / "run.jsonl", tmp_path / "straight.jsonl"
        write(straight, range(1, 13))
        write(path, range(1, 9), kill=True)
        with open(path, "ab") as file:
            file.write(b'{"step": 9, "val')
        write(path, range(6, 10), resume_step=5, kill=True)
        write(path, range(8, 13), resume_step=7)
        steps = [r for r in read_jsonl(path) if "step" in r]
        assert steps == [r for r in read_jsonl(straight) if "step" in r]
        starts = [r["resumed_after"] for r in read_jsonl(path) if "config" in r]
        assert starts == [None, 5, 7]
        # Going back behind an earlier resumption forgets that too.
        write(path, range(3, 5), resume_step=2)
        assert [r["resumed_after"] for r in read_jsonl(path) if "config" in r] == [None, 2]
        assert [r["step"] for r in read_jsonl(path) if "values" in r] == [1, 2, 3, 4]

    def test_to_resume_without_a_file_begins_one(self, tmp_path):
        write(tmp_path / "run.jsonl", [6], resume_step=5)
        assert [r.get("resumed_after", r.get("step")) for r in read_jsonl(tmp_path / "run.jsonl")
                ][:2] == [5, 6]  # fmt: skip

    def test_a_new_run_does_not_write_into_another(self, tmp_path):
        path = tmp_path / "run.jsonl"
        write(path, [1])
        before = path.read_bytes()
        with pytest.raises(TrackingError, match=r"records of another run.*resume_step"):
            JsonlTracker(path).start()
        assert path.read_bytes() == before

    @pytest.mark.parametrize("line", [b"nonsense", b"[1]", b'{"loss": 1}', b"\xff"])
    def test_a_damaged_file_is_refused_and_left_alone(self, tmp_path, line):
        path = tmp_path / "run.jsonl"
        write(path, [1, 2])
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
        before = path.read_bytes()
        with pytest.raises(TrackingError, match="line 2 is not a record of a run"):
            JsonlTracker(path).start(resume_step=1)
        assert path.read_bytes() == before

    @quick
    @given(st.dictionaries(st.text(min_size=1), st.floats() | st.integers()), st.text())
    def test_any_numbers_and_texts_are_valid_json(self, values, text):
        def refuse(constant):
            raise AssertionError(f"{constant} is not JSON")

        line = json_line({"values": plain_values(values), "text": text})
        assert line.count(b"\n") == 1 and line.endswith(b"\n")
        back = json.loads(line, parse_constant=refuse)
        assert back["text"] == text
        assert list(back["values"]) == list(values)
        for name, value in values.items():
            assert repr(float(back["values"][name])) == repr(float(value))


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = accumulate(folder)
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def accumulate(folder: Path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture
def without_tensorflow(monkeypatch):
    """TensorBoard's reader takes TensorFlow where it is; this is its own switch to do without."""
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", type(sys)("notf"))


@pytest.mark.usefixtures("without_tensorflow")
class TestTensorBoard:
    def test_its_own_reader_reads_what_was_written(self, tmp_path):
        with TensorBoardTracker(tmp_path).start(CONFIG) as tracker:
            for step in range(1, 6):
                tracker.log(step, {"loss": 1 / step, "train/rate": 3e-4 * step})
            tracker.text(5, "sample", "Once\nupon ☃")
            assert len(scalars(tmp_path, "loss")) == 5  # not finished, yet there
        accumulator = accumulate(tmp_path)
        assert sorted(accumulator.Tags()["scalars"]) == ["loss", "train/rate"]
        assert scalars(tmp_path, "loss") == [(s, pytest.approx(1 / s)) for s in range(1, 6)]
        assert scalars(tmp_path, "train/rate")[4] == (5, pytest.approx(15e-4))
        [text] = accumulator.Tensors("sample/text_summary")
        assert text.step == 5
        assert text.tensor_proto.string_val[0].decode() == "    Once\n    upon ☃"
        plugin = accumulator.SummaryMetadata("sample/text_summary").plugin_data.plugin_name
        assert plugin == "text"
        [config] = accumulator.Tensors("config/text_summary")
        shown = config.tensor_proto.string_val[0].decode()
        assert json.loads(shown) == dataclasses.asdict(CONFIG)
        assert abs(text.wall_time - time.time()) < 60

    def test_a_resumed_run_forgets_what_came_after(self, tmp_path):
        first = TensorBoardTracker(tmp_path / "x").start(CONFIG)
        for step in range(1, 9):
            first.log(step, {"loss": float(step)})
        second = TensorBoardTracker(tmp_path / "x").start(CONFIG, resume_step=5)
        for step in range(6, 11):
            second.log(step, {"loss": 10.0 * step})
        expected = [(s, float(s)) for s in range(1, 6)] + [(s, 10.0 * s) for s in range(6, 11)]
        assert scalars(tmp_path / "x", "loss") == expected

    def test_a_new_run_does_not_write_into_another(self, tmp_path):
        TensorBoardTracker(tmp_path).start().finish()
        with pytest.raises(TrackingError, match="records of another run"):
            TensorBoardTracker(tmp_path).start()
        assert len(list(tmp_path.iterdir())) == 1

    def test_numbers_that_are_not_finite(self, tmp_path):
        with TensorBoardTracker(tmp_path).start() as tracker:
            tracker.log(1, {"loss": float("nan"), "norm": float("inf"), "huge": 1e300})
        assert str(scalars(tmp_path, "loss")) == "[(1, nan)]"
        assert scalars(tmp_path, "norm") == [(1, float("inf"))]


def wandb_records(path: Path):
    """The records of a .wandb file: a log in LevelDB's format, read by a reader of our own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, pieces = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:  # the rest of a block that is too short for a header is padding
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        pieces += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(pieces)
            yield record
            pieces = b""


@pytest.mark.slow
class TestWandb:
    def test_an_offline_run_holds_what_was_written(self, tmp_path, capfd, monkeypatch):
        pytest.importorskip("wandb", reason="wandb is not installed")
        for variable in ("WANDB_MODE", "WANDB_SILENT"):
            monkeypatch.delenv(variable, raising=False)
        with WandbTracker(tmp_path, run_id="abc123").start(CONFIG) as tracker:
            for step in range(1, 4):
                tracker.log(step, {"loss": 1 / step})
            tracker.text(3, "sample", "<Once> upon")
        printed = capfd.readouterr()
        assert (printed.out, printed.err) == ("", ""), "a notebook's cell would show this"

        [folder] = (tmp_path / "wandb").glob("offline-run-*-abc123")
        # The library's own process writes the file, and may still be at it when finish returns.
        for _ in range(200):
            records = list(wandb_records(folder / "run-abc123.wandb"))
            if records and records[-1].HasField("exit"):
                break
            time.sleep(0.1)
        run = next(r.run for r in records if r.HasField("run"))
        assert run.run_id == "abc123" and run.project == "llmcourse"
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        expected = {**dataclasses.asdict(CONFIG), "resumed_after": None}
        assert {name: config.get(name) for name in expected} == expected
        history = []
        for record in records:
            if record.HasField("history"):
                items = record.history.item
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                history.append((row["_step"], row.get("loss")))
        assert history == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
        [page] = folder.rglob("sample_*.html")
        assert page.read_text("utf-8") == "<pre>&lt;Once&gt; upon</pre>"

    def test_a_resumed_run_keeps_its_id(self, tmp_path):
        pytest.importorskip("wandb", reason="wandb is not installed")
        first = WandbTracker(tmp_path, mode="offline").start(CONFIG)
        first.finish()
        second = WandbTracker(tmp_path, run_id=first.run_id, mode="offline")
        second.start(CONFIG, resume_step=5)
        second.log(6, {"loss": 1.0})
        second.finish()
        assert second.run_id == first.run_id is not None


def test_modes_of_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandbTracker(tmp_path).mode == "disabled"
    assert WandbTracker(tmp_path, mode="online").mode == "online"
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert WandbTracker(tmp_path).mode == "offline"
    with pytest.raises(ValueError, match="mode must be one of online, offline, disabled"):
        WandbTracker(tmp_path, mode="on")
