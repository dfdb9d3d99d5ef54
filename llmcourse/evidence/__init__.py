"""Evidence: measurements that take longer than a notebook may, made by one command and kept.

    llmcourse evidence part02        # makes notebooks/evidence/part02.json anew

A notebook runs one short, seeded run live and plots the evidence beside it. An evidence file holds
its seeds, settings, versions and results, and the fingerprint of the recipe that made it: when the
recipe changes, the file is refused until it is made again, so that no figure can outlive its code.
"""

from llmcourse.evidence.store import StaleEvidence, load, make, path_of, recipe_fingerprint

__all__ = ["StaleEvidence", "load", "make", "path_of", "recipe_fingerprint"]
