//! The files that are read: those of the machine, or a user's own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wshubd::config::{Config, Environment, paths};

use super::Scratch;

fn files(uid: u32, variables: &[(&str, &str)]) -> Vec<PathBuf> {
    let environment = Environment::new(uid, variables.iter().copied());
    Config::load(None, &environment).unwrap().files
}

#[test]
fn a_users_own_file_replaces_that_of_the_machine() {
    let scratch = Scratch::new();
    let home = scratch.0.to_str().unwrap();
    let machine = Path::new("/etc/wshubd");
    let of = |uid: u32, variables: &[(&str, &str)]| {
        paths::configuration_directory(&Environment::new(uid, variables.iter().copied()))
    };
    assert_eq!(of(1000, &[("HOME", home)]), machine, "there is none");
    scratch.write(".config/wshubd/wshubd.toml", "[limits]\nburst = 2\n");
    scratch.write(".config/wshubd/conf.d/a.toml", "[limits]\nburst = 3\n");
    let own = scratch.0.join(".config/wshubd");
    assert_eq!(files(1000, &[("HOME", home)]), [own.join("wshubd.toml"), own.join("conf.d/a.toml")]);
    assert_eq!(of(0, &[("HOME", home)]), machine, "root");
    for of_systemd in ["STATE_DIRECTORY", "RUNTIME_DIRECTORY"] {
        assert_eq!(of(1000, &[("HOME", home), (of_systemd, "/run/x")]), machine, "a service");
    }
    let named = [("HOME", home), ("CONFIGURATION_DIRECTORY", "/nonexistent")];
    assert_eq!(of(1000, &named), Path::new("/nonexistent"));
    // Drop-ins alone, in the place that XDG_CONFIG_HOME names.
    scratch.write("xdg/wshubd/conf.d/b.toml", "");
    let xdg = scratch.0.join("xdg");
    let xdg = xdg.to_str().unwrap();
    assert_eq!(
        files(1000, &[("HOME", home), ("XDG_CONFIG_HOME", xdg)]),
        [xdg.to_owned() + "/wshubd/conf.d/b.toml"].map(PathBuf::from)
    );
}

/// What stands in the way, for root as well: as little as a directory that may not be
/// entered.
fn closed(scratch: &Scratch, name: &str) -> u32 {
    let path = scratch.write(name, "");
    fs::metadata(path).unwrap().uid()
}

#[test]
fn a_closed_home_of_another_user_is_skipped() {
    let scratch = Scratch::new();
    let stranger = closed(&scratch, "home").wrapping_add(1000);
    let home = scratch.0.join("home");
    let environment = Environment::new(stranger, [("HOME", home.to_str().unwrap())]);
    assert_eq!(paths::configuration_directory(&environment), Path::new("/etc/wshubd"));
}

#[test]
fn an_own_configuration_that_cannot_be_read_is_an_error() {
    for (variable, file, within) in [
        ("HOME", ".config", ".config/wshubd"),
        ("HOME", ".config/wshubd", ".config/wshubd"),
        ("XDG_CONFIG_HOME", "wshubd", "wshubd"),
    ] {
        let scratch = Scratch::new();
        let stranger = closed(&scratch, file).wrapping_add(1000);
        let environment = Environment::new(stranger, [(variable, scratch.0.to_str().unwrap())]);
        let error = Config::load(None, &environment).unwrap_err().to_string();
        let path = scratch.0.join(within);
        assert!(error.starts_with(&format!("{}/", path.display())), "{error}");
        assert!(error.contains(": cannot be read: "), "{error}");
        // Missing is fine.
        fs::remove_file(scratch.0.join(file)).unwrap();
        assert_eq!(paths::configuration_directory(&environment), Path::new("/etc/wshubd"));
    }
}
