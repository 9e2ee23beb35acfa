//! The limit `--wait` for connections and answers, and the notice about a long wait.
//!
//! Waits for messages, for the standard input or for a person have no limit here.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use smol::{Timer, future};
use wshubd::edge::clock;
use wshubd::protocol::Moment;

use crate::error::{Exit, Failure};
use crate::terminal::{escape, notice};

/// The default: more than a wshubd takes to start.
const DEFAULT: Duration = Duration::from_secs(10);

/// After so much silence the standard error names the cause of the wait, and a command that
/// shows more: a healthy wshubd answers in some milliseconds.
const SILENCE: Duration = Duration::from_secs(2);

/// A wait that ends so much later than it was to end was not one: this process was
/// stopped, or the machine asleep, and an answer may be there.
const OVERSLEPT: Duration = Duration::from_secs(1);

const ADVICE: &str = "`systemctl status wshubd` shows which";

/// The limit of all waits of one command.
pub(crate) struct WaitLimit {
    /// None is no limit.
    limit: Option<Duration>,
    /// Whether the option was given.
    is_explicit: bool,
    /// Whether the notice about a long wait was printed.
    has_noticed: Cell<bool>,
}

/// A time in which wshubd has sent nothing.
#[derive(Clone, Copy)]
pub(crate) struct Silence {
    since: Moment,
}

impl Silence {
    pub(crate) fn begin() -> Self {
        Self { since: clock::now().moment }
    }

    /// Begins after so much time, in which silence is expected.
    pub(crate) fn begin_after(time: Duration) -> Self {
        Self { since: clock::now().moment + time }
    }
}

impl WaitLimit {
    /// From the option, if it was given; zero is no limit.
    pub(crate) fn new(option: Option<Duration>) -> Self {
        let limit = Some(option.unwrap_or(DEFAULT)).filter(|limit| !limit.is_zero());
        Self { limit, is_explicit: option.is_some(), has_noticed: Cell::new(false) }
    }

    /// Whether the option was given: then a wshubd that is not there is waited for as well.
    pub(crate) fn is_explicit(&self) -> bool {
        self.is_explicit
    }

    /// The limit as a duration, the longest for none.
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
            let path = escape(&path.to_string_lossy());
            let what = format!("waiting for wshubd at {path} to answer");
            let limit = self.expire(silence, &what).await;
            let limit = humantime::format_duration(limit);
            Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "no answer from wshubd at {path} within {limit} (--wait); is it stopped or busy? {ADVICE}"
                ),
            ))
        };
        future::or(async { Ok(answer.await) }, late).await
    }

    /// Pauses before another attempt to connect; false where the limit is reached.
    pub(crate) async fn retry_pause(
        &self,
        silence: &mut Silence,
        path: Option<&Path>,
        pause: Duration,
    ) -> bool {
        let at = path.map_or_else(String::new, |path| format!(" at {}", escape(&path.to_string_lossy())));
        let what = format!("waiting for wshubd{at} to accept a connection");
        let pause = async {
            Timer::after(pause).await;
            true
        };
        let late = async {
            self.expire(silence, &what).await;
            false
        };
        future::or(pause, late).await
    }

    /// Waits until the silence has lasted as long as the limit, with a notice on the way.
    /// Gives back the limit.
    async fn expire(&self, silence: &mut Silence, what: &str) -> Duration {
        loop {
            let now = clock::now().moment;
            let passed = now.since(silence.since);
            if let Some(limit) = self.limit.filter(|limit| passed >= *limit) {
                return limit;
            }
            if passed >= SILENCE && !self.has_noticed.replace(true) {
                let since = SILENCE.as_secs();
                notice(&format!("{what} (since {since} s): it may be starting, stopped or busy: {ADVICE}"));
            }
            let marks = [self.limit, (!self.has_noticed.get()).then_some(SILENCE)];
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
