"""The rules of the village: which events can follow, how likely each is, and what it changes.

Taught in Part 2. A rule looks at the state and returns `(weight, cases)`: the weight of its kind
of event against the other kinds, and the cases within it, each `(weight, key, arguments)`. An
argument may be a `Free` choice, uniform over what the state allows. An effect changes the state.
Weights of kinds never depend on hidden variables; cases may, through `State.chance`, and then
the weights of the outcomes add up to a constant.
"""

from llmcourse.data.tales.rules import ending, feelings, kindness, scenery, search, setting
from llmcourse.data.tales.rules.core import Free

RULES_VERSION = 1  # raise when a weight or a condition changes: fingerprints depend on it

MODULES = (setting, search, kindness, feelings, scenery, ending)
RULES = {name: rule for module in MODULES for name, rule in module.RULES.items()}
EFFECTS = {key: effect for module in MODULES for key, effect in module.EFFECTS.items()}
BODY = tuple(k for k in RULES if k not in ("open", "plot", "clue", "reply", "end"))

__all__ = ["BODY", "EFFECTS", "RULES", "RULES_VERSION", "Free"]
