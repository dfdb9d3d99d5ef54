"""Commands with actions of their own, such as `llmcourse data prepare`: which one is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def choose_action(
    command: str, actions: Mapping[str, str], argv: Sequence[str]
) -> tuple[str, list[str]]:
    """The action that the first word names, and the words after it.

    Args:
        command: its name, for the messages.
        actions: each with a line that says what it does.
        argv: the words behind the command's name; none at all asks for help.

    Raises:
        SystemExit: help was asked for, and has been printed.
        ValueError: no such action.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(f"usage: llmcourse {command} ACTION [options]\n")
        for name, what in actions.items():
            print(f"  {name:<8} {what}")
        print(f"\nllmcourse {command} ACTION --help lists an action's options.")
        raise SystemExit(0)
    action, *rest = argv
    if action not in actions:
        raise ValueError(
            f"llmcourse {command} has no action {action!r}; there are: {', '.join(actions)}"
        )
    return action, rest
