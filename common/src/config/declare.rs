//! What a configuration key is, and the macro that declares keys.

use super::registry::{SPECS, Values};
use super::value::Setting;

/// Prefix of the environment variables that set keys.
pub(super) const VARIABLE_PREFIX: &str = "MILLSTREAM_";

/// Whose setting a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of the whole application: the driver's value holds on every executor.
    Application,
    /// Of one process: an executor's own value wins over the driver's.
    Process,
}

/// A key's constant: the way to read its value by [`Config::get`](super::Config::get).
pub struct Key<T: 'static> {
    pub(super) index: usize,
    pub(super) field: fn(&Values) -> &T,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T: Setting> Key<T> {
    /// The key's name, such as `task.max_failures`.
    pub fn name(self) -> &'static str {
        self.spec().name()
    }

    /// What the registry says of the key.
    pub fn spec(self) -> &'static Spec {
        &SPECS[self.index]
    }

    pub(super) fn read(self, values: &Values) -> &T {
        (self.field)(values)
    }
}

/// What the registry says of a key, whatever its type.
pub struct Spec {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) index: usize,
    pub(super) flags: Flags,
    pub(super) accepts: fn() -> String,
    pub(super) assign: fn(&mut Values, &str) -> Result<(), String>,
    pub(super) text: fn(&Values) -> String,
    pub(super) copy: fn(&Values, &mut Values),
}

#[derive(Clone, Copy)]
pub(super) struct Flags {
    affects_results: bool,
    secret: bool,
    scope: Scope,
}

impl Flags {
    pub(super) const fn new() -> Self {
        Self {
            affects_results: false,
            secret: false,
            scope: Scope::Application,
        }
    }

    pub(super) const fn affects_results(mut self) -> Self {
        self.affects_results = true;
        self
    }

    pub(super) const fn process(mut self) -> Self {
        self.scope = Scope::Process;
        self
    }

    pub(super) const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

impl Spec {
    /// Every key, in the order of the reference.
    pub fn all() -> &'static [Spec] {
        &SPECS
    }

    /// The key of this name.
    pub fn find(name: &str) -> Option<&'static Spec> {
        SPECS.iter().find(|spec| spec.name == name)
    }

    /// The key's name, such as `task.max_failures`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The variable that sets the key, such as `MILLSTREAM_TASK__MAX_FAILURES`.
    pub fn variable(&self) -> String {
        let name = self.name.replace('.', "__").to_ascii_uppercase();
        format!("{VARIABLE_PREFIX}{name}")
    }

    /// What the key does.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// The values it accepts: "an integer, 1 to 1000".
    pub fn accepts(&self) -> String {
        (self.accepts)()
    }

    /// Whether the result of a batch depends on it.
    pub fn affects_results(&self) -> bool {
        self.flags.affects_results
    }

    /// Whether its value is never shown, logged or sent.
    pub fn is_secret(&self) -> bool {
        self.flags.secret
    }

    /// Whose setting it is.
    pub fn scope(&self) -> Scope {
        self.flags.scope
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn assign(&self, values: &mut Values, text: &str) -> Result<(), String> {
        (self.assign)(values, text)
    }

    pub(super) fn text(&self, values: &Values) -> String {
        (self.text)(values)
    }

    pub(super) fn copy(&self, from: &Values, to: &mut Values) {
        (self.copy)(from, to);
    }
}

/// The lowest and, if there is one, the highest value that a key accepts.
pub(super) type Range<T> = (<T as Setting>::Bound, Option<<T as Setting>::Bound>);

/// Reads a value and checks it against the key's range; the error says what is accepted.
pub(super) fn checked<T: Setting>(text: &str, range: Option<Range<T>>) -> Result<T, String> {
    let value = T::parse(text);
    let accepted = value.filter(|value| match &range {
        Some((low, high)) => value.within(low, high.as_ref()),
        None => true,
    });
    accepted.ok_or_else(|| accepts::<T>(range, true))
}

/// The values accepted by a type and a range, in words, with or without examples.
pub(super) fn accepts<T: Setting>(range: Option<Range<T>>, with_examples: bool) -> String {
    let mut words = T::noun();
    if with_examples && !T::examples().is_empty() {
        words.push_str(" such as ");
        words.push_str(T::examples());
    }
    if let Some((low, high)) = range {
        let low = T::show_bound(&low);
        words.push_str(&match high {
            Some(high) => format!(", {low} to {}", T::show_bound(&high)),
            None => format!(", at least {low}"),
        });
    }
    words
}

/// Declares keys: `"name" CONSTANT: type = default, [lowest, highest], flag...;` (or `[lowest]`) under titled sections.
macro_rules! declare_keys {
    ($(
        section $title:literal {
            $(
                $(#[doc = $doc:literal])+
                $name:literal $id:ident: $type:ty = $default:expr $(, [$low:expr $(, $high:expr)?])? $(, $flag:ident)*;
            )*
        }
    )*) => {
        /// The value of every key.
        #[derive(Clone)]
        #[allow(non_snake_case, reason = "a field has the name of its key's constant")]
        pub struct Values {
            $($( $id: $type, )*)*
        }

        impl Default for Values {
            fn default() -> Self {
                Self { $($( $id: $default, )*)* }
            }
        }

        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "a variant has the name of its key's constant")]
        enum Index { $($( $id, )*)* }

        /// One constant a key; [`Config::get`](super::Config::get) reads its value.
        pub mod keys {
            use super::*;

            $($(
                $(#[doc = $doc])+
                pub const $id: Key<$type> = Key {
                    index: Index::$id as usize,
                    field: |values| &values.$id,
                };
            )*)*
        }

        pub(super) static SPECS: [Spec; [$($( Index::$id as usize ),*),*].len()] = [
            $($(
                Spec {
                    name: $name,
                    doc: concat!($($doc, "\n"),+),
                    index: Index::$id as usize,
                    flags: Flags::new()$(.$flag())*,
                    accepts: || accepts::<$type>(declare_keys!(@range $($low $(, $high)?)?), false),
                    assign: |values, text| {
                        values.$id = checked::<$type>(text, declare_keys!(@range $($low $(, $high)?)?))?;
                        Ok(())
                    },
                    text: |values| values.$id.to_text(),
                    copy: |from, to| to.$id = from.$id.clone(),
                },
            )*)*
        ];

        /// The sections of the reference.
        pub static SECTIONS: &[Section] = &[
            $( Section { title: $title, names: &[$($name),*] }, )*
        ];
    };
    (@range) => { None };
    (@range $low:expr) => { Some(($low, None)) };
    (@range $low:expr, $high:expr) => { Some(($low, Some($high))) };
}

pub(super) use declare_keys;
