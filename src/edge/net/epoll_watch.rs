//! Registration of a connection with epoll: what the kernel reports of it.

use super::epoll::Interest;

/// What epoll is to report of one connection.
pub(super) struct EpollWatch {
    interest: Interest,
    state: WatchState,
}

/// Whether epoll watches a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WatchState {
    Watched,
    /// It has closed while it was not read, and is not watched until it is read again: its end
    /// would be reported again and again.
    Unwatched,
}

/// What is to be changed in epoll.
#[derive(Clone, Copy)]
pub(super) enum InterestChange {
    None,
    Add(Interest),
    Modify(Interest),
}

impl EpollWatch {
    /// One that is registered with this interest.
    pub(super) fn new(interest: Interest) -> Self {
        Self { interest, state: WatchState::Watched }
    }

    /// What epoll is to report from now on; the caller passes changes on.
    pub(super) fn update(&mut self, interest: Interest) -> InterestChange {
        let before = std::mem::replace(&mut self.interest, interest);
        if self.state == WatchState::Unwatched {
            if interest.read || interest.write { InterestChange::Add(interest) } else { InterestChange::None }
        } else if interest != before {
            InterestChange::Modify(interest)
        } else {
            InterestChange::None
        }
    }

    pub(super) fn set_state(&mut self, state: WatchState) {
        self.state = state;
    }

    /// Whether epoll may stop watching: where something is to be written, that finds the end.
    pub(super) fn can_be_unwatched(&self) -> bool {
        self.state == WatchState::Watched && !self.interest.write
    }
}
