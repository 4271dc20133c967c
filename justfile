# What one does here, by name. `just` lists it.

_list:
    @just --list --unsorted

# All that a change must pass before it is proposed, without the acceptance runs
check: fmt lint test docs

# Format the sources
fmt:
    cargo fmt

# Clippy, with every warning an error
lint:
    cargo clippy --all-targets -- -D warnings

# Unit, architecture and integration tests; `just test failover` runs those of that name
test *filter:
    cargo test {{ filter }}

# The API documentation, with every warning an error
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# Micro-benchmarks
bench:
    cargo bench

# Three sample backends and the proxy over them
demo:
    cargo run --release -- demo

# The container image
image:
    docker build -f docker/Dockerfile -t roundel .

# Everything that continuous integration does (Debian, as root: it installs packages)
ci:
    .ci/run
