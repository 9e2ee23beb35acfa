//! A configuration as a file.
//!
//! Knows how values are spelled so that they are read as the same again. Does
//! not know secrets: the configuration holds only the names of their files.

use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::merge::Entries;
use super::reader::Problems;
use super::schema;
use super::schema::{DISKS, INBOX_KEEPS, KEEPS, LEVELS};
use super::{ChannelPolicy, Config, Environment, Forwarded, KeyFile, Principal, StoreKind};
use crate::hub::Pattern;
use crate::hub::settings::Policy;

/// Spells a size with the largest unit that it is a multiple of.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    whole.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("\"{}{unit}\"", bytes >> shift))
}

/// Spells a duration.
pub(super) fn duration(duration: Duration) -> String {
    format!("\"{}\"", humantime::format_duration(duration))
}

/// Spells text. What cannot stand in quotes is escaped.
fn text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn path(path: &Path) -> String {
    text(&path.to_string_lossy())
}

fn list<T>(items: &[T], spell: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = items.iter().map(spell).collect();
    format!("[{}]", items.join(", "))
}

fn word<T: PartialEq>(names: &[(&str, T)], of: &T) -> String {
    text(names.iter().find(|(_, value)| value == of).map_or("", |(name, _)| name))
}

fn key(key: &KeyFile) -> String {
    let kid = key.kid.as_ref().map(|kid| format!(", kid = {}", text(kid))).unwrap_or_default();
    format!("{{ alg = {}, file = {}{kid} }}", text(key.alg.name()), path(&key.file))
}

fn network(network: &IpNet) -> String {
    let is_one = network.prefix_len() == network.max_prefix_len();
    text(&if is_one { network.addr().to_string() } else { network.to_string() })
}

fn principal(principal: &Principal) -> String {
    match principal {
        Principal::Uid(uid) => uid.to_string(),
        Principal::Group(group) => text(&format!("@{group}")),
        Principal::Unit(unit) => text(&format!("unit:{unit}")),
    }
}

/// Sections with their settings, in the order of a file.
#[derive(Default)]
struct Page(Vec<(&'static str, Vec<(&'static str, String)>)>);

impl Page {
    fn section(&mut self, head: &'static str) {
        self.0.push((head, Vec::new()));
    }

    fn set(&mut self, key: &'static str, value: impl std::fmt::Display) {
        if let Some((_, settings)) = self.0.last_mut() {
            settings.push((key, value.to_string()));
        }
    }
}

/// The configuration as a file.
pub(super) fn config(config: &Config) -> String {
    let mut text = String::new();
    for (head, settings) in page(config).0 {
        text.push_str(if text.is_empty() { "" } else { "\n" });
        for line in std::iter::once(head.to_owned())
            .chain(settings.iter().map(|(key, value)| format!("{key} = {value}")))
        {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

/// Each setting by its name, as a file spells it. One of a `[[channel]]` is named by
/// what that matches; `channel` is the list of these.
pub(super) fn settings(config: &Config) -> Vec<(String, String)> {
    let patterns: Vec<&str> = config.channels.iter().map(|channel| channel.pattern.as_str()).collect();
    let mut all = vec![("channel".to_owned(), list(&patterns, |pattern| text(pattern)))];
    for (head, settings) in page(config).0 {
        let section = head.trim_matches(['[', ']']);
        let matched = settings.first().filter(|(key, _)| *key == "match");
        let section = matched.map_or(section.to_owned(), |(_, pattern)| format!("{section} {pattern}"));
        all.extend(settings.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
    }
    all
}

/// The names of all options, each with its section.
pub(super) fn names() -> Vec<(&'static str, &'static str)> {
    let nowhere = Environment::new::<&str, &str>(0, []);
    let mut defaults = schema::config(Entries::new(), &nowhere, &Problems::default());
    defaults.channels.push(ChannelPolicy { pattern: Pattern::new("*"), policy: Policy::default() });
    let sections = page(&defaults).0.into_iter();
    let of = |(head, settings): (&'static str, Vec<(&'static str, String)>)| {
        settings.into_iter().map(move |(key, _)| (head.trim_matches(['[', ']']), key))
    };
    sections.flat_map(of).collect()
}

/// Everything, in the order of the example file.
fn page(config: &Config) -> Page {
    let mut page = Page::default();
    let Config { listen, state, auth, worker, heartbeat, store, log, .. } = config;
    page.section("[listen]");
    page.set("http", list(&listen.http, |address| text(&address.to_string())));
    page.set("worker", path(&listen.worker));
    page.set("paths", list(&listen.paths, |path| text(path)));
    page.set("allowed_origins", list(&listen.allowed_origins, |origin| text(origin)));
    page.set("allowed_hosts", list(&listen.allowed_hosts, |host| text(host)));
    page.set("metrics_open", listen.metrics_open);
    page.set("trusted_proxies", list(&listen.trusted_proxies, network));
    page.set("forwarded", word(&Forwarded::NAMES, &listen.forwarded));

    page.section("[state]");
    page.set("directory", path(&state.directory));
    page.set("store", word(&StoreKind::NAMES, &state.store));

    let patterns = |patterns: &[Pattern]| list(patterns, |pattern| text(pattern.as_str()));
    page.section("[auth]");
    page.set("anonymous", auth.anonymous);
    page.set("query_token", auth.query_token);
    page.set("revocation_ttl", duration(auth.revocation_ttl));
    page.set("keys", list(&auth.keys, key));
    page.set("user_claim", text(auth.claims.user.as_deref().unwrap_or_default()));
    page.set("issuer", list(&auth.claims.issuers, |issuer| text(issuer)));
    page.set("audience", list(&auth.claims.audiences, |audience| text(audience)));
    page.set("require_exp", auth.claims.end);
    page.set("broadcast_secrets", list(&auth.broadcast_secrets, |file| path(file)));
    page.set("subscribe", patterns(&auth.rights.subscribe));
    page.set("publish", patterns(&auth.rights.publish));
    page.set("interrupt", patterns(&auth.rights.interrupt));

    page.section("[worker]");
    page.set("allow", list(&worker.allow, principal));
    page.set("admins", list(&worker.admins, principal));

    limits(&mut page, config);

    page.section("[heartbeat]");
    page.set("ping_interval", duration(heartbeat.ping_interval));
    page.set("pong_timeout", duration(heartbeat.pong_timeout));

    channels(&mut page, config);

    page.section("[store]");
    page.set("write_delay", duration(store.write_delay));
    page.set("bytes", size(config.limits.hub.kept_bytes as u64));
    page.set("flash_budget", size(store.flash_budget.unwrap_or_default()));

    page.section("[log]");
    page.set("level", word(&LEVELS, log));
    page.set("access", config.log_access);
    page
}

fn limits(page: &mut Page, config: &Config) {
    let limits = &config.limits;
    page.section("[limits]");
    page.set("requests_per_second", limits.hub.requests_per_second);
    page.set("burst", limits.hub.burst);
    page.set("user_requests_per_second", limits.hub.user_requests_per_second);
    page.set("user_burst", limits.hub.user_burst);
    page.set("token_rate", limits.hub.token_rate);
    page.set("interrupts_per_second", limits.hub.interrupts_per_second);
    page.set("interrupt_burst", limits.hub.interrupt_burst);
    page.set("whispers_per_second", limits.hub.whispers_per_second);
    page.set("whisper_burst", limits.hub.whisper_burst);
    page.set("message_bytes", size(limits.hub.message_bytes as u64));
    page.set("queue_messages", limits.queue_messages);
    page.set("queue_bytes", size(limits.queue_bytes as u64));
    page.set("subscriptions", limits.hub.subscriptions);
    page.set("connections", limits.connections);
    page.set("connections_per_user", limits.hub.connections_per_user);
    page.set("http_connections", limits.http_connections);
    page.set("errors", limits.hub.errors);
    page.set("errors_window", duration(limits.hub.errors_window));
    page.set("operations", limits.hub.operations);
    page.set("wrong_secrets_per_minute", limits.wrong_secrets);
    page.set("wrong_tokens_per_minute", limits.wrong_tokens);
    page.set("memory", size(limits.hub.memory as u64));
    page.set("handshake_timeout", duration(limits.handshake));
    page.set("auth_timeout", duration(limits.hub.auth));
    page.set("stall_timeout", duration(limits.hub.stall));
}

fn channels(page: &mut Page, config: &Config) {
    for channel in &config.channels {
        page.section("[[channel]]");
        page.set("match", text(channel.pattern.as_str()));
        let keeps = [&KEEPS[..], &INBOX_KEEPS].concat();
        page.set("keep", word(&keeps, &channel.policy.keep));
        page.set("count", channel.policy.count);
        page.set("bytes", size(channel.policy.bytes as u64));
        page.set("ttl", duration(channel.policy.ttl));
        page.set("disk", word(&DISKS, &channel.policy.disk));
    }
}
