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
use wshubd::edge::net::encoded_frame::EncodedFrame;
use wshubd::edge::net::line_decoder::DecodeFlow;
use wshubd::edge::net::send_queue::{FlushOutcome, QueuedFrame, SendQueue};
use wshubd::edge::net::socket::{IoOutcome, PeerSocket};
use wshubd::edge::net::ws_decoder::{Decoded, Decoder};

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
    let Ok(wire) = stream.get_ref().try_clone().map(|stream| PeerSocket::client(stream, None)) else {
        return;
    };
    let mut decoder = Decoder::new(LARGEST);
    let (mut held, mut outbox, mut is_over) = (None, SendQueue::default(), false);
    let (mut scratch, mut gone, mut block) = (Vec::new(), Vec::new(), vec![0; 16 << 10]);
    let mut next: Vec<u8> = early.to_vec();
    loop {
        decoder.decode(&mut held, &next, |heard| {
            match heard {
                Decoded::Text(text) => {
                    EncodedFrame::room(&mut scratch);
                    scratch.extend_from_slice(text.as_bytes());
                    outbox.push(QueuedFrame::for_client(&EncodedFrame::seal(&mut scratch)));
                }
                Decoded::Binary(bytes) => outbox.push(QueuedFrame::for_client(&binary(bytes))),
                Decoded::Reply(frame) => outbox.push(QueuedFrame::for_client(&EncodedFrame::raw(frame))),
                Decoded::Broken(close) => {
                    outbox.push(QueuedFrame::for_client(&EncodedFrame::close(close)));
                    is_over = true;
                }
                Decoded::Closed => is_over = true,
                Decoded::Alive { .. } => {}
            }
            DecodeFlow::Continue
        });
        loop {
            match outbox.flush(&wire, &mut scratch, &mut gone) {
                FlushOutcome::All => break,
                FlushOutcome::Part { .. } if stream.writable().await.is_ok() => {}
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
                IoOutcome::Bytes(0) | IoOutcome::Broken => return,
                IoOutcome::Bytes(_) if is_over => {}
                IoOutcome::Bytes(bytes) => {
                    next.clear();
                    next.extend_from_slice(&block[..bytes]);
                    break;
                }
                IoOutcome::NotNow => {}
            }
        }
    }
}

fn binary(payload: &[u8]) -> EncodedFrame {
    let opcode = OpCode::Data(Data::Binary);
    let header = FrameHeader { is_final: true, rsv1: false, rsv2: false, rsv3: false, opcode, mask: None };
    let mut frame = Cursor::new(Vec::new());
    let _ = header.format(payload.len() as u64, &mut frame);
    let mut frame = frame.into_inner();
    frame.extend_from_slice(payload);
    EncodedFrame::raw(&frame)
}
