//! Share of a turn that one user may take, all connections of the user together. Limits over
//! time are the hub's.
//!
//! A user with very many connections, each within its limits, would otherwise make turns
//! so long that all others notice.

use std::collections::HashMap;

use crate::hub::Account;
use crate::protocol::{EdgeRequest, HubRequest, Request};

/// The whole share, in short requests.
const OF_A_TURN: u32 = 256;

/// What a signature costs that may have to be verified, in short requests.
const SIGNATURE: u32 = 32;

/// What a request costs, in short ones.
pub(super) fn cost(request: &Request) -> u32 {
    match request {
        Request::Hub(HubRequest::Subscribe(list)) => u32::try_from(list.len()).unwrap_or(u32::MAX).max(1),
        Request::Edge(EdgeRequest::Auth { .. }) => SIGNATURE,
        _ => 1,
    }
}

/// What is left to the accounts that have requested something in this turn.
#[derive(Default)]
pub(super) struct TurnShares(HashMap<Account, u32>);

impl TurnShares {
    /// What is left to an account.
    pub(super) fn rest_of(&self, account: Account) -> u32 {
        self.0.get(&account).copied().unwrap_or(OF_A_TURN)
    }

    /// So much is left.
    pub(super) fn leave(&mut self, account: Account, rest: u32) {
        if rest < OF_A_TURN && account.is_limited() {
            self.0.insert(account, rest);
        }
    }

    /// Ends the turn: every account has a whole share again.
    pub(super) fn end(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Account, OF_A_TURN, TurnShares};

    fn account(digest: u64, pays: bool) -> Account {
        serde_json::from_value(serde_json::json!({"digest": digest, "is_limited": pays}))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn share_of_one_user_is_missing_to_no_other() {
        let (alice, bob, workers) = (account(1, true), account(2, true), account(3, false));
        let mut turn = TurnShares::default();
        turn.leave(alice, 0);
        turn.leave(workers, 0);
        assert_eq!((turn.rest_of(alice), turn.rest_of(bob)), (0, OF_A_TURN));
        assert_eq!(turn.rest_of(workers), OF_A_TURN, "their sockets slow them down");
        turn.end();
        assert_eq!(turn.rest_of(alice), OF_A_TURN, "the next turn");
    }
}
