//! Hints for two mistakes on the command line that shells invite: a command without `--`
//! before it, and a text without quotes.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::terminal::escape;

/// Adds the hint that fits, if one does.
pub(crate) fn explain(error: &mut clap::Error, words: &[OsString]) {
    if let Some(hint) = hint(error.kind(), words) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
}

/// What to try instead. The command is the first word that is not an option; the value
/// of an option before it is taken for one, and then there is no hint.
fn hint(kind: ErrorKind, words: &[OsString]) -> Option<String> {
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    let mut before = None;
    let command = loop {
        let word = words.next()?;
        let is_value = matches!(before.as_deref(), Some("--socket" | "--wait"));
        if !word.starts_with('-') && !is_value {
            break word;
        }
        before = Some(word);
    };
    let rest: Vec<_> = words.collect();
    match (&*command, kind) {
        ("run", ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument)
            if !rest.iter().any(|word| word == "--") =>
        {
            Some(match &*rest {
                // Without options it is plain which word is what.
                [channel, command @ ..] if !command.is_empty() && !channel.starts_with('-') => {
                    let line = command.join(" ");
                    escape(&format!("put `--` before the command: wshubctl run {channel} -- {line}"))
                }
                _ => "put `--` before the command: wshubctl run CHANNEL -- COMMAND".to_owned(),
            })
        }
        ("pub", ErrorKind::TooManyValues | ErrorKind::UnknownArgument)
            if rest.iter().filter(|word| !word.starts_with('-')).count() > 2 =>
        {
            Some("a text with spaces needs quotes: wshubctl pub CHANNEL 'hello world'".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hinted(kind: ErrorKind, line: &str) -> Option<String> {
        hint(kind, &line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_before_the_command_are_passed_over_with_their_values() {
        let line = "wshubctl --socket /run/x --wait 3s run logs make -j2";
        let expected = "put `--` before the command: wshubctl run logs -- make -j2";
        assert_eq!(hinted(ErrorKind::UnknownArgument, line).as_deref(), Some(expected));
    }

    #[test]
    fn other_mistakes_get_no_hint() {
        for line in
            ["wshubctl run logs --bad -- make", "wshubctl pub --bad logs x", "wshubctl status x", "wshubctl"]
        {
            assert_eq!(hinted(ErrorKind::UnknownArgument, line), None, "{line}");
        }
    }
}
