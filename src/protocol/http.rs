//! The requests of HTTP callers: the bodies of `POST`.

use super::fields::Fields;
use super::refusal::{Code, Refusal};
use super::request::{InterruptRequest, MalformedRequest, Publication};
use super::request_parser;
use super::request_parser::ToAll;

/// Reads the body of `POST /broadcast`.
///
/// # Errors
/// `bad_json`, `bad_request`, `too_large` or `forbidden`.
pub fn broadcast(body: &[u8]) -> Result<Publication, Refusal> {
    read_body(body, |fields| request_parser::publication(fields, ToAll::Allowed, None))
}

/// Reads the body of `POST /interrupt`.
///
/// # Errors
/// `bad_json`, `bad_request` or `too_large`.
pub fn interrupt(body: &[u8]) -> Result<InterruptRequest, Refusal> {
    read_body(body, request_parser::interrupt)
}

fn read_body<R>(body: &[u8], of: impl FnOnce(&Fields<'_>) -> Result<R, Refusal>) -> Result<R, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| Refusal::new(Code::BadJson, "the body is not UTF-8"))?;
    request_parser::request(text, Some(""), |_, fields| of(fields))
        .map(|envelope| envelope.request)
        .map_err(|MalformedRequest { refusal, .. }| Refusal { action: None, ..refusal })
}
