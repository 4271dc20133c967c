# What the acceptance runs share: sourced, not run. Each run has a directory of its own and leaves nothing behind.
# shellcheck shell=bash

work=$(mktemp -d)
children=()

# Ends what this run has started, and nothing else.
cleanup() {
    local child
    for child in "${children[@]}"; do
        kill -9 "$child" 2>/dev/null || true
        # Waited for, so that the shell does not report each death.
        wait "$child" 2>/dev/null || true
    done
    rm -rf "$work" || true
}
trap cleanup EXIT

say() { printf '   %s\n' "$*"; }

fail() {
    printf 'FAIL: %s\n' "$*" >&2
    exit 1
}

# Waits until a command succeeds, 30 s at most: until_true WHAT COMMAND...
until_true() {
    local what=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [[ $tries -lt 300 ]] || fail "not within 30 s: $what"
        sleep 0.1
    done
}

# Starts Python's web server with NAME as its page, on PORT or a port of the system's choice. Sets `pid` and `port`.
# shellcheck disable=SC2034
backend() {
    local name=$1 wanted=${2:-0}
    mkdir -p "$work/$name"
    printf '%s\n' "$name" >"$work/$name/index.html"
    : >"$work/$name.out"
    # Its queue of five connections overflows under load, and each client that finds it full waits a second for its next try.
    local roomy="import runpy, socketserver; socketserver.TCPServer.request_queue_size = 1024; runpy.run_module('http.server', run_name='__main__')"
    python3 -u -c "$roomy" "$wanted" --bind 127.0.0.1 --directory "$work/$name" >"$work/$name.out" 2>/dev/null &
    pid=$!
    children+=("$pid")
    until_true "the backend $name listens" grep -q 'port [0-9]' "$work/$name.out"
    port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$work/$name.out" | head -n 1)
}

# A Python of this run's own, at $work/venv/bin, with these packages: venv PACKAGES...
venv() {
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"
}

free() {
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
        fail "port $1 is taken: this run needs it"
    fi
}
