#!/usr/bin/env bash
# `roundel top` in a real terminal (tmux): it shows load and an outage as they happen, drains and resumes a backend after a
# yes, tells that the proxy goes and comes back, and gives the terminal back after its end, a signal and a stop.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 tmux
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

free 8080
free 9901
backend a
a=127.0.0.1:$port
backend b
b=127.0.0.1:$port
b_pid=$pid
b_port=$port
cat >"$work/roundel.yaml" <<YAML
listeners: [{ name: public, address: "127.0.0.1:8080" }]
access_log: none
upstreams:
  web:
    backends: [$a, $b]
    health_check: { type: http, interval: 1s, timeout: 900ms, fast_interval: 200ms }
YAML
mkdir -m 0700 "$work/run"
export RUNTIME_DIRECTORY="$work/run" LC_ALL=C.UTF-8
serve() {
    "$ROUNDEL" -c "$work/roundel.yaml" 2>"$work/log" &
    proxy=$!
    children+=("$proxy")
    until_true "the proxy is ready" curl -fsS http://127.0.0.1:9901/readyz
}
serve

# Some load, until this run ends.
while :; do curl -s -o /dev/null http://127.0.0.1:8080/ || sleep 0.1; sleep 0.02; done &
children+=("$!")

terminal() { tmux -L "roundel-top-$$" "$@"; }
leave() {
    terminal kill-server 2>/dev/null || true
    cleanup
}
trap leave EXIT
terminal -f /dev/null new-session -d -s top -x 80 -y 24 "PS1='shell> ' bash --norc --noprofile"
screen() { terminal capture-pane -p -t top; }
shows() { screen | grep -qE -- "$1"; }
shows_not() { ! shows "$1"; }
keys() { terminal send-keys -t top "$@"; }
see() { until_true "the screen shows: $1" shows "$1" || { screen; false; }; }
see_no() { until_true "the screen shows no more: $1" shows_not "$1"; }
# Runs the program in the terminal's shell.
top() {
    see '^shell>$'
    keys "clear; $1 '$ROUNDEL' top -c '$work/roundel.yaml'; echo status \$?" Enter
    see ' live$'
}
millis() { date +%s%3N; }
state_of() { curl -fsS http://127.0.0.1:9901/api/v1/status | tr '{' '\n' | grep -F "\"address\":\"$1\"" | sed 's/.*"state":"\([a-z_]*\)".*/\1/'; }
is() { [[ "$(state_of "$1")" == "$2" ]]; }

top ""
see "^> $a +healthy"
see "^  $b +healthy .* [1-9][0-9.]* "
see 'public 127.0.0.1:8080'
see '2 of 2 usable'
[[ -z "${SHOTS:-}" ]] || screen >"$SHOTS/top-load.txt"
say "80 by 24: both backends with their rates, in a picture of $(screen | wc -l) lines"

# An outage: seen a second or two after the proxy knows of it at most.
kill -9 "$b_pid"
{ wait "$b_pid"; } 2>/dev/null || true
until is "$b" unhealthy || is "$b" ejected; do sleep 0.02; done
known=$(millis)
see "^  $b +(unhealthy|ejected)"
took=$(($(millis) - known))
[[ $took -le 2500 ]] || fail "an outage showed only after $took ms"
see '1 of 2 usable'
keys Down
see "^> $b"
see '(refused|failed)'
say "an outage shows $took ms after the proxy knows of it, with its reason"
backend b "$b_port"
see "^> $b +healthy"

# A drain: only after a yes.
keys d
see "Drain web/$b\?"
keys n
see_no 'Drain web/'
is "$b" healthy || fail "a no was taken for a yes"
keys d
see "Drain web/$b\?"
keys y
see "^> $b +drain(ed|ing)"
see "web/$b: drain(ed|ing)"
is "$b" drained || is "$b" draining || fail "the backend is not drained"
# The other one is all that is left: refused at first, with the reason.
keys Up
see "^> $a"
keys d
see 'NO other backend'
keys y
see 'not drained'
keys n
see_no 'all the same'
is "$a" healthy || fail "a refused drain was done"
keys Down u
see "Resume web/$b\?"
keys y
see "^> $b +healthy"
say "drained and resumed by key, after a yes; the drain of the last one is refused with the reason"

# Sort, filter, one list, help.
keys s s
see 'REQ/S▼'
keys r
see 'REQ/S▲'
keys g
see "web/127.0.0.1"
keys g / "$b" Enter
see_no "$a"
keys Escape
see "$a"
keys '?'
see 'reverse the order'
keys x
see_no 'reverse the order'
terminal resize-window -t top -x 160 -y 40
see 'WEIGHT REQUESTS FAILED'
see ' WHY'
[[ -z "${SHOTS:-}" ]] || screen >"$SHOTS/top-wide.txt"
terminal resize-window -t top -x 80 -y 24
see_no 'WEIGHT'
say "sorts, filters, helps, and follows the size of the terminal"

# The proxy goes, and another comes.
kill -TERM "$proxy"
wait "$proxy" || true
see 'NO ANSWER for'
see "^. $a"
serve
see ' live$'
see "another process answers: pid $proxy"
say "a proxy that goes and one that comes are told"

# The terminal is the shell's again, whatever ended the program.
keys C-z
see 'Stopped'
keys 'fg; echo status $?' Enter
see ' live$'
keys q
see '^status 0'
# Keys are echoed again.
cooked() {
    keys "clear; stty -a | grep -c ' echo '" Enter
    see '^1$'
}
cooked
for signal in TERM INT HUP; do
    top ""
    child=$(pgrep -P "$(terminal display-message -p -t top '#{pane_pid}')" -x roundel)
    kill -"$signal" "$child"
    see '^status 1(43|30|29)$'
    shows_not ' live$' || fail "after SIG$signal the screen was not given back"
    cooked
done
top "NO_COLOR=1"
terminal capture-pane -e -p -t top | grep -q $'\e\[[0-9;]*3[0-7]m' && fail "colours with NO_COLOR"
shows "^> $a +healthy" || fail "NO_COLOR left something out"
keys C-c
see '^status 0'
say "the terminal is given back after the end, three signals and a stop; NO_COLOR is kept"

"$ROUNDEL" top -c "$work/roundel.yaml" >"$work/out" 2>"$work/err" && fail "no terminal, and no error"
grep -q 'needs a terminal' "$work/err" || fail "what is wrong is not told: $(cat "$work/err")"
