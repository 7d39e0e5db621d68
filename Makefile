# Duet on a fresh Debian 12 with Rust: `make demo` shows it, `make test` tests it.
#
# Root is needed to run containers, not to build. What is missing is installed with apt.

PREFIX ?= /usr/local
CARGO ?= cargo
# A user's PATH on Debian lacks iptables, runc and ip; `su` and `sudo -E` hand it on.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")

target := $(or $(CARGO_TARGET_DIR),target)
# Root, who installs, need not have Rust.
host := $(or $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p'),$(shell uname -m)-unknown-linux-gnu)
bin := $(abspath $(target)/$(host)/release)
programs := containerd-shim-duet-v1 duet duet-holder duet-runner duet-compiler
# A guest, which is committed: see examples/build-wasm.sh.
tools := duet-tools.wasm

# What building, running and testing need from Debian: package=file that it brings.
# gcc only recommends the C library that it links with; crates come over TLS.
build-needs := gcc=/usr/bin/gcc libc6-dev=/usr/include/stdio.h protobuf-compiler=/usr/bin/protoc \
    ca-certificates=/etc/ssl/certs/ca-certificates.crt
run-needs := containerd=/usr/bin/containerd containernetworking-plugins=/usr/lib/cni/bridge \
    iproute2=/usr/sbin/ip iptables=/usr/sbin/iptables
demo-needs := nginx-light=/usr/sbin/nginx busybox-static=/usr/share/doc/busybox-static curl=/usr/bin/curl \
    procps=/usr/bin/pgrep
test-needs := runc=/usr/sbin/runc strace=/usr/bin/strace bsdutils=/usr/bin/script \
    util-linux=/usr/bin/unshare git=/usr/bin/git e2fsprogs=/usr/sbin/mkfs.ext4 \
    libseccomp-dev=/usr/share/doc/libseccomp-dev
bench-needs := wrk=/usr/bin/wrk
vm-needs := qemu-system-x86=/usr/bin/qemu-system-x86_64 e2fsprogs=/usr/sbin/mke2fs bzip2=/usr/bin/bzip2
others-needs := python3-venv=/usr/share/doc/python3-venv nodejs=/usr/bin/node npm=/usr/bin/npm

# Installs those of $(1) whose file is missing.
define install-missing
	@missing=; for need in $(1); do \
	    [ -e "$${need#*=}" ] || [ -e "/bin/$$(basename "$${need#*=}")" ] || \
	        missing="$$missing $${need%%=*}"; \
	done; \
	if [ -n "$$missing" ]; then \
	    echo "installing$$missing"; \
	    $(SUDO) apt-get -qq -o Acquire::Retries=5 update && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=5 install -y \
	        --no-install-recommends $$missing >/dev/null; \
	fi
endef

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# What `-v` and `--version` say the programs were built from. Only here, so that the tests' own
# builds are not made anew for each commit; the shim and duet take it up, none of their libraries.
DUET_COMMIT ?= $(shell git describe --always --dirty --exclude='*' 2>/dev/null)

.PHONY: build
build: build-needs ## build the five programs, and copy duet-tools.wasm beside them
	@# One invocation each where features must not meet: the runner has no compiler in it.
	DUET_COMMIT=$(DUET_COMMIT) $(CARGO) build --release -p containerd-shim-duet-v1 -p duet -p duet-holder
	$(CARGO) build --release -p duet-runner
	$(CARGO) build --release -p duet-compiler
	cp crates/wasm/tools/tools.wasm $(bin)/$(tools)

.PHONY: demo
demo: build demo-needs ## run two mixed pods, send requests, show them
	@$(SUDO) env DUET=$(bin)/duet examples/demo.sh

.PHONY: test
test: ## run all tests
	@# One after the other, whatever -j says: some look at the whole machine for what was left.
	@for step in test-needs lint build unit scenarios examples vm; do \
	    $(MAKE) --no-print-directory -j1 $$step || exit 1; \
	done

.PHONY: lint
lint: build-needs ## formatting, lints, documentation, licences
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps --document-private-items
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; else \
	    echo 'cargo-deny is not installed: licences are checked by the architecture test'; fi

.PHONY: unit
unit: build test-needs ## the tests of every crate, some of which need root
	@# The runner and the compiler are tested as the programs that were built, by duet-wasm.
	$(SUDO) env DUET_TEST_REQUIRE=all DUET_TEST_BINARIES=$(bin) \
	    DUET_RUNNER=$(bin)/duet-runner DUET_COMPILER=$(bin)/duet-compiler \
	    $(CARGO) test --workspace --exclude duet-tests --exclude duet-runner --exclude duet-compiler
	@# That the child has no way to panic shows only in what the optimiser leaves.
	$(CARGO) test --release -p duet-child
	DUET_TEST_REQUIRE=all $(CARGO) test -p duet-tests --lib --test architecture

# One column of the matrix: a containerd (Debian 12's, trixie's, sid's), or runc as the oracle.
columns := 1.6 1.7 2.x 2.x-shim runc
# The folder with the containerd of another Debian suite.
suite = $(abspath $(target))/containerd/$(1)/usr/bin

.PHONY: scenarios
scenarios: build test-needs ## whole containers under the containerd of Debian 12, of trixie and of sid, and under runc for comparison
	@# All columns to their ends, as many at a time as there are cores; make names those that failed.
	$(MAKE) --no-print-directory -k -j$(shell nproc) -Otarget $(addprefix scenarios-,$(columns))

.PHONY: $(addprefix scenarios-,$(columns))
scenarios-1.6: build test-needs tests-built $(call suite,trixie)/containerd $(call suite,sid)/containerd
	$(call run-tests,scenarios deploy,)
	@# From this one over the next to the newest, under running pods.
	$(call run-tests,upgrade,DUET_TEST_UPGRADE=$(call suite,trixie):$(call suite,sid))
scenarios-1.7: build test-needs tests-built $(call suite,trixie)/containerd
	$(call run-tests,scenarios deploy,DUET_TEST_CONTAINERD=$(call suite,trixie))
scenarios-2.x: build test-needs tests-built $(call suite,sid)/containerd
	$(call run-tests,scenarios deploy,DUET_TEST_CONTAINERD=$(call suite,sid))
# Pods of the shim's own: what goes through CRI, and no pause image is there.
shim-scenarios := cri:: sandboxes:: restarts:: kills:: user_namespaces:: serving::a_listener
scenarios-2.x-shim: build test-needs tests-built $(call suite,sid)/containerd
	@# A filter that fits no test would pass.
	@for filter in $(shim-scenarios); do \
	    $(CARGO) test -q -p duet-tests --test scenarios -- --list "$$filter" | grep ': test$$' >/dev/null || \
	        { echo "no scenario is named $$filter" >&2; exit 1; }; \
	done
	$(call run-tests,scenarios deploy,DUET_TEST_SANDBOXER=shim \
	    DUET_TEST_CONTAINERD=$(call suite,sid),-- $(shim-scenarios) shim)
scenarios-runc: build test-needs tests-built
	$(call run-tests,scenarios,DUET_TEST_RUNTIME=runc)
	$(call run-tests,oracle churn,)

$(call suite,%)/containerd:
	tests/containerd.sh $*

# Tests are built by the caller and run by root, so that root leaves nothing in the target folder;
# and they are built once, before the columns go side by side.
.PHONY: tests-built
tests-built: build-needs
	@$(CARGO) test -q -p duet-tests --no-run

.PHONY: examples
examples: build test-needs tests-built ## every pod of examples/, and duet run by itself
	$(call run-tests,examples run,)

.PHONY: vm
vm: build test-needs vm-needs tests-built $(call suite,sid)/containerd ## the same on cgroup v2, with SELinux and under systemd, in emulated machines
	$(call run-tests,vm,DUET_TEST_CONTAINERD=$(call suite,sid))

# Not a part of `make test`: it fetches 300 MB, and half of its time goes into compiling what it has fetched.
others := $(abspath $(target))/others

.PHONY: others
others: build test-needs tests-built $(others)/made ## third-party wasm programs, fetched by pip and npm: SQLite, CPython, resvg, components in Python and JavaScript
	$(call run-tests,others,DUET_TEST_OTHERS=$(others))

.PHONY: bench-others
bench-others: build test-needs $(others)/made ## what the second start of a CPython costs, and fifty of it in one pod
	$(CARGO) build --release -p duet-tests --bin duet-bench
	$(SUDO) env DUET_BIN_DIR=$(bin) DUET_TEST_OTHERS=$(others) TMPDIR=/dev/shm $(bin)/duet-bench python

$(others)/made: tests/others/make.sh Cargo.lock $(wildcard tests/others/components/*) | others-needs
	CARGO=$(CARGO) tests/others/make.sh $(others)
	touch $@

# Runs the test programs $(1) with the environment $(2), all of their tests or those of $(3).
define run-tests
$(SUDO) env DUET_TEST_REQUIRE=all DUET_BIN_DIR=$(bin) $(2) \
    tests/private.sh $(CARGO) test -p duet-tests $(addprefix --test ,$(1)) $(3)
endef

.PHONY: bench
bench: build test-needs ## numbers beside those of runc; needs a quiet machine
	$(CARGO) build --release -p duet-tests --bin duet-bench
	@# On a tmpfs, where the state of containerd lies on a node.
	$(SUDO) env DUET_BIN_DIR=$(bin) TMPDIR=/dev/shm $(bin)/duet-bench
	$(MAKE) --no-print-directory bench-calls

.PHONY: bench-calls
bench-calls: build ## a call of WASI preview 1 beside plain wasmtime's
	$(CARGO) build --release -p duet-runner --example plain
	$(SUDO) env DUET_RUNNER=$(bin)/duet-runner DUET_COMPILER=$(bin)/duet-compiler \
	    DUET_PLAIN=$(bin)/examples/plain $(CARGO) bench -q -p duet-wasm --bench calls

# A seed that was printed plays the same again: as its first round, which is enough for a find.
FUZZ_SECONDS ?= 600
fuzz-seed := $(or $(FUZZ_SEED),$(shell date +%s))

.PHONY: fuzz
fuzz: build test-needs ## random input for the compiler, the runner, servers and config.json, about FUZZ_SECONDS for each part, from FUZZ_SEED
	@echo 'FUZZ_SEED=$(fuzz-seed)'
	$(SUDO) env DUET_TEST_REQUIRE=all DUET_RUNNER=$(bin)/duet-runner DUET_COMPILER=$(bin)/duet-compiler \
	    DUET_FUZZ_SECONDS=$(FUZZ_SECONDS) DUET_FUZZ_SEED=$(fuzz-seed) \
	    $(CARGO) test -p duet-wasm --test programs -- --nocapture fuzz::
	@# Counted by cases; so many are made in a second or so.
	PROPTEST_CASES=$$(($(FUZZ_SECONDS) * 400)) PROPTEST_RNG_SEED=$(fuzz-seed) $(CARGO) test -p duet-spec --test mutations
	PROPTEST_CASES=$$(($(FUZZ_SECONDS) * 100)) PROPTEST_RNG_SEED=$(fuzz-seed) $(CARGO) test -p duet-plan --test plans random::

# The peer is the command of the same release as the library that Duet is built with.
wasmtime-version := $(shell sed -n '/^name = "wasmtime"$$/{n;s/^version = "\(.*\)"/\1/p;}' Cargo.lock)
wasmtime := $(abspath $(target))/wasmtime-cli-$(wasmtime-version)/bin/wasmtime

.PHONY: bench-serving
bench-serving: build test-needs bench-needs $(wasmtime) ## requests beside `wasmtime serve`, which it builds first
	$(CARGO) build --release -p duet-tests --bin duet-bench
	$(SUDO) env DUET_BIN_DIR=$(bin) TMPDIR=/dev/shm $(bin)/duet-bench serving $(wasmtime)

$(wasmtime):
	$(CARGO) install --quiet --locked --root $(abspath $(target))/wasmtime-cli-$(wasmtime-version) \
	    wasmtime-cli --version $(wasmtime-version)

.PHONY: install
install: ## copy the programs that `make build` has built to PREFIX/bin
	@# Not after `build`: root, who installs, often has no Rust, and what root builds is root's.
	@for file in $(programs) $(tools); do [ -e $(bin)/$$file ] || { \
	    echo "$(bin)/$$file is not there: run \`make build\` first, without sudo" >&2; exit 1; }; done
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(addprefix $(bin)/,$(programs)) $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(bin)/$(tools) $(DESTDIR)$(PREFIX)/bin

.PHONY: uninstall
uninstall: ## remove the installed programs
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(programs) $(tools))

.PHONY: build-needs demo-needs test-needs bench-needs vm-needs others-needs
build-needs:
	@command -v $(CARGO) >/dev/null || { \
	    echo 'cargo is not in PATH; Duet is built with Rust 1.95 or later, see https://rustup.rs' >&2; \
	    exit 1; \
	}
	$(call install-missing,$(build-needs))
demo-needs:
	$(call install-missing,$(run-needs) $(demo-needs))
test-needs:
	$(call install-missing,$(run-needs) $(demo-needs) $(test-needs))
bench-needs:
	$(call install-missing,$(bench-needs))
others-needs:
	$(call install-missing,$(others-needs))
vm-needs:
	$(call install-missing,$(vm-needs))
	@# The kernel and systemd are unpacked from what the package lists offer now, not installed.
	@apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || $(SUDO) apt-get -qq -o Acquire::Retries=5 update
