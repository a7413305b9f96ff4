# Shared by the scripts of this folder: source it, do not run it.
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=$ROOT/target/tools
cd "$ROOT"

# Tools of a pinned version live in the build folder and win over those of the machine. Debian
# keeps servers such as nginx in /usr/sbin, which is not in the PATH of an ordinary user.
export PATH="$TOOLS/bin:$PATH:/usr/sbin:/sbin"

say() {
    printf '==> %s\n' "$*"
}

warn() {
    printf 'warning: %s\n' "$*" >&2
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Whether node and npm are there and new enough for the web build: Vite needs node 20.19 or
# newer, 22.12 or newer, or 24 and up (the odd releases between them are not supported).
node_fits() {
    has node && has npm || return 1
    local version major minor
    version=$(node --version 2>/dev/null) || return 1
    version=${version#v}
    major=${version%%.*}
    minor=${version#*.}
    minor=${minor%%.*}
    case $major in
        20) ((minor >= 19)) ;;
        22) ((minor >= 12)) ;;
        *) ((major >= 24)) ;;
    esac
}
