#!/usr/bin/env bash
# Bodies larger than memory should be, event streams, and the odd corners of HTTP/1.1: 4 GiB up and down with flat memory,
# events one by one, Expect, HEAD, ranges, HTTP/1.0, an answer before the body has ended, a client that half closes.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 nginx-light
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

free 8080
free 9901
# nginx serves ranges and big downloads; a server of our own takes uploads and sends events.
mkdir -p "$work/www" "$work/nginx"
truncate -s 4G "$work/www/large"
head -c 100000 /dev/urandom >"$work/www/file"
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; pid $work/nginx/pid; error_log $work/nginx/error.log;
events {}
http {
  access_log off; sendfile on;
  client_body_temp_path $work/nginx; proxy_temp_path $work/nginx; fastcgi_temp_path $work/nginx;
  uwsgi_temp_path $work/nginx; scgi_temp_path $work/nginx;
  server { listen unix:$work/nginx/sock; root $work/www; }
}
CONF
nginx -c "$work/nginx.conf" -e "$work/nginx/error.log" &
children+=("$!")
until_true "nginx listens" test -S "$work/nginx/sock"

cat >"$work/origin.py" <<'PYTHON'
import http.server, threading, time

gate = threading.Event()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        if self.path == "/early":
            self.send_response(413)
            self.send_header("content-length", "5")
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(b"large")
            self.close_connection = True
            return
        left, total = int(self.headers.get("content-length", 0)), 0
        while left:
            part = self.rfile.read(min(left, 1 << 20))
            left -= len(part); total += len(part)
        self.answer(str(total).encode())
    do_PUT = do_POST
    def do_GET(self):
        if self.path == "/next":
            gate.set()
            return self.answer(b"ok")
        if self.path != "/events":
            return self.answer(b"hello")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(5):
            event = f"data: {number}\n\n".encode()
            self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            self.wfile.flush()
            # The next event is not sent before the client has this one, and says so.
            gate.wait(20); gate.clear()
        self.wfile.write(b"0\r\n\r\n")

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_address[1], flush=True)
server.serve_forever()
PYTHON
python3 "$work/origin.py" >"$work/origin.out" 2>&1 &
children+=("$!")
until_true "the origin listens" grep -q '^port' "$work/origin.out"
origin=127.0.0.1:$(sed -n 's/^port //p' "$work/origin.out")

cat >"$work/roundel.yaml" <<YAML
listeners: [{ address: "127.0.0.1:8080" }]
access_log: { path: $work/access.log }
upstreams:
  files: { backends: ["unix:$work/nginx/sock"] }
  origin: { backends: [$origin] }
routes:
  - { name: files, match: [{ path_prefix: /large }, { path_prefix: /file }], to: files }
  - { name: origin, to: origin }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" 2>"$work/log" &
proxy=$!
children+=("$proxy")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:9901/readyz
url=http://127.0.0.1:8080

peak() { awk '/VmHWM/ {print int($2 / 1024)}' "/proc/$proxy/status"; }
before=$(peak)
say "4 GiB down"
[[ "$(curl -fsS "$url/large" | wc -c)" -eq 4294967296 ]] || fail "the download is not whole"
say "4 GiB up"
[[ "$(curl -fsS -T "$work/www/large" -X POST "$url/upload")" == 4294967296 ]] || fail "the upload is not whole"
say "peak resident memory: $before MiB before, $(peak) MiB after"
[[ $(($(peak) - before)) -lt 32 ]] || fail "memory grows with the body"

say "an event stream, event by event"
python3 - <<'PYTHON' || fail "events do not come one by one"
import http.client, urllib.request
connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=20)
connection.request("GET", "/events")
answer = connection.getresponse()
for number in range(5):
    assert answer.readline() == f"data: {number}\n".encode() and answer.readline() == b"\n"
    urllib.request.urlopen("http://127.0.0.1:8080/next", timeout=20).read()
assert answer.read() == b""
PYTHON

say "Expect: 100-continue, HEAD, ranges, HTTP/1.0, an early answer, a half-closed client"
[[ "$(head -c 2000000 /dev/zero | curl -fsS -H 'Expect: 100-continue' --data-binary @- "$url/upload")" == 2000000 ]] || fail "Expect"
curl -fsSI "$url/file" | tr -d '\r' | grep -qix 'content-length: 100000' || fail "HEAD"
[[ "$(curl -fsS -r 100-199 -o "$work/range" -w '%{http_code}' "$url/file")" == 206 ]] || fail "a range is not 206"
cmp <(tail -c +101 "$work/www/file" | head -c 100) "$work/range" || fail "a range has other bytes"
[[ "$(curl -sS -r 200000- -o /dev/null -w '%{http_code}' "$url/file")" == 416 ]] || fail "an impossible range is not 416"
cmp <(curl -fsS --http1.0 "$url/file") "$work/www/file" || fail "HTTP/1.0"
[[ "$(head -c 50000000 /dev/zero | curl -sS -o /dev/null -w '%{http_code}' -H 'Expect:' --data-binary @- "$url/early")" == 413 ]] ||
    fail "an answer before the body has ended is lost"
python3 - <<'PYTHON' || fail "a client that half closes gets no answer it can account for"
import socket
# Who closes its side after the request has left as far as anyone can tell: the request is given up and logged as 499,
# or answered in whole; never half.
with socket.create_connection(("127.0.0.1", 8080), timeout=20) as client:
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    answer = b""
    while part := client.recv(65536):
        answer += part
assert answer == b"" or answer.endswith(b"\r\n\r\nhello"), answer
PYTHON

kill -TERM "$proxy"
wait "$proxy" || fail "SIGTERM ended it with $?"
