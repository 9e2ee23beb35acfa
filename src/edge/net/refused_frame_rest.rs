//! Rest of a frame that was refused while it still comes.
//!
//! A socket that closes with that in it takes the close frame back, so it is read to its end: as
//! long as it comes, and not for ever.

/// What is known of the rest.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum RefusedFrameRest {
    #[default]
    None,
    /// So often it was waited for longer, and some has come since the last time or not.
    Coming { waited: u8, has_come: bool },
}

impl RefusedFrameRest {
    /// So often it is waited for once more: half a minute in all.
    const MOST_WAITS: u8 = 15;

    /// A frame is refused now.
    pub(super) fn coming() -> Self {
        Self::Coming { waited: 0, has_come: false }
    }

    /// Some of it has come.
    pub(super) fn receive(&mut self) {
        if let Self::Coming { has_come, .. } = self {
            *has_come = true;
        }
    }

    /// Waits once more, if that is worth it.
    pub(super) fn wait_again(&mut self) -> bool {
        match self {
            Self::Coming { waited, has_come: has_come @ true } if *waited < Self::MOST_WAITS => {
                (*waited, *has_come) = (*waited + 1, false);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RefusedFrameRest;

    #[test]
    fn frame_that_comes_is_waited_for_and_not_for_ever() {
        assert!(!RefusedFrameRest::default().wait_again());
        let mut rest = RefusedFrameRest::coming();
        assert!(!rest.wait_again(), "nothing has come");
        let mut waits = 0;
        rest.receive();
        while rest.wait_again() {
            assert!(!rest.wait_again(), "nothing has come since");
            waits += 1;
            rest.receive();
        }
        assert_eq!(waits, RefusedFrameRest::MOST_WAITS);
    }
}
