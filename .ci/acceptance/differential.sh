#!/usr/bin/env bash
# Several hundred hostile requests through the proxy, and what reaches its backend to five real servers: none of them reads
# another number of requests than the proxy has sent.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh nodejs python3 python3-venv
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

venv aiohttp gunicorn uvicorn waitress
python=$work/venv/bin/python
hostile=$PWD/tests/hostile

# A port that was free a moment ago.
some_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

servers=()
# Starts a server: NAME COMMAND...; PORT in the command becomes its port.
server() {
    local name=$1 port
    shift
    port=$(some_port)
    "${@//PORT/$port}" >"$work/$name.out" 2>&1 &
    children+=("$!")
    until_true "$name listens" listens "$port"
    servers+=("$name=$port")
}
export PYTHONPATH=$hostile PYTHONDONTWRITEBYTECODE=1
server gunicorn "$python" -m gunicorn -k gthread --threads 8 --no-control-socket -b 127.0.0.1:PORT apps:wsgi
server waitress "$python" "$hostile/apps.py" waitress PORT
server uvicorn "$python" "$hostile/apps.py" uvicorn PORT
server aiohttp "$python" "$hostile/apps.py" aiohttp PORT
server node node "$hostile/app.js" PORT

listen=$(some_port)
"$python" "$hostile/differential.py" "$listen" "$work/recorder" "${servers[@]}" >"$work/result" 2>&1 &
differential=$!
children+=("$differential")
until_true "the recording backend listens" test -s "$work/recorder"
cat >"$work/roundel.yaml" <<YAML
listeners: [{ address: "127.0.0.1:$listen", timeouts: { header: 2s, body_idle: 2s } }]
admin: none
access_log: none
upstreams:
  web: { backends: ["127.0.0.1:$(cat "$work/recorder")"], health_check: none, outlier: none }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >"$work/log" 2>&1 &
children+=("$!")
status=0
wait "$differential" || status=$?
cat "$work/result"
[[ "$status" -eq 0 ]] || fail "servers disagree about what the proxy sent"
