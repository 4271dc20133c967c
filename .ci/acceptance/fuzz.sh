#!/usr/bin/env bash
# Every fuzz target for some seconds, guided by coverage, from its seeds: what panics, hangs or breaks its promise stops the run.
# FUZZ_SECONDS is the time for each, FUZZ_TARGETS names some of them, FUZZ_CORPUS keeps what is found from run to run, and
# FUZZ_SANITIZER=address builds with AddressSanitizer, which takes much longer; docs/fuzzing.md tells what a long run found.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

seconds=${FUZZ_SECONDS:-10}
sanitizer=${FUZZ_SANITIZER:-none}
corpora=${FUZZ_CORPUS:-$work}
all=$(basename --suffix=.rs --multiple fuzz/fuzz_targets/*.rs)
# Coverage and sanitizers are switched on by flags that a stable compiler takes only when it is told to.
export RUSTC_BOOTSTRAP=1

say "building"
if [[ "$sanitizer" == none ]]; then
    (cd fuzz && timeout 40m cargo build --quiet --config coverage.toml --bins)
    built=fuzz/target/debug
else
    cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
    timeout 60m cargo fuzz build --sanitizer "$sanitizer"
    built=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
fi

# The words of the configuration, keys and values, stand in its manual.
# shellcheck disable=SC2016
grep -o '`[^`]\{1,40\}`' docs/configuration.md | sort -u | sed 's/[\\"]/\\&/g; s/^`\(.*\)`$/"\1"/' >"$work/config.dict"

for target in ${FUZZ_TARGETS:-$all}; do
    say "$target: $seconds s"
    # What is found grows here, and not among the seeds.
    mkdir -p "$corpora/$target" "fuzz/artifacts/$target"
    arguments=("$corpora/$target" "tests/fuzz/seeds/$target")
    case "$target" in
    config) arguments+=(conf tests/config "-dict=$work/config.dict") ;;
    road* | head | answer | framing | dialogue) arguments+=(-dict=fuzz/http.dict) ;;
    esac
    timeout $((seconds + 60)) "$built/$target" "${arguments[@]}" -max_total_time="$seconds" -timeout=30 -max_len=4096 \
        -rss_limit_mb=2048 -artifact_prefix="fuzz/artifacts/$target/" -print_final_stats=1 >"$work/out" 2>&1 || {
        tail -n 40 "$work/out"
        fail "$target found something: see above, and fuzz/artifacts/$target"
    }
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/out")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/out" | sed -n '1p;$p' | paste -sd- | sed 's/-/ to /')
    say "executions: $executions, edges covered: $edges"
done
