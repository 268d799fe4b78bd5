//! JSON texts as values that keep their text: numbers keep every digit, and a column of strings gets what stands there. What is JSON is what Spark's parser takes by default:
//! strings in single quotes too, and `NaN` and infinities as numbers; what follows the first value isn't looked at.

use std::borrow::Cow;

/// Values nested deeper than this are no JSON here.
const DEEPEST: usize = 200;

/// A value of a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'t> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'t str),
    String(Cow<'t, str>),
    /// Its elements, and its text.
    Array(Vec<Value<'t>>, &'t str),
    /// Its fields in order, and its text.
    Object(Fields<'t>, &'t str),
}

/// Fields of an object, in order; of several with one name the last counts.
pub(crate) type Fields<'t> = Vec<(Cow<'t, str>, Value<'t>)>;

impl<'t> Value<'t> {
    /// The first value of a text; none where it isn't JSON.
    pub(crate) fn read(text: &'t str) -> Option<Self> {
        let mut parser = Parser { text, at: 0 };
        parser.value(0)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(elements, _) => Some(elements),
            _ => None,
        }
    }

    /// The fields of an object, taken out.
    pub(crate) fn object(self) -> Option<Fields<'t>> {
        match self {
            Self::Object(fields, _) => Some(fields),
            _ => None,
        }
    }

    pub(crate) fn as_object(&self) -> Option<&Fields<'t>> {
        match self {
            Self::Object(fields, _) => Some(fields),
            _ => None,
        }
    }

    /// A whole number, written as one.
    pub(crate) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// What a column of strings gets: a string's own text, anything else as it is written.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Null => "null",
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::String(text) => text,
            Self::Number(text) | Self::Array(_, text) | Self::Object(_, text) => text,
        }
    }
}

/// The value of a field, where it is there.
pub(crate) fn field<'v, 't>(fields: &'v Fields<'t>, name: &str) -> Option<&'v Value<'t>> {
    let mut newest_first = fields.iter().rev();
    newest_first
        .find(|(known, _)| known == name)
        .map(|(_, value)| value)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is_there = self.text[self.at..].starts_with(word);
        if is_there {
            self.at += word.len();
        }
        is_there
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value<'t>> {
        if depth > DEEPEST {
            return None;
        }
        self.blanks();
        let start = self.at;
        match self.peek()? {
            b'{' => {
                let fields = self.object(depth)?;
                Some(Value::Object(fields, &self.text[start..self.at]))
            }
            b'[' => {
                let elements = self.array(depth)?;
                Some(Value::Array(elements, &self.text[start..self.at]))
            }
            b'"' | b'\'' => self.string().map(Value::String),
            b'n' => self.word("null", Value::Null),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str, value: Value<'t>) -> Option<Value<'t>> {
        (self.take_word(word) && self.is_at_an_end()).then_some(value)
    }

    /// Nothing follows that would be part of the same word.
    fn is_at_an_end(&self) -> bool {
        !self
            .peek()
            .is_some_and(|next| next.is_ascii_alphanumeric() || next >= 0x80)
    }

    fn object(&mut self, depth: usize) -> Option<Fields<'t>> {
        self.take(b'{')?;
        let mut fields = Fields::new();
        self.blanks();
        if self.take(b'}').is_some() {
            return Some(fields);
        }
        loop {
            self.blanks();
            let name = self.string()?;
            self.blanks();
            self.take(b':')?;
            fields.push((name, self.value(depth + 1)?));
            self.blanks();
            if self.take(b'}').is_some() {
                return Some(fields);
            }
            self.take(b',')?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<Vec<Value<'t>>> {
        self.take(b'[')?;
        let mut elements = Vec::new();
        self.blanks();
        if self.take(b']').is_some() {
            return Some(elements);
        }
        loop {
            elements.push(self.value(depth + 1)?);
            self.blanks();
            if self.take(b']').is_some() {
                return Some(elements);
            }
            self.take(b',')?;
        }
    }

    fn string(&mut self) -> Option<Cow<'t, str>> {
        let quote = self.peek()?;
        if !matches!(quote, b'"' | b'\'') {
            return None;
        }
        self.at += 1;
        let start = self.at;
        let mut owned: Option<String> = None;
        let mut from = start;
        loop {
            let next = self.peek()?;
            match next {
                _ if next == quote => {
                    let rest = &self.text[from..self.at];
                    self.at += 1;
                    return Some(match owned {
                        None => Cow::Borrowed(rest),
                        Some(mut text) => {
                            text.push_str(rest);
                            Cow::Owned(text)
                        }
                    });
                }
                b'\\' => {
                    let text = owned.get_or_insert_default();
                    text.push_str(&self.text[from..self.at]);
                    self.at += 1;
                    let letter = self.escaped(quote)?;
                    owned.get_or_insert_default().push(letter);
                    from = self.at;
                }
                0..0x20 => return None,
                _ => self.at += 1,
            }
        }
    }

    /// What follows a backslash.
    fn escaped(&mut self, quote: u8) -> Option<char> {
        let letter = self.peek()?;
        self.at += 1;
        Some(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'\'' if quote == b'\'' => '\'',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit()?;
                if !(0xd800..0xdc00).contains(&first) {
                    // A half of a pair alone is no letter; Java writes it as this.
                    return Some(char::from_u32(first).unwrap_or('?'));
                }
                let after_first = self.at;
                if self.take_word("\\u")
                    && let Some(second) = self.unit()
                    && (0xdc00..0xe000).contains(&second)
                {
                    let both = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                    return Some(char::from_u32(both).unwrap_or('?'));
                }
                self.at = after_first;
                '?'
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self) -> Option<Value<'t>> {
        let start = self.at;
        let is_signed = matches!(self.peek(), Some(b'-' | b'+'));
        let is_negative = self.take(b'-').is_some();
        if is_signed && !is_negative {
            self.at += 1;
        }
        let words: &[&str] = match is_signed {
            true => &["Infinity", "INF"],
            false => &["NaN", "Infinity", "INF"],
        };
        if words.iter().any(|word| self.take_word(word)) {
            return self
                .is_at_an_end()
                .then(|| Value::Number(&self.text[start..self.at]));
        }
        if is_signed && !is_negative {
            return None;
        }
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.is_at_an_end()
            .then(|| Value::Number(&self.text[start..self.at]))
    }

    /// At least one.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|digit| digit.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_keep_their_text() {
        let text = r#" {"n": 1.10, "big": 12345678901234567890.123, "list": [ 1, "x" ], "s": "aé\u00e9\n\ud83d\ude00"} "#;
        let value = Value::read(text).unwrap();
        let fields = value.as_object().unwrap();
        assert_eq!(field(fields, "n"), Some(&Value::Number("1.10")));
        assert_eq!(
            field(fields, "big").unwrap().text(),
            "12345678901234567890.123"
        );
        assert_eq!(field(fields, "list").unwrap().text(), r#"[ 1, "x" ]"#);
        assert_eq!(field(fields, "s").unwrap().as_str(), Some("aéé\n😀"));
        assert_eq!(value.text(), text.trim());
        assert_eq!(field(fields, "none"), None);
    }

    #[test]
    fn single_quotes_and_infinities_are_taken() {
        let value = Value::read(r#"{'a': 'it\'s', "b": -Infinity, "c": NaN, 'a': '"'}"#).unwrap();
        let fields = value.as_object().unwrap();
        assert_eq!(field(fields, "a").unwrap().text(), "\"");
        assert_eq!(fields[0].1.text(), "it's");
        assert_eq!(field(fields, "b").unwrap().text(), "-Infinity");
        assert_eq!(field(fields, "c").unwrap().text(), "NaN");
    }

    #[test]
    fn what_is_no_json_is_none() {
        for text in [
            "",
            "{",
            "{\"a\"}",
            "{\"a\":1,}",
            "[1,]",
            "[1 2]",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "tru",
            "nullx",
            "\"a",
            "\"\t\"",
            "\"\\x\"",
            "\"\\u12\"",
            "a",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
        ] {
            assert_eq!(Value::read(text), None, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(Value::read(&deep), None);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
                prop::collection::vec((any::<String>(), inner), 0..4)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn same(ours: &Value<'_>, theirs: &serde_json::Value) -> bool {
        match (ours, theirs) {
            (Value::Null, serde_json::Value::Null) => true,
            (Value::Bool(ours), serde_json::Value::Bool(theirs)) => ours == theirs,
            (Value::Number(ours), serde_json::Value::Number(theirs)) => *ours == theirs.to_string(),
            (Value::String(ours), serde_json::Value::String(theirs)) => ours == theirs,
            (Value::Array(ours, _), serde_json::Value::Array(theirs)) => {
                ours.len() == theirs.len()
                    && ours
                        .iter()
                        .zip(theirs)
                        .all(|(ours, theirs)| same(ours, theirs))
            }
            (Value::Object(ours, _), serde_json::Value::Object(theirs)) => {
                ours.len() == theirs.len()
                    && ours
                        .iter()
                        .zip(theirs)
                        .all(|(ours, theirs)| ours.0 == *theirs.0 && same(&ours.1, theirs.1))
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn json_is_read_as_another_parser_reads_it(value in json()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let read = Value::read(&text).unwrap();
                prop_assert!(same(&read, &value), "{text}: {read:?}");
                prop_assert_eq!(read.as_str().unwrap_or(read.text()), value.as_str().unwrap_or(&text));
            }
        }

        #[test]
        fn any_text_is_read_or_not_and_nothing_breaks(text in "[\\[\\]{}\"'\\\\,:a-z0-9.eE+\\- uINF\u{e9}\n]{0,40}") {
            let _ = Value::read(&text);
        }
    }
}
