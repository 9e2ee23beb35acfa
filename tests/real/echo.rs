//! Echoes every message, over the daemon's own transport: the peer of a
//! conformance suite. Usage: `cargo run --example echo -- 127.0.0.1:9001`.

use std::convert::Infallible;
use std::error::Error;
use std::io::Cursor;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use async_tungstenite::tungstenite::handshake::server::create_response_with_body;
use async_tungstenite::tungstenite::protocol::frame::FrameHeader;
use async_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use smol::{Async, LocalExecutor};
use smol_hyper::rt::FuturesIo;
use wshubd::edge::net::encoded_frame::Packet;
use wshubd::edge::net::line_decoder::Next;
use wshubd::edge::net::send_queue::{Flushed, Outbox, Piece};
use wshubd::edge::net::socket::{Moved, Wire};
use wshubd::edge::net::ws_decoder::{Decoder, Heard};

/// What the suite's largest case sends.
const LARGEST: usize = 16 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args().nth(1).ok_or("which address?")?.parse()?;
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let listener = Async::<TcpListener>::bind(address)?;
        println!("listening on {address}");
        loop {
            let (stream, _) = listener.accept().await?;
            executor.spawn(serve(stream)).detach();
        }
    }))
}

async fn serve(stream: Async<TcpStream>) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        Box::pin(async move {
            let reply = create_response_with_body(&request, Full::<Bytes>::default);
            Ok::<_, Infallible>(reply.unwrap_or_else(|_| {
                let mut reply = Response::new(Full::default());
                *reply.status_mut() = StatusCode::BAD_REQUEST;
                reply
            }))
        })
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(FuturesIo::new(stream), service);
    if let Ok(parts) = connection.without_shutdown().await {
        echo(&parts.io.into_inner(), &parts.read_buf).await;
    }
}

async fn echo(stream: &Async<TcpStream>, early: &[u8]) {
    let Ok(wire) = stream.get_ref().try_clone().map(|stream| Wire::client(stream, None)) else { return };
    let mut decoder = Decoder::new(LARGEST);
    let (mut held, mut outbox, mut is_over) = (None, Outbox::default(), false);
    let (mut scratch, mut gone, mut block) = (Vec::new(), Vec::new(), vec![0; 16 << 10]);
    let mut next: Vec<u8> = early.to_vec();
    loop {
        decoder.decode(&mut held, &next, |heard| {
            match heard {
                Heard::Text(text) => {
                    Packet::room(&mut scratch);
                    scratch.extend_from_slice(text.as_bytes());
                    outbox.push(Piece::frame(&Packet::seal(&mut scratch)));
                }
                Heard::Binary(bytes) => outbox.push(Piece::frame(&binary(bytes))),
                Heard::Reply(frame) => outbox.push(Piece::frame(&Packet::raw(frame))),
                Heard::Broken(close) => {
                    outbox.push(Piece::frame(&Packet::close(close)));
                    is_over = true;
                }
                Heard::Closed => is_over = true,
                Heard::Alive { .. } => {}
            }
            Next::More
        });
        loop {
            match outbox.flush(&wire, &mut scratch, &mut gone) {
                Flushed::All => break,
                Flushed::Part { .. } if stream.writable().await.is_ok() => {}
                _ => return,
            }
        }
        if is_over {
            wire.shutdown(Shutdown::Write);
        }
        loop {
            if stream.readable().await.is_err() {
                return;
            }
            match wire.read(&mut block) {
                Moved::Bytes(0) | Moved::Broken => return,
                Moved::Bytes(_) if is_over => {}
                Moved::Bytes(bytes) => {
                    next.clear();
                    next.extend_from_slice(&block[..bytes]);
                    break;
                }
                Moved::NotNow => {}
            }
        }
    }
}

fn binary(payload: &[u8]) -> Packet {
    let opcode = OpCode::Data(Data::Binary);
    let header = FrameHeader { is_final: true, rsv1: false, rsv2: false, rsv3: false, opcode, mask: None };
    let mut frame = Cursor::new(Vec::new());
    let _ = header.format(payload.len() as u64, &mut frame);
    let mut frame = frame.into_inner();
    frame.extend_from_slice(payload);
    Packet::raw(&frame)
}
