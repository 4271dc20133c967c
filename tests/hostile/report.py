"""Sends the named hostile requests to a proxy on both of its roads, to nginx and to HAProxy, has backends give them the named
hostile answers, and writes what becomes of each as a page.

    report.py ROUNDEL_BINARY > docs/conformance-peers.md

All stand before the same kind of backend, as they come but for their addresses. Loopback only; it ends by itself.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import cases
import wire

NGINX = """daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 256; }}
http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s; client_header_timeout 2s; client_body_timeout 2s;
  server {{ listen 127.0.0.1:{listen}; location / {{ proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_pass http://127.0.0.1:{backend}; }} }} }}
"""
HAPROXY = """defaults
  mode http
  timeout client 2s
  timeout connect 2s
  timeout server 4s
  timeout http-request 2s
frontend f
  bind 127.0.0.1:{listen}
  default_backend b
backend b
  server s 127.0.0.1:{backend}
"""
ROUNDEL = """listeners: [{{ address: "127.0.0.1:{listen}", lane: "LANE", timeouts: {{ header: 2s, body_idle: 2s }} }}]
admin: none
access_log: none
upstreams: {{ web: {{ backends: ["127.0.0.1:{backend}"], health_check: none, outlier: none, retry: none }} }}
"""
LANE, GENERAL = ROUNDEL.replace("LANE", "auto"), ROUNDEL.replace("LANE", "off")


def some_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Peer:
    """A proxy in a process of its own, before a backend of its own."""

    def __init__(self, name, config, command, version, backend):
        self.name, self.directory = name, tempfile.mkdtemp(prefix="hostile-")
        self.version = subprocess.run(version, capture_output=True, text=True, check=False)
        self.backend, self.port = backend(), some_port()
        path = os.path.join(self.directory, "config")
        with open(path, "w") as file:
            file.write(config.format(dir=self.directory, listen=self.port, backend=self.backend.port))
        environment = dict(os.environ, RUNTIME_DIRECTORY=os.path.join(self.directory, "run"))
        os.mkdir(environment["RUNTIME_DIRECTORY"], 0o700)
        words = [word.replace("CONFIG", path) for word in command]
        self.process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    sys.exit(f"{name} does not listen")
                time.sleep(0.1)

    def outcome(self, case):
        """What becomes of a request: a status, or what the backend got."""
        status = wire.ask(self.port, case.request, 6)
        # A record is there when its connection has ended; who was refused has none.
        refused = isinstance(status, int) and status >= 400
        until = time.monotonic() + (0.2 if refused else 4)
        records = self.backend.take()
        while not records and time.monotonic() < until:
            time.sleep(0.05)
            records += self.backend.take()
        if any(b" /smuggled " in record.split(b"\r\n")[0] for record in records):
            return "**a second request**"
        if any(not wire.Recorder.is_whole(record) for record in records):
            return "begun, then " + ("closed" if status == "closed" else str(status))
        if records:
            return "passed on" if any(case.mark.lower() in record.lower() for record in records) else "mended"
        return str(status)

    def outcome_of_answer(self, case):
        """What the client gets of an answer, and whether the backend's connection is used again."""
        self.backend.answer = case.answer
        got = wire.whole_answer(self.port, b"GET /case HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 6)
        status = got[9:12].decode(errors="replace") if got.startswith(b"HTTP/1.") else "closed"
        after = wire.whole_answer(self.port, b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 6)
        if b"evil" in after:
            return "**becomes the next answer**"
        if status == "200":
            status = "passed on" if case.mark in got else "mended"
            status += "" if wire.is_whole_answer(got) else ", broken off"
        return status + (", connection used again" if self.backend.same_connection() else "")

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def start(roundel, backend):
    return [
        Peer("Roundel, lane", LANE, [roundel, "-c", "CONFIG"], [roundel, "--version"], backend),
        Peer("Roundel, general road", GENERAL, [roundel, "-c", "CONFIG"], [roundel, "--version"], backend),
        Peer("nginx", NGINX, ["nginx", "-c", "CONFIG"], ["nginx", "-v"], backend),
        Peer("HAProxy", HAPROXY, ["haproxy", "-db", "-f", "CONFIG"], ["haproxy", "-v"], backend),
    ]


def outcomes(peers, rows, outcome):
    """Each row with what becomes of it at each peer; the peers end with it."""
    try:
        return [(case, [outcome(peer, case) for peer in peers]) for case in rows]
    finally:
        for peer in peers:
            peer.end()


def version(peer):
    line = (peer.version.stdout + peer.version.stderr).splitlines()[0]
    return " ".join(line.replace("version: nginx/", "").split(" - ")[0].split()[:3])


def table(what, peers, rows):
    print(f"| {what} | section | " + " | ".join(peer.name for peer in peers) + " |")
    print("| --- | --- |" + " --- |" * len(peers))
    for case, results in rows:
        print(f"| {case.about} | {case.section} | " + " | ".join(results) + " |")


def main():
    peers = start(sys.argv[1], wire.Recorder)
    rows = outcomes(peers, cases.named(), Peer.outcome)
    versions = "; ".join(dict.fromkeys(version(peer) for peer in peers))
    print(PAGE.format(versions=versions, count=len(rows)))
    table("request", peers, rows)
    peers = start(sys.argv[1], wire.Actor)
    rows = outcomes(peers, cases.answers(), Peer.outcome_of_answer)
    print(ANSWERS.format(count=len(rows)))
    table("answer", peers, rows)


PAGE = """# Hostile requests: Roundel beside nginx and HAProxy

Written by `python3 tests/hostile/report.py BINARY` from running programs ({versions}; the last two
are Debian's, older than the newest), each as it comes, before a backend that writes down the bytes it gets. {count} requests:

- a status: the proxy answered by itself, and no backend saw anything;
- *passed on*: the backend got it as it came (but for the case of letters in names);
- *mended*: the backend got a request without what was wrong with it;
- *begun*: the backend got the beginning of a request whose end never came;
- *a second request*: what the first one hid was sent to the backend as one of its own.

A difference is not always a fault of either: RFC 9112 leaves some cases to the recipient. Roundel's choices and their reasons are in
[conformance.md](conformance.md).
"""

ANSWERS = """
# Hostile answers

The other way round: a backend gives each of {count} answers, and keeps its connection open. What the client gets:

- a status: the proxy's own answer, in place of the backend's;
- *passed on*: the answer as it came; *mended*: the answer without what was wrong with it; *broken off*: begun, and the connection closed;
- *connection used again*: the next request came to the backend on the same connection.
"""

if __name__ == "__main__":
    main()
