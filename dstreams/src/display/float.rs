//! Floating-point numbers as Python's `repr` and Java's `Double.toString` lay them out.

use std::fmt::{self, Write};

/// A finite number as `d.ddd × 10^exponent`, in as many digits as were asked for.
struct Decimal {
    negative: bool,
    /// ASCII digits, without the point.
    digits: [u8; Decimal::MAX_DIGITS],
    length: usize,
    exponent: i32,
}

/// Receives the `{:e}` form of a number, such as `-1.25e-7`.
struct Reader {
    decimal: Decimal,
    in_exponent: bool,
    exponent_is_negative: bool,
}

impl Decimal {
    /// No `f64` needs more than 17 to be read back.
    const MAX_DIGITS: usize = 17;

    /// Reads the `{:e}` form of a finite number.
    fn read(scientific: fmt::Arguments<'_>) -> Result<Decimal, fmt::Error> {
        let mut reader = Reader {
            decimal: Decimal {
                negative: false,
                digits: [0; Decimal::MAX_DIGITS],
                length: 0,
                exponent: 0,
            },
            in_exponent: false,
            exponent_is_negative: false,
        };
        reader.write_fmt(scientific)?;
        let mut decimal = reader.decimal;
        if reader.exponent_is_negative {
            decimal.exponent = -decimal.exponent;
        }
        Ok(decimal)
    }

    fn digits(&self) -> &[u8] {
        &self.digits[..self.length]
    }

    fn push_sign(&self, out: &mut String) {
        if self.negative {
            out.push('-');
        }
    }

    /// `123.0`, `0.00123`: at least one digit on either side of the point.
    fn push_positional(&self, out: &mut String) {
        self.push_sign(out);
        if self.exponent < 0 {
            out.push_str("0.");
            push_zeros(out, self.exponent.unsigned_abs() as usize - 1);
            push_digits(out, self.digits());
            return;
        }
        let before_point = self.exponent.unsigned_abs() as usize + 1;
        if self.length <= before_point {
            push_digits(out, self.digits());
            push_zeros(out, before_point - self.length);
            out.push_str(".0");
            return;
        }
        let (whole, fraction) = self.digits().split_at(before_point);
        push_digits(out, whole);
        out.push('.');
        push_digits(out, fraction);
    }

    /// `1.25`, and `1` or `1.0` for a single digit.
    fn push_significand(&self, out: &mut String, after_lone_digit: &str) {
        self.push_sign(out);
        let (first, rest) = self.digits().split_at(1);
        push_digits(out, first);
        if rest.is_empty() {
            out.push_str(after_lone_digit);
            return;
        }
        out.push('.');
        push_digits(out, rest);
    }
}

impl Write for Reader {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            match byte {
                b'-' if self.in_exponent => self.exponent_is_negative = true,
                b'-' => self.decimal.negative = true,
                b'.' => {}
                b'e' => self.in_exponent = true,
                b'0'..=b'9' if self.in_exponent => {
                    self.decimal.exponent = self.decimal.exponent * 10 + i32::from(byte - b'0');
                }
                b'0'..=b'9' => {
                    let slot = self.decimal.digits.get_mut(self.decimal.length);
                    *slot.ok_or(fmt::Error)? = byte;
                    self.decimal.length += 1;
                }
                _ => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}

fn push_digits(out: &mut String, digits: &[u8]) {
    out.extend(digits.iter().copied().map(char::from));
}

fn push_zeros(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n('0', count));
}

/// The fewest digits that read back as `value`; of those the nearest, and of two as near the one whose last digit
/// is even.
///
/// The standard library's choice between two as near is another, so such numbers are rounded anew. They have
/// at least 16 digits: with fewer, half a unit in the last place is more than the distance to the next number.
fn shortest_double(value: f64) -> Result<Decimal, fmt::Error> {
    let shortest = Decimal::read(format_args!("{value:e}"))?;
    if shortest.length < 16 {
        return Ok(shortest);
    }
    let precision = shortest.length - 1;
    let nearest = Decimal::read(format_args!("{value:.precision$e}"))?;
    if nearest.digits() == shortest.digits() {
        return Ok(shortest);
    }
    let reads_back = format!("{value:.precision$e}").parse() == Ok(value);
    Ok(if reads_back { nearest } else { shortest })
}

/// As [`shortest_double`]; here it is 7 digits.
fn shortest_float(value: f32) -> Result<Decimal, fmt::Error> {
    let shortest = Decimal::read(format_args!("{value:e}"))?;
    if shortest.length < 7 {
        return Ok(shortest);
    }
    let precision = shortest.length - 1;
    let nearest = Decimal::read(format_args!("{value:.precision$e}"))?;
    if nearest.digits() == shortest.digits() {
        return Ok(shortest);
    }
    let reads_back = format!("{value:.precision$e}").parse() == Ok(value);
    Ok(if reads_back { nearest } else { shortest })
}

/// `repr(value)` of a Python float.
pub(super) fn python_double(value: f64, out: &mut String) -> fmt::Result {
    if !value.is_finite() {
        push_python_special(value, out);
        return Ok(());
    }
    push_python(&shortest_double(value)?, out)
}

/// As [`python_double`], with the digits that tell this `f32` from others.
pub(super) fn python_float(value: f32, out: &mut String) -> fmt::Result {
    if !value.is_finite() {
        push_python_special(f64::from(value), out);
        return Ok(());
    }
    push_python(&shortest_float(value)?, out)
}

fn push_python_special(value: f64, out: &mut String) {
    let text = if value.is_nan() {
        "nan"
    } else if value > 0.0 {
        "inf"
    } else {
        "-inf"
    };
    out.push_str(text);
}

fn push_python(decimal: &Decimal, out: &mut String) -> fmt::Result {
    if (-4..16).contains(&decimal.exponent) {
        decimal.push_positional(out);
        return Ok(());
    }
    decimal.push_significand(out, "");
    let sign = if decimal.exponent < 0 { '-' } else { '+' };
    write!(out, "e{sign}{:02}", decimal.exponent.unsigned_abs())
}

/// Java's `Double.toString(value)`.
pub(super) fn java_double(value: f64, out: &mut String) -> fmt::Result {
    if !value.is_finite() {
        push_java_special(value, out);
        return Ok(());
    }
    let mut decimal = shortest_double(value)?;
    if decimal.length == 1 {
        decimal = Decimal::read(format_args!("{value:.1e}"))?;
    }
    push_java(&decimal, out)
}

/// Java's `Float.toString(value)`.
pub(super) fn java_float(value: f32, out: &mut String) -> fmt::Result {
    if !value.is_finite() {
        push_java_special(f64::from(value), out);
        return Ok(());
    }
    let mut decimal = shortest_float(value)?;
    if decimal.length == 1 {
        decimal = Decimal::read(format_args!("{value:.1e}"))?;
    }
    push_java(&decimal, out)
}

fn push_java_special(value: f64, out: &mut String) {
    let text = if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    out.push_str(text);
}

/// Java always writes two digits, so where one would do it takes the nearest number of two
/// (`4.9E-324`); the second is a zero unless the number is among the smallest there are.
fn push_java(decimal: &Decimal, out: &mut String) -> fmt::Result {
    let ends_in_zero = decimal.length == 2 && decimal.digits[1] == b'0';
    let shown = Decimal {
        length: if ends_in_zero { 1 } else { decimal.length },
        ..*decimal
    };
    if (-3..7).contains(&shown.exponent) {
        shown.push_positional(out);
        return Ok(());
    }
    shown.push_significand(out, ".0");
    write!(out, "E{}", shown.exponent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(show: impl FnOnce(&mut String) -> fmt::Result) -> String {
        let mut out = String::new();
        show(&mut out).unwrap();
        out
    }

    /// Java 17 writes these otherwise, so no golden file of Spark's can hold them.
    #[test]
    fn java_numbers_have_no_superfluous_digits() {
        assert_eq!(shown(|out| java_double(2e23, out)), "2.0E23");
        assert_eq!(shown(|out| java_double(1e23, out)), "1.0E23");
        assert_eq!(
            shown(|out| java_double(2.2250738585072014e-308, out)),
            "2.2250738585072014E-308"
        );
        assert_eq!(shown(|out| java_double(1e-323, out)), "9.9E-324");
        assert_eq!(shown(|out| java_double(2e-323, out)), "2.0E-323");
        assert_eq!(shown(|out| java_float(1.0e-45, out)), "1.4E-45");
        assert_eq!(shown(|out| java_float(1.1754944e-38, out)), "1.1754944E-38");
    }

    proptest! {
        #[test]
        fn doubles_read_back_as_they_were(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());

            let python = shown(|out| python_double(value, out));
            let java = shown(|out| java_double(value, out));

            prop_assert_eq!(python.parse::<f64>().unwrap().to_bits(), bits, "{}", python);
            prop_assert_eq!(java.parse::<f64>().unwrap().to_bits(), bits, "{}", java);
        }

        #[test]
        fn floats_read_back_as_they_were(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());

            let python = shown(|out| python_float(value, out));
            let java = shown(|out| java_float(value, out));

            prop_assert_eq!(python.parse::<f32>().unwrap().to_bits(), bits, "{}", python);
            prop_assert_eq!(java.parse::<f32>().unwrap().to_bits(), bits, "{}", java);
        }

        #[test]
        fn java_always_has_a_point(value: f64) {
            prop_assume!(value.is_finite());
            let java = shown(|out| java_double(value, out));
            prop_assert!(java.contains('.'), "{}", java);
        }
    }
}
