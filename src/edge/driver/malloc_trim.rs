//! Settings of glibc's heap, which is to give memory back.
//!
//! glibc raises its thresholds when a large block is freed: after a table of some
//! megabytes has grown, several megabytes of free heap stay with the process for good. A
//! daemon that has seen many logs come and go would never be small again.

/// So much free memory at the end of the heap goes back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM: i32 = 256 << 10;

/// From this size on a block is none of the heap, and goes back by itself. Messages are
/// smaller.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: i32 = 1 << 20;

/// Sets both for the process, before it has done anything. Other C libraries have no such
/// thresholds.
pub fn give_back_what_is_free() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "there is no other way to tell glibc while it runs")]
    // SAFETY: it takes two numbers, and no other thread is there yet.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
    }
}
