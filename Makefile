# Everything that is done with this tree. `make` alone lists it. What is needed: CONTRIBUTING.md.
#
#   SETUP=no   install nothing; fail with the command for what is missing
#   T=name     e2e, oracle: only the tests and cases whose name contains it
#   SEED=x     sim: replays one world with its trace
#   SEEDS=n    sim: so many fresh worlds beside the fixed ones
#   ARGS=...   demo, bench: their arguments, such as --once; bench has --help

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# All that is said below is about this tree, whatever the caller's shell has set. Nothing here crosses a proxy but
# what fetches packages: testbeds are on this machine.
export CARGO_TARGET_DIR := $(CURDIR)/target
export HOME ?= $(shell getent passwd $$(id -u) | cut -d: -f6)
unexport RUST_LOG
LOCAL := env -u HTTPS_PROXY -u https_proxy -u HTTP_PROXY -u http_proxy -u ALL_PROXY -u all_proxy

# Static without musl: glibc's own archive is on every Debian.
TARGET := x86_64-unknown-linux-gnu
BUILT := target/$(TARGET)/release
# Relocations are packed (27,000 of them are 650 kB otherwise, all read at each start), and functions that came out
# alike are one: an agent at rest holds 1.4 MB less. Rust links with lld on this target, which both are for. Paths are
# those of the workspace, where cargo has rustc link.
STATIC := -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C link-arg=-Wl,--icf=all \
  -C link-arg=-Wl,-T,edgecore/apart.ld
# Of the compressor what levels 1 to 3 use, and one way to decompress: 190 kB of code that an agent would hold for nothing.
ZSTD := -DHUF_FORCE_DECOMPRESS_X1=1 -DZSTD_FORCE_DECOMPRESS_SEQUENCES_SHORT=1 -DZSTD_STRIP_ERROR_STRINGS=1 -DDYNAMIC_BMI2=0 \
  $(patsubst %,-DZSTD_EXCLUDE_%_BLOCK_COMPRESSOR,GREEDY LAZY LAZY2 BTLAZY2 BTOPT BTULTRA)
# One arena, no stores of each thread, and what is free goes back after a second (edgecore/src/main.rs says why).
HEAP := narenas:1,tcache:false,dirty_decay_ms:1000,muzzy_decay_ms:0
# One program at a time: together, each gets the features that the other asks of their libraries, which costs edgecore
# half a megabyte.
RELEASE := RUSTFLAGS='$(STATIC)' CFLAGS='$(CFLAGS) $(ZSTD)' JEMALLOC_SYS_WITH_MALLOC_CONF='$(HEAP)' \
  cargo build --release --locked --target $(TARGET)

.PHONY: help setup build demo test e2e vm oracle bench lint unit sim clean

help: ## List what can be made
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## (.*)/  make \1\t\2/' | expand -t 16
	@echo
	@echo '  build, lint, unit and sim need Rust 1.95 or later; the others Go 1.26 or later and root besides, on Debian 12.'

setup: ## Install what the testbed needs, and build the Kubernetes programs into a cache
	@tests/control-plane/setup.sh

build: ## Build cloudcore and edgecore, static
	@# Cargo does not know of the linker script: where that is newer than a program, the program is linked again.
	@for p in cloudcore edgecore; do if [[ -e $(BUILT)/$$p && edgecore/apart.ld -nt $(BUILT)/$$p ]]; then touch $$p/src/main.rs; fi; done
	@$(RELEASE) -p cloudcore
	@$(RELEASE) -p edgecore
	@ls -l $(BUILT)/cloudcore $(BUILT)/edgecore

demo: setup build ## Show everything on real parts; ARGS=--once ends by itself
	@cargo build --locked --quiet -p tests --bin demo
	@$(LOCAL) cargo run --locked --quiet -p tests --bin demo -- $(ARGS)

lint: ## Format, lints, documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

unit: ## Unit, property and documentation tests
	cargo test --locked --workspace --exclude tests
	cargo test --locked -p tests --lib --bins
	@$(MAKE) --no-print-directory sim SEEDS=0

sim: ## Simulated clusters in virtual time; SEED=x replays one, SEEDS=n runs more
	@SEED='$(SEED)' SEEDS='$(SEEDS)' cargo test --locked --quiet -p tests --test simulation

e2e: setup build ## End-to-end tests; T=name runs those whose name contains it
	@cargo test --locked --quiet -p tests --test e2e --no-run
	@$(LOCAL) cargo test --locked -p tests --test e2e -- $(T)

vm: ## Only the end-to-end tests in a virtual machine: cgroup v2, systemd, a power cut
	@$(MAKE) --no-print-directory e2e T=in_a_vm

oracle: setup build ## Compare an edge node with the stock kubelet; T=name as above
	@cargo build --locked --quiet -p tests --bin oracle
	@$(LOCAL) cargo run --locked --quiet -p tests --bin oracle -- $(T)

bench: setup build ## Measure beside the stock kubelet; ARGS='--settle 30s' for a quick look
	@cargo build --locked --quiet -p tests --bin bench
	@$(LOCAL) cargo run --locked --quiet -p tests --bin bench -- $(ARGS)

# Setup first, so that a missing part is known before anything long is done.
test: setup ## What CI runs: all of it
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory e2e SETUP=no
	@$(MAKE) --no-print-directory oracle SETUP=no

clean: ## Remove what was built here; the cache of the Kubernetes programs stays
	cargo clean
