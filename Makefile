# The way in: `make run` and `make test`. Each target sets up .venv (quick when that is done) and runs one command of it.
.PHONY: run test check bench lab-up lab-down docs clean setup
.DEFAULT_GOAL := run

HOSTS ?= 3
LAB ?= .vmpool/lab
PYTHON := .venv/bin/python

run: setup
	@$(PYTHON) -m deploy.lab.story

test: setup
	@deploy/run-tests.sh

check: setup
	@.venv/bin/poe check

bench: setup
	@$(PYTHON) -m bench

lab-up: setup
	@$(PYTHON) -m deploy.lab up --hosts $(HOSTS) --data $(LAB)

lab-down: setup
	@$(PYTHON) -m deploy.lab down --data $(LAB)

docs: setup
	@.venv/bin/poe docs

setup:
	@deploy/setup.sh

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
