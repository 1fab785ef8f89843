# make help lists the targets. All of them work without a network once .venv is made; audit and lock ask the index.
PYTHON ?= python3
GATES ?= fresh repeat better
TARGET ?= main
BIN := .venv/bin
# One thread each: with more they wait for each other. A process more than cores, since tests of killing wait, too.
WORKERS := $(shell cores=$$(nproc 2>/dev/null || echo 1); echo $$((cores < 3 ? cores + 1 : 4)))
PYTEST := OMP_NUM_THREADS=1 python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help repro test test-fast lint check audit demo export bench peers lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

repro: .venv/ready  ## install what is needed, run the pipeline, say where the results are
	dvc repro
	@echo
	@git diff --quiet HEAD -- dvc.lock 2>/dev/null; [ $$? -ne 1 ] || \
	  echo "Figures changed, which git status shows. To build on them: git commit --all --message 'As computed here'"
	@echo "The commands below need the environment: source .venv/bin/activate"
	@echo "Figures  metrics/evaluate.json (and audit, split, train beside it); dvc metrics show"
	@echo "Plots    plots/evaluate/evaluation.png, plots/evaluate/training.png; dvc plots show"
	@echo "Report   reports/report.html, to be opened in a browser"
	@echo "Scores   data/predictions.csv, an image a row"
	@echo "Model    models/; python stages/predict.py IMAGE_OR_FOLDER"

test: .venv/ready  ## all tests, training ones too
	$(PYTEST)

test-fast: .venv/ready  ## tests that neither train nor run DVC
	$(PYTEST) -m "not slow"

lint: .venv/ready  ## style and types
	ruff check .
	ruff format --check .
	mypy

check: .venv/ready  ## the gates: dvc.lock fresh, result repeatable, no worse than on TARGET (main)
	python stages/check.py $(GATES) --target $(TARGET)

audit: .venv/ready  ## locked packages: withdrawn, in quarantine, known vulnerabilities
	python .ci/audit.py

demo: .venv/ready  ## a page on this machine to try the model with
	python stages/demo.py

export: .venv/ready  ## the model in export/: ONNX, safetensors, preprocessing, model card
	python stages/export.py

bench: .venv/ready  ## the speed of all that needs no GPU; benchmarks/README.md says what it means
	@[ -f models/model.json ] || dvc repro
	@[ -d .venv/peers ] || $(MAKE) peers || echo "Lightning and fastai are not measured."
	python benchmarks/training.py
	python benchmarks/predicting.py --images 2000
	python benchmarks/reading.py --rounds 2
	python benchmarks/checkpoints.py --rounds 3
	python benchmarks/layout.py --images 3000
	python benchmarks/scale.py

peers: .venv/ready  ## Lightning and fastai, to be measured against; apart from what the project installs
	python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/peers -r benchmarks/peers.txt

lock: .venv/ready  ## write requirements.lock anew, from requirements.txt and requirements-dev.txt
	python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" -o requirements.lock requirements.txt requirements-dev.txt

clean:  ## delete the environment; data, models and caches stay
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
