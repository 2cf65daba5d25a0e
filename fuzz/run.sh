#!/bin/sh
# Fuzzes every target for so many seconds, two at a time: fuzz/run.sh SECONDS [NAME...]
# A failure prints its (shrunk) input, and BOLERO_RANDOM_SEED to repeat it; one that ends the process leaves its input in target/fuzz/NAME.last.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:?"usage: fuzz/run.sh SECONDS [NAME...]"}
shift
export BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000)) BOLERO_RANDOM_ITERATIONS=1000000000 FUZZ_KEEP="$PWD/target/fuzz"
mkdir -p "$FUZZ_KEEP"
cargo test -p fuzz --no-fail-fast -- --test-threads "${FUZZ_THREADS:-2}" "$@"
