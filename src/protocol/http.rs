//! What an HTTP caller may ask for: the bodies of `POST`.
//!
//! Knows the JSON. Does not know HTTP, or whose secret came with it.

use super::fields::Fields;
use super::refusal::{Code, Refusal};
use super::request::{InterruptRequest, MalformedRequest, Publication, Request};
use super::request_parser;
use super::request_parser::ToAll;

/// Reads the body of `POST /broadcast`.
///
/// # Errors
/// `bad_json`, `bad_request`, `too_large` or `forbidden`.
pub fn broadcast(body: &[u8]) -> Result<Publication, Refusal> {
    match read_body(body, |fields| request_parser::publication(fields, ToAll::Allowed, None))? {
        Request::Publish(publication) => Ok(publication),
        _ => Err(Refusal::new(Code::Internal, "not a publication")),
    }
}

/// Reads the body of `POST /interrupt`.
///
/// # Errors
/// `bad_json`, `bad_request` or `too_large`.
pub fn interrupt(body: &[u8]) -> Result<InterruptRequest, Refusal> {
    match read_body(body, request_parser::interrupt)? {
        Request::Interrupt(interrupt) => Ok(interrupt),
        _ => Err(Refusal::new(Code::Internal, "not an interrupt")),
    }
}

fn read_body(
    body: &[u8],
    of: impl FnOnce(&Fields<'_>) -> Result<Request, Refusal>,
) -> Result<Request, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| Refusal::new(Code::BadJson, "the body is not UTF-8"))?;
    request_parser::request(text, Some(""), |_, fields| of(fields)).map(|said| said.request).map_err(
        |MalformedRequest { mut refusal, .. }| {
            refusal.action = None;
            refusal
        },
    )
}
