//! Quoting of untrusted names and claims in messages: cut short, escaped, and not too many.

/// Characters of a name that a sentence has room for; a header may be longer than the name of
/// any key.
const SHOWN: usize = 40;

/// The same of a claim: an issuer is an address.
const SHOWN_OF_CLAIM: usize = 100;

/// Most entries of a list that are named.
const NAMED: usize = 8;

/// A name without quotes.
pub(super) fn short(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

/// A name in quotes.
pub(super) fn cut(name: &str) -> String {
    format!("{:?}", name.chars().take(SHOWN).collect::<String>())
}

/// A key by its algorithm and its `kid`.
pub(super) fn key_name(alg: &str, kid: Option<&str>) -> String {
    let alg = short(alg);
    match kid {
        Some(kid) => format!("{alg} with the `kid` {}", cut(kid)),
        None => format!("{alg} without a `kid`"),
    }
}

/// The first entries of a list, and the number of the others.
pub(super) fn some_of(texts: &[String]) -> String {
    let shown = texts[..texts.len().min(NAMED)].join(", ");
    match texts.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Claims that are all present.
pub(super) fn all_of(claims: &[String]) -> String {
    if claims.is_empty() { "nothing".to_owned() } else { some_of(&quoted(claims)) }
}

/// Claims of which one is wanted.
pub(super) fn one_of(claims: &[String]) -> String {
    quoted(claims).join(" or ")
}

fn quoted(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| format!("{:?}", text.chars().take(SHOWN_OF_CLAIM).collect::<String>())).collect()
}
