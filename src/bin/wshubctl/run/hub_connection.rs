//! The hub of one command: looked for before it begins, and while it runs.
//!
//! Knows how long a command waits for it. Does not know how a hub is found again:
//! the client library does.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use smol::{LocalExecutor, Timer, future};
use wshubd::client::{Client, Connection, Error, Lines, News, Options, Pending};
use wshubd::edge::clock;

use super::messages::Report;
use crate::error::{Exit, Failure};
use crate::socket_path;

/// How long a command waits for an answer: one that is there answers within
/// milliseconds, and before a command that is worth watching nobody minds a second.
const ANSWER: Duration = Duration::from_secs(1);

/// How much output waits for a hub that is away, in bytes as it is published.
const BUFFER: usize = 1 << 20;

/// How long one that is needed may take to answer, unless somebody says otherwise.
const NEEDED: Duration = Duration::from_secs(10);

/// Between two attempts to connect to one that is needed.
const PAUSE: Duration = Duration::from_millis(50);

/// For how long output waits for a hub that is there and takes nothing, before it is
/// dropped: until then the command may stand still.
const STANDSTILL: Duration = Duration::from_secs(1);

/// What is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    /// It was never there.
    Sought,
    Here,
    /// It was there.
    Away,
}

/// Whether the hub has the operation.
pub(super) enum Registration {
    Registered,
    /// It has not answered yet.
    Open,
}

pub(super) struct Hub {
    pub(super) client: Client,
    lines: Lines,
    /// Where its socket may come into being.
    places: Vec<socket_path::Place>,
    pub(super) presence: Rc<Cell<Presence>>,
    /// For how long it is waited for, where the command does not begin without it.
    needed: Option<Duration>,
    report: Report,
}

impl Hub {
    /// Begins to look for it; where it is needed it must be there.
    pub(super) async fn new(
        executor: &LocalExecutor<'_>,
        named: Option<&Path>,
        needed: Option<Option<Duration>>,
        report: Report,
    ) -> Result<Self, Failure> {
        let is_needed = needed.is_some();
        let (places, Connection { client, lines, link }) = match needed {
            Some(wait) => connect(named, wait).await?,
            None => {
                let places = socket_path::places(named);
                let connection = options(&places).connect_later();
                (places, connection)
            }
        };
        let needed = needed.map(|wait| wait.unwrap_or(NEEDED));
        // Whoever waits for an answer learns how it ended.
        executor.spawn(async { drop(link.run().await) }).detach();
        let presence = if is_needed { Presence::Here } else { Presence::Sought };
        Ok(Self { client, lines, places, presence: Rc::new(Cell::new(presence)), needed, report })
    }

    /// Waits until the hub has the operation, or for as long as the command does.
    ///
    /// # Errors
    /// The hub does not take it, or does not answer though it is needed.
    pub(super) async fn registers(&self, beginning: &Pending) -> Result<Registration, Failure> {
        let limit = self.needed.unwrap_or(ANSWER);
        let answer = async { Some(beginning.answer().await) };
        let absent = async {
            self.is_absent().await;
            None
        };
        let late = async {
            Timer::after(limit).await;
            if self.needed.is_none() {
                self.report.hub_silent(&self.client.path());
            }
            None
        };
        match future::or(answer, future::or(absent, late)).await {
            Some(Ok(_)) => {
                self.presence.set(Presence::Here);
                Ok(Registration::Registered)
            }
            Some(Err(error)) if self.needed.is_some() || is_refusal(&error) => Err(error.into()),
            // That nothing ever comes of it is said when its interrupts are waited for.
            Some(Err(_)) => Ok(Registration::Open),
            None if self.needed.is_some() => {
                let path = self.client.path();
                let limit = humantime::format_duration(limit);
                let message = format!("wshubd at {} has not answered within {limit}", path.display());
                Err(Failure::new(Exit::TimedOut, message))
            }
            None => Ok(Registration::Open),
        }
    }

    /// Waits until it is known that nobody is there, and says so.
    async fn is_absent(&self) {
        loop {
            match self.lines.news().await {
                Some(News::Away(error)) if self.needed.is_none() => {
                    if self.presence.get() == Presence::Here {
                        self.presence.set(Presence::Away);
                    }
                    let is_nowhere =
                        self.places.len() > 1 && !self.places.iter().any(|place| place.is_there());
                    return self.report.hub_absent(&match is_nowhere {
                        true => socket_path::nowhere(&self.places, " "),
                        false => error.to_string(),
                    });
                }
                Some(News::Back) => self.presence.set(Presence::Here),
                Some(_) => {}
                None => return future::pending().await,
            }
        }
    }

    /// Takes note of what becomes of it, until it has gone for good. Output is sent
    /// without waiting for answers; what is wrong with it comes by itself, and most
    /// often for each line, so that the first is enough.
    pub(super) async fn watch(self) {
        let Self { lines, presence, report, .. } = self;
        let mut told = false;
        while let Some(news) = lines.news().await {
            match news {
                News::Line(heard) if heard.kind() == "error" && !told => {
                    told = true;
                    report.complaint(&heard);
                }
                News::Line(_) => {}
                // That it is not there was said before.
                News::Away(_) if presence.get() == Presence::Sought => {}
                News::Away(error) => {
                    presence.set(Presence::Away);
                    report.hub_away(&error);
                }
                News::Back => match presence.replace(Presence::Here) {
                    Presence::Sought => report.hub_here(),
                    Presence::Away => report.hub_back(),
                    // It was heard of by its answer.
                    Presence::Here => {}
                },
            }
        }
    }
}

/// Its answers are bounded by what it waits for at its end.
fn options(places: &[socket_path::Place]) -> Options {
    let options = socket_path::options(places).buffer(BUFFER).patience(Duration::MAX);
    options.standstill(STANDSTILL).despite_denial()
}

/// Connects to a hub that must be there, or must come within so long.
async fn connect(
    named: Option<&Path>,
    wait: Option<Duration>,
) -> Result<(Vec<socket_path::Place>, Connection), Failure> {
    let deadline = clock::now().moment + wait.unwrap_or_default();
    loop {
        let failure = match socket_path::find(named) {
            Ok(place) => {
                let places = vec![place];
                match options(&places).connect().await {
                    Ok(connection) => return Ok((places, connection)),
                    Err(error) => error.into(),
                }
            }
            Err(failure) => failure,
        };
        if failure.exit != Exit::Unreachable || clock::now().moment >= deadline {
            return Err(failure);
        }
        Timer::after(PAUSE).await;
    }
}

/// Whether the hub has said no, or that this process may not speak to it.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused(_) | Error::TurnedAway { .. })
}
