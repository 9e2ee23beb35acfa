//! The features of this build: the cargo features that users may notice.

use std::sync::LazyLock;

/// Something that a build may leave out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feature {
    pub name: &'static str,
    pub is_built_in: bool,
}

/// Tokens signed with RSA, ECDSA or EdDSA, beside HMAC.
pub const PUBLIC_KEYS: Feature = Feature { name: "public-keys", is_built_in: cfg!(feature = "public-keys") };

/// Messages on a disk, beside those in memory.
pub const STORE: Feature = Feature { name: "store", is_built_in: cfg!(feature = "store") };

/// All of them, in the order of their names.
pub const ALL: [Feature; 2] = [PUBLIC_KEYS, STORE];

impl Feature {
    /// The reason in errors about options that have no effect without it.
    pub fn missing(self) -> String {
        format!("this wshubd was built without the feature `{}`", self.name)
    }
}

/// The text of `--version`: the version, and each feature with `+` or `-`.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    let sign = |feature: &Feature| if feature.is_built_in { '+' } else { '-' };
    let features = ALL.map(|feature| format!("{}{}", sign(&feature), feature.name));
    format!("{} ({})", env!("CARGO_PKG_VERSION"), features.join(" "))
});
