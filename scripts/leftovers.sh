# shellcheck shell=bash
# What tests could leave on a machine, noted before and compared after. Source it, do not run it.
#   leftovers_before; ...; leftovers_remove
# The second prints and removes what is new, and fails if there was anything. Processes are known
# by a mark in their environment; of the rest nobody can tell whose it is, so it is looked at only
# where CI=true says that nothing else uses the machine.

export WEFT_RUN_MARK="weft-run-$$-$RANDOM"
LEFTOVERS_BEFORE=

# This run's processes, one pid a line. Not this shell: what is exported later is not in the
# environment that it was started with.
leftover_processes() {
    local dir
    for dir in /proc/[0-9]*; do
        if grep -qzxF "WEFT_RUN_MARK=$WEFT_RUN_MARK" "$dir/environ" 2>/dev/null; then
            echo "${dir#/proc/}"
        fi
    done
}

# One line for each thing: kind, a tab, its name.
leftover_things() {
    local cgroups
    find /run/netns -mindepth 1 -maxdepth 1 -printf 'namespace\t%f\n' 2>/dev/null || true
    find /sys/fs/bpf -mindepth 1 -maxdepth 2 -printf 'pin\t%p\n' 2>/dev/null || true
    cgroups=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
    if [[ -n $cgroups ]]; then
        find "$cgroups" -mindepth 1 -maxdepth 2 -type d -name '*weft*' -printf 'cgroup\t%p\n' 2>/dev/null || true
    fi
    find /run/weft-lab -mindepth 1 -maxdepth 1 -type d -printf 'lab\t%p\n' 2>/dev/null || true
    awk '$2 ~ /weft/ {print "mount\t" $2}' /proc/mounts
    ip -o link show 2>/dev/null | awk -F': ' '{sub(/@.*/, "", $2); print "link\t" $2}' || true
    ip rule show 2>/dev/null | awk '{$1 = $1; print "rule\t" $0}' || true
}

leftovers_before() {
    LEFTOVERS_BEFORE=$(leftover_things | sort -u)
}

remove_leftover_thing() {
    local kind=$1 name=$2 rule
    case $kind in
    mount) umount -l "$name" ;;
    namespace) ip netns delete "$name" ;;
    link) ip link delete "$name" 2>/dev/null ;;
    pin | lab) rm -rf "$name" ;;
    cgroup) find "$name" -depth -type d -exec rmdir {} + ;;
    rule)
        read -ra rule <<<"${name#*: }"
        ip rule delete pref "${name%%:*}" "${rule[@]}"
        ;;
    esac || true
}

# Processes that are being waited for by nobody may need a moment to be gone.
await_processes() {
    local deadline=$((SECONDS + 5)) pids
    while pids=$(leftover_processes) && [[ -n $pids ]] && ((SECONDS < deadline)); do
        sleep 0.2
    done
    printf '%s' "$pids"
}

leftovers_remove() {
    local pids pid new='' kind name status=0
    pids=$(await_processes)
    for pid in $pids; do
        status=1
        printf 'error: left running, now killed: %s %s\n' "$pid" \
            "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" >&2
        kill -KILL "$pid" 2>/dev/null || true
    done
    if [[ ${CI:-} == true ]]; then
        new=$(comm -13 <(printf '%s\n' "$LEFTOVERS_BEFORE") <(leftover_things | sort -u))
    fi
    [[ -n $new ]] || return "$status"
    printf 'error: left behind on the machine, now removed:\n%s\n' "$new" >&2
    while IFS=$'\t' read -r kind name; do
        remove_leftover_thing "$kind" "$name"
    done <<<"$new"
    return 1
}
