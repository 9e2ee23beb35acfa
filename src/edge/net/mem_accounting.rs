//! Memory accounting of this thread: bytes held for its peers, and the number of workers.
//!
//! Memory is counted for as long as a [`MemCharge`] lives, a worker for as long as a
//! [`WorkerCount`] does. So nothing has to be walked through to find the numbers, and no path
//! on which a connection ends can forget to give something back.

use std::cell::Cell;

thread_local! {
    /// All connections live on one thread; so the number costs an addition.
    static HELD: Cell<usize> = const { Cell::new(0) };
    static WORKERS: Cell<usize> = const { Cell::new(0) };
}

/// What is held.
pub fn held() -> usize {
    HELD.get()
}

/// Counts bytes that came to be held.
pub(super) fn add(bytes: usize) {
    HELD.set(HELD.get().wrapping_add(bytes));
}

/// Counts bytes that are held no longer.
pub(super) fn remove(bytes: usize) {
    HELD.set(HELD.get().wrapping_sub(bytes));
}

/// So many bytes are held for as long as this lives.
#[derive(Default, Debug)]
pub struct MemCharge(usize);

impl MemCharge {
    /// Holds so many bytes.
    pub fn of(bytes: usize) -> Self {
        add(bytes);
        Self(bytes)
    }

    /// Holds so many from now on.
    pub fn set(&mut self, bytes: usize) {
        add(bytes);
        remove(std::mem::replace(&mut self.0, bytes));
    }

    /// How many.
    pub fn bytes(&self) -> usize {
        self.0
    }
}

impl Drop for MemCharge {
    fn drop(&mut self) {
        remove(self.0);
    }
}

/// One worker, for as long as this lives.
#[derive(Debug)]
pub struct WorkerCount(());

impl Default for WorkerCount {
    fn default() -> Self {
        WORKERS.set(WORKERS.get() + 1);
        Self(())
    }
}

impl Drop for WorkerCount {
    fn drop(&mut self) {
        WORKERS.set(WORKERS.get() - 1);
    }
}

/// How many workers there are.
pub fn workers() -> usize {
    WORKERS.get()
}
