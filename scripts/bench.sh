#!/usr/bin/env bash
# How fast a node serves segments over HTTP, next to nginx with the same bytes: a number to
# compare on one machine, not a claim.
#
#   BENCH_SECONDS=10 BENCH_CONNECTIONS=32 scripts/bench.sh

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

seconds=${BENCH_SECONDS:-10}
connections=${BENCH_CONNECTIONS:-32}
lavant=${LAVANT_BIN:-target/release/lavant}
node_port=17777
nginx_port=17778
node=http://127.0.0.1:$node_port
film=target/bench/film.mp4
folder=$(mktemp -d)
processes=()

# shellcheck disable=SC2317  # called by the trap
clean_up() {
    local process
    for process in "${processes[@]}"; do
        kill -TERM "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

fetch() {
    curl --silent --fail --noproxy '*' --max-time 10 "$1"
}

# wait_for URL: until it answers, ten seconds at most.
wait_for() {
    local try
    for ((try = 0; try < 50; try++)); do
        fetch "$1" >/dev/null && return
        sleep 0.2
    done
    die "no answer from $1"
}

make_film() {
    [[ ! -s $film ]] || return 0
    mkdir -p "$(dirname "$film")"
    ffmpeg -hide_banner -loglevel error -nostdin -y \
        -f lavfi -i testsrc2=size=1280x720:rate=25:duration=30 \
        -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 50 -b:v 4M "$folder/film.mp4"
    mv "$folder/film.mp4" "$film"
}

start_node() {
    "$lavant" serve --store "$folder/store" --listen "127.0.0.1:$node_port" \
        </dev/null >"$folder/node.log" 2>&1 &
    processes+=($!)
    wait_for "$node/health"
    "$lavant" ingest "$film" --title Bench --node "$node" </dev/null >/dev/null
}

start_nginx() {
    mkdir "$folder/www"
    fetch "$1" >"$folder/www/segment.ts"
    chmod -R a+rX "$folder"
    printf '%s\n' "pid $folder/nginx.pid; error_log $folder/nginx.log;" \
        "daemon off; worker_processes auto; events { worker_connections 1024; }" \
        "http { access_log off; sendfile on; client_body_temp_path $folder/body;" \
        "proxy_temp_path $folder/proxy; fastcgi_temp_path $folder/fastcgi;" \
        "uwsgi_temp_path $folder/uwsgi; scgi_temp_path $folder/scgi;" \
        "server { listen 127.0.0.1:$nginx_port; root $folder/www; } }" >"$folder/nginx.conf"
    nginx -e "$folder/nginx.log" -c "$folder/nginx.conf" </dev/null &
    processes+=($!)
    wait_for "http://127.0.0.1:$nginx_port/segment.ts"
}

measure() {
    say "$1"
    wrk --threads 2 --connections "$connections" --duration "${seconds}s" --latency "$2" |
        grep -E '50%|99%|Requests/sec|Transfer/sec|Socket errors|Non-2xx' || true
}

[[ -n ${LAVANT_BIN:-} ]] || cargo build --release --locked --package lavant
make_film
start_node
content=$(fetch "$node/catalog" | sed -n 's/.*"content_id": *"\([^"]*\)".*/\1/p')
segment=$node/segment/$content/0
start_nginx "$segment"
measure "lavant: playlist" "$node/play/$content/index.m3u8"
measure "lavant: segment of $(stat -c %s "$folder/www/segment.ts") bytes" "$segment"
measure "nginx: the same segment" "http://127.0.0.1:$nginx_port/segment.ts"
