#!/usr/bin/env bash
# Builds the examples in C, and the test of the C interface, into <target>/firmware:
#   board-node.elf   for the LM3S6965, by arm-none-eabi-gcc
#   host-node        for this machine
#   api-test         for this machine
# The programs of this machine, and the library in them, are built with AddressSanitizer, those in C
# with UBSan as well. Needs what tests/setup.sh installs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# What is set for this machine's programs is not meant for these.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
out="$(realpath -m "${CARGO_TARGET_DIR:-../../target}")/firmware"
warnings=(-std=c11 -Wall -Wextra -Werror -pedantic -I../include)
export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1

# Run in ../firmware for its .cargo/config.toml: the target and its standard library. The profile is
# that of the workspace, less what a microcontroller does not want.
(
  cd ../firmware
  CARGO_TARGET_DIR="$out/build" /usr/bin/cargo rustc --quiet --release --locked \
    --manifest-path ../../Cargo.toml -p firmware-shim --lib --crate-type staticlib --features c-api \
    --config 'profile.release.opt-level="s"' --config 'profile.release.lto="fat"' \
    --config 'profile.release.codegen-units=1' --config 'profile.release.panic="abort"'
)
arm-none-eabi-gcc "${warnings[@]}" -mcpu=cortex-m3 -mthumb -Os -ffreestanding -nostdlib \
  -ffunction-sections -fdata-sections -Wl,--gc-sections,--nmagic,-z,noexecstack -T board.ld \
  board_node.c "$out/build/thumbv7m-none-eabi/release/libfirmware_shim.a" -lgcc \
  -o "$out/board-node.elf"
arm-none-eabi-size "$out/board-node.elf" | awk 'NR == 2 {
  printf "board-node (C): flash %5d of 16384 bytes\nboard-node (C): RAM   %5d of  4096 bytes\n", $1 + $2, $2 + $3 }'

# The sanitizer's runtime is gcc's, which speaks the same version of its interface; Debian's Rust
# brings none. --target keeps the flags from build scripts.
host="$("$RUSTC" --version --verbose | sed -n 's/^host: //p')"
CARGO_TARGET_DIR="$out/build" RUSTFLAGS="-Zsanitizer=address -Zexternal-clangrt" \
  /usr/bin/cargo rustc --quiet --locked --target "$host" --manifest-path ../../Cargo.toml \
  -p firmware-shim --lib --crate-type staticlib --features c-api,std
for program in host_node api_test; do
  gcc "${warnings[@]}" -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all \
    "$program.c" "$out/build/$host/debug/libfirmware_shim.a" -o "$out/${program/_/-}"
done
