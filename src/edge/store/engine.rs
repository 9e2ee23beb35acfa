//! Whether this build can use a disk at all.
//!
//! Knows the answer as a type. Does not know the disk.

/// The proof that it can. Whatever is done with a disk wants one, through
/// [`Options`](super::Options); where the engine was left out there is no value of
/// this type, and the compiler leaves out the rest as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Engine {
    #[cfg(not(feature = "store"))]
    left_out: std::convert::Infallible,
}

impl Engine {
    /// The one of this build, if it has one.
    pub fn built_in() -> Option<Self> {
        #[cfg(feature = "store")]
        return Some(Self {});
        #[cfg(not(feature = "store"))]
        None
    }
}
