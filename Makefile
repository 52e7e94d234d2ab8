# `make` alone lists what can be made. What a target needs of the machine is in tests/deps.sh.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON_VENV := .venv/bin/python
SESSION := $(PYTHON_VENV) -m tests.session

# In this order: what fails soonest comes first.
QUICK := tests/unit tests/kernel
SLOWER := $(wildcard tests/verbs tests/faults tests/node)

.PHONY: help deps bin lint check test test-vm demo bench bench-kubernetes bench-ipam clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | while read -r target text; do printf '  make %-16s %s\n' "$$target" "$$text"; done

deps: ## get what is missing: system packages (apt, as root) and .venv
	@tests/deps.sh lint check test demo bench
	@$(MAKE) --no-print-directory .venv/ready

bin: $(PYTHON_VENV) ## build the executable and its drop-in copies into bin/
	$(PYTHON_VENV) -m install.executable --output bin/

lint: .need/lint .venv/ready ## ruff and mypy
	$(PYTHON_VENV) -m ruff check .
	$(PYTHON_VENV) -m ruff format --check .
	$(PYTHON_VENV) -m mypy

check: .need/check .venv/ready ## the quick tests: pure ones, and kernel objects (2 minutes)
	$(SESSION) $(QUICK) -m "not slow"

test: .need/test .venv/ready ## every test but test-vm's (under 25 minutes)
	$(SESSION) $(QUICK) $(SLOWER)
	$(SESSION) $(QUICK) tests/verbs -m "not slow" --twins

test-vm: .need/test-vm .need/kernel .venv/ready ## tests on Linux 6.1, the oldest supported, in a virtual machine (ten minutes and more)
	$(SESSION) tests/vm

demo: .need/demo bin ## two pods on one node talk to each other; nothing is left
	bin/podwire demo

bench: .need/bench .venv/ready bin ## ours against the reference plugins, side by side (under 10 minutes)
	$(PYTHON_VENV) -m bench $(ARGS)
	$(PYTHON_VENV) -m bench.kubernetes $(ARGS)

bench-kubernetes: .need/bench .venv/ready bin ## of that, the second half: all of a Kubernetes pod's network
	$(PYTHON_VENV) -m bench.kubernetes $(ARGS)

bench-ipam: .need/bench .venv/ready bin ## host-local with up to 60,000 reservations, ours and the reference's
	$(PYTHON_VENV) -m bench.ipam $(ARGS)

clean: ## remove what was built (.venv stays)
	rm -rf bin dist .cache
	find cni ipam install bench tests -name __pycache__ -prune -exec rm -rf {} +

# --- what the targets above stand on ----------------------------------------------------------------

NEEDS := .need/lint .need/check .need/test .need/test-vm .need/kernel .need/demo .need/bench
.PHONY: $(NEEDS)
$(NEEDS): .need/%:
	@tests/deps.sh $*

.venv/bin/python:
	@tests/deps.sh python

.venv/ready: pyproject.toml
	@tests/deps.sh packages

# A checkout that was moved or copied takes its .venv along, which still points to where it was.
ifneq ($(file <.venv/ready),$(CURDIR))
.PHONY: .venv/ready
endif
