//! The addresses of the listeners, and the connections that they accept.

use std::net::{IpAddr, SocketAddr, TcpListener};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::Daemon;

/// A port that nobody has now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn listens_at(addresses: &[String]) -> String {
    let (http, store) = (json!(addresses), "[state]\nstore = \"memory\"\n");
    format!("[listen]\nhttp = {http}\n{store}")
}

/// What a process of this machine sees without a secret at `to`; 0 where nobody
/// listens.
fn public_stats(to: IpAddr, port: u16) -> u16 {
    let to = SocketAddr::new(to, port);
    if std::net::TcpStream::connect(to).is_err() {
        return 0;
    }
    Daemon::answers(to, "GET /api/v1/ws/stats", &[], "").0
}

#[test]
fn ipv4_and_ipv6_listen_together_and_each_alone_in_any_order() {
    let [v4, v6] = ["127.0.0.1", "::1"].map(|text| text.parse().unwrap());
    for (addresses, of_v4, of_v6) in [
        (&["0.0.0.0", "[::]"][..], 200, 200),
        (&["[::]", "0.0.0.0"], 200, 200),
        (&["[::]", "127.0.0.1"], 200, 200),
        (&["127.0.0.1", "[::1]"], 200, 200),
        (&["[::]"], 200, 200),
        (&["0.0.0.0"], 200, 0),
        (&["[::1]"], 0, 200),
    ] {
        let port = free_port();
        let all: Vec<String> = addresses.iter().map(|ip| format!("{ip}:{port}")).collect();
        let _daemon = Daemon::by_file(&listens_at(&all));
        let answered = (public_stats(v4, port), public_stats(v6, port));
        assert_eq!(answered, (of_v4, of_v6), "{addresses:?}");
    }
}

#[test]
fn an_ipv4_client_has_its_own_address_at_an_ipv6_listener() {
    let mut daemon = Daemon::by_file(&listens_at(&["[::]:0".into()]));
    daemon.address = SocketAddr::new("127.0.0.1".parse().unwrap(), daemon.address.port());
    let _client = daemon.client("ada");
    let mut worker = daemon.worker();
    worker.send(json!({"action": "connections"}));
    let listed = worker.receive();
    let listed = listed["connections"].as_array().unwrap().iter();
    let addresses: Vec<&str> = listed.filter_map(|connection| connection["address"].as_str()).collect();
    assert!(matches!(&addresses[..], [one] if one.starts_with("127.0.0.1:")), "{addresses:?}");
}

#[test]
fn a_restart_adds_an_address_that_was_covered_before() {
    let [v4, v6]: [IpAddr; 2] = ["127.0.0.1", "::1"].map(|text| text.parse().unwrap());
    let port = free_port();
    let [all_v6, all_v4] = [format!("[::]:{port}"), format!("0.0.0.0:{port}")];
    let mut daemon = Daemon::by_file(&listens_at(std::slice::from_ref(&all_v6)));
    let mut client = daemon.client("ada");
    // There, and back again.
    for addresses in [&[all_v4, all_v6.clone()][..], &[all_v6]] {
        daemon.write("wshubd.toml", &listens_at(addresses));
        daemon.signal(Signal::USR2);
        daemon.expect_log_line("took over");
        client.expect_pong();
        assert_eq!((public_stats(v4, port), public_stats(v6, port)), (200, 200), "{addresses:?}");
    }
}
