"""The errors that are about the world rather than about an argument.

A bad argument is a `ValueError` wherever it happens. What can go wrong although every argument is
right (no network, a damaged file, an empty corpus) has a class of its own here, so that the command
line can show one plain line instead of a traceback and a program can catch exactly what it means.
"""


class CourseError(Exception):
    """Base class: the message is written for the person who reads it."""


class OfflineError(CourseError):
    """Something needs the network and there is none; the message names the offline choices."""


class CorpusError(CourseError):
    """A corpus is empty, unreadable or not what its checksum says."""


class CheckpointError(CourseError):
    """A checkpoint is missing, truncated, damaged or does not fit the model it is loaded into."""


class CacheError(CourseError, ValueError):
    """A key/value cache cannot hold what it is given: full, the wrong batch, the wrong model."""


class WeightsError(CourseError, ValueError):
    """Published weights are missing, damaged, of another shape, or of a model that is not built."""


class TrackingError(CourseError):
    """A tracker cannot start: a package is missing, the disk full, its file another run's."""


class LostContact(CourseError):
    """Another process of the same run ended or cannot be reached, so this one cannot go on."""
