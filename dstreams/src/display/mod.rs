//! Shows any value that implements [`serde::Serialize`] as the text that Spark would show for it.
//!
//! [`python`] gives what Python's `print(value)` writes, as `pprint` needs it; [`scala`] gives what
//! Scala's `println(value)` writes, as `print` and the text-file output need it. Both walk the value
//! through serde, so a type needs a derived `Serialize` and nothing else.
//!
//! | Rust value | serde calls it | Python | Scala |
//! |---|---|---|---|
//! | `"it's"` | str | `it's`, nested `"it's"` | `it's` |
//! | `'x'` | char | as a string of one character | `x` |
//! | `7u8`, `-3i128` | integers | `7`, `-3` | `7`, `-3` |
//! | `1e16f64` | f64 | `1e+16` | `1.0E16` |
//! | `true` | bool | `True` | `true` |
//! | `()` | unit | `None` | `()` |
//! | `None::<T>` | none | `None` | `None` |
//! | `Some(x)` | some | as `x` alone | `Some(x)` |
//! | `("a", 1)`, `["a", "b"]` | tuple | `('a', 1)`, `('a', 'b')` | `(a,1)`, `(a,b)` |
//! | `("a",)` | tuple of one | `('a',)` | `(a)` |
//! | `vec!["a", "b"]`, slices, sets | seq | `['a', 'b']` | `List(a, b)` |
//! | bytes of the `bytes` crate | bytes | `b'\x01\xff'` | `List(1, -1)` |
//! | maps | map | `{'a': 1}` | `Map(a -> 1)` |
//! | `struct P { x: 1, y: "b" }` | struct | `P(x=1, y='b')` | `P(1,b)` |
//! | `struct T(1, "b")` | tuple struct | `T(1, 'b')` | `T(1,b)` |
//! | `struct W(1)` | newtype struct | `W(1)` | `W(1)` |
//! | `struct U;` | unit struct | `U()` | `U` |
//! | `Enum::A` | unit variant | `A` | `A` |
//! | `Enum::B(1)`, `Enum::C(1, 2)` | newtype, tuple variant | `B(1)`, `C(1, 2)` | `B(1)`, `C(1,2)` |
//! | `Enum::D { x: 1 }` | struct variant | `D(x=1)` | `D(1)` |
//!
//! Structs look like data classes and PySpark's `Row` in Python and like case classes in Scala; a unit
//! struct or unit variant is a case object there. Python has no counterpart for tuple structs and enum
//! variants: the forms above are ours. `#[serde(transparent)]` takes away the name of a wrapper.
//!
//! # What serde can't tell apart
//!
//! A serialised value no longer says which collection it was, so these differ from Spark:
//!
//! * A set is shown as a list: `['a']`, not `{'a'}`; `List(a)`, not `Set(a)`.
//! * `Vec<u8>` and `&[u8]` are sequences of numbers: `[1, 255]`, `List(1, 255)`. Only a type that calls
//!   `serialize_bytes`, such as `bytes::Bytes`, is shown as bytes. In Scala, where a byte is signed, 255 is
//!   then -1.
//! * A fixed-size array is a tuple: `[1, 2]` of type `[i32; 2]` is `(1, 2)`; make it a slice or a `Vec` to show
//!   a list. `[T; 0]` is `()`.
//! * A `char` is a string of length one.
//! * `Some(None)` and `None` are both `None` in Python; so is `()`.
//! * A struct with `#[serde(flatten)]` is a map; an enum with `#[serde(tag = "...")]` or `#[serde(untagged)]` is
//!   what that attribute turns it into. Renamed fields and variants show their new names.
//! * Types that serialise themselves as strings (addresses, UUIDs, timestamps) are shown as strings.
//!
//! # Numbers
//!
//! Floating-point numbers are shown with the fewest digits that read back as the same number. An `f32` in
//! Python has the fewest digits that read back as the same `f32`, so `0.1f32` is `0.1` (PySpark shows such a column
//! as the double `0.10000000149011612`). `Double.toString` and `Float.toString` are those of Java 19 and later;
//! older ones write more digits than needed for some numbers (`2e23` as `1.9999999999999998E23`).
//!
//! # Strings in Python
//!
//! Which characters are kept and which are escaped is taken from Python 3.11 (Unicode 14).

mod block;
mod float;
#[cfg(test)]
mod golden;
mod python;
mod render;
mod scala;
mod unprintable;

use serde::Serialize;

pub use block::{python_block, python_time, scala_block, scala_time};
pub use render::Error;

/// What Python's `print(value)` writes, without the newline at its end.
///
/// A string is shown bare when it is the value itself, and as its `repr` anywhere within.
///
/// # Errors
///
/// Only if the `Serialize` implementation of the value, or of a part of it, gives one.
pub fn python<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    let mut out = String::new();
    python_into(value, &mut out)?;
    Ok(out)
}

/// Appends what [`python`] returns to `out`.
///
/// # Errors
///
/// As for [`python`]; `out` is then as it was before.
pub fn python_into<T: Serialize + ?Sized>(value: &T, out: &mut String) -> Result<(), Error> {
    render::into::<python::Python, T>(value, out)
}

/// What Scala's `println(value)` writes, without the newline at its end.
///
/// # Errors
///
/// Only if the `Serialize` implementation of the value, or of a part of it, gives one.
pub fn scala<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    let mut out = String::new();
    scala_into(value, &mut out)?;
    Ok(out)
}

/// Appends what [`scala`] returns to `out`.
///
/// # Errors
///
/// As for [`scala`]; `out` is then as it was before.
pub fn scala_into<T: Serialize + ?Sized>(value: &T, out: &mut String) -> Result<(), Error> {
    render::into::<scala::Scala, T>(value, out)
}

#[cfg(test)]
mod tests {
    use std::fmt::{self, Display};

    use serde::ser::{Error as _, Serializer};

    use super::*;

    struct Refuses;

    impl Serialize for Refuses {
        fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("the lock is poisoned"))
        }
    }

    struct Shouts;

    impl Display for Shouts {
        fn fmt(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }

    impl Serialize for Shouts {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    #[test]
    fn an_error_names_the_type_and_leaves_the_text_as_it_was() {
        let mut out = "before".to_owned();

        let error = python_into(&(1, Refuses), &mut out).unwrap_err();

        assert_eq!(out, "before");
        let message = error.to_string();
        assert!(message.contains("the lock is poisoned"), "{message}");
        assert!(message.contains("Refuses"), "{message}");
        assert!(message.contains("as Python text"), "{message}");
    }

    #[test]
    fn a_failing_display_is_an_error_and_no_panic() {
        let mut out = String::new();

        assert!(scala(&Shouts).is_err());
        assert!(python_into(&Shouts, &mut out).is_err());
        assert!(python_into(&(Shouts,), &mut out).is_err());
        assert_eq!(out, "");
    }

    #[test]
    fn text_is_appended() {
        let mut out = "a".to_owned();

        python_into(&1, &mut out).unwrap();
        scala_into(&(), &mut out).unwrap();

        assert_eq!(out, "a1()");
    }
}
