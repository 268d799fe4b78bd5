//! The zone that a text of a time names at its end.

use jiff::tz::{Offset, TimeZone};

/// Java's zones of three letters, those that the time zone database has otherwise or not at all.
const SHORT: [(&str, &str); 28] = [
    ("ACT", "Australia/Darwin"),
    ("AET", "Australia/Sydney"),
    ("AGT", "America/Argentina/Buenos_Aires"),
    ("ART", "Africa/Cairo"),
    ("AST", "America/Anchorage"),
    ("BET", "America/Sao_Paulo"),
    ("BST", "Asia/Dhaka"),
    ("CAT", "Africa/Harare"),
    ("CNT", "America/St_Johns"),
    ("CST", "America/Chicago"),
    ("CTT", "Asia/Shanghai"),
    ("EAT", "Africa/Addis_Ababa"),
    ("ECT", "Europe/Paris"),
    ("EST", "-05:00"),
    ("HST", "-10:00"),
    ("IET", "America/Indiana/Indianapolis"),
    ("IST", "Asia/Kolkata"),
    ("JST", "Asia/Tokyo"),
    ("MIT", "Pacific/Apia"),
    ("MST", "-07:00"),
    ("NET", "Asia/Yerevan"),
    ("NST", "Pacific/Auckland"),
    ("PLT", "Asia/Karachi"),
    ("PNT", "America/Phoenix"),
    ("PRT", "America/Puerto_Rico"),
    ("PST", "America/Los_Angeles"),
    ("SST", "Pacific/Guadalcanal"),
    ("VST", "Asia/Ho_Chi_Minh"),
];

/// Java's offsets reach so far.
const MOST_SECONDS: i32 = 18 * 3_600;

/// `Z`, `+01:00`, `+1`, `GMT+2`, `PST`, `Europe/Berlin`.
pub(super) fn zone(text: &str) -> Option<TimeZone> {
    let short = SHORT.iter().find(|(short, _)| *short == text);
    let text = short.map_or(text, |(_, zone)| zone);
    if text == "Z" {
        return Some(TimeZone::UTC);
    }
    for prefix in ["UTC", "GMT", "UT", ""] {
        match text.strip_prefix(prefix) {
            Some("") if !prefix.is_empty() => return Some(TimeZone::UTC),
            Some(rest) if rest.starts_with(['+', '-']) => return offset(rest),
            _ => {}
        }
    }
    let zone = TimeZone::get(text).ok()?;
    // Names know their case.
    (zone.iana_name() == Some(text)).then_some(zone)
}

/// Hours, minutes and seconds, with colons or without; the hour alone may have one digit, and so may minutes after a colon.
fn offset(text: &str) -> Option<TimeZone> {
    let is_negative = text.starts_with('-');
    let digits = text.get(1..)?;
    if !digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b':')
    {
        return None;
    }
    let parts: Vec<&str> = if digits.contains(':') {
        digits.split(':').collect()
    } else {
        match digits.len() {
            1 | 2 => vec![digits],
            4 => vec![&digits[..2], &digits[2..]],
            6 => vec![&digits[..2], &digits[2..4], &digits[4..]],
            _ => return None,
        }
    };
    let is_last = |place: usize| place + 1 == parts.len();
    let mut seconds = 0;
    for (place, part) in parts.iter().enumerate() {
        let may_be_one = place == 0 || (place == 1 && is_last(place));
        if part.len() != 2 && !(part.len() == 1 && may_be_one) {
            return None;
        }
        let number: i32 = part.parse().ok()?;
        let unit = *[3_600, 60, 1].get(place)?;
        if place > 0 && number > 59 {
            return None;
        }
        seconds += number * unit;
    }
    if seconds > MOST_SECONDS {
        return None;
    }
    let seconds = if is_negative { -seconds } else { seconds };
    Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn zones_are_those_of_java() {
        let seconds = |text: &str| Some(zone(text)?.to_offset(Timestamp::UNIX_EPOCH).seconds());
        for (text, expected) in [
            ("Z", Some(0)),
            ("UTC", Some(0)),
            ("GMT+2", Some(7_200)),
            ("UT-01:30", Some(-5_400)),
            ("+1", Some(3_600)),
            ("+01", Some(3_600)),
            ("+0100", Some(3_600)),
            ("-0:30", Some(-1_800)),
            ("+01:5", Some(3_900)),
            ("+01:00:30", Some(3_630)),
            ("+18:00", Some(64_800)),
            ("-18:30", None),
            ("+1:2:3", None),
            ("+001", None),
            ("+01:60", None),
            ("+", None),
            ("PST", Some(-28_800)),
            ("EST", Some(-18_000)),
            ("Europe/Berlin", Some(3_600)),
            ("europe/berlin", None),
            ("z", None),
            ("[UTC]", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
