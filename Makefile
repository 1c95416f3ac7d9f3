# The commands of the project; CI runs these very targets. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# Tools, the chosen eBPF compiler, CI's build folder: all that outlives a clone.
export WEFT_CACHE ?= $(HOME)/.cache/weft
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
BIN := $(TARGET)/release

# The lab needs root: tests are built as the user who calls, and started through sudo.
ifneq ($(shell id -u),0)
SUDO := sudo
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER := sudo -E
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER := sudo -E
endif

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: setup
setup: ## check this machine, install what building and the lab need
	@scripts/setup lab $(SETUP_FLAGS)

.PHONY: setup-build
setup-build:
	@scripts/setup build $(SETUP_FLAGS)

.PHONY: build
build: setup-build ## build all programs (release) with the eBPF programs inside
	$(CARGO) build --release --workspace --exclude xtask --bins

.PHONY: filters
filters: setup-build ## build all filters to target/filters/*.wasm
	$(CARGO) run --quiet --package weft-filter-build -- filters-wasm --out $(TARGET)/filters
	$(CARGO) run --quiet --package weft-filter-build -- integration/guests --out $(TARGET)/filters

.PHONY: lab
lab: setup build filters ## bring the lab up, and leave it up
	$(SUDO) $(BIN)/weft-lab up

.PHONY: demo
demo: setup build filters ## play the Star Wars story in the lab, every step checked
	$(SUDO) $(BIN)/weft-lab demo

.PHONY: test
test: setup filters ## all tests: units, and the real thing in network namespaces
	@# The binaries too: the namespace tests start the real ones. One build with the tests, so that
	@# both use the same dependencies.
	$(CARGO) build --workspace --bins --tests
	@scripts/stock-clients --loudly
ifneq ($(shell command -v cargo-nextest),)
	$(CARGO) test --workspace --doc --quiet
	$(CARGO) nextest run --workspace
else
	$(CARGO) test --workspace --no-fail-fast
endif
	@scripts/stock-clients --loudly

.PHONY: lint
lint: SETUP_FLAGS += --with-shellcheck
lint: setup-build ## formatting, clippy, shellcheck, licences and bans, dependency direction
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	scripts/lint-ebpf
	scripts/lint-shell
	scripts/lint-deps
	$(CARGO) xtask check-deps
	$(CARGO) xtask check-files

.PHONY: dist
dist: setup-build ## the programs as they are packaged: optimised as a whole, the proxy by its profile
	scripts/dist

.PHONY: bench
bench: setup filters ## measure the packaged programs and filters against Envoy, nginx and HAProxy
	scripts/bench-peers
	scripts/dist
	WEFT_BIN_DIR=$(TARGET)/packages $(CARGO) bench --profile release --package weft-integration --bench proxy -- --filters
	WEFT_BIN_DIR=$(TARGET)/packages $(CARGO) bench --profile release --package weft-integration --bench pods
	$(CARGO) bench --profile release --package weft-wasm-host

.PHONY: fmt
fmt: ## format all sources
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path datapath/ebpf/Cargo.toml

.PHONY: clean
clean: ## take the lab down and remove what was built (the cache folder stays)
	@if [[ -x $(BIN)/weft-lab ]]; then $(SUDO) $(BIN)/weft-lab down; fi
	$(CARGO) clean
