#!/usr/bin/env bash
# Every test of the workspace and of the page, and how many they were.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

log=target/test-log
mkdir -p "$log"
failed=()

# run NAME COMMAND...: shows the output and keeps a copy of it for the count.
run() {
    local name=$1
    shift
    say "$name: $*"
    "$@" 2>&1 | tee "$log/$name.txt" || failed+=("$name")
}

# What cargo (and its doc tests) and node's test runner print at their ends, added up.
total() {
    local escape
    escape=$(printf '\033')
    sed "s/$escape\[[0-9;]*m//g" "$log/rust.txt" "$log/web.txt" | awk '
        /^test result:/ { passed += $4; bad += $6; skipped += $8 }
        /^[^ ]+ pass [0-9]+$/ { passed += $3 }
        /^[^ ]+ fail [0-9]+$/ { bad += $3 }
        /^[^ ]+ (skipped|todo) [0-9]+$/ { skipped += $3 }
        END { printf "%d passed, %d failed, %d skipped", passed, bad, skipped }'
}

run rust cargo test --workspace --locked --no-fail-fast
if node_fits; then
    run web npm --prefix web test
else
    failed+=(web)
    warn "the tests of the page need node and npm: run 'make setup'" | tee "$log/web.txt"
fi

say "tests in all: $(total)"
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
