#!/usr/bin/env bash
# What each switch adds to the packaged program: built whole, and once without each switch, in the profile
# `dist`; prints a table of bytes. A build takes minutes; a second run builds what has changed.
#
#   features.sh [SWITCH…]    those switches alone
set -euo pipefail
shopt -s inherit_errexit

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cd "$root"
program="${CARGO_TARGET_DIR:-target}/dist/edge-gateway"
all=(serial modbus mqtt tls registry http-page documents progress-bar)
# What cannot be there without it.
declare -A brings=([serial]=modbus)

bytes_with() {
  cargo build --quiet --profile dist -p edge-gateway --no-default-features --features "$*" >&2
  stat -c %s "$program"
}

without() {
  local switch
  for switch in "${all[@]}"; do
    [[ "$switch" == "$1" || "$switch" == "${brings[$1]:-}" ]] || echo "$switch"
  done
}

row() { # what, switches
  local bytes
  bytes="$(bytes_with "${@:2}")"
  printf '| %s | %d | %d |\n' "$1" "$bytes" "$(((whole - bytes) / 1024))"
}

echo "| program | bytes | KiB less |"
echo "|---|---|---|"
whole="$(bytes_with "${all[@]}")"
row whole "${all[@]}"
left_out=("$@")
(($#)) || left_out=("${all[@]}")
for switch in "${left_out[@]}"; do
  mapfile -t rest < <(without "$switch")
  row "without \`$switch\`${brings[$switch]:+ and \`${brings[$switch]}\`}" "${rest[@]}"
done
if (($# == 0)); then
  for preset in preset-serial preset-mqtt preset-factory; do
    row "\`$preset\`" "$preset"
  done
  row "none of them"
fi
