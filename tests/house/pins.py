"""Prints constraints.txt for the running environment: `make pins`.

Names and versions only: no build tags (a CPU and a GPU build of torch share a version), no paths,
no addresses.
"""

from importlib.metadata import distributions

from packaging.utils import canonicalize_name
from packaging.version import Version

HEADER = """\
# Exact versions of everything the course installs, direct or not: known to live together.
# `make` installs with `-c constraints.txt`; environment.yml repeats the direct ones.
# torch is pinned by version, not by build, so a GPU build fits; triton is left out, because a
# GPU build of torch pins its own. To renew: `make pins` in an environment where all tests pass.
"""
# The course itself, what makes environments, and what a GPU build of torch decides.
LEFT_OUT = {"llmcourse", "pip", "wheel", "triton"}
# One release, two packages: which one is installed depends on the platform.
SAME_VERSION = {"tensorflow-cpu": "tensorflow", "tensorflow": "tensorflow-cpu"}


def constraints() -> str:
    pins = {}
    for distribution in distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        if name in LEFT_OUT or name.startswith("nvidia-") or name.startswith("cuda-"):
            continue
        pins[name] = Version(distribution.version).public
        if name in SAME_VERSION:
            pins[SAME_VERSION[name]] = pins[name]
    return HEADER + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins))


if __name__ == "__main__":
    print(constraints(), end="")
