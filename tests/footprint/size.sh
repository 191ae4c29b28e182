#!/usr/bin/env bash
# The size of the packaged program, against its budget.
set -euo pipefail

bytes_max=12000000
bytes="$(stat -c %s "$1")"
echo "$1: $bytes bytes, at most $bytes_max"
((bytes <= bytes_max))
