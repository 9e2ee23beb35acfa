//! The steps of a history, each with its line of text.

use std::fmt;

use proptest::prelude::*;
use wshubd::protocol::InboxMode;

/// Six devices of three users, then two workers.
pub(super) const PEERS: [&str; 8] = [
    "ann's desk",
    "ann's phone",
    "ben's desk",
    "ben's phone",
    "cho's desk",
    "cho's phone",
    "worker one",
    "worker two",
];
pub(super) const DEVICES: usize = 6;
pub(super) const USERS: [&str; 3] = ["ann", "ben", "cho"];

/// One of each policy, small enough that random histories reach their limits.
pub(super) const CHANNELS: [&str; 4] = ["history", "undelivered", "brief", "never"];

/// One thing that happens. What makes no sense when its turn comes, as leaving
/// without being there, does not happen.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Come(usize, InboxMode),
    Leave(usize),
    Cut(usize, usize),
    Mode(usize, InboxMode),
    Subscribe(usize, usize),
    SubscribeFromTheStart(usize, usize),
    Unsubscribe(usize, usize),
    Publish { by: usize, channel: usize, ttl: Option<u64>, quiet: bool, durable: bool },
    Send { by: usize, user: usize, ttl: Option<u64>, receipt: bool, durable: bool },
    Repeat(usize),
    Whisper(usize, usize),
    Ack { by: usize, back: u64, read: bool },
    AckNonsense(usize),
    Slow(usize),
    Carry(usize, usize),
    Fast(usize),
    SlowStore,
    StoreAnswers,
    QuickStore,
    Wait(u64),
    Start(usize, usize),
    End(usize, usize),
    Interrupt(usize, usize),
    HandOver,
    Write,
    SlowDisk,
    QuickDisk,
    DiskFails,
    DiskWorks,
    Restart,
    Kill,
    Crash,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = |who: &usize| PEERS[*who];
        let on = |channel: &usize| CHANNELS[*channel];
        let for_so_long = |ttl: &Option<u64>| ttl.map(|ttl| format!(", worth {ttl} s")).unwrap_or_default();
        match self {
            Self::Come(who, _) if *who >= DEVICES => write!(f, "{} comes", peer(who)),
            Self::Come(who, mode) => write!(f, "{} comes (inbox {mode:?})", peer(who)),
            Self::Leave(who) => write!(f, "{} leaves", peer(who)),
            Self::Cut(who, count) => {
                write!(f, "{} is cut off; {count} frames are lost behind its socket", peer(who))
            }
            Self::Mode(who, mode) => write!(f, "{} changes its inbox to {mode:?}", peer(who)),
            Self::Subscribe(who, channel) => write!(f, "{} subscribes to {}", peer(who), on(channel)),
            Self::SubscribeFromTheStart(who, channel) => {
                write!(f, "{} subscribes to {} from the start", peer(who), on(channel))
            }
            Self::Unsubscribe(who, channel) => write!(f, "{} unsubscribes from {}", peer(who), on(channel)),
            Self::Publish { by, channel, ttl, quiet, durable } => {
                let quiet = if *quiet { ", not to itself" } else { "" };
                let durable = if *durable { " durably" } else { "" };
                write!(f, "{} publishes{durable} on {}{}{quiet}", peer(by), on(channel), for_so_long(ttl))
            }
            Self::Send { by, user, ttl, receipt, durable } => {
                let receipt = if *receipt { ", with a receipt" } else { "" };
                let durable = if *durable { " durably" } else { "" };
                write!(f, "{} sends{durable} to {}{}{receipt}", peer(by), USERS[*user], for_so_long(ttl))
            }
            Self::Repeat(who) => write!(f, "{} says the last thing again", peer(who)),
            Self::Whisper(who, channel) => write!(f, "{} whispers on {}", peer(who), on(channel)),
            Self::Ack { by, back, read } => {
                let what = if *read { "has read" } else { "acknowledges" };
                let but = if *back > 0 { format!(" but the last {back}") } else { String::new() };
                write!(f, "{} {what} all it heard{but}", peer(by))
            }
            Self::AckNonsense(who) => write!(f, "{} acknowledges what it was never sent", peer(who)),
            Self::Slow(who) => write!(f, "the link of {} is slow", peer(who)),
            Self::Carry(who, count) => write!(f, "the link of {} carries {count}", peer(who)),
            Self::Fast(who) => write!(f, "the link of {} is fast", peer(who)),
            Self::SlowStore => f.write_str("the store is slow"),
            Self::StoreAnswers => f.write_str("the store answers"),
            Self::QuickStore => f.write_str("the store is quick"),
            Self::Wait(seconds) => write!(f, "{seconds} s pass"),
            Self::Start(who, operation) => write!(f, "{} starts op{operation}", peer(who)),
            Self::End(who, operation) => write!(f, "{} ends op{operation}", peer(who)),
            Self::Interrupt(who, operation) => write!(f, "{} interrupts op{operation}", peer(who)),
            Self::HandOver => f.write_str("another process takes over"),
            Self::Write => f.write_str("the disk writes what waits for it"),
            Self::Restart => f.write_str("the daemon stops, and starts again"),
            Self::SlowDisk => f.write_str("the disk lets everybody wait"),
            Self::QuickDisk => f.write_str("the disk is quick"),
            Self::DiskFails => f.write_str("the disk fails"),
            Self::DiskWorks => f.write_str("the disk works"),
            Self::Kill => f.write_str("the daemon is killed, and starts again"),
            Self::Crash => f.write_str("the power fails, and the daemon starts again"),
        }
    }
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let (peer, device) = (0..PEERS.len(), 0..DEVICES);
    let worker = DEVICES..PEERS.len();
    let channel = 0..CHANNELS.len();
    let mode =
        || prop_oneof![3 => Just(InboxMode::Auto), 3 => Just(InboxMode::Ack), 1 => Just(InboxMode::Off)];
    let ttl = || prop_oneof![4 => Just(None), 1 => Just(Some(0)), 2 => (5..20u64).prop_map(Some)];
    let operation = 0..3usize;
    let sockets = prop_oneof![
        3 => peer.clone().prop_map(Step::Slow),
        6 => (peer.clone(), 1..8usize).prop_map(|(who, count)| Step::Carry(who, count)),
        2 => peer.clone().prop_map(Step::Fast),
        1 => Just(Step::SlowStore),
        2 => Just(Step::StoreAnswers),
        1 => Just(Step::QuickStore),
        3 => (1..12u64).prop_map(Step::Wait),
        1 => Just(Step::HandOver),
        2 => Just(Step::Write),
        1 => Just(Step::SlowDisk),
        1 => Just(Step::QuickDisk),
        1 => Just(Step::DiskFails),
        3 => Just(Step::DiskWorks),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        1 => Just(Step::Crash),
    ];
    let operations = prop_oneof![
        (worker.clone(), operation.clone()).prop_map(|(who, what)| Step::Start(who, what)),
        (worker, operation.clone()).prop_map(|(who, what)| Step::End(who, what)),
        (device.clone(), operation).prop_map(|(who, what)| Step::Interrupt(who, what)),
    ];
    let links = prop_oneof![
        4 => (peer.clone(), mode()).prop_map(|(who, mode)| Step::Come(who, mode)),
        1 => peer.clone().prop_map(Step::Leave),
        2 => (peer.clone(), 0..4usize).prop_map(|(who, count)| Step::Cut(who, count)),
        1 => (device.clone(), mode()).prop_map(|(who, mode)| Step::Mode(who, mode)),
        4 => (peer.clone(), channel.clone()).prop_map(|(who, what)| Step::Subscribe(who, what)),
        1 => (device.clone(), channel.clone()).prop_map(|(who, what)| Step::SubscribeFromTheStart(who, what)),
        1 => (peer.clone(), channel.clone()).prop_map(|(who, what)| Step::Unsubscribe(who, what)),
    ];
    let seldom = || prop::bool::weighted(0.2);
    let publish = (peer.clone(), channel.clone(), ttl(), seldom(), seldom())
        .prop_map(|(by, channel, ttl, quiet, durable)| Step::Publish { by, channel, ttl, quiet, durable });
    let send = (peer.clone(), 0..USERS.len(), ttl(), any::<bool>(), seldom())
        .prop_map(|(by, user, ttl, receipt, durable)| Step::Send { by, user, ttl, receipt, durable });
    let ack = (device.clone(), prop_oneof![3 => Just(0), 1 => 1..3u64], prop::bool::weighted(0.3))
        .prop_map(|(by, back, read)| Step::Ack { by, back, read });
    prop_oneof![
        14 => links,
        10 => publish,
        8 => send,
        1 => peer.prop_map(Step::Repeat),
        1 => (device.clone(), channel).prop_map(|(who, what)| Step::Whisper(who, what)),
        8 => ack,
        1 => device.prop_map(Step::AckNonsense),
        15 => sockets,
        3 => operations,
    ]
}
