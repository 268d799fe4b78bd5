//! Conversions between wire and domain types. To the wire they can't fail; from it every field is checked and named in the error.
//!
//! Layout:
//! - `ids`: task and block ids, uuids
//! - `failure`: failures
//! - `registration`: registering
//! - `report`: task reports and what they hold
//! - `launch`: stage launches, with their writers said once
//! - `session`: the two message enums

use serde_json::Value;

mod failure;
mod ids;
mod launch;
mod registration;
mod report;
mod session;
#[cfg(test)]
mod tests;

/// A message from the wire that can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message {message}, field {field}: {problem}")]
pub struct ConversionError {
    /// The message's name in the `.proto` file.
    pub message: &'static str,
    /// The field's name there.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl ConversionError {
    fn new(message: &'static str, field: &'static str, problem: impl Into<String>) -> Self {
        Self {
            message,
            field,
            problem: problem.into(),
        }
    }

    fn missing(message: &'static str, field: &'static str) -> Self {
        Self::new(message, field, "missing")
    }
}

impl From<ConversionError> for tonic::Status {
    fn from(error: ConversionError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

fn require<T>(
    value: Option<T>,
    message: &'static str,
    field: &'static str,
) -> Result<T, ConversionError> {
    value.ok_or_else(|| ConversionError::missing(message, field))
}

fn json_text(value: &Value) -> String {
    value.to_string()
}

fn parse_json(
    text: &str,
    message: &'static str,
    field: &'static str,
) -> Result<Value, ConversionError> {
    serde_json::from_str(text)
        .map_err(|error| ConversionError::new(message, field, format!("no JSON: {error}")))
}

fn convert_all<Wire, Domain>(values: Vec<Wire>) -> Result<Vec<Domain>, ConversionError>
where
    Domain: TryFrom<Wire, Error = ConversionError>,
{
    values.into_iter().map(Domain::try_from).collect()
}

fn wire_all<Domain, Wire>(values: Vec<Domain>) -> Vec<Wire>
where
    Wire: From<Domain>,
{
    values.into_iter().map(Wire::from).collect()
}

/// Cuts `text` to at most `bytes` bytes, at a character.
pub(crate) fn clamp_text(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = text.floor_char_boundary(bytes);
        text.truncate(end);
    }
}
