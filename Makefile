# SPDX-License-Identifier: Apache-2.0
# `make` lists what there is. Everything installs what it needs by itself, pinned in requirements.lock.

PYTHON := .venv/bin/python
LIMPET := .venv/bin/limpet
KERNEL_TESTS ?= -m kernel tests/kernels tests/datapath/test_packets.py tests/datapath/test_outbound.py tests/agent/test_decapsulation.py tests/agent/test_clamp.py
TESTS ?= tests
JOBS ?= 3
ROUNDS ?= 15

.DEFAULT_GOAL := help
.PHONY: help setup bpf gen demo test soak test-kernels lab bench lint fmt clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready bpf ## Install tools and packages, pinned; leaves .venv/bin/limpet

.venv/.ready: requirements.lock pyproject.toml tools/setup.sh
	@tools/setup.sh

bpf: .venv/.ready ## Compile the data plane, if it is out of date
	@$(PYTHON) -m tools.compile_bpf

gen: bpf ## Write anew what is generated: abi.py, configuration schema, OpenAPI document
	@$(PYTHON) -m tools.gen_abi
	@$(PYTHON) -m tools.gen_schema
	@$(PYTHON) -m tools.gen_openapi

demo: setup ## The main job, as a story: 0 sessions broken (KEEP=1 leaves the lab up; STORY=one-pop)
	@$(LIMPET) lab demo $(STORY) $(if $(KEEP),--keep)

test: setup lint ## All tests: unit, property, golden packets, kernel, lab (JOBS=3 at a time)
	@tools/test.sh $(JOBS) $(TESTS)

soak: setup ## Random sequences under live sessions, 100 of them (SEED=17 N=1: one again); programs; no store; the guide; sim
	@SEED=$(or $(SEED),1) N=$(or $(N),100) $(PYTHON) -m pytest tests/lab/test_sequences.py -q
	@$(if $(SEED)$(N),:,SOAK=1 $(PYTHON) -m pytest tests/lab/test_programs.py tests/lab/test_store_outage.py tests/lab/test_three_pop.py tests/lab/test_ack_flood.py tests/lab/test_deployment.py -q)
	@$(if $(SEED)$(N),:,$(LIMPET) sim run rough --seeds 1000 && $(LIMPET) sim exhaustive --depth 5 && $(LIMPET) sim exhaustive --depth 6 --every-step)

test-kernels: setup ## Packet cases on stock Debian kernels 6.1 and 6.12, booted under qemu
	@$(PYTHON) -m tools.kernels -- $(KERNEL_TESTS)

lab: setup ## Bring up a small network to try things in (then: .venv/bin/limpet lab status)
	@$(LIMPET) lab up

bench: setup ## Measure: packets, shifts, tables, sessions, mega-proxies, queries; on the terminal and bench/latest.json
	@$(PYTHON) -m bench.packets --rounds $(ROUNDS)
	@$(PYTHON) -m bench.shift --rounds $(ROUNDS)
	@$(PYTHON) -m bench.tables --rounds $(ROUNDS)
	@$(PYTHON) -m bench.slots
	@$(PYTHON) -m bench.store
	@$(PYTHON) -m bench.sessions
	@$(PYTHON) -m bench.proxies
	@$(PYTHON) -m bench.directory
	@$(PYTHON) -m bench.ownership
	@$(PYTHON) -m bench.pcc

lint: setup ## ruff, clang-format, codespell, mypy, and that generated files are current
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/clang-format --dry-run --Werror bpf/*.[ch] bench/bpf/*.c
	@.venv/bin/codespell
	@.venv/bin/mypy --no-error-summary
	@$(PYTHON) -m tools.gen_abi --check
	@$(PYTHON) -m tools.gen_schema --check
	@$(PYTHON) -m tools.gen_openapi --check
	@echo "lint: clean"

fmt: setup ## Format Python and C
	@.venv/bin/ruff check --fix --quiet
	@.venv/bin/ruff format --quiet
	@.venv/bin/clang-format -i bpf/*.[ch] bench/bpf/*.c

clean: ## Remove what was built and installed here
	rm -rf .venv src/limpet/datapath/*.bpf.o bench/bpf/*.bpf.o .cache
