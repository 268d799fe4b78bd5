//! `split(text, pattern[, limit])`: text cut at a regular expression. A literal that is none is told when the query is built.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, ListArray, StringArray},
    buffer::{Buffer, NullBuffer, OffsetBuffer},
    compute::cast,
    datatypes::{DataType, Field, Int64Type},
};
use datafusion::{
    error::Result,
    logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs},
};
use millstream_common::text::find_byte;
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
    let mut lists = Lists::of(texts);
    let mut known: Option<(&str, Pattern)> = None;
    for row in 0..texts.len() {
        let of_pattern = if is_one { 0 } else { row };
        let has_limit = limits.is_none_or(|limits| limits.is_valid(row));
        if texts.is_null(row) || patterns.is_null(of_pattern) || !has_limit {
            lists.end(false)?;
            continue;
        }
        let wanted = patterns.value(of_pattern);
        if known.as_ref().is_none_or(|(text, _)| *text != wanted) {
            known = Some((wanted, Pattern::of(wanted)?));
        }
        let limit = limits.map_or(-1, |limits| limits.value(row));
        if let Some((_, pattern)) = &known {
            let begin = texts.value_offsets()[row] as usize;
            pattern.pieces(texts.value(row), limit, |piece| {
                lists.push(begin + piece.start..begin + piece.end);
            });
        }
        lists.end(true)?;
    }
    lists.finish()
}

/// Lists of pieces of a column's texts. The engine's builders make some calls a piece, which cost more than a short piece itself.
struct Lists<'t> {
    texts: &'t [u8],
    values: Vec<u8>,
    /// Where pieces end within the values, and lists within the pieces; each begins with a 0.
    pieces: Vec<i32>,
    lists: Vec<i32>,
    is_valid: Vec<bool>,
}

impl<'t> Lists<'t> {
    fn of(texts: &'t StringArray) -> Self {
        let mut lists = Vec::with_capacity(texts.len() + 1);
        lists.push(0);
        let bytes = texts.value_offsets();
        let bytes = bytes[bytes.len() - 1] - bytes[0];
        Self {
            texts: texts.value_data(),
            values: Vec::with_capacity(bytes as usize + NEAR),
            pieces: vec![0],
            lists,
            is_valid: Vec::with_capacity(texts.len()),
        }
    }

    /// Adds a piece of the texts, of which none is taken twice: so the values are no longer than `i32` counts.
    #[inline]
    fn push(&mut self, piece: Range<usize>) {
        let end = self.values.len() + piece.len();
        // A length that is known beforehand is copied without a call.
        match self.texts[piece.start..].first_chunk::<NEAR>() {
            Some(near) if piece.len() <= NEAR => {
                self.values.extend_from_slice(near);
                self.values.truncate(end);
            }
            _ => self.values.extend_from_slice(&self.texts[piece]),
        }
        self.pieces.push(end as i32);
    }

    fn end(&mut self, is_valid: bool) -> Result<()> {
        let end = i32::try_from(self.pieces.len() - 1);
        self.lists.push(end.map_err(|_| {
            wrong("split makes more than 2147483647 pieces of a chunk of rows; take smaller rows")
        })?);
        self.is_valid.push(is_valid);
        Ok(())
    }

    fn finish(self) -> Result<ArrayRef> {
        let pieces = OffsetBuffer::new(self.pieces.into());
        let values = StringArray::try_new(pieces, Buffer::from_vec(self.values), None)?;
        let is_valid = NullBuffer::from(self.is_valid);
        let is_valid = (is_valid.null_count() > 0).then_some(is_valid);
        let element = Arc::new(Field::new_list_field(DataType::Utf8, true));
        let lists = OffsetBuffer::new(self.lists.into());
        let lists = ListArray::try_new(element, lists, Arc::new(values), is_valid)?;
        Ok(Arc::new(lists))
    }
}

/// Bytes of a piece that is copied without a call; most words have fewer.
const NEAR: usize = 16;

/// What texts are cut at. Most patterns are a letter or a few that stand for themselves, and are found faster without an automaton.
enum Pattern {
    Byte(u8),
    Letters(String),
    Regex(Regex),
}

impl Pattern {
    fn of(pattern: &str) -> Result<Self> {
        if regex::escape(pattern) != pattern {
            return regex_of(pattern).map(Self::Regex);
        }
        match pattern.as_bytes() {
            [] => regex_of(pattern).map(Self::Regex),
            [byte] => Ok(Self::Byte(*byte)),
            _ => Ok(Self::Letters(pattern.to_owned())),
        }
    }

    /// As Java's `split`: a match without letters at the beginning cuts nothing off; a positive limit is the number of pieces at most.
    #[inline]
    fn pieces(&self, text: &str, limit: i64, mut each: impl FnMut(Range<usize>)) {
        let most = match usize::try_from(limit) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(most) => most,
        };
        match self {
            Self::Byte(byte) => {
                let bytes = text.as_bytes();
                let mut left = most;
                let mut from = 0;
                while left > 1
                    && let Some(found) = find_byte(*byte, &bytes[from..])
                {
                    each(from..from + found);
                    left -= 1;
                    from += found + 1;
                }
                each(from..bytes.len());
            }
            Self::Letters(letters) => {
                let mut from = 0;
                for (start, _) in text.match_indices(letters).take(most - 1) {
                    each(from..start);
                    from = start + letters.len();
                }
                each(from..text.len());
            }
            Self::Regex(regex) => cut(text, regex, most, each),
        }
    }
}

fn cut(text: &str, pattern: &Regex, most: usize, mut each: impl FnMut(Range<usize>)) {
    let mut left = most;
    let mut from = 0;
    for found in pattern.find_iter(text) {
        if left == 1 {
            break;
        }
        if found.end() == 0 || (found.is_empty() && found.start() == text.len()) {
            continue;
        }
        each(from..found.start());
        left -= 1;
        from = found.end();
    }
    each(from..text.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_some_of_a_column_lie_where_they_should() {
        let long = "supercalifragilisticexpialidocious";
        let texts = format!("of a {long} word {long}");
        let texts = StringArray::from(vec!["not this", "a bb", "", &texts, "é b"]).slice(1, 4);
        let mut lists = Lists::of(&texts);
        for row in 0..texts.len() {
            let begin = texts.value_offsets()[row] as usize;
            Pattern::Byte(b' ').pieces(texts.value(row), -1, |piece| {
                lists.push(begin + piece.start..begin + piece.end);
            });
            lists.end(row != 3).unwrap();
        }
        let lists = lists.finish().unwrap();
        let lists = lists.as_list::<i32>();
        let pieces = |row| -> Vec<String> {
            let values = lists.value(row);
            values
                .as_string::<i32>()
                .iter()
                .flatten()
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(pieces(0), ["a", "bb"]);
        assert_eq!(pieces(1), [""]);
        assert_eq!(pieces(2), ["of", "a", long, "word", long]);
        assert!(lists.is_valid(2) && lists.is_null(3));
    }

    #[test]
    fn pieces_are_as_java_cuts_them() {
        let cut = |text: &'static str, pattern: &str, limit| {
            let mut pieces = Vec::new();
            let pattern = Pattern::of(pattern).unwrap();
            pattern.pieces(text, limit, |piece| pieces.push(&text[piece]));
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
        assert_eq!(cut("a--b-c--", "--", -1), ["a", "b-c", ""]);
        assert_eq!(cut("aéb", "é", 0), ["a", "b"]);
        assert_eq!(cut("a, b, c", ", ", 1), ["a, b, c"]);
        assert_eq!(cut("", ",", -1), [""]);
        assert_eq!(cut(",a", ",", -1), ["", "a"]);
        assert_eq!(cut("ab", "", -1), ["a", "b"]);
    }
}
