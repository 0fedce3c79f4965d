.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-tests demo test test-unit test-clients test-faults test-fastchat test-llava test-transformers soak lint types imports fuzz test-compose bench bench-guard clean

BIN := .venv/bin
PYTHON ?= python3
QUESTION ?=
ENGINE ?=

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

setup: ## install RabbitMQ if it is missing, and make .venv with everything in it
	@PYTHON="$(PYTHON)" scripts/setup.sh

setup-tests: ## the same, and what only the tests need
	@PYTHON="$(PYTHON)" scripts/setup.sh --tests

export QUESTION ENGINE
demo: setup ## ask a real model through the whole chain (QUESTION="…" asks something else, ENGINE=openai puts a server behind)
	@$(BIN)/python -m broker_controller.demo

test: setup-tests ## run everything: style, types, import arrows, and all tests on a real RabbitMQ
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy broker_wire workers_shim broker_controller tests benchmarks examples
	$(BIN)/lint-imports
	$(BIN)/pytest -n 4 --dist worksteal --ignore tests/faults --ignore tests/upstream
	$(BIN)/pytest tests/faults -n 4 --dist worksteal

test-unit: setup ## run the tests that need no broker
	$(BIN)/pytest tests/unit

test-clients: setup ## ask a fleet by LangChain, LiteLLM and instructor, in a .venv-clients of their own
	@PYTHON="$(PYTHON)" scripts/setup-clients.sh
	.venv-clients/bin/pytest -W ignore tests/clients

test-transformers: setup ## test the engine transformers on the CPU, in a .venv-transformers of its own (torch: some GB)
	@PYTHON="$(PYTHON)" scripts/setup-transformers.sh
	.venv-transformers/bin/pytest tests/transformers

test-faults: export FAULTS_SETTINGS := default
test-faults: setup-tests ## kill, freeze and restart every part under load, with the default settings; print what came of it
	$(BIN)/pytest tests/faults -n 4 --dist worksteal --timeout 400

test-fastchat: setup-tests ## run FastChat's own controller, API server and worker against ours, in an environment of their own
	@PYTHON="$(PYTHON)" scripts/setup-upstream.sh fastchat
	$(BIN)/pytest tests/upstream/fastchat -n 2 --dist loadfile

test-llava: setup-tests ## run LLaVA's own controller, worker, test client and gradio page against ours, in an environment of their own
	@PYTHON="$(PYTHON)" scripts/setup-upstream.sh llava
	$(BIN)/pytest tests/upstream/llava -n 2 --dist loadfile

soak: setup-tests ## faults out of the hat, under load, for half an hour (MINUTES=…, SEED=…)
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

lint: setup ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup ## check types
	$(BIN)/mypy broker_wire workers_shim broker_controller tests benchmarks examples

imports: setup ## check which package may import which
	$(BIN)/lint-imports

fuzz: export FUZZ_CASES := $(or $(FUZZ_CASES),10000)
fuzz: export FUZZ_SEED := $(or $(SEED),$(shell date +%Y%m%d))
fuzz: export GARBAGE_SECONDS := $(or $(GARBAGE_SECONDS),60)
fuzz: setup ## ask the HTTP API 10,000 odd things (SEED=…), and put garbage into every queue for a minute
	$(BIN)/pytest -s tests/acceptance/test_http_fuzz.py tests/acceptance/test_raw_http.py tests/faults/test_garbage.py

test-compose: setup ## start compose/ in Docker, test it, and remove it
	scripts/test-compose.sh

bench: BENCH_JSON ?= performance.json
bench: setup ## measure the chain beside an engine without a proxy and other gateways, and print the tables
	-@PYTHON="$(PYTHON)" scripts/setup-bench.sh
	-@PYTHON="$(PYTHON)" scripts/setup-upstream.sh fastchat
	-@PYTHON="$(PYTHON)" scripts/setup-upstream.sh llava
	$(BIN)/python -m benchmarks --json $(BENCH_JSON)
	-.venv-bench/bin/python -m benchmarks.plot $(BENCH_JSON) $(BENCH_JSON:.json=.svg)

bench-guard: setup ## compare the speed, as ratios to no proxy, with the committed ones; fails where one is 15 % worse (2 minutes)
	$(BIN)/python -m benchmarks.guard

clean: ## remove .venv and all caches
	rm -rf .venv .venv-bench .venv-clients .venv-fastchat .venv-llava .venv-transformers .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
