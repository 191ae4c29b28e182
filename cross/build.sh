#!/usr/bin/env bash
# Builds edge-gateway and sensor-sim for aarch64 on Debian 12 x86-64 without Docker, into dist/.
#
#   cross/build.sh [arm64|armhf]
#
# Everything comes from Debian: the cross compilers, a current Rust (rustc-web) and its standard
# library for the target. OpenSSL, zstd and librdkafka are built from source and linked statically,
# so that the binary needs nothing but the C library. A second run compiles what has changed.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/.." && pwd)"
arch="${1:-arm64}"

case "$arch" in
  arm64) target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu ;;
  armhf) target=armv7-unknown-linux-gnueabihf gnu=arm-linux-gnueabihf ;;
  *) echo "usage: cross/build.sh [arm64|armhf]" >&2; exit 64 ;;
esac

cache="${CROSS_CACHE:-$root/.cache/cross}/$arch"
mkdir -p "$cache"
cache="$(cd "$cache" && pwd)"

as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

install_packages() {
  local package missing=()
  for package in rustc-web cargo-web "gcc-$gnu" "g++-$gnu" make perl pkg-config; do
    if [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
      missing+=("$package")
    fi
  done
  if ! dpkg --print-foreign-architectures | grep -qx "$arch"; then
    as_root dpkg --add-architecture "$arch"
    as_root apt-get update -qq
  elif ((${#missing[@]})); then
    as_root apt-get update -qq
  fi
  if ((${#missing[@]})); then
    echo "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq -o Dpkg::Use-Pty=0 \
      --no-install-recommends "${missing[@]}"
  fi
}

# The target's standard library, of exactly the compiler's version, unpacked beside nothing else.
unpack_standard_library() {
  local version sysroot="$cache/sysroot"
  version="$(dpkg-query -W -f='${Version}' rustc-web)"
  if [[ "$(cat "$sysroot/version" 2>/dev/null || true)" == "$version" ]]; then
    return
  fi
  echo "unpacking the standard library of Rust $version for $arch"
  rm -rf "$sysroot"
  mkdir -p "$sysroot"
  (cd "$sysroot" && apt-get download -qq "libstd-rust-web-dev:$arch=$version")
  dpkg -x "$sysroot"/libstd-rust-web-dev_*.deb "$sysroot"
  rm "$sysroot"/*.deb
  echo "$version" >"$sysroot/version"
}

# Their build scripts do not notice.
forget_libraries_of_other_flags() {
  local flags="$cache/flags"
  if ! (echo "$CFLAGS"; cat "$OPENSSL_SRC_PERL") | cmp -s - "$flags"; then
    (cd "$root" && /usr/bin/cargo clean --profile dist --target "$target" \
      -p openssl-sys -p rdkafka-sys -p zstd-sys)
    (echo "$CFLAGS"; cat "$OPENSSL_SRC_PERL") >"$flags"
  fi
}

build() {
  local variable="${target^^}"
  variable="CARGO_TARGET_${variable//-/_}"
  export "${variable}_LINKER=$gnu-gcc"
  export "${variable}_RUSTFLAGS=--sysroot=$cache/sysroot/usr"
  # /usr/bin/cargo alone would find rustup's compiler, whose standard library is another.
  export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
  # rdkafka-sys gives librdkafka's configure no compiler, so these must be the plain names.
  export CC="$gnu-gcc" CXX="$gnu-g++" AR="$gnu-ar" RANLIB="$gnu-ranlib"
  export HOST_CC=gcc HOST_CXX=g++ HOST_AR=ar
  # What nobody calls is dropped, and C has no tables for unwinding: Rust's panics end before it. How
  # fast C is stays as it was, but for OpenSSL.
  export CFLAGS="-ffunction-sections -fdata-sections -fno-unwind-tables -fno-asynchronous-unwind-tables"
  export HOST_CFLAGS="" OPENSSL_SRC_PERL="$here/openssl-perl"
  export CARGO_TARGET_DIR="$cache/target"
  forget_libraries_of_other_flags
  (cd "$root" && /usr/bin/cargo build --locked --profile dist --target "$target" \
    -p edge-gateway -p sensor-sim --features edge-gateway/tls-vendored)
}

# Fails if the gateway is over its budget.
report() {
  local name program bytes_max=12000000
  mkdir -p "$root/dist/$target"
  for name in edge-gateway sensor-sim; do
    program="$root/dist/$target/$name"
    install -m 755 "$cache/target/$target/dist/$name" "$program"
    printf '%s\n  size     %s bytes\n' "dist/$target/$name" "$(stat -c %s "$program")"
    printf '  needs    %s\n' "$("$gnu-objdump" -p "$program" | awk '/NEEDED/ {printf "%s ", $2}')"
    printf '  glibc    %s or newer\n' "$("$gnu-objdump" -T "$program" |
      grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1 | cut -d_ -f2)"
  done
  program="$root/dist/$target/edge-gateway"
  if (("$(stat -c %s "$program")" > bytes_max)); then
    echo "dist/$target/edge-gateway: more than $bytes_max bytes" >&2
    exit 1
  fi
}

install_packages
unpack_standard_library
build
report
