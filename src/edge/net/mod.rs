//! Sockets: listeners, connections, decoders of input, send queues of output.

pub mod bind;
pub mod connection;
pub mod connection_table;
pub mod encoded_frame;
pub mod epoll;
mod epoll_watch;
pub mod fd_limit;
pub mod inherited_fd;
pub mod latch;
pub mod line_decoder;
pub mod listeners;
pub mod mem_accounting;
pub mod peer_credentials;
pub mod peer_side;
pub mod pending_conns;
pub mod read_side;
mod refused_frame_rest;
pub mod send_queue;
pub mod signal_mask;
pub mod socket;
pub mod write_permit;
pub mod ws_decoder;
