# `make help` lists the targets. Everything runs in .venv, which the first of them creates.

PROFILE ?= quick
SEED ?= 0
DEVICE ?= cpu
CHAPTER ?=
PORT ?= 8000
IMAGES ?=
K ?= 3
RECURSIVE ?=
QUERY ?=
TOP ?= 12
EXPERIMENT ?=
JOB ?=
HOURS ?=
N ?= 3

# The first Python >= 3.10 that can make a virtual environment.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { command -v $$p; break; }; done)

KNOWN := PROFILE SEED DEVICE CHAPTER PORT IMAGES K RECURSIVE QUERY TOP EXPERIMENT JOB HOURS N PYTHON
UNKNOWN := $(foreach v,$(filter-out $(KNOWN) MAKEFLAGS,$(.VARIABLES)),$(if $(filter command%,$(origin $v)),$v))
ifneq ($(strip $(UNKNOWN)),)
$(error unknown parameter $(strip $(UNKNOWN)); there are $(KNOWN))
endif
# What a user gives reaches the recipes through the environment, letter by letter: neither make nor the shell expands it.
$(foreach v,$(KNOWN),$(if $(filter command% environment%,$(origin $v)),$(eval override $v := $$(value $v))))
export $(filter-out PYTHON,$(KNOWN))

BIN := .venv/bin
# Named after the contents of what was installed: another lock file is another stamp.
STAMP := .venv/installed-$(shell cat requirements.txt pyproject.toml | cksum | tr ' ' '-')
RUN = $(BIN)/python -m nmfbook.build
GIVEN = --profile "$$PROFILE" --seed "$$SEED" --device "$$DEVICE"
BELOW = $(if $(filter-out 0 1,$(RECURSIVE)),$(error RECURSIVE=$(RECURSIVE) is neither 1, for yes, nor 0)) \
	$(filter-out 0,$(RECURSIVE:1=--recursive))
PHOTOGRAPHS = -o _build/$@ --seed "$$SEED" --device "$$DEVICE" $(BELOW)

.PHONY: help book test lint chapter record measure ledger audit heatmaps search serve bench lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done
	@echo 'Parameters: PROFILE=quick|desk|paper  SEED=0  DEVICE=cpu|cuda|mps  CHAPTER=<name>  PORT=8000  IMAGES=<folder>  RECURSIVE=1  K=3  QUERY=<file>  TOP=12  EXPERIMENT=<name>  JOB=<key>  HOURS=8  N=3  PYTHON=<3.10 or later>'

book: $(STAMP)  ## run the chapters that changed and build the site: _build/html/index.html
	@$(RUN) book $(GIVEN)

test: lint  ## build the book, then run every test, the notebooks once more among them
	@$(RUN) test --device "$$DEVICE" --seed "$$SEED"

lint: $(STAMP)  ## check style and types of the Python files, and the scripts of the views
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/oxlint nmfbook/widgets

chapter: $(STAMP)  ## run one chapter: CHAPTER=heatmaps
	@$(RUN) execute $(GIVEN) $$CHAPTER

record: $(STAMP)  ## run one chapter and keep what it measured in data/records/: CHAPTER=heatmaps PROFILE=paper
	@$(RUN) record $(GIVEN) $$CHAPTER

# One thread each: start it twice for two cores.
LEDGER = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m nmfbook

measure: $(STAMP)  ## do the experiments' missing jobs, one at a time, at low priority: EXPERIMENT=early_stopping JOB=<key> HOURS=8
	@$(LEDGER) measure --device "$$DEVICE" --experiment "$$EXPERIMENT" --job "$$JOB" --hours "$$HOURS"

ledger: $(STAMP)  ## take what was measured into data/ledger/ and judge the claims again
	@$(LEDGER) ledger

audit: $(STAMP)  ## repeat random cheap jobs of the ledger and compare: N=3 EXPERIMENT=early_stopping JOB=<key>
	@$(LEDGER) audit --number "$$N" --device "$$DEVICE" --experiment "$$EXPERIMENT" --job "$$JOB"

heatmaps: $(STAMP)  ## heatmaps of your own photographs, on one page: IMAGES=<folder> K=3 RECURSIVE=1
	@mkdir -p _build/$@ && $(BIN)/python -m nmfcore $@ $(PHOTOGRAPHS) -k "$$K" -- "$$IMAGES"

search: $(STAMP)  ## search your own photographs for what is on another one: IMAGES=<folder> QUERY=<file> TOP=12 RECURSIVE=1
	@mkdir -p _build/$@ && $(BIN)/python -m nmfcore $@ $(PHOTOGRAPHS) --top "$$TOP" -- "$$IMAGES" "$$QUERY"

serve: $(STAMP)  ## show the built site at http://127.0.0.1:8000
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html "$$PORT"

bench: $(STAMP)  ## time nmfcore beside its peers
	@for script in benchmarks/*.py; do $(BIN)/python "$$script" || exit 1; done

lock: $(STAMP)  ## write requirements.txt anew from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo 'error: make lock needs the program uv on the PATH' >&2; exit 1; }
	@uv pip compile --universal --python-version 3.10 --extra book --extra test --no-annotate --no-header \
		--no-emit-index-url --generate-hashes pyproject.toml -o requirements.txt

clean:  ## remove everything that was built (keeps .venv)
	@rm -rf _build .pytest_cache .hypothesis .ruff_cache

$(STAMP): export WITH = $(PYTHON)
$(STAMP):
	@[ -n "$$WITH" ] || { echo 'error: no Python 3.10 or later with venv and ensurepip was found;' \
		'install one (on Debian: python3 and python3-venv) or name one with make PYTHON=<path>' >&2; exit 1; }
	@"$$WITH" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "error: $$WITH is not a Python 3.10 or later with venv and ensurepip" >&2; exit 1; }
	@echo "Making .venv with $$WITH and installing the locked packages into it (some minutes, about 6 GB)"
	@"$$WITH" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f .venv/installed-* && touch $(STAMP)
