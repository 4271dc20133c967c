#!/usr/bin/env bash
# Every fuzz target for some seconds, from its seeds: a parser that panics, hangs or breaks its promise stops the run.
# FUZZ_SECONDS is the time for each, FUZZ_TARGETS names some of them, FUZZ_SANITIZER=none builds without AddressSanitizer;
# docs/fuzzing.md tells what a long run found.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

seconds=${FUZZ_SECONDS:-10}
cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
# Sanitizers are switched on by flags that a stable compiler takes only when it is told to.
export RUSTC_BOOTSTRAP=1

say "building"
sanitizer=${FUZZ_SANITIZER:-address}
timeout 20m cargo fuzz build --sanitizer "$sanitizer"

all=$(basename --suffix=.rs --multiple fuzz/fuzz_targets/*.rs)
for target in ${FUZZ_TARGETS:-$all}; do
    say "$target: $seconds s"
    # What is found grows here, and not in the repository.
    mkdir -p "$work/$target"
    corpus=("$work/$target" "tests/fuzz/seeds/$target")
    [[ "$target" != config ]] || corpus+=(conf tests/config)
    timeout $((seconds + 60)) cargo fuzz run --sanitizer "$sanitizer" "$target" "${corpus[@]}" -- \
        -max_total_time="$seconds" -timeout=30 -max_len=4096 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        >"$work/out" 2>&1 || {
        tail -n 40 "$work/out"
        fail "$target found something: see above, and fuzz/artifacts/$target"
    }
    sed -n 's/^stat::number_of_executed_units: */   executions: /p' "$work/out"
done
