//! `regexp_replace(text, pattern, instead[, from])`: every match replaced. What stands instead may name groups, `$1`; a backslash takes a letter's meaning.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, StringBuilder},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    error::{DataFusionError, Result},
    logical_expr::ScalarFunctionArgs,
};
use regex::{Captures, Regex};

use super::{
    check_literal, regex_of,
    simple::{Rule, Takes},
    wrong,
};

pub(crate) static REGEXP_REPLACE: Rule = Rule {
    name: "regexp_replace",
    takes: Takes::Coerced(coerced),
    gives: |_| Ok(DataType::Utf8),
    check: |arguments| check_literal(arguments, 1),
    is_cast: false,
    compute: replaced,
};

fn coerced(_name: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let text = DataType::Utf8;
    match types {
        [_, _, _] => Ok(vec![text.clone(), text.clone(), text]),
        [_, _, _, from] if from.is_integer() => {
            Ok(vec![text.clone(), text.clone(), text, DataType::Int64])
        }
        _ => Err(wrong(
            "regexp_replace takes a text, a pattern, what stands instead, and the place to begin at, a number, if wanted",
        )),
    }
}

fn replaced(arguments: &ScalarFunctionArgs) -> Result<ArrayRef> {
    let column = |number: usize| -> Result<_> {
        let values = arguments.args[number].to_array(arguments.number_rows)?;
        Ok(cast(&values, &DataType::Utf8)?)
    };
    let (texts, patterns, instead) = (column(0)?, column(1)?, column(2)?);
    let texts = texts.as_string::<i32>();
    let patterns = patterns.as_string::<i32>();
    let instead = instead.as_string::<i32>();
    let places = match arguments.args.get(3) {
        Some(places) => Some(places.to_array(arguments.number_rows)?),
        None => None,
    };
    let places = places
        .as_ref()
        .map(|places| places.as_primitive::<Int64Type>());
    let mut known: Option<Replacer> = None;
    let mut replaced = StringBuilder::new();
    for row in 0..texts.len() {
        let has_place = places.is_none_or(|places| places.is_valid(row));
        let is_whole = texts.is_valid(row) && patterns.is_valid(row) && instead.is_valid(row);
        if !is_whole || !has_place {
            replaced.append_null();
            continue;
        }
        let (pattern, instead) = (patterns.value(row), instead.value(row));
        let replacer = match known.take_if(|known| known.is_of(pattern, instead)) {
            Some(replacer) => replacer,
            None => Replacer::new(pattern, instead)?,
        };
        let place = places.map_or(1, |places| places.value(row));
        replaced.append_value(replacer.replaced(texts.value(row), place));
        known = Some(replacer);
    }
    Ok(Arc::new(replaced.finish()))
}

/// What stands instead of a match.
enum Piece {
    Text(String),
    Group(usize),
}

struct Replacer {
    pattern: String,
    instead: String,
    regex: Regex,
    pieces: Vec<Piece>,
}

impl Replacer {
    fn new(pattern: &str, instead: &str) -> Result<Self> {
        let regex = regex_of(pattern)?;
        Ok(Self {
            pieces: pieces(instead, regex.captures_len())?,
            regex,
            pattern: pattern.to_owned(),
            instead: instead.to_owned(),
        })
    }

    fn is_of(&self, pattern: &str, instead: &str) -> bool {
        self.pattern == pattern && self.instead == instead
    }

    /// The place counts letters from 1.
    fn replaced(&self, text: &str, place: i64) -> String {
        let before = usize::try_from(place).unwrap_or(1).saturating_sub(1);
        let begin = text
            .char_indices()
            .nth(before)
            .map_or(text.len(), |(at, _)| at);
        if before > 0 && begin == text.len() {
            return text.to_owned();
        }
        let (kept, rest) = text.split_at(begin);
        let replaced = self.regex.replace_all(rest, |found: &Captures<'_>| {
            let mut made = String::new();
            for piece in &self.pieces {
                match piece {
                    Piece::Text(text) => made.push_str(text),
                    Piece::Group(group) => {
                        made.push_str(found.get(*group).map_or("", |group| group.as_str()));
                    }
                }
            }
            made
        });
        format!("{kept}{replaced}")
    }
}

/// As Java reads it: `$1` is a group, as many digits as there are groups for, and a letter after a backslash is itself.
fn pieces(instead: &str, groups: usize) -> Result<Vec<Piece>> {
    let illegal = |why: &str| {
        DataFusionError::Execution(format!(
            "`{instead}` can't stand instead of a match: {why}; a backslash before it makes a `$` a letter"
        ))
    };
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut letters = instead.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.push(
                letters
                    .next()
                    .ok_or_else(|| illegal("nothing is after `\\`"))?,
            ),
            '$' => {
                let first = letters.next().and_then(|digit| digit.to_digit(10));
                let first = first.ok_or_else(|| illegal("no number is after `$`"))?;
                let mut group = first as usize;
                if group >= groups {
                    return Err(illegal("the pattern has fewer groups"));
                }
                while let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(10)) {
                    let longer = group * 10 + digit as usize;
                    if longer >= groups {
                        break;
                    }
                    group = longer;
                    letters.next();
                }
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(Piece::Group(group));
            }
            letter => text.push(letter),
        }
    }
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_match_is_replaced_as_java_replaces_it() {
        let replaced = |text: &str, pattern: &str, instead: &str, place| {
            Replacer::new(pattern, instead).map(|replacer| replacer.replaced(text, place))
        };
        for (text, pattern, instead, place, expected) in [
            ("aaa", "a", "b", 1, "bbb"),
            ("100-200", r"(\d+)", "num", 1, "num-num"),
            ("john smith", r"(\w+) (\w+)", "$2 $1x", 1, "smith johnx"),
            ("ab", "(a)", "$10", 1, "a0b"),
            ("ab", "a", r"\$1\\", 1, r"$1\b"),
            ("éaa", "a", "b", 3, "éab"),
            ("aa", "a", "b", 9, "aa"),
            ("", "^$", "x", 1, "x"),
        ] {
            let given = replaced(text, pattern, instead, place).unwrap();
            assert_eq!(given, expected, "{text} {pattern} {instead}");
        }
        for (pattern, instead) in [("(a)", "$2"), ("a", "$x"), ("a", "\\"), ("(", "")] {
            assert!(replaced("a", pattern, instead, 1).is_err(), "{instead}");
        }
    }
}
