"""TensorBoard: event files that `tensorboard --logdir FOLDER` draws. Part 4.

Deviation: torch's SummaryWriter imports all of TensorFlow where that is installed (seconds, and
messages on stderr), and writes from a thread, where a full disk is noticed late. An event file is
a row of records with checksums, and tensorboard brings the record writer and the message types; so
we write the few kinds that we need ourselves, at once and without TensorFlow.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from llmcourse.errors import TrackingError
from llmcourse.train.tracking.base import Tracker

CONFIG = "config"  # the tag under which TensorBoard's Text page shows the configuration


class TensorBoardTracker(Tracker):
    """Writes an event file into a folder; a resumed run writes another beside it.

    The new file says at which step it begins, and TensorBoard then forgets what earlier files say
    about that step and later ones. Steps where only a text was recorded are no exception.
    """

    name = "TensorBoard"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._file: Any = None
        self._records: Any = None

    def _start(self, config: dict[str, Any], resume_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        if resume_step is None and any(self.folder.glob("*tfevents*")):
            raise TrackingError(
                f"{self.folder} holds the records of another run, and TensorBoard would draw both"
                " as one; choose another folder, or go on with that run by"
                " start(config, resume_step=...)"
            )
        # TensorBoard reads the files of a folder in the order of their names: the time comes first,
        # and its nanoseconds keep two runs within a second apart.
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{now % 10**9:09d}.llmcourse"
        self._file = open(self.folder / name, "xb", buffering=0)  # noqa: SIM115
        self._records = RecordWriter(self._file)
        try:
            self._write(Event(file_version="brain.Event:2"))
            if resume_step is not None:
                begins = SessionLog(status=SessionLog.START)
                self._write(Event(step=resume_step + 1, session_log=begins))
            shown = json.dumps(config, indent=2, ensure_ascii=False)
            self._text(resume_step or 0, CONFIG, shown)
        except BaseException:
            self._file.close()
            raise

    def _log(self, step: int, values: dict[str, float | int]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=scalars)))

    def _text(self, step: int, name: str, text: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        # Texts are Markdown there: four spaces make them appear as they are.
        lines = "\n".join("    " + line for line in text.split("\n"))
        tensor = TensorProto(
            dtype="DT_STRING",
            string_val=[lines.encode("utf-8", "backslashreplace")],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        value = Summary.Value(tag=f"{name}/text_summary", metadata=plugin, tensor=tensor)
        self._write(Event(step=step, summary=Summary(value=[value])))

    def _finish(self) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        before = self._file.tell()
        self._records.write(data)
        # A record is its data and 16 bytes of length and checksums.
        if self._file.tell() - before != len(data) + 16:
            raise OSError(f"a record could not be written whole to {self._file.name}")
