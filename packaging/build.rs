//! Leaves unused tables out of a release: a panic ends the process, so nothing
//! is ever unwound, and stripped of its names a program has no backtrace to tell. The
//! tables for both are a tenth of the file.
//!
//! Whoever has chosen a linker gets its usual layout: not all of them know the script. So
//! does 32-bit Arm, which has tables of another kind.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// Nothing here compares the addresses of functions.
const FOLD: &str = "-Wl,--icf=all";

/// What the linker leaves out; lld and GNU ld read it.
const SCRIPT: &str = "packaging/without_unwinding.ld";

fn is_native() -> bool {
    env::var_os("HOST") == env::var_os("TARGET")
}

/// Whether the glibc of this machine does (2.36, that of Debian 12, or newer).
fn reads_packed_relocations() -> bool {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = told.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    let number = |text: &str| text.split('.').next().and_then(|first| first.parse::<u32>().ok());
    version.is_some_and(|(major, minor)| (number(major), number(minor)) >= (Some(2), Some(36)))
}

/// Whether the linker that is used keeps one of several functions that are the same, byte by
/// byte: lld does, which rustc brings for most; GNU ld does not know the word.
fn folds_functions() -> bool {
    let Some(directory) = env::var_os("OUT_DIR").map(PathBuf::from) else { return false };
    let (source, output) = (directory.join("probe.rs"), directory.join("probe"));
    let Ok(()) = fs::write(&source, "fn main() {}") else { return false };
    let variable = |name| env::var_os(name).unwrap_or_default();
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.arg("--target").arg(variable("TARGET")).arg(format!("-Clink-arg={FOLD}"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc
            .arg("-C")
            .arg([OsStr::new("linker="), linker.as_os_str()].iter().copied().collect::<OsString>());
    }
    rustc.arg("-o").arg(output).arg(source).output().is_ok_and(|done| done.status.success())
}

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
        if folds_functions() {
            println!("cargo::rustc-link-arg-bins={FOLD}");
        }
        // Three thousand relocations of 24 bytes each are a few bitmaps, where glibc can read
        // them: who builds with an older one builds for it.
        if is("CARGO_CFG_TARGET_ENV", "gnu") && is_native() && reads_packed_relocations() {
            println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        }
    }
}
