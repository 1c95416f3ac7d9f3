# shellcheck shell=bash
# Shared by the scripts: where things are kept, how they report. Source it, do not run it.

# Everything that outlives a clone: tools, the toolchain choice, CI's build folder.
export WEFT_CACHE=${WEFT_CACHE:-$HOME/.cache/weft}
export WEFT_TOOLS=$WEFT_CACHE/tools

say() { printf '==> %s\n' "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '       %s\n' "$@" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# version_at_least HAVE WANT
version_at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# Runs a command as root: directly, or through sudo.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        return 127
    fi
}

# Runs a long command with its output in a log, a line of progress every few seconds, and the
# log's end on failure.
#   quietly WHAT COMMAND...
quietly() {
    local what=$1 log started status=0 pid
    shift
    log=$(mktemp)
    started=$SECONDS
    say "$what"
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        if (((SECONDS - started) % 10 == 9)); then
            note "$((SECONDS - started)) s: $(tail -n 1 "$log" | cut -c 1-100)"
        fi
        sleep 1
    done
    wait "$pid" || status=$?
    if ((status != 0)); then
        tail -n 40 "$log" >&2
        printf 'error: %s failed (status %d); its last lines are above\n' "$what" "$status" >&2
    else
        note "done in $((SECONDS - started)) s"
    fi
    rm -f "$log"
    return "$status"
}

deb_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Brings the package lists up to date, at most once per run.
APT_UPDATED=0
apt_update() {
    ((APT_UPDATED)) && return 0
    APT_UPDATED=1
    # One source that is away must not stop what the others have: the installation decides.
    quietly "updating Debian's package lists" as_root apt-get update || note "going on with what is known"
}

deb_available() {
    local candidate
    candidate=$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p')
    [[ -n $candidate && $candidate != "(none)" ]]
}

# Installs those of the packages that are missing. Never removes one: a conflict is reported.
#   debs_install WHY PACKAGE...
debs_install() {
    local why=$1 missing=() package
    shift
    for package in "$@"; do
        deb_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]} == 0)) && return 0
    if ((EUID != 0)) && ! have sudo; then
        printf 'error: as root: apt-get install %s\n' "${missing[*]}" >&2
        return 1
    fi
    apt_update
    quietly "installing $why: ${missing[*]}" \
        as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends --no-remove \
        -o Dpkg::Options::=--force-confold "${missing[@]}"
}

# A check that could not be made must not look like one that passed.
#   skipped WHAT WHY
skipped() {
    printf '\n**** SKIPPED: %s\n****          %s\n\n' "$1" "$2" >&2
}
