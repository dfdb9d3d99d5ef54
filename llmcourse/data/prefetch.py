"""Making things ahead of time, in a thread. Part 4.

Reading mapped files and copying arrays release Python's lock, and so does the model, so one thread
beside the training loop is enough; a process would have to send its batches over.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any

_WAIT = 0.1  # seconds after which a waiting thread looks whether it is still wanted


class Ahead:
    """Runs an iterator in a thread, a few items ahead of whoever takes them.

    What the iterator raises, its end included, is raised where the item would have come, and
    again by whoever asks after that. Forgetting the object ends the thread, as `close` does.
    """

    def __init__(self, source: Iterator[Any], depth: int) -> None:
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        # The thread must not hold this object, or nothing that forgets it could end the thread.
        self._thread = threading.Thread(
            target=_fill, args=(source, self._queue, self._stop), daemon=True, name="prefetch"
        )
        self._thread.start()
        weakref.finalize(self, self._stop.set)

    def __next__(self) -> Any:
        if self._error is not None:
            raise self._error  # the thread has ended: waiting would last for ever
        item, self._error = self._queue.get()
        if self._error is not None:
            raise self._error
        return item

    def close(self) -> None:
        """Stop the thread and wait until it has ended."""
        self._stop.set()
        self._thread.join()


def _fill(source: Iterator[Any], items: queue.Queue, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            item = (next(source), None)
        except BaseException as error:  # whatever it is, it belongs to the one who waits
            item = (None, error)
        while not stop.is_set():
            try:
                items.put(item, timeout=_WAIT)
                break
            except queue.Full:
                continue
        if item[1] is not None:
            return
