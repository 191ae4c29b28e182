#!/usr/bin/env bash
# Builds the sensor node for the LM3S6965 into <target>/firmware/sensor-node.elf, prints what it takes
# of flash and RAM, and fails if that is over the budget. Needs what tests/setup.sh installs.
#
# Debian's own compiler is used whatever else is installed: it comes with the source of its library,
# which has to be compiled for this target, and for that -Zbuild-std wants RUSTC_BOOTSTRAP.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# What is set for this machine's programs is not meant for these.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
out="$(realpath -m "${CARGO_TARGET_DIR:-../../target}")/firmware"
elf="$out/sensor-node.elf"
flash_bytes_max=$((16 * 1024))
ram_bytes_max=$((4 * 1024))

CARGO_TARGET_DIR="$out/build" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
  /usr/bin/cargo build --release --locked --quiet -Zwarnings --config 'build.warnings="deny"'
cp "$out/build/thumbv7m-none-eabi/release/sensor-node" "$elf"

# Bytes of the sections named; .data lies in flash and is copied to RAM.
bytes_of() {
  arm-none-eabi-size -A "$elf" | awk -v names=" $* " '
    index(names, " " $1 " ") { bytes += $2 } END { print bytes + 0 }'
}
flash_bytes="$(bytes_of .vector_table .text .rodata .data)"
ram_bytes="$(bytes_of .data .bss .uninit)"

printf 'sensor-node: flash %5d of %5d bytes\n' "$flash_bytes" "$flash_bytes_max"
printf 'sensor-node: RAM   %5d of %5d bytes, %d are left to the stack\n' \
  "$ram_bytes" "$ram_bytes_max" "$((ram_bytes_max - ram_bytes))"
if ((flash_bytes == 0 || flash_bytes > flash_bytes_max || ram_bytes + 1536 > ram_bytes_max)); then
  echo "sensor-node is over its budget (of RAM, 1536 bytes belong to the stack)" >&2
  exit 1
fi
if arm-none-eabi-nm "$elf" | grep -E '__rust_alloc|__rg_alloc| malloc$'; then
  echo "sensor-node has an allocator" >&2
  exit 1
fi
