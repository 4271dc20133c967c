#!/usr/bin/env bash
# Every fuzz target for some seconds, from its seeds: a parser that panics, hangs or breaks its promise stops the run.
# FUZZ_SECONDS is the time for each; docs/fuzzing.md tells what a long run found.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

seconds=${FUZZ_SECONDS:-10}
cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
# Sanitizers are switched on by flags that a stable compiler takes only when it is told to.
export RUSTC_BOOTSTRAP=1

say "building"
timeout 15m cargo fuzz build

for file in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$file" .rs)
    say "$target: $seconds s"
    # What is found grows here, and not in the repository.
    mkdir -p "$work/$target"
    corpus=("$work/$target")
    case "$target" in
    config) corpus+=(conf tests/config) ;;
    *) corpus+=("fuzz/seeds/$target") ;;
    esac
    timeout $((seconds + 60)) cargo fuzz run "$target" "${corpus[@]}" -- \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        >"$work/out" 2>&1 || {
        tail -n 40 "$work/out"
        fail "$target found something: see above, and fuzz/artifacts/$target"
    }
    sed -n 's/^stat::number_of_executed_units: */   executions: /p' "$work/out"
done
