//! The task that owns the socket, and reconnects when it is lost.

use std::io::ErrorKind;
use std::time::Duration;

use smol::future;
use smol::net::unix::UnixStream;

use super::backoff::{Backoff, SETTLED};
use super::connect::SocketCandidates;
use super::error::Error;
use super::framed::{FramedStream, Loss};
use super::session::{PauseEnd, Session};
use super::unacked::ResendPolicy;
use crate::edge::clock;

/// After so many refusals by permission, one after another, there is no reconnecting:
/// a hub that starts makes its socket first and sets its permissions then.
const DENIALS: u32 = 3;

/// What follows where the system denies the socket several times, one after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DenialPolicy {
    GiveUp,
    KeepTrying,
}

/// Owns the socket; [`ConnectionTask::run`] does all there is to do.
#[derive(Debug)]
pub struct ConnectionTask {
    session: Session,
    candidates: SocketCandidates,
    resend: ResendPolicy,
    on_denial: DenialPolicy,
    /// The first connection, where there is one from the beginning.
    stream: Option<UnixStream>,
    backoff: Backoff,
    denials: u32,
}

impl ConnectionTask {
    /// Without a stream it connects first.
    pub(super) fn new(
        mut session: Session,
        candidates: SocketCandidates,
        resend: ResendPolicy,
        on_denial: DenialPolicy,
        stream: Option<UnixStream>,
    ) -> Self {
        if stream.is_none() {
            session.start_disconnected();
        }
        Self { session, candidates, resend, on_denial, stream, backoff: Backoff::default(), denials: 0 }
    }

    /// Carries lines both ways, over as many connections as it takes, until all
    /// clients, operations and pending answers are dropped and all they sent is
    /// taken, or, for a client that connects once, written.
    ///
    /// # Errors
    /// Why it does not reconnect: [`Error::Lost`] where it connects once,
    /// [`Error::Rejected`], [`Error::Unreachable`] where it may not connect,
    /// [`Error::Untrusted`] where another user's socket has taken the path,
    /// [`Error::Unavailable`] where no caller is left to wait for the hub, and
    /// [`Error::Malformed`]. Callers that still wait for an answer get the same.
    pub async fn run(mut self) -> Result<(), Error> {
        let end = self.run_connections().await;
        if let Err(error) = &end {
            self.session.set_end_reason(error.clone());
        }
        end
    }

    async fn run_connections(&mut self) -> Result<(), Error> {
        let mut after = None;
        loop {
            let stream = match self.stream.take() {
                Some(stream) => stream,
                None => match self.reconnect(after).await? {
                    Some(stream) => stream,
                    None => return Ok(()),
                },
            };
            let mut stream = FramedStream::new(stream);
            if !self.session.is_connected() {
                stream.write_probe();
            }
            let error = match self.session.carry(&mut stream).await {
                Ok(()) => return Ok(()),
                Err(Loss::Final(error)) => return Err(error),
                Err(Loss::Temporary { error, .. }) if self.resend == ResendPolicy::Never => {
                    return Err(error);
                }
                Err(Loss::Temporary { error, after: asked }) => {
                    after = asked;
                    error
                }
            };
            if self.session.on_disconnect(&error).is_some_and(|lasted| lasted >= SETTLED) {
                self.backoff.reset();
            }
        }
    }

    /// Waits until there is a connection again; none where nothing is left
    /// to send.
    async fn reconnect(&mut self, mut after: Option<Duration>) -> Result<Option<UnixStream>, Error> {
        loop {
            let pause = self.backoff.pause(after.take(), clock::random());
            match self.session.pause(pause).await? {
                PauseEnd::Due => {}
                PauseEnd::OperationEnded => self.backoff.reset(),
                PauseEnd::NothingLeft => return Ok(None),
            }
            // The reader of the events, who has just got the loss, sends its requests before
            // the hub is back; neither a pause of zero nor an attempt lets it run.
            future::yield_now().await;
            let candidate = self.candidates.present();
            self.session.set_path(candidate.path());
            let error = match candidate.connect() {
                Ok(stream) => {
                    self.denials = 0;
                    return Ok(Some(stream));
                }
                // Another user's socket does not give way to wshubd's again.
                Err(error @ Error::Untrusted { .. }) => return Err(error),
                Err(error) => error,
            };
            self.denials = if is_denial(&error) { self.denials + 1 } else { 0 };
            if self.on_denial == DenialPolicy::GiveUp && self.denials == DENIALS {
                return Err(error);
            }
            self.session.report_loss(&error);
        }
    }
}

fn is_denial(error: &Error) -> bool {
    matches!(error, Error::Unreachable { why, .. } if why.kind() == ErrorKind::PermissionDenied)
}
