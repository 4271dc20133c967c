"""What clients do, and what is measured while they do it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Workload:
    """One kind of traffic. `flags` are those of `load.c`, or of h2load where `client` says so."""

    name: str
    title: str
    listener: str
    flags: tuple
    client: str = "load"
    connections: int = 32


SMALL = ("--path", "/", "--expect", "32")
LARGE = ("--path", "/files/100k", "--expect", "100000")
H2 = ("-m", "8")
# The cipher and the group that load.c offers.
H2_TLS = (*H2, "--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519")

WORKLOADS = [
    Workload("small", "small keep-alive", "plain", SMALL),
    Workload("post", "POST 10 KB", "plain", (*SMALL, "--post", "10240")),
    Workload("100k", "100 KB", "plain", LARGE),
    Workload("1m", "1 MB", "plain", ("--path", "/files/1m", "--expect", "1000000"), connections=16),
    Workload("new", "new connection each", "plain", (*SMALL, "--close")),
    Workload("rate", "fixed 6,000/s", "plain", (*SMALL, "--rate", "6000"), connections=64),
    Workload("h2c", "h2c", "h2c", H2, "h2load", 8),
    Workload("handshake", "TLS handshakes", "tls", (*SMALL, "--tls", "--close")),
    Workload("tls", "TLS keep-alive", "tls", (*SMALL, "--tls")),
    Workload("tls-100k", "TLS 100 KB", "tls", (*LARGE, "--tls")),
    Workload("tls-h2", "TLS HTTP/2", "tls", H2_TLS, "h2load", 8),
]
BY_NAME = {workload.name: workload for workload in WORKLOADS}

# Idle connections, each after one request: how many, on which listener.
IDLE = {
    "idle-1000": (1_000, "plain"),
    "idle-9000": (9_000, "plain"),
    "idle-tls-1000": (1_000, "tls"),
}
IDLE_TITLE = {"idle-1000": "1,000 idle", "idle-9000": "9,000 idle", "idle-tls-1000": "1,000 idle, TLS"}
