# shellcheck shell=bash
# What builds for other machines, or without a C library: to be sourced, from the root of a checkout.
#
# The compiler, the linker, and the flags that keep traces of this machine out of the programs.
#   cross_triple TARGET   prints the triple of a target, or fails
#   cross_tools           finds all tools, installs what is missing where that is possible, and sets the environment
#   cross_cargo COMMAND…  cargo with another linker and the standard library built along
#
# Needs cargo, and rustc with the source of its standard library: that of the toolchain in use where it has it
# (`rustup component add rust-src`), else Debian's rustc-web and rust-web-src, which are installed by root on Debian.
# Links with zig, which has musl for every target; it comes from PyPI into target/static/venv.

cross_targets=(x86_64 aarch64 armv7)

# The same linker and C library everywhere and always: they are part of the result.
cross_zig=0.17.0 cross_zigbuild=0.24.0

cross_fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

cross_triple() {
  case "$1" in
    x86_64) echo x86_64-unknown-linux-musl ;;
    aarch64) echo aarch64-unknown-linux-musl ;;
    armv7) echo armv7-unknown-linux-musleabihf ;;
    *) cross_fail "there is no target $1; there are ${cross_targets[*]}" ;;
  esac
}

# cross_install PACKAGE…: of Debian's, where that is possible; false elsewhere.
cross_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return
  echo "installing $*" >&2
  local log=target/static/apt.log
  { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update &&
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; } >"$log" 2>&1 ||
    { cat "$log" >&2; return 1; }
}

# Prints where a compiler has the source of its standard library; false if it has none.
cross_library() {
  local library
  library="$("$1" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" && [ -f "$library/std/Cargo.toml" ] &&
    realpath "$library/.."
}

cross_compiler() {
  local compiler
  for compiler in ${RUSTC:+"$RUSTC"} rustc /usr/bin/rustc; do
    command -v "$compiler" >/dev/null && cross_library "$compiler" >/dev/null && { command -v "$compiler"; return; }
  done
  return 1
}

cross_tools() {
  mkdir -p target/static
  command -v cargo >/dev/null || cross_fail "cargo is missing; rustup or Debian's cargo-web has it"
  RUSTC=$(cross_compiler) ||
    { cross_install rustc-web rust-web-src && RUSTC=$(cross_compiler); } ||
    cross_fail "the source of Rust's standard library is missing; \`rustup component add rust-src\` gets it, or as root" \
      "on Debian \`apt-get install rustc-web rust-web-src\`"
  command -v readelf >/dev/null || cross_install binutils || cross_fail "readelf is missing; binutils has it"
  local venv="$PWD/target/static/venv"
  if ! [ -e "$venv/zig-$cross_zig-zigbuild-$cross_zigbuild" ]; then
    python3 -c 'import ensurepip' 2>/dev/null || cross_install python3-venv ||
      cross_fail "Python cannot make virtual environments; install python3 with its module venv"
    echo "installing zig $cross_zig and cargo-zigbuild $cross_zigbuild into target/static/venv" >&2
    { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check \
      "ziglang==$cross_zig" "cargo-zigbuild==$cross_zigbuild"; } || cross_fail "zig and cargo-zigbuild cannot be installed from PyPI"
    touch "$venv/zig-$cross_zig-zigbuild-$cross_zigbuild"
  fi
  cross_environment "$venv"
}

# What a build depends on, and nothing of this machine.
cross_environment() {
  local venv="$1" source
  PATH="$venv/bin:$PATH"
  # Without it a compiler that is not a nightly one does not build the standard library along.
  RUSTC_BOOTSTRAP=1
  CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}"
  ZIG_GLOBAL_CACHE_DIR="$PWD/target/static/zig" CARGO_ZIGBUILD_CACHE_DIR="$PWD/target/static/zigbuild"
  # No build step reads the time; one that will gets that of the last commit.
  SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
  export PATH RUSTC RUSTC_BOOTSTRAP CARGO_HOME ZIG_GLOBAL_CACHE_DIR CARGO_ZIGBUILD_CACHE_DIR SOURCE_DATE_EPOCH
  # The directory of the crates has the digest of where they came from in its name, and is there once they are.
  cargo fetch --quiet --locked
  # musl's start files come with zig; the compiler's own would be linked beside them.
  local flags=(-C link-self-contained=no)
  source=$(cross_library "$RUSTC")
  # Places in panics and in debugging information, by names that are the same everywhere. The last one that fits wins.
  for place in "$CARGO_HOME"/registry/src/*; do flags+=("--remap-path-prefix=$place=/cargo"); done
  flags+=("--remap-path-prefix=$source=/rust" "--remap-path-prefix=$("$RUSTC" --print sysroot)/lib/rustlib/src/rust=/rust"
    "--remap-path-prefix=$PWD=/wshubd")
  # Separated by a character that stands in no path: one with a space in it works as well.
  local separator=$'\x1f' word
  CARGO_ENCODED_RUSTFLAGS=""
  # shellcheck disable=SC2086 # the caller's flags are words
  for word in "${flags[@]}" ${RUSTFLAGS:-}; do
    CARGO_ENCODED_RUSTFLAGS+="${CARGO_ENCODED_RUSTFLAGS:+$separator}$word"
  done
  unset RUSTFLAGS
  export CARGO_ENCODED_RUSTFLAGS
}

# cross_cargo TARGET COMMAND…: of cargo-zigbuild, `zigbuild` or `test`.
cross_cargo() {
  local triple command="$2"
  triple=$(cross_triple "$1")
  shift 2
  nice cargo-zigbuild "$command" -Z build-std=std,panic_abort --locked --target "$triple" --target-dir "$PWD/target/static" "$@"
}
