//! Lengths of time as text: `10 minutes`, `1 hour 30 minutes`.

/// Units by name, microseconds each. Months and years have no fixed length.
const UNITS: [(&str, i64); 8] = [
    ("microsecond", 1),
    ("millisecond", 1_000),
    ("second", 1_000_000),
    ("minute", 60_000_000),
    ("hour", 3_600_000_000),
    ("day", 86_400_000_000),
    ("week", 604_800_000_000),
    ("interval", 0),
];

/// The length in microseconds.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn micros(text: &str) -> Result<i64, String> {
    let wrong = || {
        format!(
            "`{text}` is no length of time; write it as `10 minutes`, with units from microseconds to weeks"
        )
    };
    let mut words = text.split_whitespace().peekable();
    if words
        .peek()
        .is_some_and(|word| word.eq_ignore_ascii_case("interval"))
    {
        words.next();
    }
    let mut total = 0i64;
    let mut is_empty = true;
    while let Some(number) = words.next() {
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let unit = words.next().ok_or_else(wrong)?.to_ascii_lowercase();
        let unit = unit.strip_suffix('s').unwrap_or(&unit);
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, length) = known.filter(|(_, length)| *length > 0).ok_or_else(wrong)?;
        let part = number.checked_mul(*length).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        is_empty = false;
    }
    if is_empty {
        return Err(wrong());
    }
    Ok(total)
}

/// A length of microseconds in its largest whole unit.
pub(crate) fn text_of(micros: i64) -> String {
    let units = [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s")];
    let whole = units
        .iter()
        .find(|(length, _)| micros != 0 && micros % length == 0);
    match whole {
        Some((length, unit)) => format!("{}{unit}", micros / length),
        None if micros == 0 => "0s".to_owned(),
        None => format!("{micros}us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_sums_of_units() {
        assert_eq!(micros("10 minutes"), Ok(600_000_000));
        assert_eq!(micros("1 hour 30 minutes"), Ok(5_400_000_000));
        assert_eq!(micros("INTERVAL 1 Day"), Ok(86_400_000_000));
        assert_eq!(micros("0 seconds"), Ok(0));
        assert_eq!(micros("-5 seconds"), Ok(-5_000_000));
        for wrong in [
            "",
            "10",
            "ten minutes",
            "1 month",
            "1 interval",
            "9999999999999 weeks",
        ] {
            assert!(micros(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }
    #[test]
    fn lengths_are_written_in_whole_units() {
        let written = [0, 1, 1_000_000, 90_000_000, 600_000_000, -3_600_000_000].map(text_of);
        assert_eq!(written, ["0s", "1us", "1s", "90s", "10m", "-1h"]);
    }
}
