#!/usr/bin/env bash
# Measures a node beside its peers, in one run each: serving beside nginx, putting a film in
# beside ffmpeg, and all of it beside cosmosd. Ratios to compare, not claims.
#
#   scripts/bench.sh [serving] [ingest] [cosmosd] [relay]
#
# LAVANT_BIN names a binary to measure in place of a fresh build.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

[[ -n ${LAVANT_BIN:-} ]] || cargo build --release --locked --package lavant
(($# > 0)) || set -- serving ingest cosmosd relay
for name in "$@"; do
    say "benches/$name.mjs"
    node "benches/$name.mjs"
done
