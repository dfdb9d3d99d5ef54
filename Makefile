# The commands of the course. `make` alone lists them.
#
#   PYTHON=/path/to/python3.12   another interpreter (3.11 to 3.13) for the environment
#   PIP_ARGS="--proxy ..."       passed to every pip install
#   VENV=.venv                   where the environment lives
#   LAB_ARGS, PYTEST_ARGS        passed to `llmcourse lab` and to pytest

PYTHON ?=
PIP_ARGS ?=
VENV ?= .venv
LAB_ARGS ?=
PYTEST_ARGS ?=

ifeq ($(OS),Windows_NT)
RUN = "$(VENV)/Scripts/python.exe"
else
RUN = "$(VENV)/bin/python"
endif

# Nothing here needs a network once installed, and nothing may try.
OFFLINE = HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 WANDB_MODE=offline

# The first interpreter that is 3.11 to 3.13 and can make environments; PYTHON wins.
define FIND_PYTHON
suits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; \
if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- python3 python3.13 python3.12 python3.11 python py; fi; \
for python in "$$@"; do \
  if "$$python" -c "$$suits" >/dev/null 2>&1; then found="$$python"; break; fi; \
done; \
if [ -z "$$found" ]; then \
  echo "The course needs Python 3.11, 3.12 or 3.13 with the venv module; tried: $$*" >&2; \
  echo "Install one (Debian and Ubuntu: apt install python3 python3-venv), or name yours:" >&2; \
  echo "    make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
  exit 1; \
fi
endef

# pip shows its progress to a person and only its troubles to a log.
define INSTALL
[ -t 1 ] && quiet= || quiet=--quiet; \
$(RUN) -m pip install --disable-pip-version-check $$quiet $(PIP_ARGS) -c constraints.txt
endef

.DEFAULT_GOAL := help
.PHONY: help lab test test-fast lint notebooks pins clean

help:  ## List the commands
	@echo "llmcourse: from attention to GRPO on the laptop you own"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo
	@echo "Start with: make lab"

lab: $(VENV)/.lab  ## Open the course in JupyterLab (LAB_ARGS="--port 9000")
	@$(RUN) -m llmcourse lab $(LAB_ARGS)

test: $(VENV)/.all  ## Check everything, as CI does: style, tests, notebooks, graders, browser
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(OFFLINE) $(RUN) -m pytest --nbval $(PYTEST_ARGS)

test-fast: $(VENV)/.all  ## The two minutes of tests to run while working
	$(OFFLINE) $(RUN) -m pytest tests -m "not slow and not browser" --ignore=tests/browser $(PYTEST_ARGS)

lint: $(VENV)/.all  ## Check the style; `ruff format .` mends most of it
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

notebooks: $(VENV)/.all  ## Run notebooks and solutions again in place, regenerate the exercises
	$(OFFLINE) $(RUN) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False \
	  notebooks/*.ipynb solutions/*.ipynb
	$(OFFLINE) $(RUN) -m llmcourse.grading.build

pins: $(VENV)/.all  ## Write constraints.txt anew from what is installed
	@$(RUN) tests/house/pins.py > constraints.tmp && mv constraints.tmp constraints.txt
	@touch $(VENV)/.lab $(VENV)/.all

clean:  ## Remove the environment and what tools leave behind
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(FIND_PYTHON); \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv "$(VENV)"
	@touch $@

$(VENV)/.lab: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing the course: about 1.5 GB, some minutes the first time"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.all: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing the course and all its tools: about 4 GB, some minutes the first time"
	@$(INSTALL) -e ".[all]"
	@touch $(VENV)/.lab $@
