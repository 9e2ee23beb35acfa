//! Durations on the command line.

use std::time::Duration;

/// Reads `90`, which is seconds, `1.5`, `90s`, `1.5h`, `1h 30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || "expected a duration such as 90, 90s, 1.5h or 1h 30m; without a unit it is in seconds".to_owned();
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    // A whole number with a unit, or several of them.
    if !unit.is_empty() && !number.contains('.') {
        return humantime::parse_duration(text).map_err(|_| wrong());
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit.trim_start() {
        "" => Duration::from_secs(1),
        unit if unit.chars().all(char::is_alphabetic) => {
            humantime::parse_duration(&format!("1{unit}")).map_err(|_| wrong())?
        }
        // Several units with a fraction: which of them it is of would be a guess.
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * unit.as_secs_f64()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse_duration;

    #[test]
    fn a_duration_has_a_unit_or_is_in_seconds_and_may_be_a_fraction() {
        for (text, millis) in [
            ("90", 90_000),
            ("0", 0),
            ("0.25", 250),
            (".5", 500),
            ("1.", 1000),
            ("90s", 90_000),
            ("250ms", 250),
            ("1.5s", 1500),
            ("1.5 h", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            (" 2m ", 120_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn an_invalid_duration_is_refused_with_an_example() {
        for text in
            ["", "-1", "-1s", "s", "soon", "1x", "1.5.2", "inf", "nan", "1e3", "1.5h 30m", "1,5", "1.5h30m"]
        {
            assert!(parse_duration(text).is_err_and(|error| error.contains("such as 90")), "{text}");
        }
        assert!(parse_duration("99999999999999999999999999999999").is_err());
    }
}
