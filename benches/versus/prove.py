"""That a proxy does the job of all: asked each time before anything is measured."""

import http.client
import json
import socket
import ssl
import time

from peers import BY_CONNECTION, Missing

# Whom all clients ask for.
HOST = "bench.test"


def prove(peer):
    deadline = time.monotonic() + 5
    while True:
        try:
            answers(peer)
            break
        except (OSError, AssertionError, http.client.HTTPException) as why:
            # A listener may be open before what serves behind it.
            if time.monotonic() > deadline:
                raise Missing(f"{peer.kind} does not do its job: {why or repr(why)}") from why
            time.sleep(0.2)
    deadline = time.monotonic() + 5
    while peer.log and not has_line(peer):
        if time.monotonic() > deadline:
            raise Missing(f"{peer.kind} writes no JSON line to its access log")
        time.sleep(0.05)


def answers(peer):
    plain = http.client.HTTPConnection("127.0.0.1", peer.ports["plain"], timeout=5)
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    tls = http.client.HTTPSConnection("127.0.0.1", peer.ports["tls"], timeout=5)
    tls.sock = trust.wrap_socket(socket.create_connection(("127.0.0.1", peer.ports["tls"]), 5), server_hostname=HOST)
    if peer.kind in BY_CONNECTION:
        backends = [ask(http.client.HTTPConnection("127.0.0.1", peer.ports["plain"], timeout=5), "GET", "/", 32) for _ in range(4)]
    else:
        backends = [ask(plain, "GET", "/", 32) for _ in range(4)]
    assert sorted(backends) == ["1", "1", "2", "2"], f"no round robin over two backends: {backends}"
    ask(plain, "POST", "/", 32, bytes(10_240))
    ask(plain, "GET", "/files/100k", 100_000)
    ask(tls, "GET", "/", 32)
    ask(tls, "GET", "/files/100k", 100_000)
    plain.close()
    tls.close()


def ask(connection, method, path, length, body=None):
    """The backend that answered."""
    connection.request(method, path, body, {"Host": HOST})
    answer = connection.getresponse()
    got = len(answer.read())
    assert answer.status == 200 and got == length, f"{method} {path}: {answer.status}, {got} bytes"
    return answer.getheader("x-backend")


def has_line(peer):
    """Whether the log's last whole line is JSON that tells the request (HAProxy's own notices stand before it)."""
    lines = peer.log.read_text(errors="replace").splitlines() if peer.log.exists() else []
    for line in lines[-2:]:
        try:
            if json.loads(line).get("status") == 200:
                return True
        except ValueError:
            continue
    return False
