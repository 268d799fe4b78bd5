//! What Python's `print` and `repr` show.

use std::fmt::{self, Write as _};

use super::float;
use super::render::{Brackets, Dialect};
use super::unprintable;

pub(super) struct Python;

impl Dialect for Python {
    const LANGUAGE: &'static str = "Python";
    const TRUE: &'static str = "True";
    const FALSE: &'static str = "False";
    const UNIT: &'static str = "None";
    const SHOWS_SOME: bool = false;
    const LIST: Brackets = Brackets {
        open: "[",
        separator: ", ",
        close: "]",
    };
    const TUPLE: Brackets = Brackets {
        open: "(",
        separator: ", ",
        close: ")",
    };
    const AFTER_LONE_ELEMENT: &'static str = ",";
    const MAP: Brackets = Brackets {
        open: "{",
        separator: ", ",
        close: "}",
    };
    const BETWEEN_KEY_AND_VALUE: &'static str = ": ";
    const ARGUMENTS: Brackets = Brackets {
        open: "(",
        separator: ", ",
        close: ")",
    };
    const SHOWS_FIELD_NAMES: bool = true;
    const AFTER_UNIT_STRUCT: &'static str = "()";
    const NESTED_STRINGS_ARE_BARE: bool = false;

    fn quoted(text: &str, out: &mut String) -> fmt::Result {
        let quote = quote_for(text.as_bytes());
        out.push(quote);
        let mut kept_from = 0;
        for (at, character) in text.char_indices() {
            if is_kept(character, quote) {
                continue;
            }
            out.push_str(&text[kept_from..at]);
            kept_from = at + character.len_utf8();
            push_escape(character, out)?;
        }
        out.push_str(&text[kept_from..]);
        out.push(quote);
        Ok(())
    }

    fn bytes(bytes: &[u8], out: &mut String) -> fmt::Result {
        let quote = quote_for(bytes);
        out.push('b');
        out.push(quote);
        for &byte in bytes {
            let character = char::from(byte);
            if byte.is_ascii() && is_kept(character, quote) {
                out.push(character);
            } else {
                push_escape(character, out)?;
            }
        }
        out.push(quote);
        Ok(())
    }

    fn double(value: f64, out: &mut String) -> fmt::Result {
        float::python_double(value, out)
    }

    fn float(value: f32, out: &mut String) -> fmt::Result {
        float::python_float(value, out)
    }
}

/// Double quotes only where they save escaping.
fn quote_for(text: &[u8]) -> char {
    if text.contains(&b'\'') && !text.contains(&b'"') {
        '"'
    } else {
        '\''
    }
}

fn is_kept(character: char, quote: char) -> bool {
    if character.is_ascii() {
        let is_printable = matches!(character, ' '..='~');
        return is_printable && character != quote && character != '\\';
    }
    !unprintable::contains(character)
}

fn push_escape(character: char, out: &mut String) -> fmt::Result {
    match character {
        '\t' => out.push_str("\\t"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\\' | '\'' | '"' => {
            out.push('\\');
            out.push(character);
        }
        '\0'..='\u{ff}' => write!(out, "\\x{:02x}", u32::from(character))?,
        '\u{100}'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(character))?,
        _ => write!(out, "\\U{:08x}", u32::from(character))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde::Serialize;

    use crate::display::python;

    #[derive(Serialize)]
    struct Point {
        x: i32,
        label: &'static str,
    }

    #[derive(Serialize)]
    struct Pair(i32, &'static str);

    #[derive(Serialize)]
    struct Wrapper(&'static str);

    #[derive(Serialize)]
    #[serde(transparent)]
    struct Transparent(&'static str);

    #[derive(Serialize)]
    struct Nothing;

    #[derive(Serialize)]
    enum Shape {
        Empty,
        Circle(f64),
        Box(i32, i32),
        Named { name: &'static str },
    }

    #[test]
    fn derived_types() {
        let point = Point { x: 1, label: "a" };
        assert_eq!(python(&point).unwrap(), "Point(x=1, label='a')");
        assert_eq!(python(&Pair(1, "a")).unwrap(), "Pair(1, 'a')");
        assert_eq!(python(&Wrapper("a")).unwrap(), "Wrapper('a')");
        assert_eq!(python(&Transparent("a")).unwrap(), "a");
        assert_eq!(python(&[Transparent("a")][..]).unwrap(), "['a']");
        assert_eq!(python(&Nothing).unwrap(), "Nothing()");
        assert_eq!(python(&Shape::Empty).unwrap(), "Empty");
        assert_eq!(python(&Shape::Circle(1.0)).unwrap(), "Circle(1.0)");
        assert_eq!(python(&Shape::Box(1, 2)).unwrap(), "Box(1, 2)");
        let named = Shape::Named { name: "it's" };
        assert_eq!(python(&(named,)).unwrap(), r#"(Named(name="it's"),)"#);
    }

    #[test]
    fn what_serde_cannot_tell_apart() {
        assert_eq!(python(&BTreeSet::from(["a"])).unwrap(), "['a']");
        assert_eq!(python(&vec![1u8, 255]).unwrap(), "[1, 255]");
        let bytes = bytes::Bytes::from_static(&[1, 255]);
        assert_eq!(python(&bytes).unwrap(), r"b'\x01\xff'");
        assert_eq!(python(&[1, 2]).unwrap(), "(1, 2)");
        assert_eq!(python(&[0i32; 0]).unwrap(), "()");
        assert_eq!(python(&Some(None::<i32>)).unwrap(), "None");
        assert_eq!(python(&('x', Some('y'))).unwrap(), "('x', 'y')");
        assert_eq!(python(&Some("bare")).unwrap(), "bare");
        let address = std::net::Ipv4Addr::LOCALHOST;
        assert_eq!(python(&address).unwrap(), "127.0.0.1");
        assert_eq!(python(&(address,)).unwrap(), "('127.0.0.1',)");
        let map = BTreeMap::from([((1, 'a'), Some(true)), ((2, 'b'), None)]);
        assert_eq!(python(&map).unwrap(), "{(1, 'a'): True, (2, 'b'): None}");
    }

    /// Reads a literal of one string back, as Python would.
    fn unquote(literal: &str) -> String {
        let quote = literal.chars().next().unwrap();
        assert!(quote == '\'' || quote == '"');
        let inner = literal[1..].strip_suffix(quote).unwrap();
        let mut text = String::new();
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            assert_ne!(character, quote, "unescaped quote in {literal}");
            if character != '\\' {
                text.push(character);
                continue;
            }
            let digits = match characters.next().unwrap() {
                't' => {
                    text.push('\t');
                    continue;
                }
                'n' => {
                    text.push('\n');
                    continue;
                }
                'r' => {
                    text.push('\r');
                    continue;
                }
                'x' => 2,
                'u' => 4,
                'U' => 8,
                itself => {
                    text.push(itself);
                    continue;
                }
            };
            let hex: String = characters.by_ref().take(digits).collect();
            assert_eq!(hex.len(), digits);
            let code = u32::from_str_radix(&hex, 16).unwrap();
            text.push(char::from_u32(code).unwrap());
        }
        text
    }

    proptest! {
        #[test]
        fn a_quoted_string_reads_back(characters in proptest::collection::vec(any::<char>(), 0..40)) {
            let text: String = characters.into_iter().collect();
            let shown = python(&(&text,)).unwrap();
            let literal = shown.strip_prefix('(').unwrap().strip_suffix(",)").unwrap();
            prop_assert_eq!(unquote(literal), text);
        }

        #[test]
        fn a_nested_ascii_string_is_one_line_and_reads_back(text in "[\\x00-\\x7f]{0,40}") {
            let shown = python(&[&text][..]).unwrap();
            prop_assert!(shown.chars().all(|c| matches!(c, ' '..='~')), "{:?}", shown);
            let literal = shown.strip_prefix('[').unwrap().strip_suffix(']').unwrap();
            prop_assert_eq!(unquote(literal), text);
        }

        #[test]
        fn an_outermost_string_is_bare(text: String) {
            prop_assert_eq!(python(&text).unwrap(), text);
        }
    }
}
