"""Starts one proxy over given backends from its template, and ends it.

What each proxy calls a policy stands in `POLICIES`; a policy that it does not have is not there. Templates are the
configurations as they run, with @WORDS@ for what differs between runs.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
TEMPLATE = {"roundel": "roundel.yaml", "nginx": "nginx.conf", "haproxy": "haproxy.cfg", "envoy": "envoy.yaml"}

POLICIES = {
    "roundel": {
        "round_robin": "round_robin",
        "least_requests": "least_requests",
        "peak_ewma": "peak_ewma",
        "random": "random",
        "random_1": "{ random: { choices: 1 } }",
        "hash_client_ip": "{ hash: { key: client_ip } }",
        "hash_uri": "{ hash: { key: uri } }",
    },
    "nginx": {
        "round_robin": "",
        "least_requests": "least_conn;",
        "random": "random two least_conn;",
        "random_1": "random;",
        "hash_client_ip": "hash $remote_addr consistent;",
        "hash_uri": "hash $request_uri consistent;",
    },
    "haproxy": {
        "round_robin": "balance roundrobin",
        "least_requests": "balance leastconn",
        "random": "balance random(2)",
        "random_1": "balance random(1)",
        "hash_client_ip": "balance source\n    hash-type consistent",
        "hash_uri": "balance uri whole\n    hash-type consistent",
    },
    "envoy": {
        "round_robin": "lb_policy: ROUND_ROBIN",
        "least_requests": "lb_policy: LEAST_REQUEST",
        "random_1": "lb_policy: RANDOM",
        "hash_client_ip": "lb_policy: RING_HASH",
        "hash_uri": "lb_policy: RING_HASH",
    },
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def envoy_binary():
    beside = pathlib.Path(sys.prefix) / "bin" / "envoy"
    return str(beside) if beside.exists() else shutil.which("envoy") or "envoy"


class Peer:
    """A proxy at work: `with Peer("nginx", "round_robin", [("127.0.0.1:9001", 5)]) as peer: ... peer.port`."""

    def __init__(self, kind, policy, backends, **words):
        self.kind, self.port, self.admin = kind, free_port(), free_port()
        self.directory = tempfile.mkdtemp(prefix=f"balance-{kind}-")
        text = (HERE / "templates" / TEMPLATE[kind]).read_text()
        values = {
            "LISTEN": f"127.0.0.1:{self.port}",
            "PORT": str(self.port),
            "ADMIN": str(self.admin),
            "DIRECTORY": self.directory,
            "POLICY": POLICIES[kind][policy],
            "HASH": ENVOY_HASH.get(policy, ""),
            "BACKENDS": "\n".join(backend_line(kind, *backend) for backend in backends),
            "PROBE": PROBE[kind].get(words.pop("probe", "tcp"), ""),
            "CHECK_INTERVAL": words.pop("check_interval", "1s"),
            "EXTRA": EXTRA[kind].get(words.pop("extra", None), ""),
            "ATTEMPTS": str(words.pop("attempts", 1)),
        }
        assert not words, words
        for word, value in values.items():
            text = text.replace(f"@{word}@", value)
        self.file = pathlib.Path(self.directory) / TEMPLATE[kind]
        self.file.write_text(text)

    def command(self):
        match self.kind:
            case "roundel":
                return [os.environ["ROUNDEL"], "-c", str(self.file)]
            case "nginx":
                return ["nginx", "-p", self.directory, "-c", str(self.file), "-g", "daemon off;"]
            case "haproxy":
                return ["haproxy", "-db", "-f", str(self.file)]
            case "envoy":
                # One worker, as the others; no shared memory, so that it meets no other Envoy.
                options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
                return [envoy_binary(), "-c", str(self.file), *options]

    def __enter__(self):
        log = open(pathlib.Path(self.directory) / "log", "w")
        environment = {**os.environ, "RUNTIME_DIRECTORY": self.directory}
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=environment)
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() - self.started > 60:
                self.__exit__()
                raise SystemExit(f"{self.kind} does not start: see {self.directory}")
            time.sleep(0.01)
        self.ready_after = time.monotonic() - self.started
        return self

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, *failure):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if failure and failure[0] is None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def cpu_seconds(self):
        """Processor time of the process and of its children (nginx works in a child)."""
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return sum(cpu_seconds(pid) for pid in [self.process.pid, *map(int, children.stdout.split())])

    def resident_mib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def backend_line(kind, address, weight):
    host, port = address.rsplit(":", 1)
    match kind:
        case "roundel":
            return f"      - {{ address: {address}, weight: {weight} }}"
        case "nginx":
            return f"        server {address} weight={weight};"
        case "haproxy":
            return f"    server {address} {address} weight {weight} check"
        case "envoy":
            endpoint = f"address: {{ socket_address: {{ address: {host}, port_value: {port} }} }}"
            return f"        - {{ endpoint: {{ {endpoint} }}, load_balancing_weight: {weight} }}"


ENVOY_HASH = {
    "hash_client_ip": "hash_policy: [{ connection_properties: { source_ip: true } }],",
    "hash_uri": 'hash_policy: [{ header: { header_name: ":path" } }],',
}

PROBE = {
    "roundel": {"tcp": "tcp", "http": "http"},
    "nginx": {},
    "haproxy": {"http": "option httpchk GET /"},
    "envoy": {"tcp": "tcp_health_check: {}", "http": "http_health_check: { path: / }"},
}

# What `eject` adds: five errors in a row take a backend out for 10 s, then it is ramped up over 10 s.
EXTRA = {
    "roundel": {
        "eject": """    outlier: { consecutive_errors: 5, base_ejection: 10s, max_ejection: 10s, max_ejected: 34% }
    slow_start: 10s""",
    },
    "nginx": {},
    "haproxy": {
        "eject": "    default-server observe layer7 error-limit 5 on-error mark-down inter 10s rise 1 slowstart 10s",
    },
    "envoy": {
        "eject": """    outlier_detection:
      consecutive_5xx: 5
      consecutive_gateway_failure: 5
      enforcing_consecutive_gateway_failure: 100
      base_ejection_time: 10s
      max_ejection_time: 10s
      max_ejection_time_jitter: 0s
      max_ejection_percent: 34
      interval: 1s
    round_robin_lb_config: { slow_start_config: { slow_start_window: 10s } }""",
    },
}


def version(kind):
    command = {
        "roundel": [os.environ["ROUNDEL"], "--version"],
        "nginx": ["nginx", "-v"],
        "haproxy": ["haproxy", "-v"],
        "envoy": [envoy_binary(), "--version"],
    }[kind]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0]
