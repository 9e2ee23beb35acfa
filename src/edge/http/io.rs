//! Socket of hyper, without the answers that hyper makes by itself.
//!
//! Those to an unreadable head have no body. They are not written: the connection sends an
//! answer of its own, which says more.

use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use memchr::memmem;
use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

/// A socket for hyper.
pub(in crate::edge) struct HttpIo(Async<TcpStream>);

impl HttpIo {
    pub(in crate::edge) fn new(stream: Async<TcpStream>) -> Self {
        Self(stream)
    }

    pub(in crate::edge) fn into_inner(self) -> Async<TcpStream> {
        self.0
    }
}

impl AsyncRead for HttpIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for HttpIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match without_own_answer(buf) {
            // It counts as written.
            [] => Poll::Ready(Ok(buf.len())),
            ours => Pin::new(&mut self.0).poll_write(cx, ours),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

/// The bytes to write, without an answer of hyper's own at their end. Each refusal of ours has a
/// body, and no body of ours holds a line that ends with CR.
fn without_own_answer(buf: &[u8]) -> &[u8] {
    if !buf.ends_with(b"\r\n\r\n") {
        return buf;
    }
    let Some(at) = memmem::rfind(buf, b"HTTP/1.") else { return buf };
    let (before, head) = buf.split_at(at);
    let refuses = head.get(8..10) == Some(b" 4");
    let is_empty = memmem::find(head, b"\r\ncontent-length: 0\r\n").is_some();
    if refuses && is_empty { before } else { buf }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_without_a_body_that_refuses_is_left_out() {
        let own = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: now\r\n\r\n";
        let ours = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";
        let head = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n";
        let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(without_own_answer(own.as_bytes()), b"");
        assert_eq!(without_own_answer(format!("{ours}{own}").as_bytes()), ours.as_bytes());
        for whole in [ours, head, switch, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "\r\n\r\n"] {
            assert_eq!(without_own_answer(whole.as_bytes()), whole.as_bytes());
        }
    }
}
