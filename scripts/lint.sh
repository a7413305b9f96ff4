#!/usr/bin/env bash
# Every check that needs no running program; stops at the first that fails.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

step() {
    say "$*"
    "$@"
}

step cargo fmt --all -- --check
if [[ -e fuzz/Cargo.toml ]]; then
    step cargo fmt --manifest-path fuzz/Cargo.toml -- --check
fi
step cargo run --quiet --locked --package xtask -- tidy
step cargo clippy --workspace --all-targets --locked -- -D warnings
# The comments of the shell's flags are its help, where a URL stands as it is.
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --exclude lavant --no-deps --locked --quiet
step cargo deny --locked --log-level warn check bans licenses sources
step typos
step shellcheck --external-sources --source-path=SCRIPTDIR scripts/*.sh .ci/run
step npm --prefix web run check
say "lint: clean"
