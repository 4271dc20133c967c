#!/usr/bin/env python3
"""What a small request costs, in counts that do not change with the machine's load: user instructions (valgrind's
callgrind), heap allocations (the calls of the allocator in the same profile) and system calls (strace).

    count.py ROUNDEL              compares with budget.toml beside this file; exit 1 where something went over
    count.py ROUNDEL --features   prints what each default feature costs, as a table
    count.py ROUNDEL --profile F  leaves the profile of the lane's run in F

One connection, one request after the other: the least that a request can share with others.
"""

import argparse
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

import peers

HERE = pathlib.Path(__file__).resolve().parent
COUNTED = 4000
WARM_UP = 1000
ALLOCATE = re.compile(r"_rjem_(malloc|calloc|realloc|mallocx|rallocx)$")

CONFIG = """\
server: {{ threads: 1 }}
listeners: [{{ address: "127.0.0.1:{port}", protocols: [h2, h1], lane: {lane}, limits: {{ keepalive_requests: 1000000 }} }}]
admin: none
access_log: {log}
upstreams:
  web: {{ backends: ["127.0.0.1:{one}", "127.0.0.1:{two}"]{upstream} }}
{more}"""


class Proxy:
    """The binary under test, behind `wrapper`, with two backends."""

    def __init__(self, binary, lane="auto", log=True, upstream="", more="", wrapper=()):
        self.work = tempfile.TemporaryDirectory()
        work = pathlib.Path(self.work.name)
        # The backends come first: one of them could be given the port that was free a moment ago.
        one, two = peers.backend(), peers.backend()
        self.port = free_port()
        config = CONFIG.format(
            port=self.port,
            lane=lane,
            log=f"{{ path: {work}/access.log }}" if log else "none",
            one=one,
            two=two,
            upstream=upstream,
            more=more,
        )
        (work / "roundel.yaml").write_text(config)
        (work / "run").mkdir(mode=0o700)
        self.log = (work / "process.log").open("w+")
        self.process = subprocess.Popen(
            [*wrapper, binary, "-c", work / "roundel.yaml"],
            env={**os.environ, "RUNTIME_DIRECTORY": str(work / "run")},
            stdout=self.log,
            stderr=self.log,
        )

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                break
            if peers.answers(self.port):
                return self
            time.sleep(0.1)
        self.log.seek(0)
        sys.exit(f"the proxy does not serve:\n{self.log.read()}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()
        self.work.cleanup()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def profile(binary, keep=None, ask=peers.ask, **setup):
    """Instructions and allocations for each request."""
    with tempfile.TemporaryDirectory() as work:
        out = pathlib.Path(work) / "callgrind"
        # By thread, so that what goes on in the background, which is by the second and not by the request, is left out.
        wrapper = ["valgrind", "--quiet", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={out}"]
        with Proxy(binary, wrapper=wrapper, **setup) as proxy:
            def control(flag):
                command = ["callgrind_control", flag, str(proxy.process.pid)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

            ask(proxy.port, WARM_UP)
            control("--zero")
            ask(proxy.port, COUNTED)
            control("--dump")
        # The first dump is the counted one, and requests are served by the thread that did most.
        dumps = pathlib.Path(work).glob("callgrind.1-*")
        most = max(dumps, key=lambda dump: read_profile(dump)["instructions"])
        if keep:
            pathlib.Path(keep).write_text(most.read_text())
        return read_profile(most)


def read_profile(path):
    """Instructions, and calls of the allocator, for each request."""
    names, called, instructions, allocations = {}, None, 0, 0
    with path.open() as lines:
        for line in lines:
            if line.startswith(("fn=", "cfn=")):
                number, _, name = line.split("=", 1)[1].rstrip("\n").partition(" ")
                if name:
                    names[number] = name
                if line.startswith("cfn="):
                    called = names[number]
            elif line.startswith("calls=") and ALLOCATE.match(called.split("'")[0]):
                allocations += int(line[6:].split()[0])
            elif line.startswith("totals:"):
                instructions = int(line.split()[1])
    return {"instructions": instructions / COUNTED, "allocations": allocations / COUNTED}


def system_calls(binary, ask=peers.ask, **setup):
    """System calls for each request, and which."""
    with tempfile.NamedTemporaryFile("r") as out, Proxy(binary, **setup) as proxy:
        ask(proxy.port, WARM_UP)
        trace = subprocess.Popen(
            ["strace", "-c", "-f", "-o", out.name, "-p", str(proxy.process.pid)], stderr=subprocess.PIPE, text=True
        )
        # It says on its standard error that it is attached.
        if "attached" not in (said := trace.stderr.readline()):
            sys.exit(f"strace cannot attach: {said}")
        time.sleep(0.5)
        ask(proxy.port, COUNTED)
        trace.send_signal(signal.SIGINT)
        trace.communicate()
        calls = {}
        for line in out.read().splitlines():
            columns = line.split()
            if len(columns) >= 5 and columns[3].isdigit() and columns[-1] != "total":
                calls[columns[-1]] = int(columns[3]) / COUNTED
        return {name: count for name, count in calls.items() if count >= 0.01}


def measure(binary, name, keep=None, **setup):
    counts = profile(binary, keep=keep, **setup)
    calls = system_calls(binary, **setup)
    each = ", ".join(f"{name} {count:.2f}" for name, count in sorted(calls.items(), key=lambda call: -call[1]))
    print(f"   {name}: system calls: {each}")
    return {**counts, "system_calls": sum(calls.values())}


ROADS = {
    "lane": {},
    "lane_h2": {"ask": peers.ask_over_http_2},
    "general": {"lane": "off"},
}


def compare(binary, keep):
    budget = tomllib.loads((HERE / "budget.toml").read_text())
    tolerance = budget["tolerance"]
    over = False
    for road, setup in ROADS.items():
        found = measure(binary, road, keep if road == "lane" else None, **setup)
        for what, count in found.items():
            most = budget[road][what]
            bound = most * (1 + tolerance["share"]) + tolerance[what]
            verdict = "within" if count <= bound else "OVER"
            if count < most * (1 - tolerance["share"]) - tolerance[what]:
                verdict = "under: lower the budget"
            over |= verdict == "OVER"
            print(f"   {road:8} {what:13} {count:10.2f}  budget {most:9.2f}  {verdict}")
    if over:
        print("over the budget: lower the cost, or raise benches/budget/budget.toml and say why there")
    return 1 if over else 0


FEATURES = [
    ("all defaults", {}),
    ("all defaults, and 1 % of requests traced", {"more": "tracing: { otlp: 'http://127.0.0.1:9', sample: 1% }\n"}),
    ("without the access log", {"log": False}),
    ("without outlier detection", {"upstream": ", outlier: none"}),
    ("without health checks", {"upstream": ", health_check: none"}),
    ("without retries", {"upstream": ", retry: none"}),
    ("with bounds on the upstream's requests and connections", {"upstream": ", limits: { requests: 1000, connections: 1000 }"}),
    ("with `balance: least_requests`", {"upstream": ", balance: least_requests"}),
    ("with a rate limit for each client", {"filters": "rate_limit: { key: client_ip, rate: 1000000/s, burst: 1000000 }"}),
    ("with one edited field each way", {"filters": "request_headers: { set: { x-env: prod } }", "also": "response_headers: { remove: [server] }"}),
    ("over HTTP/2", {"ask": peers.ask_over_http_2}),
    ("on the general road (`lane: off`)", {"lane": "off"}),
    ("on the general road over HTTP/2", {"lane": "off", "ask": peers.ask_over_http_2}),
]


def features(binary):
    print("| | instructions | allocations |\n| --- | --- | --- |")
    for name, setup in FEATURES:
        filters = [setup.pop(key) for key in ("filters", "also") if key in setup]
        if filters:
            setup["more"] = "routes:\n  - to: web\n    filters:\n" + "".join(f"      - {one}\n" for one in filters)
        counts = profile(binary, **setup)
        print(f"| {name} | {counts['instructions']:.0f} | {counts['allocations']:.2f} |", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary")
    arguments.add_argument("--features", action="store_true")
    arguments.add_argument("--profile")
    given = arguments.parse_args()
    if given.features:
        return features(given.binary)
    return compare(given.binary, given.profile)


if __name__ == "__main__":
    sys.exit(main())
