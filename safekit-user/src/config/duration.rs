//! Durations carry their unit: `250ms`, `2s`, `1m`.

use std::time::Duration;

/// Parses a whole number and its unit. The error is a sentence that says what to write instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let Ok(number) = number.parse::<u64>() else {
        return Err(format!("`{text}` is no duration: write a number and a unit, like 250ms, 2s or 1m"));
    };
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("`{text}` has no unit: write {text}ms or {text}s")),
        _ => return Err(format!("`{unit}` is no unit: use ms, s, m or h")),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is longer than any clock counts"))
}

/// As [`parse`] takes it.
pub fn print(span: Duration) -> String {
    match span.as_millis() {
        millis if millis > 0 && millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        millis if millis > 0 && millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_that_we_know() {
        let cases = [
            ("250ms", Some(250)),
            ("2s", Some(2000)),
            ("1m", Some(60_000)),
            ("1h", Some(3_600_000)),
            ("0ms", Some(0)),
            ("25", None),
            ("", None),
            ("ms", None),
            ("-1s", None),
            ("1.5s", None),
            ("1 s", None),
            ("1d", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).ok(), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn printing_and_parsing_are_inverse() {
        for millis in [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000] {
            let span = Duration::from_millis(millis);
            assert_eq!(parse(&print(span)), Ok(span));
        }
    }
}
