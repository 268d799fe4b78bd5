//! The serde serializer behind both languages: what to write for each call is asked of a [`Dialect`].
//!
//! Text goes straight into one `String`; nothing is built on the side.

use std::fmt::{self, Display, Write as _};
use std::marker::PhantomData;

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// A value refused to be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot show a value of type {value_type} as {language} text: {reason}; \
     its `Serialize` implementation gave this error, so mend it there or map the value to another type first"
)]
pub struct Error {
    value_type: &'static str,
    language: &'static str,
    reason: String,
}

/// What goes before, between and after the elements of a group.
pub(super) struct Brackets {
    pub(super) open: &'static str,
    pub(super) separator: &'static str,
    pub(super) close: &'static str,
}

/// How one language shows values.
pub(super) trait Dialect {
    const LANGUAGE: &'static str;
    const TRUE: &'static str;
    const FALSE: &'static str;
    const UNIT: &'static str;
    /// Whether `Some(x)` is shown as such, or as `x` alone.
    const SHOWS_SOME: bool;
    const LIST: Brackets;
    const TUPLE: Brackets;
    /// Follows the element of a tuple that has only one.
    const AFTER_LONE_ELEMENT: &'static str;
    const MAP: Brackets;
    const BETWEEN_KEY_AND_VALUE: &'static str;
    /// The parenthesised part of `Name(a, b)`.
    const ARGUMENTS: Brackets;
    const SHOWS_FIELD_NAMES: bool;
    /// Follows the name of a unit struct.
    const AFTER_UNIT_STRUCT: &'static str;
    /// Whether a string within another value is shown as it is.
    const NESTED_STRINGS_ARE_BARE: bool;

    /// Writes a string that is within another value and not bare.
    fn quoted(text: &str, out: &mut String) -> fmt::Result;
    fn bytes(bytes: &[u8], out: &mut String) -> fmt::Result;
    fn double(value: f64, out: &mut String) -> fmt::Result;
    fn float(value: f32, out: &mut String) -> fmt::Result;
}

/// Appends `value` to `out`; on error `out` stays as it was.
pub(super) fn into<D: Dialect, T: Serialize + ?Sized>(
    value: &T,
    out: &mut String,
) -> Result<(), Error> {
    let length_before = out.len();
    let rendered = value.serialize(Renderer::<D>::new(out, true));
    rendered.map_err(|Refused(reason)| {
        out.truncate(length_before);
        Error {
            value_type: std::any::type_name::<T>(),
            language: D::LANGUAGE,
            reason,
        }
    })
}

/// The reason a `Serialize` implementation gave.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl serde::ser::Error for Refused {
    fn custom<M: Display>(message: M) -> Self {
        Refused(message.to_string())
    }
}

impl From<fmt::Error> for Refused {
    /// Writing to a `String` cannot fail, so this comes from a `Display` that serde was asked to collect.
    fn from(_: fmt::Error) -> Self {
        Refused("its `Display` implementation failed".to_owned())
    }
}

struct Renderer<'a, D> {
    out: &'a mut String,
    /// Whether this is the shown value itself and not a part of it.
    outermost: bool,
    dialect: PhantomData<D>,
}

impl<'a, D: Dialect> Renderer<'a, D> {
    fn new(out: &'a mut String, outermost: bool) -> Self {
        Renderer {
            out,
            outermost,
            dialect: PhantomData,
        }
    }

    fn shows_strings_bare(&self) -> bool {
        self.outermost || D::NESTED_STRINGS_ARE_BARE
    }

    fn group(self, brackets: &'static Brackets, after_lone_element: &'static str) -> Group<'a, D> {
        self.out.push_str(brackets.open);
        Group {
            out: self.out,
            brackets,
            after_lone_element,
            count: 0,
            dialect: PhantomData,
        }
    }

    fn named_group(self, name: &'static str) -> Group<'a, D> {
        self.out.push_str(name);
        self.group(&D::ARGUMENTS, "")
    }

    fn display(self, value: impl Display) -> Result<(), Refused> {
        Ok(write!(self.out, "{value}")?)
    }

    fn literal(self, text: &str) -> Result<(), Refused> {
        self.out.push_str(text);
        Ok(())
    }
}

impl<'a, D: Dialect> Serializer for Renderer<'a, D> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Group<'a, D>;
    type SerializeTuple = Group<'a, D>;
    type SerializeTupleStruct = Group<'a, D>;
    type SerializeTupleVariant = Group<'a, D>;
    type SerializeMap = Group<'a, D>;
    type SerializeStruct = Group<'a, D>;
    type SerializeStructVariant = Group<'a, D>;

    fn serialize_bool(self, value: bool) -> Result<(), Refused> {
        self.literal(if value { D::TRUE } else { D::FALSE })
    }

    fn serialize_i8(self, value: i8) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_i16(self, value: i16) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_i32(self, value: i32) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_i64(self, value: i64) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_i128(self, value: i128) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_u8(self, value: u8) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_u16(self, value: u16) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_u32(self, value: u32) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_u64(self, value: u64) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_u128(self, value: u128) -> Result<(), Refused> {
        self.display(value)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Refused> {
        Ok(D::float(value, self.out)?)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Refused> {
        Ok(D::double(value, self.out)?)
    }

    fn serialize_char(self, value: char) -> Result<(), Refused> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Refused> {
        if self.shows_strings_bare() {
            return self.literal(value);
        }
        Ok(D::quoted(value, self.out)?)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Refused> {
        Ok(D::bytes(value, self.out)?)
    }

    fn serialize_none(self) -> Result<(), Refused> {
        self.literal("None")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        if D::SHOWS_SOME {
            return self.serialize_newtype_struct("Some", value);
        }
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        self.literal(D::UNIT)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), Refused> {
        self.out.push_str(name);
        self.literal(D::AFTER_UNIT_STRUCT)
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Refused> {
        self.literal(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        let mut group = self.named_group(name);
        group.element(value)?;
        group.close()
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.serialize_newtype_struct(variant, value)
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Group<'a, D>, Refused> {
        Ok(self.group(&D::LIST, ""))
    }

    fn serialize_tuple(self, _length: usize) -> Result<Group<'a, D>, Refused> {
        Ok(self.group(&D::TUPLE, D::AFTER_LONE_ELEMENT))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _length: usize,
    ) -> Result<Group<'a, D>, Refused> {
        Ok(self.named_group(name))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Group<'a, D>, Refused> {
        Ok(self.named_group(variant))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Group<'a, D>, Refused> {
        Ok(self.group(&D::MAP, ""))
    }

    fn serialize_struct(self, name: &'static str, _length: usize) -> Result<Group<'a, D>, Refused> {
        Ok(self.named_group(name))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Group<'a, D>, Refused> {
        Ok(self.named_group(variant))
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Refused> {
        if self.shows_strings_bare() {
            return self.display(value);
        }
        // The kind of quotes depends on the whole text.
        let mut text = String::new();
        write!(text, "{value}")?;
        self.serialize_str(&text)
    }
}

/// An open bracket whose elements are being written.
struct Group<'a, D> {
    out: &'a mut String,
    brackets: &'static Brackets,
    after_lone_element: &'static str,
    count: usize,
    dialect: PhantomData<D>,
}

impl<D: Dialect> Group<'_, D> {
    fn separate(&mut self) {
        if self.count > 0 {
            self.out.push_str(self.brackets.separator);
        }
        self.count += 1;
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(Renderer::<D>::new(self.out, false))
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.separate();
        self.value(value)
    }

    fn field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.separate();
        if D::SHOWS_FIELD_NAMES {
            self.out.push_str(name);
            self.out.push('=');
        }
        self.value(value)
    }

    fn close(self) -> Result<(), Refused> {
        if self.count == 1 {
            self.out.push_str(self.after_lone_element);
        }
        self.out.push_str(self.brackets.close);
        Ok(())
    }
}

impl<D: Dialect> SerializeSeq for Group<'_, D> {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.close()
    }
}

impl<D: Dialect> SerializeTuple for Group<'_, D> {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.close()
    }
}

impl<D: Dialect> SerializeTupleStruct for Group<'_, D> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.close()
    }
}

impl<D: Dialect> SerializeTupleVariant for Group<'_, D> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.close()
    }
}

impl<D: Dialect> SerializeMap for Group<'_, D> {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.out.push_str(D::BETWEEN_KEY_AND_VALUE);
        self.value(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.close()
    }
}

impl<D: Dialect> SerializeStruct for Group<'_, D> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.field(name, value)
    }

    fn end(self) -> Result<(), Refused> {
        self.close()
    }
}

impl<D: Dialect> SerializeStructVariant for Group<'_, D> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.field(name, value)
    }

    fn end(self) -> Result<(), Refused> {
        self.close()
    }
}
