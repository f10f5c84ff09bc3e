# The index of everything one can do here.
SHELL := /bin/bash
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3; do $$each -c "" 2>/dev/null && echo $$each && break; done)
# Only what you write behind make sets these two, because shells and other programs export variables of these names.
HOST := 127.0.0.1
VERSION :=
PORT ?= 5001
CONFIG ?= config.properties
RUN ?= .run
BACKEND ?= torchserve
ifeq "$(origin CHECKPOINT)" "undefined"
CHECKPOINT := model_store/$(shell sed -n 's/^RELEASED = .*"\(.*\)".*/\1/p' scripts/serving/defaults.py 2>/dev/null)
endif
ifeq "$(TORCH)$(TORCH_INDEX)" "cpu"
$(error TORCH=cpu needs TORCH_INDEX=<index>: pytorch.org/get-started/locally names the index for a CPU behind --index-url)
endif
export TORCH_INDEX
VENV = .venv/bin
CLASSIFIER = $(VENV)/python -m scripts.cli
# The value of a setting as one word of the shell, with the blanks, quotes and dollars that it has.
quoted = '$(subst ','\'',$(value $(1)))'
option = $(if $(value $(2)),$(1) $(call quoted,$(2)))
# Every step of a training asks for the same large tensors; jemalloc, where there is one, keeps them for the next.
JEMALLOC := $(shell ldconfig -p 2>/dev/null | sed -n 's/.*libjemalloc.so.2 .*=> //p' | head -n 1)
KEEP = thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1
KEEP_MEMORY = $(if $(JEMALLOC),LD_PRELOAD=$(JEMALLOC) MALLOC_CONF=$(KEEP))
INSTALL = $(VENV)/python -m pip install --quiet --disable-pip-version-check --no-compile
# The embedded backend, once called local, needs few packages. What serves with TorchServe has them too.
SERVING = .venv/$(if $(filter embedded local,$(BACKEND)),embedded,serve)

.DELETE_ON_ERROR:
.PHONY: help serve install train archive test tested quick check faults bench docs screenshot lock audit tools system environment clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

serve: $(SERVING) ## serve CHECKPOINT on HOST:PORT until Ctrl-C; BACKEND=embedded does without TorchServe and PyTorch
	@$(CLASSIFIER) serve $(call quoted,CHECKPOINT) --host $(call quoted,HOST) --port $(call quoted,PORT) \
		--config $(call quoted,CONFIG) --run $(call quoted,RUN) --backend $(call quoted,BACKEND) $(call option,--version,VERSION)

install: .venv/serve ## install what serves with TorchServe and trains; TORCH=cpu takes PyTorch for a CPU

train: .venv/serve ## train on CIFAR-10, or on the folder DATA, as RECIPE says; RESUME=1 goes on
	@$(KEEP_MEMORY) $(CLASSIFIER) train $(call option,--recipe,RECIPE) $(call option,--data,DATA) \
		$(call option,--output,OUTPUT) $(if $(RESUME),--resume)

archive: .venv/serve ## pack CHECKPOINT for TorchServe, as VERSION; an archive that is current stays
	@$(CLASSIFIER) archive $(call quoted,CHECKPOINT) $(call option,--version,VERSION)

test: ## set up what the tests need and run them all
	@$(MAKE) --no-print-directory --jobs 2 .venv/test system  # pip takes one core, and the system's packages the other
	@$(MAKE) --no-print-directory tested

tested: tools archive
	@$(MAKE) --no-print-directory check & checked=$$!; \
	export TESTS_SHARED=$$(mktemp -d) && trap 'rm -rf "$$TESTS_SHARED"' EXIT \
		&& OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not alone" \
		&& wait $$checked && $(VENV)/python -m pytest -m alone

quick: .venv/test check ## lint, types and the tests that neither train nor serve, in a minute
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 2 -m "not slow and not alone"

check: .venv/test ## lint, and check types, who imports whom, and spelling
	@$(VENV)/ruff format --check --quiet && $(VENV)/ruff check --quiet && $(VENV)/mypy \
		&& $(VENV)/codespell
	@report=$$($(VENV)/lint-imports --no-cache 2>&1) || { echo "$$report"; exit 1; }

faults: .venv/test tools archive ## kill, flood and mislead it for more than an hour, and print what it promises and what came of it
	@FAULTS=long $(VENV)/python -m pytest tests/faults tests/scripts/serving/test_rolling.py tests/scripts/serving/test_embedded.py tests/scripts/batch/test_predict.py tests/training/test_files.py tests/training/test_distributed.py tests/training/test_train.py::test_killed_again_and_again_equals_uninterrupted tests/test_locks.py

bench: .venv/test tools ## measure CHECKPOINT as it is served against what one would build instead
	@$(CLASSIFIER) bench serving $(call quoted,CHECKPOINT) --config $(call quoted,CONFIG)

docs: .venv/test ## build the documentation's site into build/site
	@DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --quiet

screenshot: .venv/test tools ## take the pictures of the page that the documentation shows
	@$(VENV)/python -m tests.screenshot $(call quoted,CHECKPOINT)
	@RECORDING=docs/pages $(VENV)/python -m pytest -q tests/scripts/serving/test_learning.py -k on_the_page

lock: .venv/test ## renew the lock files from pyproject.toml, all or none
	@lock="$(VENV)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header pyproject.toml"; \
	rm -f .*.lock && $$lock --extra serve --extra train -o .serve.lock \
		&& $$lock --extra serve --extra train --extra heic --extra mlflow --extra ray --extra bench --extra docs --extra test -c .serve.lock -o .test.lock \
		&& $$lock --extra gateway -c .serve.lock -o .gateway.lock \
		&& $$lock --extra torchserve -c .serve.lock -o .torchserve.lock \
		&& $$lock --extra embedded -c .serve.lock -o .embedded.lock \
		&& mv .serve.lock requirements.lock && mv .test.lock requirements-test.lock \
		&& mv .gateway.lock deploy/gateway.lock && mv .torchserve.lock deploy/torchserve.lock \
		&& mv .embedded.lock deploy/embedded.lock

audit: .venv/test ## ask over the network whether what is locked has known vulnerabilities
	@$(VENV)/uvx pip-audit --strict --require-hashes --disable-pip -r requirements-test.lock

tools: .venv/test system
	@tests/tools.sh browser

system:
	@tests/tools.sh system

clean: ## remove what was installed; archives, and what a server keeps in .run, stay
	rm -rf .venv *.egg-info .mypy_cache .pytest_cache .ruff_cache

# An environment has the name of its folder in its files: copied or moved, it would run the code in the old place.
# One that is linked to is someone's choice, and is never cleared.
LINKED := $(shell [ -L .venv ] && echo linked)
# One without pip was not finished: Python makes it last, and Debian needs its package python3-venv for it.
MADE_AS := $(shell [ -x .venv/bin/python ] && [ -e .venv/bin/pip ] && sed -n 's/^command = .* -m venv \(--[a-z-]* \)*//p' .venv/pyvenv.cfg)
ifneq "$(if $(LINKED),$(if $(MADE_AS),$(CURDIR)/.venv),$(MADE_AS))" "$(CURDIR)/.venv"
.venv/embedded .venv/serve .venv/test: environment
endif

environment:
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11 to 3.13 is needed; name one with PYTHON=." >&2; exit 1; }
	@$(if $(MADE_AS),echo "The environment in .venv was made as "$(call quoted,MADE_AS)"; making a new one here.")
	@"$(PYTHON)" -m venv $(if $(LINKED),,--clear) .venv && rm -f .venv/embedded .venv/serve .venv/test

# One environment, which grows: what has just been installed for more than serving has all that serves.
.venv/embedded: deploy/embedded.lock pyproject.toml
	@$(CURRENT) || { $(call install,$<,270 MB) && touch $@; }

.venv/serve: requirements.lock pyproject.toml
	@$(CURRENT) || { $(call install,$<,6 GB) && touch $@ .venv/embedded; }

.venv/test: requirements-test.lock pyproject.toml
	@$(call install,$<,6 GB)
	@touch $@ .venv/serve .venv/embedded

# Whether what a target names was installed since its prerequisites changed.
CURRENT = [ -e $@ ] && [ -z "$$(find $(filter-out environment,$^) -newer $@)" ]

# Python compiles what pip has unpacked: on all cores, of which pip itself takes one. A few samples do not compile.
define install
echo "Installing what $(1) names into .venv: $(2); that takes a while …"; \
sh deploy/install.sh $(1) $(INSTALL) && $(INSTALL) --no-deps --no-build-isolation -e . \
	&& { $(VENV)/python -m compileall -q -q -j 0 .venv/lib || true; }
endef
