# `make demo` and `make test` do all their own set-up in .venv; `make help` lists the rest.
#
# A stamp file marks each finished step of the set-up, so an interrupted run continues where it
# stopped and nothing is done twice. VENV and PYTHON may be given: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
# What pip installs of torch: auto is a build without CUDA where there is no GPU (tools/choose_torch.py).
TORCH ?= auto
PYTEST_ARGS ?=
# One process for each core; tests/conftest.py says which tests stay together.
PARALLEL ?= -n auto
# What a change of Python code breaks first, without what compiles, starts processes or fits at length.
QUICK := $(filter-out tests/test_examples.py,$(wildcard tests/test_*.py)) tests/data tests/engine \
	tests/metrics tests/nn tests/regions tests/report tests/storage \
	tests/ops/test_errors.py tests/ops/test_every_op.py tests/ops/test_special_values.py
GPU_CHECK_ARGS ?=
RECORDS_ARGS ?=
TORCHES ?= 2.13.0 current
DEMO_OUT ?= fastalign-demo

# What the build needs (build-system.requires of pyproject.toml; a test compares the two).
BUILD_REQUIRES := "setuptools>=77" "ninja" "torch>=2.11,<3"

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
CLANG_FORMAT := $(VENV)/bin/clang-format
CPP := $(shell find csrc tests -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \))
NATIVE := $(filter csrc/%,$(CPP)) setup.py $(wildcard tools/native_build/*.py)

.DELETE_ON_ERROR:
.PHONY: help setup demo test quick lint format bench gpu-check sanitize sanitize-threads two-torches \
	records wheel looked-for-gpu clean distclean

help:
	@echo "make demo       fit and evaluate on the photographs that ship with the project"
	@echo "make test       run the tests (PYTEST_ARGS=... is handed on)"
	@echo "make quick      the tests of the inner loop, below a minute on two cores"
	@echo "make lint       ruff, mypy, clang-format"
	@echo "make format     let ruff and clang-format rewrite what they can"
	@echo "make bench      run the quick benchmarks of ops and models on the CPU"
	@echo "make gpu-check  build for this machine's GPU, check and measure (docs/gpu-check.md);"
	@echo "                VENV=none takes the present environment and installs nothing"
	@echo "make records    check again what tests/records does not hold of the present sources, and write"
	@echo "                docs/kernels.md (RECORDS_ARGS=--all, --list, or names of checks)"
	@echo "make sanitize   run the native kernels under the sanitizers"
	@echo "make sanitize-threads  look for races between the threads of the native kernels"
	@echo "make two-torches  one wheel under several torch releases, which it downloads (TORCHES=...)"
	@echo "make setup      bring the environment and the native library up to date"
	@echo "make wheel      build wheel and sdist into dist/, CUDA kernels for every architecture"
	@echo "make clean      remove build products; make distclean removes $(VENV) too"

setup: $(VENV)/.native $(VENV)/.built

# 1. An empty environment with the large packages. A folder left by an interrupted run is replaced.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: fastalign needs Python 3.10 or newer, and '$(PYTHON)' is not (or is not there);" \
	       "name another one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu install them" \
	       "with: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear "$(VENV)"
	chosen="$(TORCH)"; [ "$$chosen" != auto ] || chosen="$$($(PY) tools/choose_torch.py)"; \
	  $(PIP) install $$chosen
	$(PIP) install $(BUILD_REQUIRES) wheel
	@touch $@

# 2. The native code: ninja makes what has changed, and shows it.
$(VENV)/.native: $(VENV)/.torch $(NATIVE)
	$(PY) setup.py build_ext --inplace
	@touch $@

# Beside 2, for those who run both at once: the packages that the extras ask for.
$(VENV)/.fetched: $(VENV)/.torch pyproject.toml
	$(PY) tools/extras.py lint test > $(VENV)/requirements.txt
	$(PIP) install -r $(VENV)/requirements.txt
	@touch $@

# 3. The project itself with its dependencies; it finds the native code made.
$(VENV)/.built: pyproject.toml setup.py | $(VENV)/.native
	$(PIP) install --no-build-isolation --editable .
	@touch $@

# The extras of pyproject.toml. The installed project satisfies the name, so pip adds only what the
# extra asks for and builds nothing again.
$(VENV)/.test $(VENV)/.lint $(VENV)/.bench: $(VENV)/.%: $(VENV)/.built pyproject.toml
	$(if $(filter lint,$*),,@$(PY) -c "import torchvision" 2>/dev/null || { \
	  echo "this torch has no torchvision that fits it, which the tests need: taking another pair"; \
	  $(PIP) uninstall -y torch torchvision && $(PIP) install "torch>=2.11,<3" torchvision; })
	$(PIP) install "fastalign[$*]"
	@touch $@

demo: $(VENV)/.native $(VENV)/.built
	$(PY) -m fastalign demo --out "$(DEMO_OUT)"

test: $(VENV)/.native $(VENV)/.test
	$(PY) -m pytest $(PARALLEL) $(PYTEST_ARGS)

quick: $(VENV)/.native $(VENV)/.test
	$(PY) -m pytest $(PARALLEL) -q --durations=0 --durations-min=3 -m "not slow" $(QUICK) $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(CLANG_FORMAT) --dry-run -Werror $(CPP)
	$(PY) -m mypy

format: $(VENV)/.lint
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(CLANG_FORMAT) -i $(CPP)

# Single contestants; `fastalign bench` takes them in turns and writes tables, plots and a page.
bench: $(VENV)/.native $(VENV)/.bench
	$(PY) -m pytest benchmarks --benchmark-only --benchmark-sort=fullname $(PYTEST_ARGS)

# Before anything is installed for it.
looked-for-gpu:
	@$(if $(findstring --device,$(GPU_CHECK_ARGS)),true,$(PYTHON) tools/choose_torch.py --gpu)

# VENV=none: the interpreter named by PYTHON as it is, which then has to hold torch and pytest.
gpu-check: $(if $(filter none,$(VENV)),,looked-for-gpu $(VENV)/.test)
	$(if $(filter none,$(VENV)),$(PYTHON),$(PY)) tools/gpu_check.py $(GPU_CHECK_ARGS)

# A copy of the project with an instrumented library; torch and Python themselves are not, so the
# sanitizer's runtime is loaded first, and what they leave at exit is not looked for. pytest as a
# command: python -m would find the checkout in the working folder before the copy.
SANITIZED := build/sanitized
sanitize: $(VENV)/.test
	FASTALIGN_SANITIZE=address,undefined FASTALIGN_BUILD_NATIVE=1 $(PY) setup.py -q \
	  build --build-base build/instrumented --build-lib $(SANITIZED)
	LD_PRELOAD="$$($(or $(CXX),c++) -print-file-name=libasan.so) $$($(or $(CXX),c++) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  PYTHONPATH=$(SANITIZED) FASTALIGN_TEST_BACKENDS=cpu $(VENV)/bin/pytest tests/native tests/ops \
	  --deselect tests/native/test_binary.py --ignore tests/native/test_aarch64.py \
	  --ignore tests/native/test_races.py --ignore tests/ops/test_compile.py $(PYTEST_ARGS)

# The kernels without torch, whose threads the detector cannot follow, at every instruction set.
sanitize-threads: $(VENV)/.test
	FASTALIGN_RACE_LEVELS="baseline avx2 avx512" $(PY) -m pytest tests/native/test_races.py $(PYTEST_ARGS)

# What takes minutes of compilers; the tests read what was found (CONTRIBUTING.md, "Records").
records: $(VENV)/.test
	$(PY) tools/make_records.py $(RECORDS_ARGS)

two-torches: $(VENV)/.test
	$(PY) tools/two_torches.py $(TORCHES)

# Releases hold every architecture, whatever GPU is here; FASTALIGN_BUILD_CUDA=0 leaves CUDA out.
wheel: $(VENV)/.built
	$(PIP) install build
	FASTALIGN_BUILD_CUDA=$(or $(FASTALIGN_BUILD_CUDA),1) $(PY) -m build --no-isolation --outdir dist .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f fastalign/*.so $(VENV)/.native $(VENV)/.built
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)"
