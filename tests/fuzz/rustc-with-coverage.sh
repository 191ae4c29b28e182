#!/bin/sh
# As RUSTC_WORKSPACE_WRAPPER: compiles the workspace's own packages, and no others, with the coverage
# that libFuzzer reads. All of it is in stable rustc. Checks of overflow and assertions stay on.
rustc=$1
shift
case " $* " in
# What makes and checks the inputs is not what is explored.
*" --crate-name fuzz"*) exec "$rustc" "$@" -Copt-level=3 ;;
# Runs while building, without libFuzzer.
*" --crate-name build_script_build "*) exec "$rustc" "$@" ;;
esac
exec "$rustc" "$@" -Copt-level=3 -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
