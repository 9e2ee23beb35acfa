//! The tasks: one reads each link, one ends the turns, one keeps time.
//!
//! Knows what to wait for. Does not know what comes of it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use smol::{LocalExecutor, Timer};

use super::driver::{Next, Shared};
use super::wire::Wire;
use crate::protocol::ConnectionId;

/// Reads a link until it ends. This future is most of what an idle connection
/// costs, so nothing is kept in it but what says which link it is.
pub async fn read(driver: Shared, wire: Rc<Wire>, conn: ConnectionId) {
    loop {
        if poll_fn(|cx| wire.poll_readable(cx)).await.is_err() {
            // The reactor is gone, and the program with it.
            return;
        }
        let next = driver.borrow_mut().read(conn);
        match next {
            Next::Read => {}
            Next::Wait => poll_fn(|cx| driver.borrow_mut().poll_room(conn, cx)).await,
            Next::End => return,
        }
    }
}

/// Waits for a socket whose kernel buffer is full, until it has taken all.
async fn drain(driver: Shared, wire: Rc<Wire>, conn: ConnectionId) {
    while poll_fn(|cx| wire.poll_writable(cx)).await.is_ok() {
        if !driver.borrow_mut().drain(conn) {
            return;
        }
    }
}

/// Ends every turn. The executor is fair: this task runs when all that were
/// ready before it have run, so that what they said leaves together.
pub async fn end_turns(driver: Shared, executor: Rc<LocalExecutor<'static>>) {
    loop {
        poll_fn(|cx| driver.borrow_mut().poll_turn(cx)).await;
        let full = driver.borrow_mut().end_turn();
        for conn in full {
            let wire = driver.borrow_mut().links.get(conn).map(|link| link.wire.clone());
            if let Some(wire) = wire {
                executor.spawn(drain(driver.clone(), wire, conn)).detach();
            }
        }
    }
}

/// Wakes the driver when something is due, and never otherwise.
pub async fn keep_time(driver: Shared) {
    let mut timer = Timer::never();
    poll_fn(move |cx| {
        loop {
            match driver.borrow_mut().tick(cx.waker()) {
                Some(wait) => timer.set_after(wait),
                None => timer = Timer::never(),
            }
            if std::pin::Pin::new(&mut timer).poll(cx).is_pending() {
                return Poll::<()>::Pending;
            }
        }
    })
    .await;
}
