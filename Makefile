# planish. `make demo` and `make test` work on a fresh machine that has Python 3.11+, make and g++ (or clang++).

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# One more package index for pip, where the CPU-only build of torch comes from one.
INDEX  ?=
PIP    := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet -c constraints.txt $(if $(INDEX),--extra-index-url $(INDEX))
STAMP  := $(VENV)/.installed
PLUGIN := $(VENV)/.plugin
# Environments of execution providers that cannot be in $(VENV); the tests open them. QNN's package is not for every system.
EPS    := .ep-venvs/openvino/.installed .ep-venvs/qnn/.installed
# Arguments for pytest: make test ARGS="-k attention -x"; -n 0 runs everything in one process.
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help demo eps test fuzz check bench bench-search bench-onnx docs clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1#/' | column -t -s '#'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("planish needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) setuptools wheel
	$(INSTALL) --no-build-isolation -e '.[dev]'
	@mkdir -p .types && ln -sfn .. .types/planish
	@touch $@

$(PLUGIN): $(STAMP) examples/custom_pass/pyproject.toml examples/custom_op/pyproject.toml
	$(INSTALL) --no-build-isolation --no-deps -e examples/custom_pass -e examples/custom_op
	@touch $@

demo: $(STAMP)  ## compile the real MiniLM, check it against PyTorch, run it, print speed and quality
	$(BIN)/planish compile examples/minilm.py:model --precision w8a8-dynamic -o minilm.planish
	$(BIN)/planish verify minilm.planish --against examples/minilm.py:model
	$(BIN)/planish bench minilm.planish --against examples/minilm.py:model --dims batch=1,seq=128
	$(BIN)/python examples/search.py minilm.planish

.ep-venvs/%/.installed: tests/environments/%.txt constraints.txt | $(BIN)/python
	$(BIN)/python -m venv .ep-venvs/$*
	.ep-venvs/$*/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt \
	  $(if $(INDEX),--extra-index-url $(INDEX)) -r $< || test $* = qnn
	@touch $@

eps: $(EPS)  ## environments of OpenVINO's and QNN's execution providers, which the tests run for real

test: $(PLUGIN) $(EPS)  ## every test, the slow ones included; ARGS="-m 'not slow'" leaves them out
	PLANISH_REQUIRE_EPS=openvino $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

fuzz: $(STAMP)  ## 2,040 random graphs: interpreter, CPU and ONNX Runtime have to agree (`make test` draws 120)
	PLANISH_FUZZ=17 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist load tests/test_fuzz.py tests/backends/onnx/test_emit_fuzz.py $(ARGS)

check: $(STAMP)  ## formatting, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@mkdir -p .types && ln -sfn .. .types/planish
	MYPYPATH=.types $(BIN)/mypy -p planish --exclude /tests/
	$(BIN)/python -m pytest -q tests/test_layering.py

bench: $(STAMP)  ## side by side with the peers (sets up bench/.peers-venv on first use)
	$(BIN)/python bench/peers/setup.py $(if $(INDEX),--index $(INDEX))
	$(BIN)/python -m planish.bench $(ARGS)

bench-onnx: $(EPS)  ## exported models through ONNX Runtime beside its own recipes and NNCF's
	$(BIN)/python bench/peers/setup.py $(if $(INDEX),--index $(INDEX))
	$(BIN)/python -m planish.bench.ort $(ARGS)

bench-search: $(STAMP)  ## what the search promises, measured; ARGS="bars fronts solvers promise endtoend" chooses, --quick looks
	$(BIN)/python bench/peers/setup.py $(if $(INDEX),--index $(INDEX))
	$(BIN)/python -m planish.bench.search $(ARGS)

docs: $(STAMP)  ## write docs/cli.md, docs/ops.md, docs/onnx-ops.md and docs/result.svg anew from the program and the measured figures
	$(BIN)/python docs/make_cli_reference.py
	$(BIN)/python docs/make_ops_reference.py
	$(BIN)/python docs/make_onnx_reference.py
	$(if $(wildcard bench/results.json),$(BIN)/python docs/make_result_picture.py)

clean:  ## remove the environment and what the tools left behind
	rm -rf $(VENV) .ep-venvs .types .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist
