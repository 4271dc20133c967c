#!/usr/bin/env bash
# A name whose addresses change under load: dnsmasq answers with a TTL of 2 s, its answer changes from one backend to two
# others, and the requests follow within the TTL and a lookup, without a single error. A name server that is silent for a
# while, or says that the name does not exist, changes nothing. Where answers are good for an hour, `refresh` says how long they
# are used, and without `port` the name is asked for services (SRV).
#
# The proxy asks the name servers of /etc/resolv.conf, so that all of it runs in a mount namespace with one of its own, and in
# a network namespace that holds nothing but loopback.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl wrk python3 dnsmasq-base util-linux iproute2

if [[ -z "${ROUNDEL_DNS_APART:-}" ]]; then
    ROUNDEL_DNS_APART=1 exec unshare --mount --net --propagation private "$0" "$@"
fi
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

ip link set lo up
printf 'nameserver 127.0.0.153\noptions timeout:1 attempts:1\n' >"$work/resolv.conf"
mount --bind "$work/resolv.conf" "$(readlink -f /etc/resolv.conf)"

# Three backends on one port of three addresses.
backend_on() {
    mkdir -p "$work/$1"
    printf '%s\n' "$1" >"$work/$1/index.html"
    python3 -u -m http.server 18080 --bind "$1" --directory "$work/$1" >"$work/$1.out" 2>/dev/null &
    children+=("$!")
    until_true "the backend $1 listens" curl -fsS "http://$1:18080/"
}
for host in 127.0.0.11 127.0.0.12 127.0.0.13; do backend_on "$host"; done

# Answers web.test with these addresses, good for so many seconds, its services with the last of them, and nothing else.
dnsmasq_pid=
ttl=2
answer() {
    if [[ -n "$dnsmasq_pid" ]]; then
        kill "$dnsmasq_pid" 2>/dev/null || true
        wait "$dnsmasq_pid" 2>/dev/null || true
        dnsmasq_pid=
    fi
    [[ $# -gt 0 ]] || return 0
    local records=() address
    for address in "$@"; do
        [[ "$address" == none ]] ||
            records+=("--host-record=web.test,$address,$ttl" "--host-record=host-${address##*.}.test,$address,$ttl")
    done
    [[ "$address" == none ]] || records+=("--srv-host=_http._tcp.web.test,host-${address##*.}.test,18080")
    dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --port=53 --bind-interfaces \
        --listen-address=127.0.0.153 --local=/test/ --local-ttl="$ttl" --pid-file= --user=root "${records[@]}" 2>"$work/dnsmasq.log" &
    dnsmasq_pid=$!
    children+=("$dnsmasq_pid")
}
answer 127.0.0.11

mkdir -m 0700 "$work/run"
proxy_pid=
# Starts the proxy, in place of the one before, with an upstream that is found so.
proxy() {
    if [[ -n "$proxy_pid" ]]; then
        kill "$proxy_pid"
        wait "$proxy_pid"
    fi
    cat >"$work/roundel.yaml" <<YAML
upstreams:
  web:
    discovery: { $1 }
    health_check: { type: tcp, interval: 2s, timeout: 1s }
YAML
    RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >>"$work/access.log" 2>>"$work/log" &
    proxy_pid=$!
    children+=("$proxy_pid")
    until_true "the proxy is ready" curl -fsS http://127.0.0.1:9901/readyz
}
proxy 'dns: web.test, port: 18080, refresh: 30s'
url=http://127.0.0.1:8080/
until_true "the first backend answers" curl -fsS "$url"

# Who answers ten requests, sorted.
answering() { for _ in {1..10}; do curl -fsS "$url"; done | sort -u | xargs; }
answered_by() { [[ "$(answering)" == "$*" ]]; }
follows() {
    local since=$EPOCHREALTIME
    until_true "$* answer" answered_by "$@"
    local took=$(((${EPOCHREALTIME/./} - ${since/./}) / 1000))
    say "$* answer after $took ms"
    # The TTL, a lookup, a probe, and ten requests.
    [[ $took -le 4000 ]] || fail "the new addresses are not in use within the TTL"
}

wrk -t1 -c4 -d26s "$url" >"$work/wrk" &
load=$!
children+=("$load")
follows 127.0.0.11
say "two others take its place"
answer 127.0.0.12 127.0.0.13
follows 127.0.0.12 127.0.0.13
say "one of them leaves"
answer 127.0.0.13
follows 127.0.0.13
say "the name server falls silent"
answer
sleep 5
answered_by 127.0.0.13 || fail "a silent name server took a backend away"
say "the name does not exist"
answer none
sleep 3
answered_by 127.0.0.13 || fail "a name that is gone took a backend away"
say "all three"
answer 127.0.0.11 127.0.0.12 127.0.0.13
since=$EPOCHREALTIME
until_true "all three answer" answered_by 127.0.0.11 127.0.0.12 127.0.0.13
say "all answer after $(((${EPOCHREALTIME/./} - ${since/./}) / 1000)) ms (failed lookups are repeated less and less often)"
wait "$load"
sed 's/^/   /' "$work/wrk"
! grep -E 'Socket errors|Non-2xx' "$work/wrk" || fail "a request failed while the addresses changed"
grep -E 'resolve' "$work/log" | sed 's/^/   /'

ttl=3600
for discovery in 'dns: web.test, port: 18080, refresh: 1s' 'dns: _http._tcp.web.test, refresh: 1s'; do
    say "answers that are good for an hour: $discovery"
    answer 127.0.0.11
    proxy "$discovery"
    until_true "127.0.0.11 answers" answered_by 127.0.0.11
    answer 127.0.0.12
    follows 127.0.0.12
done
