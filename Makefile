# `make` lists the targets. Everything runs in .venv, which is made when it is first needed.
SHELL := /bin/sh
# The first of these that is new enough; any other is named with PYTHON=…
PYTHON ?= $(or $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done),python3)
ARGS ?= algo=sac env=Pendulum-v1

BIN := .venv/bin
STAMP := .venv/.installed
LOG := .venv/install.log
# Two workers for tests that compute; three, on two cores too, for those that wait for processes to start, stop or hang.
# One thread each: two OpenMP threads in each would slow one another down tenfold.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# What breaks most often when code is changed, and tells so in seconds.
QUICK := tests/rl tests/nets tests/schema tests/runs tests/envs/test_spaces.py tests/envs/test_vector_envs.py \
	tests/algos/test_ppo.py tests/algos/test_sac.py tests/contract/test_transitions.py tests/test_imports.py

.DEFAULT_GOAL := help
.PHONY: help setup train tensorboard quick check test benchmark docs clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.12 chooses the Python (3.11 or newer) that .venv is made from."
	@echo "  On Linux, PyPI's torch brings CUDA. Without a GPU, the smaller one does:"
	@echo "  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup"

setup: $(STAMP)  ## install deeprl and everything it can use into .venv

# Again only when the requirements have changed. pip is heard only when it fails.
$(STAMP): pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "deeprl needs Python 3.11 or newer, and $(PYTHON) is" \
			"`command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo missing`:" \
			"name another, for example  make setup PYTHON=python3.12" >&2; exit 1; }
	@[ -x $(BIN)/python ] || { echo "making .venv"; $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }; }
	@echo "installing torch (large: minutes the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch >$(LOG) 2>&1 \
		|| { cat $(LOG) >&2; exit 1; }
	@echo "installing deeprl with all its extras"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' >$(LOG) 2>&1 \
		|| { cat $(LOG) >&2; exit 1; }
	@touch $@
	@echo "installed: $(BIN)/deeprl --help"

train: setup  ## train; ARGS="algo=ppo env=CartPole-v1 …" (default: SAC on Pendulum)
	@$(BIN)/deeprl train $(ARGS)

tensorboard: setup  ## show the curves of all runs
	@$(BIN)/tensorboard --logdir runs

quick: setup  ## format, lint, types, the tests that matter most: within a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -n 2 -m "not slow" $(QUICK)

check: setup  ## format, lint, types, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -n 2 -m "not slow"

# .ci/run sets AFTER_CHECK: the fast tests have just passed there.
test: setup  ## all tests
	$(PYTEST) -n 3 $(if $(AFTER_CHECK),-m slow)

benchmark: setup  ## our speed; against peers, see benchmarks/README.md
	$(BIN)/python benchmarks/speed.py

docs: setup  ## the docs as a site, in build/docs/site
	@$(BIN)/python -m docs.build_site

clean:  ## remove caches and build products; keeps runs/ and .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
	find . -path ./.venv -prune -o -path ./runs -prune -o -path ./.git -prune -o \
		\( -name __pycache__ -o -name '*.egg-info' \) -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well
	rm -rf .venv
