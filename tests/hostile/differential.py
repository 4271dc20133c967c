"""Sends every hostile request to a proxy, and what reaches the backend to real servers: none may see another number of
requests in it than the proxy has sent.

    differential.py PROXY_PORT RECORDER_PORT_FILE NAME=PORT...

It starts the recording backend, writes its port into the file, and waits for the proxy. To what was recorded on each connection
to the backend a last request is added, for /sentinel; whoever reads the record as one request answers twice, and the
second time with `/sentinel`. A server may refuse the record; it may not find more, or lose the sentinel in a body.
"""

import re
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import cases
import wire

SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def reading(port, record):
    """How a server reads a record: the statuses of its answers, and whether the last of them is the sentinel's."""
    with socket.create_connection(("127.0.0.1", port), timeout=wire.PATIENCE) as stream:
        stream.sendall(record + SENTINEL)
        answer = wire.read_until(stream, b"", lambda data: data.endswith(b"sentinel]"))
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d\d\d)", answer)]
    return [status for status in statuses if status >= 200], answer.endswith(b"[sentinel]"), answer.count(b"[smuggled]")


def verdict(port, record):
    """`agrees`, `refuses`, or what went wrong."""
    statuses, sentinel, smuggled = reading(port, record)
    # What follows a sound request is a request of its own, and comes on a connection of its own.
    if smuggled > (b" /smuggled " in record.split(b"\r\n")[0]):
        return f"saw the hidden request: {statuses}"
    if sentinel and len(statuses) == 2:
        return "agrees"
    if not sentinel and len(statuses) == 1 and 400 <= statuses[0] < 600:
        return "refuses"
    return f"disagrees: {statuses}, sentinel {sentinel}"


def main():
    proxy, port_file = int(sys.argv[1]), sys.argv[2]
    servers = {name: int(port) for name, port in (word.split("=") for word in sys.argv[3:])}
    recorder = wire.Recorder()
    with open(port_file, "w") as file:
        print(recorder.port, file=file)
    until = time.monotonic() + 30
    while wire_is_down(proxy):
        if time.monotonic() > until:
            sys.exit("the proxy did not come")
        time.sleep(0.1)
    time.sleep(0.5)
    recorder.take()

    requests = cases.all()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda case: wire.ask(proxy, case.request, 3), requests))
    time.sleep(3)
    records = recorder.take()
    for record in records:
        if not wire.Recorder.is_whole(record):
            sys.exit(f"a backend got what is no whole request: {record!r}")
        head = record.index(b"\r\n\r\n") + 4
        if wire.body_end(record, head, record[: head - 4].split(b"\r\n")[1:]) != len(record):
            sys.exit(f"a backend got more than one request at once: {record!r}")

    distinct = sorted({re.sub(rb"(?i)x-request-id: [^\r]*", b"x-request-id: 0", record) for record in records})
    refused = sum(isinstance(answer, int) and 400 <= answer < 500 for answer in answers)
    print(f"   {len(requests)} requests: {refused} refused, {len(records)} reached the backend, {len(distinct)} of them distinct")
    wrong = 0
    for name, port in servers.items():
        with ThreadPoolExecutor(8) as pool:
            verdicts = list(pool.map(lambda record: verdict(port, record), distinct))
        told = {word: verdicts.count(word) for word in ("agrees", "refuses")}
        print(f"   {name}: {told['agrees']} read as one request, {told['refuses']} refused")
        for record, said in zip(distinct, verdicts):
            if said not in told:
                wrong += 1
                print(f"   {name} {said}: {record!r}")
    if len(distinct) < 20 or wrong:
        sys.exit(f"{wrong} disagreements" if wrong else "too little came through to say anything")


def wire_is_down(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return False
    except OSError:
        return True


main()
