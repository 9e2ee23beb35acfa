//! Variables of the environment that set options, and those that only look like it.
//!
//! `WSHUBD_` is no name that others keep clear of: Kubernetes and Docker set
//! `WSHUBD_PORT` and the like where a service is called `wshubd`. So a name with `__` is
//! meant for us, and is a mistake where there is no such option; one without it is a
//! mistake where it is nearly an option, and else of another program.

use toml::de::DeValue;

use super::error::{Location, Problem};
use super::merge::{ConfigValue, LineIndex, Node, TableEntries};
use super::pass;

/// What the names of our variables begin with.
const PREFIX: &str = "WSHUBD_";

/// What a variable is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// It sets what these keys lead to, or would if that existed.
    Option(Vec<String>),
    /// It sets nothing, and these were nearly its name.
    Mistyped(String),
    /// It has our prefix, and sets nothing.
    Foreign,
}

/// What a variable is for; nothing, if its name has nothing to do with us.
pub(super) fn meaning(variable: &str, text: &str) -> Option<Meaning> {
    let name = variable.strip_prefix(PREFIX)?;
    if is_of_containers(name, text) {
        return Some(Meaning::Foreign);
    }
    let name = name.to_lowercase();
    let keys: Vec<String> = name.split("__").map(str::to_owned).collect();
    let names = pass::names();
    if keys.len() > 1 || names.iter().any(|(section, _)| *section == name) {
        return Some(Meaning::Option(keys));
    }
    // A list of tables is set as a whole.
    let options = names.iter().filter(|(section, _)| *section != "channel");
    let near = options.filter_map(|(section, key)| Some((distance(&name, section, key)?, section, key)));
    let nearest = near.min_by_key(|(distance, ..)| *distance);
    Some(match nearest {
        Some((_, section, key)) => Meaning::Mistyped(variable_of(&format!("{section}.{key}"))),
        None => Meaning::Foreign,
    })
}

/// How far a name without `__` is from an option, if it is near: with its section in
/// front or without.
fn distance(name: &str, section: &str, key: &str) -> Option<usize> {
    let whole = format!("{section}_{key}");
    let typos = [whole.as_str(), key].into_iter().filter_map(|option| typos(name, option)).min();
    // WSHUBD_STATE_DIR.
    let rest = name.strip_prefix(section).and_then(|rest| rest.strip_prefix('_'));
    let begins = rest.is_some_and(|rest| rest.len() > 2 && (key.starts_with(rest) || rest.starts_with(key)));
    typos.or(begins.then_some(name.len()))
}

/// How many letters are wrong in a name that may not be ours at all: of
/// `WSHUBD_TEST` nearly half would be.
fn typos(name: &str, option: &str) -> Option<usize> {
    let typos = strsim::damerau_levenshtein(name, option);
    (typos <= 1 + name.len() / 8 && name.len() > 2).then_some(typos)
}

/// Whether a variable is one that Kubernetes sets for a service, or Docker for a link.
fn is_of_containers(name: &str, text: &str) -> bool {
    let is_address = text.contains("://");
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // NAME_PORT_8098_TCP_ADDR
    let (_, of_port) = name.rsplit_once("PORT_").unwrap_or_default();
    let mut words = of_port.split('_');
    let has_number = words.next().is_some_and(|port| port.parse::<u16>().is_ok());
    let is_of_port = has_number
        && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
        && matches!(words.next(), None | Some("PROTO" | "PORT" | "ADDR"))
        && words.next().is_none();
    let ends = |with: &str| name == with || name.strip_suffix(with).is_some_and(|rest| rest.ends_with('_'));
    is_of_port
        || ends("SERVICE_HOST")
        || (ends("PORT") && (is_address || ends("SERVICE_PORT") && is_number))
        || (name.contains("SERVICE_PORT_") && is_number)
        // Of a link, all variables of the other container.
        || name.starts_with("ENV_")
}

/// The variable that sets what a path of keys leads to.
pub(super) fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.to_uppercase().replace('.', "__"))
}

/// Reads a variable into the tables that its name stands for.
pub(super) fn parse(name: &str, mut keys: Vec<String>, text: &str) -> Result<TableEntries, Problem> {
    let location = Location::Variable(name.into());
    let value = match DeValue::parse(text) {
        Ok(value) => LineIndex::variable(name).value(value.get_ref()),
        // Such text is never meant as a string; a missing quote should not make it one.
        Err(error) if is_meant_as_toml(text) => {
            let message = format!(
                "not a TOML value: {}; a list reads '[\"a\", \"b\"]', and text that begins like one needs quotes \
                 of its own: '\"[a]\"'",
                error.message()
            );
            return Err(Problem::new(location, message));
        }
        Err(_) => ConfigValue::Text(text.to_owned()),
    };
    let mut node = Node { location: location.clone(), value, spelled: Some(text.to_owned()) };
    while keys.len() > 1 {
        let key = keys.pop().unwrap_or_default();
        let table = ConfigValue::Table(TableEntries::from([(key, node)]));
        node = Node { location: location.clone(), value: table, spelled: None };
    }
    Ok(TableEntries::from([(keys.pop().unwrap_or_default(), node)]))
}

/// Whether text that is no TOML value was to be one: it is in quotes, a list or a table.
/// `[::1]:8098` and `{user_id}:*` begin like one, and are text.
fn is_meant_as_toml(text: &str) -> bool {
    let text = text.trim();
    if text.starts_with(['"', '\'']) {
        return true;
    }
    if let Some(items) = text.strip_prefix('[') {
        return text.ends_with(']') || items.trim_start().starts_with(['"', '\'', '[', '{']);
    }
    let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == ' ';
    let fields = text.strip_prefix('{').map(|fields| fields.trim_start_matches(is_key));
    fields.is_some_and(|rest| rest.starts_with('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_kubernetes_and_docker_are_theirs() {
        let theirs = [
            ("WSHUBD_SERVICE_HOST", "10.0.0.1"),
            ("WSHUBD_SERVICE_PORT", "8098"),
            ("WSHUBD_SERVICE_PORT_HTTP", "8098"),
            ("WSHUBD_PORT", "tcp://10.0.0.1:8098"),
            ("WSHUBD_PORT_8098_TCP", "tcp://10.0.0.1:8098"),
            ("WSHUBD_PORT_8098_TCP_PROTO", "tcp"),
            ("WSHUBD_PORT_8098_TCP_PORT", "8098"),
            ("WSHUBD_PORT_8098_TCP_ADDR", "10.0.0.1"),
            ("WSHUBD_LISTEN_PORT", "tcp://10.0.0.1:8098"),
            ("WSHUBD_LIMITS_SERVICE_HOST", "10.0.0.1"),
            ("WSHUBD_ENV_WSHUBD_LIMITS__BURST", "5"),
            ("WSHUBD_NAME", "/app/wshubd"),
            ("WSHUBD_VERSION", "0.1.0"),
            ("WSHUBD_BIN", "/usr/bin/wshubd"),
            ("WSHUBD_IMAGE", "wshubd:latest"),
            ("WSHUBD_", ""),
        ];
        for (name, text) in theirs {
            assert_eq!(meaning(name, text), Some(Meaning::Foreign), "{name}");
        }
        assert_eq!(meaning("OTHER_LIMITS__BURST", "1"), None);
    }

    #[test]
    fn a_name_that_is_nearly_an_option_is_mistyped() {
        let mistyped = [
            ("WSHUBD_LIMITS_BURST", "WSHUBD_LIMITS__BURST"),
            ("WSHUBD_LIMIT_BURST", "WSHUBD_LIMITS__BURST"),
            ("WSHUBD_BURST", "WSHUBD_LIMITS__BURST"),
            ("WSHUBD_LISTEN_HTTP", "WSHUBD_LISTEN__HTTP"),
            ("WSHUBD_LISTENHTTP", "WSHUBD_LISTEN__HTTP"),
            ("WSHUBD_STATE_DIR", "WSHUBD_STATE__DIRECTORY"),
            ("WSHUBD_LOGLEVEL", "WSHUBD_LOG__LEVEL"),
            ("WSHUBD_ANONYMUS", "WSHUBD_AUTH__ANONYMOUS"),
        ];
        for (name, option) in mistyped {
            assert_eq!(meaning(name, "1"), Some(Meaning::Mistyped(option.into())), "{name}");
        }
    }

    #[test]
    fn a_single_underscore_mistypes_the_variable_of_an_option() {
        for (section, key) in pass::names().into_iter().filter(|(section, _)| *section != "channel") {
            let variable = variable_of(&format!("{section}.{key}"));
            let keys = vec![section.to_owned(), key.to_owned()];
            assert_eq!(meaning(&variable, "1"), Some(Meaning::Option(keys)), "{variable}");
            let single = variable.replace("__", "_");
            assert_eq!(meaning(&single, "1"), Some(Meaning::Mistyped(variable.clone())), "{single}");
        }
    }
}
