"""Noticing that another process is gone, and saying which. Part 4.

Processes that train together wait for each other at every sum. When one is killed, the others see
a closed connection or, at worst, silence until a time limit, and an error that names a port.

Each process therefore counts upwards, a few times a second, in the small store that `torchrun`
keeps for all of them, and writes there how it ended if it ended by itself. Whoever runs into an
error looks who has stopped counting. (Counts are compared with counts, never clocks with clocks:
a machine that slept for a minute has lost nobody.)
"""

from __future__ import annotations

import contextlib
import threading
import time

import torch.distributed as dist

from llmcourse.errors import LostContact

INTERVAL = 0.25  # seconds between two counts
PATIENCE = 3.0  # seconds without a count after which a process is taken for gone
SILENCE = "no sign of life"
FINISHED = "it finished before the others"
SIGNS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")


class Watch:
    """This process's sign of life, and a look at those of the others.

    Args:
        store: of the process group; cloned, since a store waits for one question at a time.
        rank: of this process.
        world_size: processes in all.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._beat = dist.PrefixStore("llmcourse", store.clone())
        self._look = dist.PrefixStore("llmcourse", store.clone())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True, name="sign-of-life")
        self._thread.start()

    def ended(self, how: str) -> None:
        """Tell the others, who may be waiting for us, that and how this process ended."""
        self._stop.set()
        with contextlib.suppress(RuntimeError):
            self._look.set(f"ended/{self.rank}", how)

    def lost(self, patience: float = PATIENCE) -> dict[int, str]:
        """Which processes are gone, and how each ended as far as it could say.

        Takes no time if all are there, and up to `patience` seconds otherwise.
        """
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        try:
            before = {rank: self._look.add(f"alive/{rank}", 0) for rank in others}
            gone = self._farewells(others)
            silent = [rank for rank in others if rank not in gone]
            for _ in range(round(patience / INTERVAL)):
                if not silent:
                    break
                time.sleep(INTERVAL)
                gone |= self._farewells(silent)
                silent = [
                    rank
                    for rank in silent
                    if rank not in gone and self._look.add(f"alive/{rank}", 0) == before[rank]
                ]
        except RuntimeError:  # the store is where torchrun is, and that is gone
            return {-1: "torchrun, which started them all, cannot be reached"}
        return gone | dict.fromkeys(silent, f"{SILENCE} for {patience:.0f} s")

    def _farewells(self, ranks: list[int]) -> dict[int, str]:
        said = [rank for rank in ranks if self._look.check([f"ended/{rank}"])]
        return {rank: self._look.get(f"ended/{rank}").decode() for rank in said}

    def _count(self) -> None:
        with contextlib.suppress(RuntimeError):
            while not self._stop.wait(INTERVAL):
                self._beat.add(f"alive/{self.rank}", 1)


def is_contact_error(error: BaseException) -> bool:
    """Whether an error is about reaching other processes rather than about this one's work."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS)


def describe(rank: int, lost: dict[int, str], error: BaseException | None, timeout: float) -> str:
    """The message of a `LostContact`, for the person who reads it on rank `rank`."""
    # Those who ended because somebody else was gone are not whom to look at.
    causes = {r: how for r, how in lost.items() if not how.startswith(LostContact.__name__)}
    causes = causes or lost
    if not lost:
        return (
            f"rank {rank} waited for the other processes in vain, although all of them are alive: "
            f"one is slower than parallel.timeout={timeout:g} s, or does something that the others "
            f"do not. Raise the timeout, or look at what each was doing ({_first_line(error)})"
        )
    said = [f"rank {r} ended with {how}" for r, how in causes.items() if r >= 0 and how]
    said = [text for text in said if SILENCE not in text]
    if said:
        return f"rank {rank} cannot go on alone: {'; '.join(said)}"
    named = ", ".join(
        how if r < 0 else f"rank {r} ({how or FINISHED})" for r, how in causes.items()
    )
    return (
        f"rank {rank} lost contact with {named}. Look at the last lines that it wrote; if there "
        f"are none, it was killed: usually memory ran out (the system's log says so). Start all "
        f"processes again, from the last checkpoint"
    )


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0][:200] if error is not None else "no error"
