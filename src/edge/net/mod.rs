//! Sockets: listeners, connections, decoders of what comes in, send queues of what goes out.

pub mod connection;
pub mod connection_table;
pub mod encoded_frame;
pub mod epoll;
pub mod fd_limit;
pub mod inherited_fd;
pub mod line_decoder;
pub mod listeners;
pub mod mem_accounting;
pub mod peer_credentials;
pub mod pending_conns;
pub mod send_queue;
pub mod signal_mask;
pub mod socket;
pub(super) mod teardown;
pub mod ws_decoder;
