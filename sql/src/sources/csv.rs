//! Lines of CSV as rows, as Spark's reader takes them: a record is a line.

use serde::{Deserialize, Serialize};

/// How a CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CsvOptions {
    /// The first line of each file is no row.
    pub(crate) header: bool,
    /// Columns go by their places whatever the header says; else a header that differs from the schema is an error.
    pub(crate) enforce_schema: bool,
    pub(crate) separator: char,
    /// None: nothing is quoted.
    pub(crate) quote: Option<char>,
    /// What takes its meaning from a quote within quotes.
    pub(crate) escape: Option<char>,
    /// Lines that begin with it are no rows.
    pub(crate) comment: Option<char>,
    /// A field of this text is null, quoted or not; one without anything is null whatever this is.
    pub(crate) null_value: String,
    /// What quotes with nothing between them are.
    pub(crate) empty_value: String,
    pub(crate) trim_start: bool,
    pub(crate) trim_end: bool,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            header: false,
            enforce_schema: true,
            separator: ',',
            quote: Some('"'),
            escape: Some('\\'),
            comment: None,
            null_value: String::new(),
            empty_value: String::new(),
            trim_start: false,
            trim_end: false,
        }
    }
}

/// Cuts lines into fields.
pub(crate) struct Cutter {
    options: CsvOptions,
    field: String,
}

impl Cutter {
    pub(crate) fn new(options: CsvOptions) -> Self {
        Self {
            options,
            field: String::new(),
        }
    }

    /// Whether the line is no record at all.
    pub(crate) fn is_passed_over(&self, line: &str) -> bool {
        let is_comment = |comment: char| line.starts_with(comment);
        line.trim().is_empty() || self.options.comment.is_some_and(is_comment)
    }

    /// Calls `found` with each field's number and text; none for a null. Gives the number of fields.
    pub(crate) fn cut(&mut self, line: &str, mut found: impl FnMut(usize, Option<&str>)) -> usize {
        let separator = self.options.separator;
        let mut rest = line;
        let mut number = 0;
        loop {
            let begins_quoted = self.options.quote.filter(|quote| {
                let text = match self.options.trim_start {
                    true => rest.trim_start_matches(|letter| self.is_blank(letter)),
                    false => rest,
                };
                text.starts_with(*quote)
            });
            let quoted = match begins_quoted {
                Some(quote) => self.quoted(rest, quote),
                None => Quoted::Not { from: 0 },
            };
            let next = match quoted {
                Quoted::Until(next) => {
                    let text = match self.field.is_empty() {
                        true => &self.options.empty_value,
                        false => &self.field,
                    };
                    let is_null = *text == self.options.null_value;
                    found(number, (!is_null).then_some(text));
                    next
                }
                Quoted::Not { from } => {
                    let end = rest[from..].find(separator).map(|end| from + end);
                    let text = self.trimmed(&rest[..end.unwrap_or(rest.len())]);
                    let is_null = text.is_empty() || text == self.options.null_value;
                    found(number, (!is_null).then_some(text));
                    end
                }
            };
            number += 1;
            match next {
                Some(end) => rest = &rest[end + separator.len_utf8()..],
                None => return number,
            }
        }
    }

    fn trimmed<'l>(&self, mut text: &'l str) -> &'l str {
        if self.options.trim_start {
            text = text.trim_start_matches(|letter| self.is_blank(letter));
        }
        if self.options.trim_end {
            text = text.trim_end_matches(|letter| self.is_blank(letter));
        }
        text
    }

    /// What may stand between a quote and a separator. A separator is none, also where it is a tab or a blank.
    fn is_blank(&self, letter: char) -> bool {
        letter <= ' ' && letter != self.options.separator
    }

    /// Takes a quoted field into `field`. Two quotes are one where a quote is the escape.
    fn quoted(&mut self, text: &str, quote: char) -> Quoted {
        self.field.clear();
        let Some(opening) = text.find(quote) else {
            return Quoted::Not { from: 0 };
        };
        let opening = opening + quote.len_utf8();
        let mut letters = text[opening..].char_indices().peekable();
        while let Some((at, letter)) = letters.next() {
            let following = letters.peek().map(|(_, letter)| *letter);
            if self.options.escape == Some(letter) {
                let escapes_quote = following == Some(quote);
                let escapes_itself = following == Some(letter) && letter != quote;
                if escapes_quote || escapes_itself {
                    self.field.extend(following);
                    letters.next();
                    continue;
                }
            }
            if letter != quote {
                self.field.push(letter);
                continue;
            }
            let closed = opening + at + quote.len_utf8();
            let after = &text[closed..];
            let after_spaces = after.trim_start_matches(|letter| self.is_blank(letter));
            if after_spaces.is_empty() {
                return Quoted::Until(None);
            }
            if after_spaces.starts_with(self.options.separator) {
                return Quoted::Until(Some(text.len() - after_spaces.len()));
            }
            return Quoted::Not { from: closed };
        }
        // The quotes never close: the rest of the line is the field.
        Quoted::Until(None)
    }
}

/// What a field that begins with a quote is.
enum Quoted {
    /// A text in quotes, up to this separator, or the line's end.
    Until(Option<usize>),
    /// What follows the closing quote is no separator: the quotes mean nothing, and the first separator from there ends the field.
    Not { from: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(options: CsvOptions, line: &str) -> Vec<Option<String>> {
        let mut fields = Vec::new();
        let count = Cutter::new(options).cut(line, |number, field| {
            assert_eq!(number, fields.len());
            fields.push(field.map(str::to_owned));
        });
        assert_eq!(count, fields.len());
        fields
    }

    fn texts(line: &str) -> Vec<Option<String>> {
        cut(CsvOptions::default(), line)
    }

    fn some(fields: &[&str]) -> Vec<Option<String>> {
        fields
            .iter()
            .map(|field| (*field != "∅").then(|| (*field).to_owned()))
            .collect()
    }

    #[test]
    fn fields_are_cut_at_separators_outside_of_quotes() {
        assert_eq!(texts("1,a b,"), some(&["1", "a b", "∅"]));
        assert_eq!(texts(r#"1,"a,b",3"#), some(&["1", "a,b", "3"]));
        assert_eq!(texts(r#""a \"b\" \\ \n""#), some(&[r#"a "b" \ \n"#]));
        assert_eq!(
            texts(r#""",x"#),
            some(&["∅", "x"]),
            "quoted and empty is null as well"
        );
        assert_eq!(texts(r#""a" ,b"#), some(&["a", "b"]));
        assert_eq!(texts(r#""never closed,b"#), some(&["never closed,b"]));
        assert_eq!(texts(r#""a"b,c"#), some(&[r#""a"b"#, "c"]));
        assert_eq!(texts(r#""a,b"c,d"#), some(&[r#""a,b"c"#, "d"]));
        assert_eq!(
            texts(r#""a ""b"" c",d"#),
            some(&[r#""a ""b"" c""#, "d"]),
            "a quote takes no meaning from a quote"
        );
        assert_eq!(texts(""), some(&["∅"]));
        assert_eq!(texts("é,ü"), some(&["é", "ü"]));
    }

    #[test]
    fn a_tab_that_separates_is_no_blank() {
        let tabs = CsvOptions {
            separator: '\t',
            ..CsvOptions::default()
        };
        let cut_tabs = |line: &str| cut(tabs.clone(), line);
        assert_eq!(cut_tabs("1\t\"a\tb\"\tx"), some(&["1", "a\tb", "x"]));
        assert_eq!(cut_tabs("\"a\"\t\tx"), some(&["a", "∅", "x"]));
        assert_eq!(cut_tabs("\"a\" \tx"), some(&["a", "x"]));
        assert_eq!(cut_tabs("b\t\"c\"\t"), some(&["b", "c", "∅"]));
        assert_eq!(cut_tabs("\"b\tc\" x\ty"), some(&["\"b\tc\" x", "y"]));
        let trimmed = CsvOptions {
            trim_start: true,
            trim_end: true,
            ..tabs.clone()
        };
        assert_eq!(
            cut(trimmed, "\t7 \t \"a\" \t b"),
            some(&["∅", "7", "a", "b"])
        );
        assert_eq!(texts("\"a\"\t,x"), some(&["a", "x"]));
    }

    #[test]
    fn options_change_what_counts() {
        let options = CsvOptions {
            separator: '|',
            quote: Some('\''),
            null_value: "NA".to_owned(),
            trim_start: true,
            trim_end: true,
            ..CsvOptions::default()
        };
        assert_eq!(
            cut(options, " a | 'b|c' |NA|'NA'|"),
            some(&["a", "b|c", "∅", "∅", "∅"])
        );
        let named = CsvOptions {
            null_value: "NA".to_owned(),
            ..CsvOptions::default()
        };
        assert_eq!(
            cut(named.clone(), r#",""," ",NA,"NA""#),
            some(&["∅", "", " ", "∅", "∅"])
        );
        let with_empty = CsvOptions {
            empty_value: "nothing".to_owned(),
            ..named
        };
        assert_eq!(
            cut(with_empty, r#","",nothing"#),
            some(&["∅", "nothing", "nothing"])
        );
        let unquoted = CsvOptions {
            quote: None,
            ..CsvOptions::default()
        };
        assert_eq!(cut(unquoted, r#""a,b""#), some(&[r#""a"#, r#"b""#]));
        let doubled = CsvOptions {
            escape: Some('"'),
            ..CsvOptions::default()
        };
        assert_eq!(cut(doubled, r#""a ""b"" c",d"#), some(&[r#"a "b" c"#, "d"]));
        let commented = Cutter::new(CsvOptions {
            comment: Some('#'),
            ..CsvOptions::default()
        });
        assert!(commented.is_passed_over("# no") && commented.is_passed_over("  "));
        assert!(!commented.is_passed_over("a"));
    }
}
