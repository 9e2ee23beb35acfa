//! Leaves out of a release what nobody uses there: a panic ends the process, so nothing
//! is ever unwound, and stripped of its names a program has no backtrace to tell. The
//! tables for both are a tenth of the file.
//!
//! Whoever has chosen a linker gets its usual layout: not all of them know the script. So
//! does 32-bit Arm, which has tables of another kind.

use std::env;

/// What the linker leaves out; lld and GNU ld read it.
const SCRIPT: &str = "packaging/without_unwinding.ld";

fn main() {
    println!("cargo::rerun-if-changed={SCRIPT}");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    let has_chosen = env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("fuse-ld"));
    let is_known = is("CARGO_CFG_TARGET_OS", "linux") && !is("CARGO_CFG_TARGET_ARCH", "arm");
    if is("PROFILE", "release") && is_known && !has_chosen {
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins=-T{here}/{SCRIPT}");
    }
}
