# shellcheck shell=bash
# Part of scripts/setup: chooses the compiler of the filters, for wasm32-unknown-unknown. It needs
# no package of its own: where rustup has the target's standard library, or can fetch it, that is
# used; elsewhere cargo builds it once from the sources that the compiler of the eBPF programs
# brought.

WASM_TARGET=wasm32-unknown-unknown
WASM_ENV=$WEFT_CACHE/wasm-toolchain.env

choose_wasm_toolchain() {
    local way=${WEFT_WASM_WAY:-}
    case $way in
    '' | target | source) ;;
    *) die "WEFT_WASM_WAY=$way is neither target nor source" ;;
    esac
    if wasm_choice_holds "$way"; then
        return 0
    fi
    if [[ $way != source ]] && wasm_std_present rustc; then
        wasm_record "WEFT_WASM_WAY=target"
    elif [[ $way != target ]] && wasm_source_choice; then
        return 0
    elif [[ $way != source ]] && have rustup &&
        quietly "installing Rust's $WASM_TARGET (rustup)" rustup target add "$WASM_TARGET"; then
        wasm_record "WEFT_WASM_WAY=target"
    else
        problem "no compiler for filters: rustup target add $WASM_TARGET fails, and no compiler with the sources of the standard library is there (a nightly with rust-src, or Debian's rustc-web with rust-web-src)"
    fi
}

# wasm_std_present COMPILER...: does it have the target's standard library?
wasm_std_present() {
    local libdir
    libdir=$("$@" --print target-libdir --target "$WASM_TARGET" 2>/dev/null) || return 1
    compgen -G "$libdir/libstd-*.rlib" >/dev/null
}

# The compiler of the eBPF programs, if it has the sources and can link for the target.
wasm_source_choice() {
    local name
    if grep -q '^WEFT_EBPF_WAY=rustup$' "$TOOLCHAIN_ENV" 2>/dev/null; then
        name=$(sed -n 's/^WEFT_EBPF_TOOLCHAIN=//p' "$TOOLCHAIN_ENV")
        wasm_can_build rustup run "$name" rustc || return 1
        wasm_record "WEFT_WASM_WAY=source
WEFT_WASM_TOOLCHAIN=$name"
    else
        wasm_can_build /usr/bin/rustc || return 1
        wasm_record "WEFT_WASM_WAY=source
WEFT_WASM_RUSTC=/usr/bin/rustc
WEFT_WASM_CARGO=/usr/bin/cargo"
    fi
}

# wasm_source_present COMPILER...: has it the sources of the standard library?
wasm_source_present() {
    local sysroot
    sysroot=$("$@" --print sysroot 2>/dev/null) || return 1
    [[ -f $sysroot/lib/rustlib/src/rust/library/std/src/lib.rs ]]
}

# wasm_can_build COMPILER...: an empty module needs no library, and so proves the linker within a
# tenth of a second. The library itself is compiled by the first `make filters`.
wasm_can_build() {
    local dir status=0
    wasm_source_present "$@" || return 1
    dir=$(mktemp -d)
    printf '#![feature(no_core)]\n#![no_core]\n' >"$dir/probe.rs"
    RUSTC_BOOTSTRAP=1 "$@" --target "$WASM_TARGET" --crate-type cdylib -C panic=abort \
        -o "$dir/probe.wasm" "$dir/probe.rs" 2>/dev/null || status=1
    [[ -s $dir/probe.wasm ]] || status=1
    rm -rf "$dir"
    return "$status"
}

# What a recorded choice depends on.
wasm_stamp() {
    local name rustc
    name=$(sed -n 's/^WEFT_WASM_TOOLCHAIN=//p' "$1")
    rustc=$(sed -n 's/^WEFT_WASM_RUSTC=//p' "$1")
    echo "set-up $(cksum <"${BASH_SOURCE[0]}" | cut -d ' ' -f 1)"
    if [[ -n $name ]]; then
        rustup run "$name" rustc --version 2>&1 </dev/null
    else
        "${rustc:-rustc}" --version 2>&1
    fi
}

wasm_stamp_line() { wasm_stamp "$1" | tr '\n' ';' || true; }

# wasm_choice_holds [WAY]: is there a choice, of that way, and is it still what was found? The
# target's library, and the library's sources, can be taken away with the compiler staying the same.
wasm_choice_holds() {
    [[ -f $WASM_ENV ]] || return 1
    [[ -z $1 ]] || grep -q "^WEFT_WASM_WAY=$1\$" "$WASM_ENV" || return 1
    grep -qxF "# found with: $(wasm_stamp_line "$WASM_ENV")" "$WASM_ENV" || return 1
    if grep -q '^WEFT_WASM_WAY=target$' "$WASM_ENV"; then
        wasm_std_present rustc
    else
        wasm_recorded_source
    fi
}

# Has the compiler that was chosen the library's sources still?
wasm_recorded_source() {
    local name rustc
    name=$(sed -n 's/^WEFT_WASM_TOOLCHAIN=//p' "$WASM_ENV")
    rustc=$(sed -n 's/^WEFT_WASM_RUSTC=//p' "$WASM_ENV")
    if [[ -n $name ]]; then
        wasm_source_present rustup run "$name" rustc
    else
        wasm_source_present "$rustc"
    fi
}

wasm_record() {
    printf '%s\n' "$1" >"$WASM_ENV.new"
    {
        echo "# The compiler of the filters on this machine. Written by scripts/setup, read by"
        echo "# wasm-sdk/build; delete it to have the choice made again."
        echo "# found with: $(wasm_stamp_line "$WASM_ENV.new")"
        printf '%s\n' "$1"
    } >"$WASM_ENV.new2"
    mv "$WASM_ENV.new2" "$WASM_ENV"
    rm -f "$WASM_ENV.new"
}
