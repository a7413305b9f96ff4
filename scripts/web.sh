#!/usr/bin/env bash
# Builds the page into web/dist, only when its sources changed.
#
# Without node and npm this is a warning and no error: lavant then serves a plain page.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

modules_stamp=web/node_modules/.lavant-stamp
dist_stamp=target/web.stamp

# Whether a source of the page is newer than the last build. Folders count as well, so that a
# deleted file is noticed; the tests of the page do not.
sources_changed() {
    [[ -e $dist_stamp && -e web/dist/index.html ]] || return 0
    [[ $modules_stamp -nt $dist_stamp ]] && return 0
    [[ -n $(find web -mindepth 1 \
        \( -name node_modules -o -name dist -o -path web/tests \) -prune -o \
        -newer "$dist_stamp" -print -quit) ]]
}

install_modules() {
    if [[ ! -e $modules_stamp ||
        web/package.json -nt $modules_stamp || web/package-lock.json -nt $modules_stamp ]]; then
        say "web: npm ci"
        npm --prefix web ci --no-audit --no-fund
        touch "$modules_stamp"
    fi
}

if ! node_fits; then
    warn "the page needs node 20.19, 22.12 or 24 (or newer) and npm: lavant gets a plain page" \
        "instead. Run 'make setup' to install them."
    exit 0
fi

install_modules
mkdir -p target
if sources_changed; then
    say "web: npm run build"
    # The stamp is older than whatever is saved while the build runs.
    touch "$dist_stamp.next"
    npm --prefix web run build
    mv "$dist_stamp.next" "$dist_stamp"
else
    say "web: up to date"
fi
