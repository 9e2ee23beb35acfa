//! Passing of descriptors in the queue of a socket (SCM_RIGHTS), however many there are.
//!
//! A process that holds the socket holds all of them, and one descriptor is all that
//! has to be passed on: systemd's list of names has a limit, and so has the time for a start. If
//! they are not taken out they are closed with it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// As many as the kernel takes in one message (`SCM_MAX_FD`).
const IN_ONE: usize = 253;

/// Puts descriptors into the queue of a socket, and returns its other end and the socket.
///
/// # Errors
/// When the kernel takes no more: so many may be on their way at once as a
/// process may have open.
pub(super) fn send(descriptors: &[BorrowedFd<'_>]) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // With the ends of messages kept; and the other end's closing is the end of all.
    let (sender, receiver) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_ONE))];
    for some in descriptors.chunks(IN_ONE) {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(some)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        sendmsg(&sender, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok((sender, receiver))
}

/// Whether another process holds the socket at whose other end we are, and still does after
/// so long.
pub(super) fn is_held(sender: &OwnedFd, patience: Duration) -> bool {
    let mut ends = [PollFd::new(sender, PollFlags::empty())];
    let patience = Timespec::try_from(patience).unwrap_or_default();
    let polled = poll(&mut ends, Some(&patience));
    polled.is_ok() && !ends.iter().any(|end| end.revents().contains(PollFlags::HUP))
}

/// Takes all descriptors out.
///
/// # Errors
/// When it is no such socket, or not all that was in it could be taken: this process
/// may have fewer descriptors than the other one.
pub(super) fn receive(receiver: OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_ONE))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = match recvmsg(&receiver, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
            Ok(message) => message,
            Err(Errno::INTR) => continue,
            // Its other end is open somewhere; nothing more is in it.
            Err(Errno::AGAIN) => return Ok(descriptors),
            Err(error) => return Err(error.into()),
        };
        if message.bytes == 0 {
            return Ok(descriptors);
        }
        if message.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
            return Err(Errno::MFILE.into());
        }
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = part {
                descriptors.extend(some);
            }
        }
    }
}
