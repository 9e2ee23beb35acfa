//! How much one user may have done in a turn.
//!
//! Knows what requests cost, and that all connections of a user ask together. Does not
//! know what they ask; limits over time are the hub's.
//!
//! A user with very many connections, each within its limits, would otherwise make turns
//! so long that all others notice.

use std::collections::HashMap;

use crate::hub::Account;
use crate::protocol::Say;

/// As many short requests.
const OF_A_TURN: u32 = 256;

/// What a signature costs that may have to be looked at, in short requests.
const SIGNATURE: u32 = 32;

/// What a request costs, in short ones.
pub(super) fn cost(say: &Say) -> u32 {
    match say {
        Say::Subscribe(list) => u32::try_from(list.len()).unwrap_or(u32::MAX).max(1),
        Say::Auth { .. } => SIGNATURE,
        _ => 1,
    }
}

/// What is left to those who have asked for something in this turn.
#[derive(Default)]
pub(super) struct Turn(HashMap<Account, u32>);

impl Turn {
    /// What one may have done still.
    pub(super) fn rest_of(&self, account: Account) -> u32 {
        self.0.get(&account).copied().unwrap_or(OF_A_TURN)
    }

    /// So much is left.
    pub(super) fn leave(&mut self, account: Account, rest: u32) {
        if rest < OF_A_TURN && account.pays {
            self.0.insert(account, rest);
        }
    }

    /// Everybody has a new one.
    pub(super) fn end(&mut self) {
        self.0.clear();
    }
}
