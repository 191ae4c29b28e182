#!/usr/bin/env bash
# Makes dist/edge-gateway_<version>_<architecture>.deb for this machine's architecture, and for arm64
# where dist/aarch64-unknown-linux-gnu/edge-gateway is there.
#
#   build.sh                        builds the program first (profile dist)
#   build.sh --program FILE         takes this one
#   build.sh --version V            calls it so, to test upgrades
#   build.sh --out DIR              puts the packages there, not into dist/
#
# It needs debhelper and dpkg-dev: `make deb` sees to them.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"

program=
out="$root/dist"
version="$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")"
while (($#)); do
  case "$1" in
    --program) program="$2" ;;
    --version) version="$2" ;;
    --out) out="$2" ;;
    *) echo "build.sh: unknown argument $1" >&2; exit 64 ;;
  esac
  shift 2
done

if [[ -z "$program" ]]; then
  cargo build --manifest-path "$root/Cargo.toml" --profile dist -p edge-gateway
  program="$target/dist/edge-gateway"
fi
native="$program"

# Oldest C library and which others a program for another architecture needs. What is linked in
# statically does not show.
foreign_depends() {
  local libraries glibc
  libraries="$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -Ev '^(libc|libm|libgcc_s|ld-linux-.*)\.so' || true)"
  if [[ -n "$libraries" ]]; then
    echo "build.sh: $1 needs $libraries, which nobody here knows the package of" >&2
    exit 1
  fi
  glibc="$(readelf -V "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)"
  echo "libc6 (>= ${glibc#GLIBC_}), libgcc-s1"
}

package() {
  local architecture="$1" program="$2" depends="$3"
  local stage="$target/deb/$architecture/edge-gateway-$version"
  rm -rf "$stage"
  mkdir -p "$stage"/{man,examples,texts,completions/{bash,fish,zsh}}
  cp -r "$here" "$stage/debian"
  rm "$stage/debian/build.sh"
  for part in service sysusers udev; do
    cp "$root/config/edge-gateway.$part" "$stage/debian/"
  done
  cp "$root/config/edge-gateway.modules-load" "$stage/modules-load.conf"
  cp "$root/config/gateway.toml" "$stage/"
  cp "$root/README.md" "$root/CHANGELOG.md" "$stage/texts/"
  cp "$root"/config/examples/*.toml "$stage/examples/"
  install -m 0755 "$program" "$stage/edge-gateway"
  "$native" man "$stage/man"
  "$native" completions bash > "$stage/completions/bash/edge-gateway"
  "$native" completions fish > "$stage/completions/fish/edge-gateway.fish"
  "$native" completions zsh > "$stage/completions/zsh/_edge-gateway"
  local date
  date="$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)"
  {
    echo "edge-gateway ($version) unstable; urgency=medium"
    echo
    echo "  * See CHANGELOG.md."
    echo
    echo " -- edge-gateway developers <maintainers@edge-gateway.example>  $(date -u -R -d "@$date")"
  } > "$stage/debian/changelog"
  (
    cd "$stage"
    export SOURCE_DATE_EPOCH="$date" EDGE_GATEWAY_DEPENDS="$depends"
    # Not a package of Debian's own; what building takes has been done.
    DEB_BUILD_OPTIONS="nocheck noautodbgsym" dpkg-buildpackage --build=binary --no-sign \
      --no-check-builddeps --host-arch "$architecture" > ../build.log 2>&1 ||
      { cat ../build.log >&2; exit 1; }
  )
  mkdir -p "$out"
  cp "$target/deb/$architecture/edge-gateway_${version}_$architecture.deb" "$out/"
  echo "$out/edge-gateway_${version}_$architecture.deb"
}

package "$(dpkg --print-architecture)" "$program" ""
arm64="$root/dist/aarch64-unknown-linux-gnu/edge-gateway"
if [[ -f "$arm64" && "$(dpkg --print-architecture)" != arm64 ]]; then
  package arm64 "$arm64" "$(foreign_depends "$arm64")"
fi
