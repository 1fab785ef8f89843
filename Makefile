# make help lists the targets. Once .venv exists, only audit, lock and peers (bench calls it once) need a network.
PYTHON ?= python3
GATES ?= fresh repeat better
TARGET ?= main
BIN := .venv/bin
# One thread per process: more threads than cores wait for each other. One process more than cores, since some tests wait;
# not in test-fast, where none waits, and where each process spends seconds on importing all tests. Python keeps what it
# compiles, so that pytest does not compile all tests for every process.
CORES := $(shell nproc 2>/dev/null || echo 1)
WORKERS := $(shell echo $$(($(CORES) < 3 ? $(CORES) + 1 : 4)))
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 python -m pytest --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help repro test test-long test-all test-fast test-gpu lint check exps audit demo export bench peers lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

repro: .venv/ready  ## install what is needed, run the pipeline, print where the results are
	dvc repro
	@echo
	@git diff --quiet HEAD -- dvc.lock 2>/dev/null; [ $$? -ne 1 ] || \
	  echo "Some figures differ from the commit: see git status, and docs/reproducibility.md for the reasons"
	@echo "Activate the environment first: source .venv/bin/activate"
	@echo "Figures  metrics/evaluate.json (and audit, split, train beside it); dvc metrics show"
	@echo "Plots    plots/evaluate/evaluation.png, plots/evaluate/training.png; dvc plots show"
	@echo "Report   reports/report.html, open it in a browser"
	@echo "Scores   data/predictions.csv, one row per image"
	@echo "Model    models/; classify new images: python stages/predict.py IMAGE_OR_FOLDER"

test: .venv/ready  ## the tests, except the long ones
	$(PYTEST) --numprocesses $(WORKERS) -m "not long"

test-long: .venv/ready  ## the long tests; CONTRIBUTING.md lists what they prove
	$(PYTEST) --numprocesses $(WORKERS) -m long

test-all: .venv/ready  ## all tests, in one run
	$(PYTEST) --numprocesses $(WORKERS)

test-fast: .venv/ready  ## the tests that take no more than about 2 s each, while working: no training, no DVC
	$(PYTEST) --numprocesses $(CORES) -m "not slow and not long"

test-gpu:  ## the tests that need an NVIDIA GPU, with the torch that is installed
	$(PYTHON) -m pytest -m gpu tests/gpu

lint: .venv/ready  ## style and types
	ruff check .
	ruff format --check .
	mypy

check: .venv/ready  ## the gates: dvc.lock is fresh, the result repeats, it is no worse than on TARGET (main)
	python stages/check.py $(GATES) --target $(TARGET)

exps: .venv/ready  ## list experiments in 120 columns: changed parameters, ROC AUC, sensitivity, specificity
	@python stages/exps.py $(TARGET)

audit: .venv/ready  ## check the locked packages: withdrawn, in quarantine, known vulnerabilities
	python .ci/audit.py

demo: .venv/ready  ## serve a local web page to try the model
	python stages/demo.py

export: .venv/ready  ## write the model to export/: ONNX, safetensors, preprocessing, model card
	python stages/export.py

bench: .venv/ready  ## measure the speed of what needs no GPU; benchmarks/README.md explains the figures
	@[ -f models/model.json ] || dvc repro
	@[ -d .venv/peers ] || $(MAKE) peers || echo "Lightning and fastai are not measured."
	python benchmarks/training.py --rounds 2
	python benchmarks/predicting.py --images 2000
	python benchmarks/reading.py --rounds 1
	python benchmarks/checkpoints.py --rounds 2
	python benchmarks/layout.py --images 3000
	python benchmarks/cores.py --rounds 1
	python benchmarks/decoding.py --images 40
	python benchmarks/many_copies.py --images 3000 --each 100
	python benchmarks/scale.py
	for proof in coverage equal_recipes better_recipe luck splits reviewers; do \
	  python benchmarks/$$proof.py --sets 2 --small || exit 1; done

peers: .venv/ready  ## install Lightning and fastai for make bench, apart from the environment
	python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/peers -r benchmarks/peers.txt

lock: .venv/ready  ## write requirements.lock from requirements.txt and requirements-dev.txt
	python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" -o requirements.lock requirements.txt requirements-dev.txt

clean:  ## delete the environment, but not data, models or caches
	rm -rf .venv

.venv/ready: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or later is needed, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
	    "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 {print $$4}'); [ -d .venv ] || [ "$$free" -ge 8000000 ] || \
	  { echo "8 GB of disk are needed, most of them for PyTorch, and $$((free / 1000000)) GB are free here."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@
