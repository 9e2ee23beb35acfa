//! Descriptors that systemd has passed, by the names that its units give them.

use std::io;
use std::os::fd::OwnedFd;

use crate::edge::net::inherited_fd;
use crate::sort::sort;

/// What was passed, and was not taken yet.
#[derive(Default, Debug)]
pub struct ListenFds(Vec<(String, OwnedFd)>);

impl ListenFds {
    /// What was passed to this process, and not to one that started it: `LISTEN_PID`
    /// names the process that it is for. To be asked once, before anything else is opened.
    ///
    /// # Errors
    /// The variables contradict each other, or name what is not open; the sockets
    /// cannot be distinguished then.
    pub fn of_process() -> io::Result<Self> {
        let mut passed = Vec::new();
        // The crate takes names that are left for another process for a mistake.
        if sd_notify::listen_fds()?.len() == 0 {
            return Ok(Self(passed));
        }
        for (number, name) in sd_notify::listen_fds_with_names()? {
            // One that was taken before has another owner in this process already.
            passed.extend(inherited_fd::take(number).map(|descriptor| (name, descriptor)));
        }
        Ok(Self(passed))
    }

    /// Hands out all that have this name, in the order of their units.
    pub fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        let (named, others) = std::mem::take(&mut self.0).into_iter().partition(|(of, _)| of == name);
        self.0 = others;
        let named: Vec<(String, OwnedFd)> = named;
        named.into_iter().map(|(_, descriptor)| descriptor).collect()
    }

    /// Adds what was passed to this process when another program ran in it.
    pub fn extend(&mut self, others: Vec<(String, OwnedFd)>) {
        self.0.extend(others);
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of what is left, each once.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        sort(&mut names);
        names.dedup();
        names
    }
}
