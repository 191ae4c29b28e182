#!/usr/bin/env bash
# Does what a Dockerfile here says in a bare Debian tree, and builds the gateway there: a stand-in for
# `cross build` where there is no Docker. Needs root, debootstrap, qemu-user-static, and a Debian mirror.
#
#   cross/image-test.sh aarch64|armv7
#
# FROM is a bare tree of debootstrap, RUN runs in it and ENV is set. Rust, which cross brings along, is
# Debian's, installed after the Dockerfile's steps. The profile is dev: it takes the same compilers,
# headers and tools as a release in less than half the time. Nothing of it is kept but the bare tree
# and what cargo has built.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/.." && pwd)"
case "${1:-}" in
  aarch64) arch=arm64 target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu qemu=qemu-aarch64-static ;;
  armv7) arch=armhf target=armv7-unknown-linux-gnueabihf gnu=arm-linux-gnueabihf qemu=qemu-arm-static ;;
  *) echo "usage: cross/image-test.sh aarch64|armv7" >&2; exit 64 ;;
esac
dockerfile="$here/$1.Dockerfile"
cache="${DEBIAN_CACHE:-$root/.cache/debian}"
bare="$cache/bookworm-bare"
mirror="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
registry="${CARGO_HOME:-$HOME/.cargo}/registry"

# Mounts of its own, gone with this process.
if [[ "${IN_OWN_MOUNTS:-}" != 1 ]]; then
  IN_OWN_MOUNTS=1 exec unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"
fi

bare_tree() {
  if [[ ! -d "$bare" ]]; then
    mkdir -p "$cache"
    local new
    new="$(mktemp -d "$cache/new.XXXXXX")"
    debootstrap --variant=minbase bookworm "$new" "$mirror"
    # As Debian's own images have it.
    echo "deb ${mirror}-security bookworm-security main" >> "$new/etc/apt/sources.list"
    chmod 0755 "$new"
    mv "$new" "$bare"
  fi
}

# What is written lies in memory and is gone with the mounts.
fresh_tree() {
  mount -t tmpfs -o size=4G image-test /mnt
  mkdir /mnt/{upper,work,tree}
  tree=/mnt/tree
  mount -t overlay overlay -o "lowerdir=$bare,upperdir=/mnt/upper,workdir=/mnt/work" "$tree"
  mount -t proc proc "$tree/proc"
  mount --rbind /dev "$tree/dev"
  cp /etc/resolv.conf "$tree/etc/resolv.conf"
  mkdir -p "$tree"/{project,target,cargo/registry}
  mkdir -p "$cache/image-test-$arch"
  mount --bind "$root" "$tree/project"
  mount -o remount,bind,ro "$tree/project"
  mount --bind "$cache/image-test-$arch" "$tree/target"
  mount --bind "$registry" "$tree/cargo/registry"
}

environment=(PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8)
in_tree() {
  chroot "$tree" /usr/bin/env -i "${environment[@]}" "$@"
}

# One instruction a line, continued lines joined.
instructions() {
  sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' "$dockerfile" | sed -e ':a' -e '/\\$/{N;s/\\\n//;ba}'
}

# cross has a base image of its own, and starts from the Dockerfile's.
do_as_the_dockerfile_says() {
  local instruction arguments word steps=0
  while read -r instruction arguments; do
    echo "$instruction $arguments" | tr -s ' '
    case "$instruction" in
      FROM) [[ "$arguments" == debian:bookworm-slim ]] || { echo "no tree for $arguments" >&2; exit 1; } ;;
      RUN) in_tree /bin/sh -c "$arguments" </dev/null; steps=$((steps + 1)) ;;
      ENV) for word in $arguments; do environment+=("$word"); done ;;
      *) echo "$instruction: not known here" >&2; exit 1 ;;
    esac
  done < <(instructions)
  ((steps > 0)) || { echo "$dockerfile runs nothing" >&2; exit 1; }
}

add_rust() {
  local version
  in_tree dpkg --add-architecture "$arch"
  in_tree apt-get update -qq
  in_tree apt-cache show "libstd-rust-web-dev:$arch" > /dev/null || {
    echo "Debian has no standard library of Rust for $arch" >&2
    exit 1
  }
  in_tree env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 \
    --no-install-recommends rustc-web cargo-web
  version="$(in_tree dpkg-query -W -f='${Version}' rustc-web)"
  in_tree sh -c "cd /tmp && apt-get download -qq libstd-rust-web-dev:$arch=$version &&
    dpkg -x libstd-rust-web-dev_*.deb /sysroot"
}

build() {
  local variable="${target^^}"
  variable="CARGO_TARGET_${variable//-/_}_RUSTFLAGS"
  environment+=("$variable=--sysroot=/sysroot/usr" CARGO_HOME=/cargo CARGO_TARGET_DIR=/target)
  in_tree cargo build --manifest-path /project/Cargo.toml --locked --target "$target" \
    -p edge-gateway --features edge-gateway/tls-vendored
  "$qemu" -L "/usr/$gnu" "$cache/image-test-$arch/$target/debug/edge-gateway" --version
}

bare_tree
fresh_tree
do_as_the_dockerfile_says
add_rust
build
