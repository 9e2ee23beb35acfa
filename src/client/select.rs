//! What can happen next to a link.
//!
//! Knows how to wait for all of it at once. Does not know what to do about it.

use std::io;

use async_channel::Receiver;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Timer, future};

use super::connection::Order;
use super::framed::FramedStream;
use super::incoming::Unasked;

/// What happened to the link.
pub(super) enum Wakeup {
    Read(usize),
    Room,
    Wrote(usize),
    /// The hub hears no more. What it said last is still to be read.
    Unheard,
    Ordered(Order),
    /// Nobody is left who could give an order.
    Orphaned,
    Retry,
    Impatient,
    /// A pause is over.
    Due,
}

/// Waits for the next thing that happens on a connection. Each branch may be
/// dropped half way without losing anything; `race` keeps none of them waiting
/// for ever. Without a chunk nothing is read before its reader has room.
pub(super) async fn turn(
    talk: &mut FramedStream,
    orders: Option<&Receiver<Order>>,
    chunk: Option<&mut [u8]>,
    unasked: &Unasked,
    impatience: &mut Option<Timer>,
) -> io::Result<Wakeup> {
    let (mut reader, mut writer) = (talk.stream.clone(), talk.stream.clone());
    let (outgoing, retry) = (&talk.outgoing, &mut talk.retry);
    let read = async {
        let Some(chunk) = chunk else {
            unasked.room().await;
            return Ok(Wakeup::Room);
        };
        reader.read(chunk).await.map(Wakeup::Read)
    };
    let write = async {
        if outgoing.is_empty() {
            return future::pending().await;
        }
        Ok(writer.write(outgoing).await.map_or(Wakeup::Unheard, Wakeup::Wrote))
    };
    let order = async { Ok(next_order(orders).await) };
    let waits = async {
        let retry = async {
            match retry {
                Some(retry) => drop(retry.await),
                None => future::pending().await,
            }
            Wakeup::Retry
        };
        Ok(future::or(retry, impatient(impatience)).await)
    };
    future::race(future::race(read, write), future::race(order, waits)).await
}

/// Waits for an order; without a queue there will be none.
pub(super) async fn next_order(orders: Option<&Receiver<Order>>) -> Wakeup {
    match orders {
        Some(orders) => orders.recv().await.map_or(Wakeup::Orphaned, Wakeup::Ordered),
        None => future::pending().await,
    }
}

/// Waits until nobody is kept waiting any more.
pub(super) async fn impatient(impatience: &mut Option<Timer>) -> Wakeup {
    match impatience {
        Some(timer) => drop(timer.await),
        None => future::pending().await,
    }
    Wakeup::Impatient
}
