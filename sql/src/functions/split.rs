//! `split(text, pattern[, limit])`: text cut at a regular expression.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, ListBuilder, StringBuilder},
    compute::cast,
    datatypes::{DataType, Field},
};
use datafusion::{
    common::ScalarValue,
    error::Result,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};
use regex::Regex;

use super::wrong;

pub(crate) const NAME: &str = "split";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SplitFunction {
    signature: Signature,
}

impl Default for SplitFunction {
    fn default() -> Self {
        Self {
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for SplitFunction {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.len() {
            2 | 3 => Ok(DataType::List(Arc::new(Field::new_list_field(
                DataType::Utf8,
                true,
            )))),
            _ => Err(wrong(
                "split needs a text, a pattern, and a limit if wanted",
            )),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = arguments.args[0].to_array(arguments.number_rows)?;
        let texts: ArrayRef = cast(&texts, &DataType::Utf8)?;
        let pattern = match arguments.args.get(1) {
            Some(ColumnarValue::Scalar(
                ScalarValue::Utf8(Some(text))
                | ScalarValue::Utf8View(Some(text))
                | ScalarValue::LargeUtf8(Some(text)),
            )) => text.clone(),
            _ => return Err(wrong("the pattern of split is a literal text")),
        };
        let limit = match arguments.args.get(2) {
            None => -1,
            Some(ColumnarValue::Scalar(limit)) => match limit.cast_to(&DataType::Int64)? {
                ScalarValue::Int64(Some(limit)) => limit,
                _ => return Err(wrong("the limit of split is a number")),
            },
            Some(ColumnarValue::Array(_)) => {
                return Err(wrong("the limit of split is a literal number"));
            }
        };
        let pattern = Pattern::of(&pattern)?;
        let texts = texts.as_string::<i32>();
        let values = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
        let mut lists = ListBuilder::with_capacity(values, texts.len());
        for text in texts {
            let Some(text) = text else {
                lists.append_null();
                continue;
            };
            pattern.pieces(text, limit, |piece| lists.values().append_value(piece));
            lists.append(true);
        }
        Ok(ColumnarValue::Array(Arc::new(lists.finish())))
    }
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
        Regex::new(pattern)
            .map(Self::Regex)
            .map_err(|error| wrong(format!("`{pattern}` is no regular expression: {error}")))
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
