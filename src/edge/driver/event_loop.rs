//! The loop: everything that happens, happens in a turn of it.
//!
//! Knows the order within a turn. Does not know what comes of anything.
//!
//! A turn first lets the tasks of HTTP run, then does what is due, then writes
//! once to every link that was given something; then it waits, and reads once
//! from everybody who is ready. So a burst leaves in one write for each link, and
//! nobody is read twice before all others were read.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use smol::LocalExecutor;

use super::Shared;
use crate::edge::net::listeners;
use crate::edge::net::listeners::Listeners;
use crate::edge::store;

/// Runs until `main` is done; its tasks and those of `executor` run in between.
pub fn run<T>(
    driver: &Shared,
    doors: &Rc<RefCell<Listeners>>,
    executor: &Rc<LocalExecutor<'static>>,
    main: impl Future<Output = T>,
) -> T {
    let bell = driver.borrow().links.epoll.bell();
    let waker = Waker::from(bell.clone());
    let mut tasks = pin!(executor.run(main));
    let mut ready = Vec::new();
    let mut is_rung = true;
    loop {
        if is_rung && let Poll::Ready(result) = tasks.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        let mut working = driver.borrow_mut();
        let wait = working.end_turn();
        let wait = [wait, doors.borrow_mut().tick(&mut working)].into_iter().flatten().min();
        working.wait(wait, &mut ready);
        drop(working);
        for one in ready.drain(..) {
            if store::is_store_event(one) {
                driver.borrow_mut().store_ready();
            } else if listeners::is_meant(one) {
                doors.borrow_mut().ready(one, driver, executor);
            } else {
                driver.borrow_mut().ready(one);
            }
        }
        is_rung = bell.was_rung();
    }
}
