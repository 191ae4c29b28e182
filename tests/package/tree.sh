#!/usr/bin/env bash
# Makes the Debian tree that package tests boot, once, and prints where it is. Needs root, debootstrap
# and a Debian mirror; quick and without network when it is there.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
suite="${1:-bookworm}"
architecture="$(dpkg --print-architecture)"
cache="${DEBIAN_CACHE:-$root/.cache/debian}"
tree="$cache/$suite-$architecture"

if [[ ! -d "$tree" ]]; then
  command -v debootstrap >/dev/null || {
    echo "tree.sh: debootstrap is missing: make test-deb installs it" >&2
    exit 1
  }
  mkdir -p "$cache"
  # Beside its place, so that half a tree is never taken for one.
  new="$(mktemp -d "$cache/new.XXXXXX")"
  trap 'rm -rf --one-file-system "$new"' EXIT
  debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,dbus,kmod,libssl3 \
    "$suite" "$new" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2
  chmod 0755 "$new"
  # The network is the host's, and so is what resolves names.
  rm -f "$new"/var/cache/apt/archives/*.deb
  mv "$new" "$tree"
fi
echo "$tree"
