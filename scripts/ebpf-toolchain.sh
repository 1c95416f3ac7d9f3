# shellcheck shell=bash
# Part of scripts/setup: chooses, installs and proves the compiler of the eBPF programs.

# Both compilers produce bitcode of LLVM 22, and bpf-linker has to be built against a library at
# least as new: the three numbers move together.
LLVM=22
BPF_LINKER_VERSION=0.13.0
NIGHTLY=nightly-2026-05-20

LLVM_DEBS=("llvm-$LLVM-dev" "libpolly-$LLVM-dev" "lld-$LLVM")
RUST_DEBS=(rustc-web cargo-web rust-web-clippy rust-web-src rust-web-llvm libstd-rust-web-dev-bpf)

TOOLCHAIN_ENV=$WEFT_CACHE/toolchain.env

choose_ebpf_toolchain() {
    local way=${WEFT_EBPF_WAY:-}
    case $way in
    '' | rustup | debian) ;;
    *) die "WEFT_EBPF_WAY=$way is neither rustup nor debian" ;;
    esac
    if recorded_choice_holds "$way"; then
        return 0
    fi
    if [[ -z $way ]]; then
        way=$(decide_way)
    fi
    case $way in
    rustup) use_rustup ;;
    debian) use_debian ;;
    *) problem "no compiler for eBPF: neither rustup nor the Debian packages ${RUST_DEBS[*]} can be had here. Either install rustup and 'rustup toolchain install $NIGHTLY --profile minimal --component rust-src', or use a Debian release that has those packages" ;;
    esac
}

# The way to go: what costs least of what is possible; nothing where neither is.
decide_way() {
    if [[ -n $(installed_nightly) ]]; then
        echo rustup
    elif debian_rust_present || debian_rust_available; then
        echo debian
    elif have rustup; then
        echo rustup
    fi
}

# The first toolchain of rustup that can build core for BPF, if any.
installed_nightly() {
    have rustup || return 0
    local name sysroot
    for name in ${WEFT_EBPF_TOOLCHAIN:-$NIGHTLY nightly}; do
        # Asked of the list first: naming a missing toolchain could start a download.
        rustup toolchain list | grep -q "^$name\b" || continue
        sysroot=$(rustup run "$name" rustc --print sysroot 2>/dev/null) || continue
        if [[ -f $sysroot/lib/rustlib/src/rust/library/core/src/lib.rs ]]; then
            echo "$name"
            return 0
        fi
    done
}

debian_rust_present() {
    local libdir
    libdir=$(/usr/bin/rustc --print target-libdir --target bpfel-unknown-none 2>/dev/null) || return 1
    compgen -G "$libdir/libcore-*.rlib" >/dev/null && [[ -x /usr/bin/cargo ]]
}

debian_rust_available() {
    have apt-get || return 1
    deb_available libstd-rust-web-dev-bpf && return 0
    apt_update
    deb_available libstd-rust-web-dev-bpf
}

use_rustup() {
    local name linker
    if ! have rustup; then
        problem "WEFT_EBPF_WAY=rustup, but rustup is not installed"
        return 0
    fi
    name=$(installed_nightly)
    if [[ -z $name ]]; then
        quietly "installing Rust $NIGHTLY with rust-src (rustup)" \
            rustup toolchain install "$NIGHTLY" --profile minimal --component rust-src --no-self-update || {
            problem "rustup could not install $NIGHTLY with rust-src: see above"
            return 0
        }
        name=$NIGHTLY
    fi
    # One that the user installed is good enough; one of ours is built where LLVM can be had.
    if have bpf-linker; then
        linker=$(dirname "$(command -v bpf-linker)")
    else
        install_bpf_linker || return 0
        linker=$WEFT_TOOLS/bin
    fi
    prove_and_record "WEFT_EBPF_WAY=rustup
WEFT_EBPF_TOOLCHAIN=$name
WEFT_EBPF_PATH=$linker:$(dirname "$(command -v rustup)"):/usr/local/bin:/usr/bin:/bin"
}

use_debian() {
    if ! have apt-get && ! debian_rust_present; then
        problem "WEFT_EBPF_WAY=debian, but there is no apt-get"
        return 0
    fi
    if have apt-get; then
        debs_install "the eBPF compiler" "${RUST_DEBS[@]}" || {
            problem "apt-get could not install ${RUST_DEBS[*]}: see above (the packages rustc and rustup of Debian stand in their way: apt-get remove them, or use rustup's own installer)"
            return 0
        }
    fi
    install_bpf_linker || return 0
    # Rustup's proxies must not come before /usr/bin. The name is the one crate that uses unstable
    # features; "1" would make aya-build compile core, which is there already.
    prove_and_record "WEFT_EBPF_WAY=debian
WEFT_EBPF_BOOTSTRAP=aya_ebpf
WEFT_EBPF_PATH=$WEFT_TOOLS/bin:/usr/bin:/bin"
}

install_bpf_linker() {
    local prefix=/usr/lib/llvm-$LLVM
    if have apt-get && ! { [[ -e $prefix/lib/libLLVM.so && -x $prefix/bin/llvm-config ]]; }; then
        debs_install "LLVM $LLVM" "${LLVM_DEBS[@]}" || {
            problem "apt-get could not install ${LLVM_DEBS[*]}: install bpf-linker yourself (cargo binstall bpf-linker, or a release of it) and put it on PATH"
            return 1
        }
    fi
    if [[ $("$WEFT_TOOLS/bin/bpf-linker" --version 2>/dev/null) == "bpf-linker $BPF_LINKER_VERSION" ]]; then
        return 0
    fi
    if [[ ! -x $prefix/bin/llvm-config ]]; then
        problem "no bpf-linker on PATH and no LLVM $LLVM in $prefix to build it with: install bpf-linker (cargo binstall bpf-linker, or a release of it)"
        return 1
    fi
    quietly "compiling bpf-linker $BPF_LINKER_VERSION" \
        env -u CARGO_TARGET_DIR LLVM_PREFIX="$prefix" RUSTFLAGS="-L $prefix/lib" \
        cargo install bpf-linker --version "$BPF_LINKER_VERSION" --locked --force \
        --no-default-features --features "llvm-$LLVM" --root "$WEFT_TOOLS" \
        --config profile.release.debug=false || {
        problem "bpf-linker could not be compiled: see above"
        return 1
    }
}

# What a recorded choice depends on: when one of these changes, it is proven anew.
toolchain_stamp() {
    local env_file=$1 path way name
    path=$(sed -n 's/^WEFT_EBPF_PATH=//p' "$env_file")
    way=$(sed -n 's/^WEFT_EBPF_WAY=//p' "$env_file")
    name=$(sed -n 's/^WEFT_EBPF_TOOLCHAIN=//p' "$env_file")
    echo "$way, set-up $(cksum <"${BASH_SOURCE[0]}" | cut -d ' ' -f 1)"
    if [[ $way == rustup ]]; then
        rustup run "$name" rustc --version 2>&1 </dev/null
    else
        /usr/bin/rustc --version 2>&1
    fi
    PATH=$path bpf-linker --version 2>&1
}

stamp_line() { toolchain_stamp "$1" | tr '\n' ';' || true; }

# recorded_choice_holds [WAY]: is there a choice, of that way, and is it still what was proven?
recorded_choice_holds() {
    local stamp
    [[ -f $TOOLCHAIN_ENV ]] || return 1
    [[ -z $1 ]] || grep -q "^WEFT_EBPF_WAY=$1\$" "$TOOLCHAIN_ENV" || return 1
    if grep -q '^WEFT_EBPF_WAY=debian$' "$TOOLCHAIN_ENV"; then
        debian_rust_present || return 1
    fi
    stamp=$(stamp_line "$TOOLCHAIN_ENV")
    grep -qxF "# proven with: $stamp" "$TOOLCHAIN_ENV"
}

# Compiles a program with the given choice and only then records it, in one step.
prove_and_record() {
    local dir status=0
    dir=$(mktemp -d)
    printf '%s\n' "$1" >"$dir/toolchain.env"
    quietly "compiling a first eBPF program" compile_probe "$dir" || status=1
    if ((status == 0)); then
        {
            echo "# The compiler of the eBPF programs on this machine. Written by scripts/setup, read by"
            echo "# datapath/build.rs; delete it to have the choice made again."
            echo "# proven with: $(stamp_line "$dir/toolchain.env")"
            cat "$dir/toolchain.env"
        } >"$TOOLCHAIN_ENV.new"
        mv "$TOOLCHAIN_ENV.new" "$TOOLCHAIN_ENV"
    else
        problem "the chosen eBPF compiler cannot compile a program: see above (WEFT_EBPF_WAY=rustup|debian chooses the other)"
    fi
    rm -rf "$dir"
}

compile_probe() {
    local dir=$1 path name cargo=(/usr/bin/cargo) std=()
    path=$(sed -n 's/^WEFT_EBPF_PATH=//p' "$dir/toolchain.env")
    name=$(sed -n 's/^WEFT_EBPF_TOOLCHAIN=//p' "$dir/toolchain.env")
    if [[ -n $name ]]; then
        cargo=(rustup run "$name" cargo)
        std=(-Z build-std=core)
    fi
    mkdir -p "$dir/src"
    cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "probe"
version = "0.0.0"
edition = "2021"
[profile.release]
panic = "abort"
[workspace]
TOML
    cat >"$dir/src/main.rs" <<'RUST'
#![no_std]
#![no_main]
#[no_mangle]
#[link_section = "classifier"]
pub extern "C" fn probe(_context: *mut u8) -> i32 {
    0
}
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
RUST
    env -u RUSTC -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER -u CARGO_TARGET_DIR -u RUSTFLAGS \
        -u CARGO_ENCODED_RUSTFLAGS -u RUSTUP_TOOLCHAIN PATH="$path" \
        "${cargo[@]}" build --manifest-path "$dir/Cargo.toml" --target-dir "$dir/target" \
        --release --target bpfel-unknown-none "${std[@]}" &&
        [[ -s $dir/target/bpfel-unknown-none/release/probe ]]
}

ebpf_toolchain_summary() {
    sed -n 's/^# proven with: /eBPF programs are built with /p' "$TOOLCHAIN_ENV" |
        sed 's/^\(.* with \)[^;]*;/\1/; s/;$//; s/;/ and /g'
}
