"""`python -m llmcourse` is the command `llmcourse`."""

import sys

from llmcourse.cli import main

if __name__ == "__main__":
    sys.exit(main())
