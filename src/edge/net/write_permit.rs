//! Permit to write to connections.

/// The right to write to connections once: every number that was given out is recorded, so
/// that no peer receives one that is given out again after a crash.
#[derive(Debug)]
pub struct WritePermit(());

impl WritePermit {
    /// For the recorder of numbers, after it has written them.
    pub(in crate::edge) fn numbers_are_recorded() -> Self {
        Self(())
    }
}
