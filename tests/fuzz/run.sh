#!/usr/bin/env bash
# Fuzzes each target for so many seconds, beginning from its corpus. README.md says more.
#
#   run.sh [seconds for each target] [target…]
#
# KEEP=1 puts what was found worth keeping into the corpus, minimised.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=${1:-20}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(segment slots directory damage frames framings)

export CARGO_INCREMENTAL=0
export RUSTC_WORKSPACE_WRAPPER=$PWD/rustc-with-coverage.sh
cargo build -p fuzz --features libfuzzer --bins
target_dir=${CARGO_TARGET_DIR:-$(cd ../.. && pwd)/target}
found=$target_dir/fuzz
mkdir -p "$found"

for target in "${targets[@]}"; do
    echo "== $target, $seconds s"
    program=$target_dir/debug/fuzz-$target
    work=$(mktemp -d "$found/$target.XXXXXX")
    mkdir -p "corpus/$target"
    # New inputs go to the first directory; a failing one is kept beside it.
    "$program" -max_total_time="$seconds" -max_len=4096 -timeout=20 -use_value_profile=1 \
        -verbosity=0 -print_final_stats=1 -artifact_prefix="$found/$target-" "$work" "corpus/$target"
    if [ "${KEEP:-0}" = 1 ]; then
        small=$(mktemp -d "$found/$target.XXXXXX")
        "$program" -set_cover_merge=1 -use_counters=0 -max_len=4096 -verbosity=0 "$small" "corpus/$target" "$work"
        rm -rf "corpus/$target"
        mv "$small" "corpus/$target"
        chmod 755 "corpus/$target"
    fi
    rm -rf "$work"
done
