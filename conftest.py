"""What every test run needs, notebooks included: no network, no traces, a sane order.

It stands at the root because `pytest --nbval notebooks` must find it too; the kernels that run the
notebooks inherit the environment set here.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # Threads that wait without spinning: on a busy machine spinning costs a factor of twenty.
    "OMP_WAIT_POLICY": "PASSIVE",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}

# What is quick and says most comes first; what starts servers and browsers comes last.
ORDER = ("tests/house", "tests", "tests/grading", "notebooks", "solutions", "exercises")
LAST = ("tests/notebooks", "tests/browser")


def pytest_configure(config: pytest.Config) -> None:
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    # Progress and caches of the tests are nobody's progress.
    if "LLMCOURSE_HOME" not in os.environ:
        home = tempfile.mkdtemp(prefix="llmcourse-tests-")
        os.environ["LLMCOURSE_HOME"] = home
        config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        parts = item.path.relative_to(config.rootpath).parts if _inside(item, config) else ()
        folders = ["/".join(parts[:n]) for n in range(1, len(parts))]
        for folder in reversed(folders):
            if folder in LAST:
                return len(ORDER) + LAST.index(folder)
            if folder in ORDER:
                return ORDER.index(folder)
        return len(ORDER)

    items.sort(key=place)  # stable: inside a folder the order stays


def _inside(item: pytest.Item, config: pytest.Config) -> bool:
    return item.path.is_relative_to(config.rootpath)
