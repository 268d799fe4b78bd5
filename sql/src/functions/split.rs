//! `split(text, pattern[, limit])`: text cut at a regular expression. A literal that is none is told when the query is built.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, ListBuilder, StringBuilder},
    compute::cast,
    datatypes::{DataType, Field, Int64Type},
};
use datafusion::{
    error::Result,
    logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs},
};
use regex::Regex;

use super::{
    check_literal, regex_of,
    simple::{Rule, Takes},
    wrong,
};

pub(crate) static SPLIT: Rule = Rule {
    name: "split",
    takes: Takes::Several,
    gives: |types| match types.len() {
        2 | 3 => Ok(DataType::List(Arc::new(Field::new_list_field(
            DataType::Utf8,
            true,
        )))),
        _ => Err(wrong(
            "split needs a text, a pattern, and a limit if wanted",
        )),
    },
    check,
    is_cast: false,
    compute: pieces,
};

fn check(arguments: &ReturnFieldArgs<'_>) -> Result<()> {
    check_literal(arguments, 1)?;
    match arguments.arg_fields.get(2).map(|field| field.data_type()) {
        Some(limit) if !limit.is_integer() && !limit.is_null() => Err(wrong(format!(
            "the limit of split is a whole number, not of type {limit}"
        ))),
        _ => Ok(()),
    }
}

fn pieces(arguments: &ScalarFunctionArgs) -> Result<ArrayRef> {
    let column = |number: usize, of: &DataType| -> Result<ArrayRef> {
        let values = arguments.args[number].to_array(arguments.number_rows)?;
        Ok(cast(&values, of)?)
    };
    let texts = column(0, &DataType::Utf8)?;
    let is_one = matches!(arguments.args[1], ColumnarValue::Scalar(_));
    let patterns = arguments.args[1].to_array(if is_one { 1 } else { texts.len() })?;
    let patterns: ArrayRef = cast(&patterns, &DataType::Utf8)?;
    let limits = match arguments.args.get(2) {
        Some(_) => Some(column(2, &DataType::Int64)?),
        None => None,
    };
    let limits = limits
        .as_ref()
        .map(|limits| limits.as_primitive::<Int64Type>());
    let (texts, patterns) = (texts.as_string::<i32>(), patterns.as_string::<i32>());
    let values = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    let mut lists = ListBuilder::with_capacity(values, texts.len());
    let mut known: Option<(&str, Pattern)> = None;
    for row in 0..texts.len() {
        let of_pattern = if is_one { 0 } else { row };
        let has_limit = limits.is_none_or(|limits| limits.is_valid(row));
        if texts.is_null(row) || patterns.is_null(of_pattern) || !has_limit {
            lists.append_null();
            continue;
        }
        let wanted = patterns.value(of_pattern);
        if known.as_ref().is_none_or(|(text, _)| *text != wanted) {
            known = Some((wanted, Pattern::of(wanted)?));
        }
        let limit = limits.map_or(-1, |limits| limits.value(row));
        if let Some((_, pattern)) = &known {
            pattern.pieces(texts.value(row), limit, |piece| {
                lists.values().append_value(piece)
            });
        }
        lists.append(true);
    }
    Ok(Arc::new(lists.finish()))
}

/// What texts are cut at. Most patterns are a letter or a few that stand for themselves, and are found faster without an automaton.
enum Pattern {
    Letter(char),
    Letters(String),
    Regex(Regex),
}

impl Pattern {
    fn of(pattern: &str) -> Result<Self> {
        let mut letters = pattern.chars();
        if regex::escape(pattern) == pattern
            && let Some(first) = letters.next()
        {
            return Ok(match letters.next() {
                None => Self::Letter(first),
                Some(_) => Self::Letters(pattern.to_owned()),
            });
        }
        regex_of(pattern).map(Self::Regex)
    }

    /// As Java's `split`: a match without letters at the beginning cuts nothing off; a positive limit is the number of pieces at most.
    fn pieces<'t>(&self, text: &'t str, limit: i64, each: impl FnMut(&'t str)) {
        let most = match usize::try_from(limit) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(most) => most,
        };
        match self {
            Self::Letter(letter) => text.splitn(most, *letter).for_each(each),
            Self::Letters(letters) => text.splitn(most, letters).for_each(each),
            Self::Regex(regex) => cut(text, regex, most, each),
        }
    }
}

fn cut<'t>(text: &'t str, pattern: &Regex, most: usize, mut each: impl FnMut(&'t str)) {
    let mut left = most;
    let mut from = 0;
    for found in pattern.find_iter(text) {
        if left == 1 {
            break;
        }
        if found.end() == 0 || (found.is_empty() && found.start() == text.len()) {
            continue;
        }
        each(&text[from..found.start()]);
        left -= 1;
        from = found.end();
    }
    each(&text[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_java_cuts_them() {
        let cut = |text: &'static str, pattern: &str, limit| {
            let mut pieces = Vec::new();
            let pattern = Pattern::of(pattern).unwrap();
            pattern.pieces(text, limit, |piece| pieces.push(piece));
            pieces
        };
        assert_eq!(cut("a b  c", " ", -1), ["a", "b", "", "c"]);
        assert_eq!(cut("a,b,", ",", -1), ["a", "b", ""]);
        assert_eq!(cut("a,b,c", ",", 2), ["a", "b,c"]);
        assert_eq!(cut("a,b,c", ",", 0), ["a", "b", "c"]);
        assert_eq!(cut("a.b.c", "[.]", 2), ["a", "b.c"]);
        assert_eq!(cut("a, b, ", ", ", -1), ["a", "b", ""]);
        assert_eq!(cut("a.b", ".", -1), ["", "", "", ""]);
        assert_eq!(cut("oneAtwoBthree", "[AB]", -1), ["one", "two", "three"]);
        assert_eq!(cut("", ",", -1), [""]);
        assert_eq!(cut(",a", ",", -1), ["", "a"]);
        assert_eq!(cut("ab", "", -1), ["a", "b"]);
    }
}
