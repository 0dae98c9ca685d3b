# Everything that a fresh clone needs; the same commands here and in CI. `make` alone prints the targets.

PYTHON ?= python3
VENV ?= .venv
MODEL ?= reference
TORCH_INDEX_URL ?=
BENCH ?=
WORKERS ?= 2

BIN := $(VENV)/bin
# The environment is current while its stamp carries this key.
KEY := $(shell sha256sum pyproject.toml | cut -c1-16)
STAMP := $(VENV)/.edgeqwen
DEV_ENV := $(STAMP)-dev-$(KEY)
# What [dev] has contains what the demo needs.
DEMO_ENV := $(firstword $(wildcard $(DEV_ENV)) $(STAMP)-toolchain-$(KEY))

TORCH_INDEX := $(if $(TORCH_INDEX_URL),--extra-index-url '$(TORCH_INDEX_URL)')

# Compiler and simulator of Qualcomm's NPUs, beside what is there: 90 MB that no other test needs.
QNN_ENV := $(VENV)/.qnn-$(KEY)

# What a checkpoint becomes OpenVINO's with: another quarter of a gigabyte, and nothing that the other tests need.
OPENVINO_VENV := $(VENV)-openvino
OPENVINO_ENV := $(OPENVINO_VENV)/.edgeqwen-openvino-dev-$(KEY)

# The peers of `make bench`, in environments of their own; llama.cpp once more without AMX, which boards have not.
PEERS := $(VENV)-peers
PEERS_KEY := $(shell cat benchmarks/peers.txt benchmarks/llamacpp_amx.h | sha256sum | cut -c1-16)
PEERS_ENV := $(PEERS)/.edgeqwen-$(PEERS_KEY)
NO_AMX_ENV := $(PEERS)-no-amx/.edgeqwen-$(PEERS_KEY)
BEFORE_ALL := -include $(CURDIR)/benchmarks/llamacpp_amx.h

STUBS := protos/edgeqwen/v1
KSERVE := protos/edgeqwen/kserve
PROTOC := $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --pyi_out=protos --grpc_python_out=protos

# Set in many containers; torch and Olive would be compiled again by every process that imports them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-tools test-arm64 test-fleet test-qnn test-openvino test-systemd lint format stubs bench clean distclean

help:
	@echo 'make demo       compile a checkpoint for this machine, serve it, stream an answer'
	@echo 'make test       lint, then all tests: the fast ones first'
	@echo 'make test-tools     the Debian packages that some tests need and else are skipped without; needs root'
	@echo 'make test-arm64     the daemon as an ARM board runs it, emulated; needs apt-get and a network once'
	@echo 'make test-fleet     boards provisioned and updated by Ansible over ssh; needs root, namespaces, a network once'
	@echo 'make test-qnn       packages for Qualcomm NPUs: compiled, and run in the simulator (minutes)'
	@echo 'make test-openvino  the tests that need OpenVINO, in an environment of their own'
	@echo 'make test-systemd   the service under a systemd of its own; needs root and namespaces'
	@echo 'make lint       ruff and mypy only'
	@echo 'make format     let ruff rewrite the sources'
	@echo 'make stubs      write the protobuf stubs again'
	@echo 'make bench      measure against llama.cpp and onnxruntime-genai (an hour and a half; BENCH="--quick --rounds 1": less)'
	@echo 'make clean      remove what was built; distclean removes $(VENV) too'
	@echo
	@echo 'The first run makes the environment in $(VENV); later runs install nothing until pyproject.toml changes.'
	@echo 'Variables, as in `make demo MODEL=Qwen/Qwen2.5-0.5B-Instruct`:'
	@echo '  MODEL            hub id, local folder, GGUF file, or "reference" (the default)'
	@echo '  PYTHON           interpreter to make the environment with, 3.11 or later (python3)'
	@echo '  BENCH            flags of benchmarks/peers.py'
	@echo '  WORKERS          tests that `make test` runs at once (2); 0 for one after the other, in one process'
	@echo '  VENV             where the environment is (.venv)'
	@echo '  TORCH_INDEX_URL  where else pip may find torch; https://download.pytorch.org/whl/cpu saves some GB on x86'

demo: $(DEMO_ENV)
	@$(BIN)/python scripts/demo.py --model '$(MODEL)'

# Each worker takes a file of tests after the other, in their order: fixtures of a file are made once.
test: lint
	$(BIN)/pytest --numprocesses '$(WORKERS)' --dist loadfile --no-loadscope-reorder

test-tools:
	scripts/debian-tools.sh

test-qnn: $(QNN_ENV)
	$(BIN)/pytest -m qnn

test-openvino:
	@$(MAKE) --no-print-directory VENV='$(OPENVINO_VENV)' '$(OPENVINO_ENV)'
	$(OPENVINO_VENV)/bin/pytest -m openvino

# A minute. It boots on a copy of the root, whose writes go to memory.
test-systemd: $(DEV_ENV)
	$(BIN)/pytest -m systemd tests/booted

# Some minutes. Boards boot in namespaces of their own, on disks of their own.
test-fleet: $(DEV_ENV)
	$(BIN)/pytest -m fleet tests/fleet

# Some minutes. It ends after half an hour, whatever it waits for.
test-arm64: $(DEV_ENV)
	timeout --kill-after=30 30m $(BIN)/pytest -m arm64 tests/arm64

lint: $(DEV_ENV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy scripts

format: $(DEV_ENV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

stubs: $(DEV_ENV)
	$(PROTOC) $(STUBS)/*.proto $(KSERVE)/*.proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' $(KSERVE)/inference_pb2.py

bench: $(DEV_ENV) $(PEERS_ENV) $(if $(shell grep -m1 amx_int8 /proc/cpuinfo),$(NO_AMX_ENV))
	$(BIN)/python benchmarks/peers.py --peers-python '$(PEERS)/bin/python' $(BENCH)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf '$(VENV)' '$(OPENVINO_VENV)' '$(PEERS)' '$(PEERS)-no-amx'

# An environment that a killed run left half made has no working pip: it is made again. uv is done in a quarter of the
# time that pip takes for gigabytes, but knows none of pip's settings: where it fails, pip may still reach its index.
# Most of what torch brings is never imported, so nothing is compiled before it is.
$(STAMP)-%-$(KEY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'edgeqwen needs Python 3.11 or later: name one with PYTHON=/path/to/python3' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear '$(VENV)' || \
		{ echo 'cannot make $(VENV): is the venv module of $(PYTHON) there (Debian: apt install python3-venv)?' >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check 'uv>=0.13,<1'
	$(BIN)/python -m uv pip install --system-certs --index-strategy unsafe-best-match $(TORCH_INDEX) -e '.[$*]' || \
		$(BIN)/python -m pip install --no-input --no-compile --disable-pip-version-check $(TORCH_INDEX) -e '.[$*]'
	@rm -f $(STAMP)-*
	@touch '$@'

$(QNN_ENV): $(DEV_ENV)
	$(BIN)/python -m uv pip install --system-certs --index-strategy unsafe-best-match $(TORCH_INDEX) -e '.[dev,qnn]' || \
		$(BIN)/python -m pip install --no-input --no-compile --disable-pip-version-check $(TORCH_INDEX) -e '.[dev,qnn]'
	@rm -f $(VENV)/.qnn-*
	@touch '$@'

# Minutes: llama.cpp is compiled.
$(VENV)-%/.edgeqwen-$(PEERS_KEY):
	@$(PYTHON) -m venv --clear '$(VENV)-$*'
	FLAGS='$(if $(filter peers-no-amx,$*),-DWITHOUT_AMX) $(BEFORE_ALL)' && \
	CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DCMAKE_C_FLAGS='$$FLAGS' -DCMAKE_CXX_FLAGS='$$FLAGS'" \
	$(VENV)-$*/bin/python -m pip install --no-input --disable-pip-version-check --no-cache-dir \
		--no-binary llama-cpp-python -r benchmarks/peers.txt
	@touch '$@'
