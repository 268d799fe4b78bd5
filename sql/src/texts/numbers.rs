//! Texts of numbers and truths.

use std::str::FromStr;

use super::trimmed;

/// A whole number: digits with a sign if wanted.
pub(crate) fn whole<T: FromStr>(text: &str) -> Option<T> {
    trimmed(text).parse().ok()
}

/// A number as Java reads it, and `inf`, `infinity` and `nan` in any case.
pub(crate) fn float<T: FromStr + From<f32>>(text: &str) -> Option<T> {
    let text = trimmed(text);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_infinity = ["inf", "infinity"]
        .iter()
        .any(|word| unsigned.eq_ignore_ascii_case(word));
    if is_infinity {
        let infinity = match text.starts_with('-') {
            true => f32::NEG_INFINITY,
            false => f32::INFINITY,
        };
        return Some(infinity.into());
    }
    if text.eq_ignore_ascii_case("nan") {
        return Some(f32::NAN.into());
    }
    java(text)
}

/// A number as Java's `parseDouble` takes it, which is what readers of CSV do: a letter for the type may follow the digits. Numbers to the base of 16 are none here.
pub(crate) fn java<T: FromStr + From<f32>>(text: &str) -> Option<T> {
    let text = text.trim_matches(|letter: char| letter <= ' ');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        "NaN" => return Some(f32::NAN.into()),
        "Infinity" if text.starts_with('-') => return Some(f32::NEG_INFINITY.into()),
        "Infinity" => return Some(f32::INFINITY.into()),
        _ => {}
    }
    let digits = text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text);
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !digits.chars().all(is_number) {
        return None;
    }
    digits.parse().ok()
}

/// `true`, `t`, `yes`, `y`, `1`, and their opposites, in any case.
pub(crate) fn truth(text: &str) -> Option<bool> {
    let text = trimmed(text);
    let is_any = |words: [&str; 5]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_any(["true", "t", "yes", "y", "1"]) {
        return Some(true);
    }
    is_any(["false", "f", "no", "n", "0"]).then_some(false)
}

/// Digits with a point and an exponent if wanted, rounded half up to the scale.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (unsigned, is_negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text.strip_prefix('+').unwrap_or(text), false),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut digits = 0i128;
    for digit in whole.chars() {
        let digit = i128::from(digit.to_digit(10)?);
        digits = digits.checked_mul(10)?.checked_add(digit)?;
    }
    let mut places = 0i32;
    let mut is_full = false;
    for digit in fraction.chars() {
        let digit = i128::from(digit.to_digit(10)?);
        let more = digits
            .checked_mul(10)
            .and_then(|digits| digits.checked_add(digit));
        match more {
            // Digits past the 38th are past every scale; the one that rounds is before them.
            Some(more) if !is_full => (digits, places) = (more, places + 1),
            _ => is_full = true,
        }
    }
    let shift = exponent
        .checked_sub(places)?
        .checked_add(i32::from(scale))?;
    let power = |places: u32| 10i128.checked_pow(places);
    let value = if shift >= 0 {
        match digits {
            0 => 0,
            _ => digits.checked_mul(power(shift.unsigned_abs())?)?,
        }
    } else {
        match power(shift.unsigned_abs()) {
            Some(divisor) => digits / divisor + i128::from(digits % divisor >= divisor / 2),
            None => 0,
        }
    };
    if value >= power(u32::from(precision))? {
        return None;
    }
    Some(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_spark_casts_them() {
        for (text, expected) in [
            (" 12\n", Some(12)),
            ("+5", Some(5)),
            ("-2147483648", Some(i32::MIN)),
            ("2147483648", None),
            ("12.0", None),
            ("1e3", None),
            ("1_000", None),
            ("--5", None),
            ("", None),
            ("\u{a0}7", None),
        ] {
            assert_eq!(whole::<i32>(text), expected, "{text}");
        }
        for (text, expected) in [
            (" 1.5 ", Some(1.5)),
            ("1.5d", Some(1.5)),
            ("1F", Some(1.0)),
            ("1e400", Some(f64::INFINITY)),
            ("-iNf", Some(f64::NEG_INFINITY)),
            ("INFINITY", Some(f64::INFINITY)),
            (".5", Some(0.5)),
            ("1_000", None),
            ("1dd", None),
            ("d", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(float::<f64>(text), expected, "{text}");
        }
        for text in ["nan", "NaN ", "+NaN", "-NaN"] {
            assert!(float::<f64>(text).is_some_and(f64::is_nan), "{text}");
        }
        assert_eq!(java::<f64>("inf"), None);
        assert!(java::<f64>("nan").is_none());
        for (text, expected) in [
            (" Yes ", Some(true)),
            ("0", Some(false)),
            ("on", None),
            ("", None),
        ] {
            assert_eq!(truth(text), expected, "{text}");
        }
    }

    #[test]
    fn decimals_are_rounded_half_up() {
        for (text, expected) in [
            ("1.005", Some(101)),
            ("-1.005", Some(-101)),
            ("1e3", Some(100_000)),
            ("1e-400", Some(0)),
            ("1e400", None),
            ("99999999.994", Some(9_999_999_999)),
            ("99999999.995", None),
            ("1.", Some(100)),
            (".5", Some(50)),
            (".", None),
            ("1,000", None),
            ("+-5", None),
            ("NaN", None),
        ] {
            assert_eq!(decimal(text, 10, 2), expected, "{text}");
        }
        let long = format!("1.2{}9", "5".repeat(60));
        assert_eq!(decimal(&long, 5, 2), Some(126));
    }
}
