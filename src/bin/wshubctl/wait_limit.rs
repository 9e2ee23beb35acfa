//! Limits for waits on wshubd, and the line on the standard error about a long one.
//!
//! Knows what `--wait` means for connections and answers. Waits for messages, for the
//! standard input or for a person have no limit here.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use smol::{Timer, future};
use wshubd::edge::clock;
use wshubd::protocol::Moment;

use crate::error::{Exit, Failure};
use crate::terminal::{plain, say};

/// Where nobody says how long: more than a wshubd takes to start.
pub(crate) const USUAL: Duration = Duration::from_secs(10);

/// After so much silence the standard error names the cause of the wait, and a place to
/// look: a healthy wshubd answers in some milliseconds.
const SILENCE: Duration = Duration::from_secs(2);

/// A wait that ends so much later than it was to end was not one: this process was
/// stopped, or the machine asleep, and an answer may be there.
const OVERSLEPT: Duration = Duration::from_secs(1);

const ADVICE: &str = "`systemctl status wshubd` shows which";

/// The limit of all waiting, and whether it was told that we wait.
pub(crate) struct Wait {
    /// None: for ever.
    limit: Option<Duration>,
    /// Whether somebody asked for it.
    is_wanted: bool,
    told: Cell<bool>,
}

/// A time in which wshubd has said nothing.
#[derive(Clone, Copy)]
pub(crate) struct Silence {
    since: Moment,
}

impl Silence {
    pub(crate) fn begin() -> Self {
        Self { since: clock::now().moment }
    }

    /// One that is none before so much time has passed.
    pub(crate) fn begin_after(time: Duration) -> Self {
        Self { since: clock::now().moment + time }
    }
}

impl Wait {
    /// As the option says, if it was given; zero is for ever.
    pub(crate) fn new(given: Option<Duration>) -> Self {
        let limit = Some(given.unwrap_or(USUAL)).filter(|limit| !limit.is_zero());
        Self { limit, is_wanted: given.is_some(), told: Cell::new(false) }
    }

    /// Whether a wshubd that is not there is waited for as well.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// The limit, as a patience that may be endless.
    pub(crate) fn patience(&self) -> Duration {
        self.limit.unwrap_or(Duration::MAX)
    }

    /// Waits for an answer of the wshubd at `path`, until the silence is over the limit.
    pub(crate) async fn answer<T>(
        &self,
        silence: &mut Silence,
        path: &Path,
        answer: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let late = async {
            let path = plain(&path.to_string_lossy());
            let what = format!("waiting for wshubd at {path} to answer");
            let end = self.end(silence, &what).await;
            let end = humantime::format_duration(end);
            Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "no answer from wshubd at {path} within {end} (--wait); is it stopped or busy? {ADVICE}"
                ),
            ))
        };
        future::or(async { Ok(answer.await) }, late).await
    }

    /// Waits a moment for wshubd to take connections at one of its places; false where
    /// the limit is reached.
    pub(crate) async fn arrival(&self, silence: &mut Silence, path: Option<&Path>, pause: Duration) -> bool {
        let place = path.map_or_else(String::new, |path| format!(" at {}", plain(&path.to_string_lossy())));
        let what = format!("waiting for wshubd{place} to take a connection");
        let pause = async {
            Timer::after(pause).await;
            true
        };
        let late = async {
            self.end(silence, &what).await;
            false
        };
        future::or(pause, late).await
    }

    /// Waits until the silence has lasted as long as it may, and says so on the way.
    /// Gives back how long that is.
    async fn end(&self, silence: &mut Silence, what: &str) -> Duration {
        loop {
            let now = clock::now().moment;
            let passed = now.since(silence.since);
            if let Some(limit) = self.limit.filter(|limit| passed >= *limit) {
                return limit;
            }
            if passed >= SILENCE && !self.told.replace(true) {
                let since = SILENCE.as_secs();
                say(&format!("{what} (since {since} s): it may be starting, stopped or busy: {ADVICE}"));
            }
            let marks = [self.limit, (!self.told.get()).then_some(SILENCE)];
            let Some(next) = marks.into_iter().flatten().map(|mark| silence.since + mark).min() else {
                return future::pending().await;
            };
            let pause = next.since(now);
            Timer::after(pause).await;
            if clock::now().moment.since(now) > pause + OVERSLEPT {
                *silence = Silence::begin();
            }
        }
    }
}
