#!/usr/bin/env bash
# Runs fuzz targets, two at a time, each for a number of seconds.
#
#   scripts/fuzz.sh SECONDS [TARGET...]      (default: all targets)
#
# The stable compiler serves: RUSTC_BOOTSTRAP=1 lets it switch on the address sanitizer.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

seconds=${1:?seconds for each target}
shift
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "SECONDS=$seconds is no number of seconds"
[[ -e fuzz/Cargo.toml ]] || die "there is no fuzz/Cargo.toml"

export RUSTC_BOOTSTRAP=1
at_once=2
log=target/fuzz-log
mkdir -p "$log"

if (($#)); then
    targets=("$@")
else
    mapfile -t targets < <(cargo fuzz list)
fi

# fuzz TARGET: the committed seeds are read, what is found goes to fuzz/corpus.
fuzz() {
    local folders=("fuzz/corpus/$1")
    mkdir -p "fuzz/corpus/$1"
    [[ -d fuzz/seeds/$1 ]] && folders+=("fuzz/seeds/$1")
    cargo fuzz run "$1" "${folders[@]}" -- -max_total_time="$seconds" -max_len=65536 \
        -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 </dev/null >"$log/$1.txt" 2>&1
}

# finish TARGET PROCESS: waits for it and says how it went.
finish() {
    if wait "$2"; then
        say "$1: $(awk '/stat::number_of_executed_units/ { print $2 }' "$log/$1.txt") inputs, clean"
    else
        tail -n 60 "$log/$1.txt" >&2
        warn "$1 failed: the input is in fuzz/artifacts/$1, the output in $log/$1.txt"
        failed+=("$1")
    fi
}

say "building ${#targets[@]} fuzz targets"
cargo fuzz build

failed=()
for ((first = 0; first < ${#targets[@]}; first += at_once)); do
    batch=("${targets[@]:first:at_once}")
    say "fuzzing ${batch[*]} for $seconds s"
    processes=()
    for target in "${batch[@]}"; do
        fuzz "$target" &
        processes+=($!)
    done
    for index in "${!batch[@]}"; do
        finish "${batch[index]}" "${processes[index]}"
    done
done
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
