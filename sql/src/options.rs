//! Options of readers and writers, by Spark's names or the same in snake case.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use crate::error::Error;

/// Options by name; names know no case.
#[derive(Clone, Default)]
pub(crate) struct Options(BTreeMap<String, (String, String)>);

impl fmt::Debug for Options {
    /// Names alone: values may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl Options {
    pub(crate) fn set(&mut self, name: &str, value: &dyn Display) {
        let folded = folded(name);
        self.0.insert(folded, (name.to_owned(), value.to_string()));
    }

    /// Takes a value out.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(&folded(name)).map(|(_, value)| value)
    }

    /// Takes all out whose names begin so, by what follows.
    pub(crate) fn take_prefixed(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let taken = self.0.extract_if(.., |name, _| name.starts_with(prefix));
        taken
            .map(|(_, (name, value))| (name[prefix.len()..].to_owned(), value))
            .collect()
    }

    pub(crate) fn take_bool(&mut self, name: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.to_ascii_lowercase().as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(Error::option(name, &value, "it is true or false")),
        }
    }

    pub(crate) fn take_char(&mut self, name: &str) -> Result<Option<Option<char>>, Error> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let mut letters = value.chars();
        match (letters.next(), letters.next()) {
            (first, None) => Ok(Some(first)),
            (Some('\\'), Some('t')) if value.len() == 2 => Ok(Some(Some('\t'))),
            _ => Err(Error::option(name, &value, "it is one letter")),
        }
    }

    pub(crate) fn take_number<T: std::str::FromStr>(
        &mut self,
        name: &str,
        what: &str,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value.trim().parse();
        number
            .map(Some)
            .map_err(|_| Error::option(name, &value, format!("it is {what}")))
    }

    /// Everything must have been taken: a name that means nothing is told with the nearest that does.
    pub(crate) fn all_taken(&self, format: &str, known: &[&str]) -> Result<(), Error> {
        let Some((name, value)) = self.0.values().next() else {
            return Ok(());
        };
        let near = known
            .iter()
            .min_by_key(|known| strsim::levenshtein(&folded(known), &folded(name)));
        let hint = match near {
            Some(near) => format!(
                "format {format} has no such option; is {near} meant? There are {}",
                known.join(", ")
            ),
            None => format!("format {format} has no options"),
        };
        Err(Error::option(name, value, hint))
    }
}

/// `maxFilesPerTrigger` and `max_files_per_trigger` are one.
fn folded(name: &str) -> String {
    name.replace('_', "").to_ascii_lowercase()
}
