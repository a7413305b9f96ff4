#!/usr/bin/env bash
# Builds lavant, starts a node with a sample film and prints where to open it. Ctrl-C (or
# SIGTERM) is passed on to the node once, and its end is waited for.
#
#   PORT=7777 scripts/run.sh
#
# LAVANT_BIN names a binary to start in place of a fresh build.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

port=${PORT:-7777}
if [[ ! $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
    die "PORT=$port is no port: use 1 to 65535"
fi
base=http://127.0.0.1:$port
store=.lavant/store
film=target/sample/film.mp4
title="Sample stream"
health_seconds=30
lavant=${LAVANT_BIN:-target/release/lavant}
node=
helper=
stopping=

running() {
    kill -0 "$1" 2>/dev/null
}

# Waits for a child to end, however often a signal interrupts the waiting; its status is ours.
wait_for() {
    local status
    while :; do
        status=0
        wait "$1" || status=$?
        running "$1" || return "$status"
    done
}

# shellcheck disable=SC2317  # called by the traps
pass_on() {
    stopping=1
    [[ -z $helper ]] || kill -TERM -- "-$helper" 2>/dev/null || true
    [[ -z $node ]] || kill "-$1" "$node" 2>/dev/null || true
}

# attend COMMAND...: runs it to its end, in a process group of its own, so that a signal ends
# it with everything that it started. Returns its status.
attend() {
    [[ -z $stopping ]] || return 1
    local status=0
    set -m
    "$@" </dev/null &
    helper=$!
    set +m
    wait_for "$helper" || status=$?
    helper=
    return "$status"
}

build() {
    [[ -z ${LAVANT_BIN:-} ]] || return 0
    say "cargo build --release (the first time takes some minutes)"
    attend cargo build --release --locked --package lavant
}

# A minute of test picture with a clock and a tone, made once.
make_film() {
    [[ ! -s $film ]] || return 0
    say "making a sample film: $film"
    mkdir -p "$(dirname "$film")"
    local partial=$film.$$.mp4 status=0
    attend ffmpeg -hide_banner -loglevel error -nostdin -y \
        -f lavfi -i testsrc2=size=1280x720:rate=25:duration=60 \
        -f lavfi -i sine=frequency=440:sample_rate=48000:duration=60 \
        -c:v libx264 -preset veryfast -pix_fmt yuv420p -g 50 -b:v 1200k \
        -c:a aac -b:a 96k -movflags +faststart "$partial" || status=$?
    if ((status)); then
        rm -f "$partial"
        return "$status"
    fi
    mv "$partial" "$film"
}

fetch() {
    curl --silent --fail --noproxy '*' --max-time 5 "$base$1"
}

# The node is in a process group of its own as well: Ctrl-C then reaches it once, from here,
# and not a second time from the terminal.
start_node() {
    set -m
    "$lavant" serve --store "$store" --port "$port" </dev/null &
    node=$!
    set +m
}

# True when the node answers; false when it ended (it said why) or needs too long.
wait_until_healthy() {
    local until=$((SECONDS + health_seconds))
    while running "$node"; do
        if fetch /health >/dev/null && running "$node"; then
            return 0
        fi
        if ((SECONDS >= until)); then
            warn "no answer from $base/health within $health_seconds s"
            kill -TERM "$node" 2>/dev/null || true
            return 1
        fi
        sleep 0.2
    done
    return 1
}

add_film() {
    if fetch /catalog | grep -Eq "\"title\": ?\"$title\""; then
        return
    fi
    attend "$lavant" ingest "$film" --title "$title" --daemon "$base" ||
        [[ -n $stopping ]] || warn "the sample film could not be added"
}

trap 'pass_on INT' INT
trap 'pass_on TERM' TERM HUP
build
make_film
# A stranger on the port would answer in place of our node, which is about to fail and to say so.
taken=
fetch /health >/dev/null && taken=1
start_node
if [[ -z $taken ]] && wait_until_healthy; then
    add_film
    if [[ -z $stopping ]] && running "$node"; then
        say "Open $base/"
    fi
fi
status=0
wait_for "$node" || status=$?
exit "$status"
