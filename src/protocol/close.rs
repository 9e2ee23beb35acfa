//! Close codes: number, word, and whether a client reconnects.

use serde::{Deserialize, Serialize};

/// Why the daemon ends a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Close {
    /// 4001: the token was refused, or none came in time.
    Unauthenticated,
    /// 4003: on behalf of an administrator.
    Disconnected,
    /// 4008: the user has as many connections as one may have.
    TooManyConnections,
    /// 4009: five requests that no correct program sends, within ten minutes.
    TooManyErrors,
    /// 4101: the daemon ends.
    ShuttingDown,
    /// 4102: memory is short.
    Overloaded,
    /// 4103: 500 refusals for rate in a minute.
    TooFast,
    /// 4200: the daemon starts again.
    Restarting,
    /// 4202: the peer accepts nothing.
    TooSlow,
    /// 4203: nothing came, not even a pong.
    NoPong,
    /// 4204: get a new token first.
    TokenExpired,
    /// 1002: RFC 6455, section 7.4.1: a frame that is none.
    ProtocolError,
    /// 1003: a binary frame.
    NotText,
    /// 1007: text that is not UTF-8.
    NotUtf8,
    /// 1009: a frame over the limit.
    TooBig,
}

/// What the client is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    /// Not as you are (4000–4099).
    No,
    /// With back-off (4100–4199).
    Later,
    /// At once (4200–4299).
    Now,
}

impl Return {
    /// What a code means by its range, whether or not it is one of ours.
    pub fn after(code: u16) -> Self {
        match code {
            4200..=4299 => Self::Now,
            4100..=4199 => Self::Later,
            _ => Self::No,
        }
    }
}

impl Close {
    /// The number in the close frame.
    pub fn code(self) -> u16 {
        match self {
            Self::Unauthenticated => 4001,
            Self::Disconnected => 4003,
            Self::TooManyConnections => 4008,
            Self::TooManyErrors => 4009,
            Self::ShuttingDown => 4101,
            Self::Overloaded => 4102,
            Self::TooFast => 4103,
            Self::Restarting => 4200,
            Self::TooSlow => 4202,
            Self::NoPong => 4203,
            Self::TokenExpired => 4204,
            Self::ProtocolError => 1002,
            Self::NotText => 1003,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
        }
    }

    /// The words in the close frame and in `bye`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unauthenticated => "authentication failed",
            Self::Disconnected => "disconnected by an administrator",
            Self::TooManyConnections => "too many connections of this user",
            Self::TooManyErrors => "too many malformed requests",
            Self::ShuttingDown => "shutting down",
            Self::Overloaded => "overloaded",
            Self::TooFast => "too many requests over the rate limit",
            Self::Restarting => "restarting",
            Self::TooSlow => "too slow",
            Self::NoPong => "no sign of life",
            Self::TokenExpired => "token expired",
            Self::ProtocolError => "not a proper WebSocket frame",
            Self::NotText => "only text frames are understood",
            Self::NotUtf8 => "not UTF-8",
            Self::TooBig => "message over the size limit",
        }
    }

    /// What the client is to do, by the range of the code.
    pub fn returning(self) -> Return {
        Return::after(self.code())
    }

    /// Whether a `bye` frame goes before the close frame: in all cases that are
    /// the hub's decision. Broken framing gets RFC 6455's own code alone.
    pub fn says_bye(self) -> bool {
        self.code() >= 4000
    }
}
