#!/usr/bin/env bash
# Installs what building and testing need on Debian 12: packages that are missing, then Apache Kafka.
# Quick and without network when everything is there. With arguments: these packages alone.
#
# Debian's mosquitto package starts a system service on port 1883 where systemd runs. The tests do not
# use it: they start brokers of their own, on free ports.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

packages=(
  build-essential      # librdkafka is built from source
  pkg-config
  libssl-dev           # the one TLS library
  zlib1g-dev
  openssl              # certificates of the TLS tests
  mosquitto
  e2fsprogs            # the disk tests make ext4 file systems
  mount
  openjdk-17-jre-headless
  maven
  # For microcontrollers (make firmware). Debian's Rust beside any other: of it there is the source of
  # the standard library, without which there is none for such a target.
  rustc-web
  cargo-web
  rust-web-src
  gcc-arm-none-eabi
  qemu-system-arm
)
if (($#)); then packages=("$@"); fi

missing=()
for package in "${packages[@]}"; do
  if [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
    missing+=("$package")
  fi
done

if ((${#missing[@]})); then
  as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || {
      echo "these packages are missing, and there is neither root nor sudo: ${missing[*]}" >&2
      exit 1
    }
    as_root=(sudo)
  fi
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "${missing[@]}"
fi

if (($#)); then exit; fi

command -v cargo >/dev/null || {
  echo "no cargo on the PATH: install a Rust toolchain (rustup.rs) of the version in Cargo.toml" >&2
  exit 1
}
for component in fmt clippy; do
  cargo "$component" --version >/dev/null 2>&1 || {
    echo "cargo $component does not run: rustup component add ${component/#fmt/rustfmt}" >&2
    exit 1
  }
done

"$here/kafka/install.sh"
