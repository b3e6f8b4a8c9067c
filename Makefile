# `make repro` and `make test` are all a bare clone needs. Torch comes by itself: the lock leaves it out, because one lock
# cannot name both its CPU and its CUDA file.
# It runs on GNU make 3.81 and bash 3.2, which macOS has, and in a folder whose path has a space.
SHELL := /bin/bash
# make PYTHON=/path/to/python3.12 names the interpreter; else the newest supported one that is found (.ci/interpreter).
PYTHON ?=
BIN := .venv/bin
# pyproject.toml names it, too.
TORCH := torch==2.13.0
# The largest download needs no torch, so it comes while torch is installed, where the goal needs it.
EARLY := $(if $(filter repro test test-slow check,$(or $(MAKECMDGOALS),repro)),$(shell sed -n 's/^- \(bigbench\)$$/\1/p' params.yaml))
INSTALL = PYTHON="$(PYTHON)" MAKECMDGOALS="$(MAKECMDGOALS)"
# A file of tests stays on one worker, and the longest files start first (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
# Compiled modules are kept whatever the shell says: .ci/install leaves compiling to the first import of what is really
# used, which takes a minute and a half off the installation.
export PYTHONDONTWRITEBYTECODE :=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test test-slow check lint audit-deps ui laptop controls test-servers compat verify release bench pair soak lock resolve clean

repro: .venv/ready  ## the main job: fetch, prepare, infer, collect, stats, report
	dvc repro
	@echo "report: reports/index.html    runs: make ui"

test: .venv/ready  ## the test suite; works where the main job has never run
	dvc repro --quiet prepare
	$(PYTEST)

test-slow: .venv/slow .venv/validators/ready  ## what takes longer: real weights, a browser, killed processes
	dvc repro --quiet prepare
	$(PYTEST) -m slow --durations=12

check: .venv/slow .venv/validators/ready  ## test and test-slow in one session, so that they share what they set up
	dvc repro --quiet prepare
	$(PYTEST) -m "not servers" --durations=12

.venv/slow: .venv/ready requirements-slow.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements-slow.lock
	@touch $@

.venv/validators/ready: .venv/ready tests/export/install  ## of the exported formats, an environment each
	PYTHON="$(BIN)/python" tests/export/install .venv/validators croissant ro_crate lm_eval every_eval_ever && touch $@ || \
	  echo "what is lacking is made by the tests that need it, or they say why not"

test-servers: .venv/ready .venv/servers/ready  ## vLLM and llama.cpp's server on this CPU beside the local engine
	dvc repro --quiet prepare fetch@smollm2_135m_instruct
	OMP_NUM_THREADS=1 python -m pytest -s -rs -m servers --durations=12 tests/servers

.venv/servers/ready: tests/servers/install  ## an environment for each, 3.6 GB together
	PYTHON="$(BIN)/python" TORCH="$(TORCH)" tests/servers/install .venv/servers
	@touch $@

lint: .venv/ready
	ruff check .
	ruff format --check .
	mypy

audit-deps:  ## known vulnerabilities of what the locks pin; says "not audited here" where no advisory service answers
	PYTHON="$(PYTHON)" .ci/audit requirements.lock requirements-slow.lock

ui: .venv/ready  ## the MLflow UI on this project's runs
	python -m src.tracking

laptop: .venv/ready  ## the pilot with 128 examples a task -> data/reference/laptop.csv
	python -m src.run +model=smollm2_135m_instruct suite=laptop out=data/laptop/smollm2_135m_instruct
	python -m src.collect data/laptop data/laptop/scores.parquet
	python -m src.stats --own data/laptop/scores.parquet data/reference/laptop.csv

# The control of suite pair, on the first of its examples.
SWAPPED := closed_zero_input_swapped,closed_few_input_swapped,closed_adv_zero_input_swapped,closed_adv_few_input_swapped
# Gemma's terms bind whoever uses it: ACCEPT_TERMS=gemma make pair
pair: .venv/ready  ## a base and a tuned model, and both under other inputs -> data/reference/pair.csv, controls.csv
	python -m src.fetch gemma3_270m  # first, for it may ask
	dvc repro --quiet prepare fetch@smollm2_135m_instruct fetch@minilm
	for model in gemma3_270m smollm2_135m_instruct; do \
	  python -m src.run +model=$$model suite=pair out=data/pair/$$model || exit 1; \
	  python -m src.run +model=$$model suite=pair 'conditions=[$(SWAPPED)]' limit=32 out=data/pair/$${model}_swapped || exit 1; done
	python -m src.collect data/pair data/pair/scores.parquet
	python -m src.stats --own data/pair/scores.parquet data/reference/pair.csv
	python -m src.stats --controls data/pair/scores.parquet data/reference

controls: .venv/ready  ## the pilot's cells beside their control conditions -> data/reference/controls.csv
	python -m src.run +model=smollm2_135m_instruct suite=controls out=data/controls/smollm2_135m_instruct
	python -m src.collect data/controls data/controls/scores.parquet
	python -m src.stats --controls data/controls/scores.parquet data/reference

compat: .venv/ready  ## the pilot with each switch of generation as published -> data/reference/deviations.csv
	python -m src.run +model=smollm2_135m_instruct suite=pilot out=data/compat/fixed
	for switch in template_leak batch_budget prompt_by_text; do \
	  python -m src.run +model=smollm2_135m_instruct suite=pilot compat.$$switch=true out=data/compat/$$switch || exit 1; done
	python -m src.run +model=smollm2_135m_instruct suite=pilot compat=published out=data/compat/published
	python -m src.fidelity data/compat data/reference

verify: .venv/ready  ## what `make repro` made beside the last commit: identical, near-ties, or differs (docs/verify.md)
	python -m src.verify

release: .venv/ready  ## one archive without dataset text -> dist (docs/verify.md)
	python -m src.release

bench: .venv/bench/ready  ## the engine beside lm-evaluation-harness and plain generate -> reports/benchmarks
	PYTHONPATH=. .venv/bench/bin/python benchmarks/engine.py $(BENCH)

.venv/bench/ready: .venv/ready
	$(BIN)/python -m venv .venv/bench
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > .venv/bench/base.txt
	mv .venv/bench/base.txt "$$(.venv/bench/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"  # what the lock installed,
	.venv/bench/bin/pip install --quiet --disable-pip-version-check lm-eval==0.4.13 ctranslate2==4.8.5  # and on top of it
	@touch $@

soak: .venv/ready  ## random kills over all stages, e.g. SOAK="--kills 1000 --seed 0 --minutes 30"; started again, it goes on
	python -m tests.soak $(SOAK)

lock: .venv/ready  ## requirements*.in -> requirements*.lock: versions stay, unless LOCK_ARGS=--upgrade (CONTRIBUTING.md)
	echo "$(TORCH)" > .venv/torch.txt
	for name in requirements requirements-slow; do \
	  uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-python-downloads \
	    --constraint .venv/torch.txt --no-emit-package torch --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" $(LOCK_ARGS) $$name.in -o $$name.lock || exit 1; done
	.ci/resolve

resolve: .venv/ready  ## do the locks resolve to files for every Python and platform in docs/pythons.md? asks PyPI
	.ci/resolve

# --stale prints again where the .venv that is there cannot be used, and `again` is never up to date.
.venv/ready: requirements.lock $(shell $(INSTALL) bash .ci/install --stale)
	@$(INSTALL) TORCH="$(TORCH)" EARLY="$(EARLY)" bash .ci/install

again:

clean:  ## forget what can be made again; the example store and MLflow runs stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis multirun
