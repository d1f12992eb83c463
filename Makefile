# `make demo` and `make test` need only python3 (3.11 to 3.14): each does its own set-up, once.
# torch is installed with its dependencies, everything else exactly as constraints.txt says and with none, so that no
# package can bring another torch.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.stamp
NATIVE_SOURCES := setup.py pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
CPP := $(shell find csrc tests/cuda/host -name '*.cpp' -o -name '*.h' -o -name '*.cu')

.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-tensorrt test-tensorrt-rtx lint format bench bench-check gpu wheel sanitize native clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 19

demo: $(STAMP)-native  ## classify and search sample images, write demo.png
	$(BIN)/clipfast demo

test: $(STAMP)-dev  ## the tests, in minutes
	$(BIN)/python -m pytest -q -m "not slow"
	$(BIN)/python -m pytest -q benchmarks --benchmark-disable

test-full: $(STAMP)-dev  ## every test, and line coverage of clipfast/
	$(BIN)/python -m pytest -q --cov --cov-report=term
	$(BIN)/python -m pytest -q benchmarks --benchmark-disable

test-tensorrt-rtx: $(STAMP)-dev  ## build every family with NVIDIA's compiler, no GPU (downloads 146 MB)
	$(BIN)/python -m tests.export.nvidia_wheels
	$(BIN)/python -m pytest -q -s -m slow tests/export/test_tensorrt_rtx.py

test-tensorrt: $(STAMP)-dev  ## build, run and time engines (needs TensorRT and a GPU)
	$(BIN)/python -m pytest -q -s tests/export/test_tensorrt_gpu.py

lint: $(STAMP)-dev  ## ruff, mypy --strict, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict clipfast
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(STAMP)-dev  ## rewrite the sources as lint wants them
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .
	$(BIN)/clang-format -i $(CPP)

# All cells take hours; CELLS='-k "ViT-B-32 and bf16"' takes some, and keeps what the file has of the others.
CELLS :=
bench: $(STAMP)-bench  ## measure against the peers: benchmarks/results/<machine>.json
	$(BIN)/python -m pytest benchmarks --bench-save $(CELLS)

bench-check: $(STAMP)-bench  ## compare with this machine's committed results
	$(BIN)/python -m pytest benchmarks --bench-check $(CELLS)

# The system's Python, its packages and this machine's GPU as they are; nothing is downloaded.
gpu:  ## parity, then timings, on this machine's GPU: OUT=dir [ONLY=a,b] [MINUTES=9]
	$(PYTHON) -m benchmarks.gpu --out $(OUT) $(if $(ONLY),--only $(ONLY)) $(if $(MINUTES),--minutes $(MINUTES))

# libgomp stays out of the wheel: auditwheel would rename its copy, and the process would run two OpenMP thread pools,
# torch's and ours, on the same cores. torch brings libgomp.so.1 and is always imported first.
wheel: $(STAMP)-dev  ## dist/*.whl for other machines
	rm -rf build dist
	$(PIP) wheel -q --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude libgomp.so.1 --wheel-dir dist build/wheel/*.whl

SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1 -Werror -D_GLIBCXX_ASSERTIONS
# Python itself leaks at exit by design, so only leaks are not looked for.
sanitize: $(STAMP)-dev  ## the native tests under AddressSanitizer and UBSan
	PYTHONWARNINGS=ignore CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" $(BIN)/python setup.py -q build --build-base build/sanitize --build-lib build/sanitize/lib
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  $(BIN)/python -P -m pytest -q -o "pythonpath=build/sanitize/lib ." -m "not slow" tests/native \
	    tests/inputs/test_resize.py tests/inputs/test_tokenizer.py tests/inputs/test_tokenizer_parity.py \
	    tests/inputs/test_batches.py tests/inputs/test_fuzz.py::test_a_few_seconds_of_damaged_images \
	    tests/inputs/test_fuzz.py::test_a_second_of_fuzzed_texts

native: $(STAMP)-native  ## build the C++ module in place

clean:  ## remove everything that make made
	rm -rf $(VENV) build dist *.egg-info clipfast/*.so

$(STAMP)-base: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clipfast needs Python 3.11 or newer, not " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --constraint constraints.txt torch numpy pillow simplejpeg safetensors regex ftfy huggingface-hub \
	  tqdm setuptools wheel pybind11
	@touch $@

$(STAMP)-dev: $(STAMP)-native constraints.txt
	$(PIP) install -q --no-deps --requirement constraints.txt
	@touch $@

$(STAMP)-bench: $(STAMP)-dev benchmarks/constraints.txt
	$(PIP) install -q --no-deps --requirement benchmarks/constraints.txt
	@touch $@

$(STAMP)-native: $(STAMP)-base $(NATIVE_SOURCES)
	PYTHONWARNINGS=ignore $(PIP) install -q --no-build-isolation --no-deps --editable .
	@touch $@
