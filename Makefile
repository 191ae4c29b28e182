# setup   what building and testing need, Debian packages and Apache Kafka; quick the second time
# build   everything, in the profile the tests use; `release`, in the one that is measured; `packaged`,
#         the gateway in the one that is shipped
# firmware  the example firmware in Rust and C, with the flash and RAM it takes, and the test of the
#         shim's C interface
# test    unit, end-to-end and fault tests, against real Mosquitto and Apache Kafka
# test-long  SIGKILL and power cuts at random instants, a hundred of each; thirty kills under load with
#         every message counted at a Kafka consumer
# lint    format and clippy
# demo    the main job in one terminal, 40 s: telemetry, an outage, a kill, and a table of what
#         arrived. KAFKA=real runs it on Apache Kafka.
# bench   the commit log against the disk it lies on, and the shim link; nine minutes, as root (it
#         mounts a loop device), 11 GiB of disk. BENCH="--short" leaves out the backlog of 8 GiB,
#         BENCH=link all but the link. BENCH=path measures the path from MQTT to Kafka instead: an
#         hour (BENCH="path --short --rounds 2" a quarter), no mount
# guard   fails if the code on a record's path takes more instructions than the committed figures say
# guard-accept  writes those figures anew
# cross   edge-gateway and sensor-sim for aarch64 into dist/, without Docker (cross/README.md)
# features  each feature of the gateway alone, and the presets, type-checked; and the test that a gateway
#         without any refuses what needs one. `feature-table` prints what each adds to the program.
# footprint  memory, threads, wake-ups, growth and start of the packaged program, against budgets; nine
#         minutes, an hour more with EDGE_GATEWAY_LONG=1
# test-arm64  a short set of the end-to-end and fault tests with the program of `make cross`, under
#         qemu-aarch64-static
# board   Debian for arm64 on an emulated board with the package of `make cross deb`, its plug pulled ten
#         times, as root; half an hour
# test-image  the steps of cross/aarch64.Dockerfile and a build, in a bare Debian tree, as root
# fuzz    every fuzz target for 20 s, or FUZZ_SECONDS; needs g++

# deb     the Debian package, in dist/: for this machine's architecture, and for arm64 where `make cross`
#         has left a program
# test-deb  that package installed, fed, upgraded and removed on a Debian system under systemd, as root

.PHONY: cross setup build packaged release firmware test test-long lint features feature-table footprint demo bench fuzz deb test-deb test-arm64 board test-image guard guard-check guard-accept

BUILT := $(or $(CARGO_TARGET_DIR),target)

setup:
	./tests/setup.sh

build:
	cargo build --workspace --bins

packaged:
	cargo build --profile dist -p edge-gateway --bins

release:
	cargo build --release --workspace --bins

firmware:
	firmware-shim/firmware/build.sh
	firmware-shim/c/build.sh

# The gateway's own tests wait more than they compute, so more of them run at once than there are cores.
# The system tests start the programs that `build` puts beside them. They share two cores with the
# brokers, so each test binary lets two of its heavy tests run at once and no more.
test: setup build firmware
	RUST_TEST_THREADS=6 cargo test -p edge-gateway
	cargo test --workspace --exclude edge-gateway
	cargo test -p firmware-shim --features c-api,std --lib --test header -- c_api header

test-long: setup build
	EDGE_GATEWAY_LONG=1 cargo test -p system-tests --test disk -- --nocapture
	EDGE_GATEWAY_LONG=1 cargo test -p system-tests --test faults -- redelivery --nocapture

lint:
	cargo fmt --all --check
	cd firmware-shim/firmware && cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p firmware-shim --all-targets --features c-api,std -- -D warnings

features:
	for features in "" serial modbus mqtt tls registry http-page documents progress-bar \
	    preset-serial preset-mqtt preset-factory; do \
	  echo "features: $$features"; \
	  cargo check --quiet -p edge-gateway --no-default-features --features "$$features" \
	    || exit 1; \
	done
	cargo test --quiet -p edge-gateway --no-default-features --test left_out

# What each of them adds, in bytes: the program built without it, a dozen times, twenty minutes.
feature-table:
	tests/footprint/features.sh

# The programs that the test starts lie in one directory; its own gateway is the packaged one.
FOOTPRINT = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
footprint: setup packaged
	cargo build -p sensor-sim -p system-tests --bins
	mkdir -p $(FOOTPRINT)/footprint
	cp $(FOOTPRINT)/dist/edge-gateway $(FOOTPRINT)/debug/sensor-sim $(FOOTPRINT)/footprint
	tests/footprint/size.sh $(FOOTPRINT)/footprint/edge-gateway
	EDGE_GATEWAY_BIN_DIR=$(FOOTPRINT)/footprint \
	  cargo test -p system-tests --test footprint -- --include-ignored --nocapture --test-threads=1

demo: setup release
	target/release/demo --kafka $(or $(KAFKA),embedded)

deb:
	tests/setup.sh debhelper dpkg-dev git
	config/debian/build.sh

test-deb: setup deb
	tests/setup.sh debootstrap systemd-container
	cargo build -p sensor-sim -p system-tests --bins
	EDGE_GATEWAY_PACKAGED=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/dist/edge-gateway \
	  cargo test -p system-tests --test package -- --ignored --nocapture

bench:
	tests/setup.sh strace
	cargo build --release -p edge-gateway -p system-tests --bins
	$(BUILT)/release/bench --on $(BUILT) --json $(BUILT)/bench.json $(BENCH)

guard: guard-check
guard-check guard-accept:
	tests/setup.sh valgrind
	cargo build --release -p system-tests --bin bench
	$(BUILT)/release/bench guard $(@:guard-%=%)

fuzz:
	tests/fuzz/run.sh $(or $(FUZZ_SECONDS),20)

cross:
	cross/build.sh arm64

test-arm64: setup cross
	tests/setup.sh qemu-user-static
	cargo build -p edge-gateway -p sensor-sim -p system-tests --bins
	tests/arm64/run.sh

board: setup cross deb
	tests/setup.sh debootstrap qemu-user-static qemu-system-arm
	cargo build -p sensor-sim -p system-tests --bins
	cargo test -p system-tests --test board -- --ignored --nocapture

test-image:
	tests/setup.sh debootstrap qemu-user-static libc6-arm64-cross libgcc-s1-arm64-cross
	cross/image-test.sh aarch64
