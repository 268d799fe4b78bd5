//! What Scala's `println` shows: the `toString` of each value.

use std::fmt::{self, Write as _};

use super::float;
use super::render::{Brackets, Dialect};

pub(super) struct Scala;

impl Dialect for Scala {
    const LANGUAGE: &'static str = "Scala";
    const TRUE: &'static str = "true";
    const FALSE: &'static str = "false";
    const UNIT: &'static str = "()";
    const SHOWS_SOME: bool = true;
    const LIST: Brackets = Brackets {
        open: "List(",
        separator: ", ",
        close: ")",
    };
    const TUPLE: Brackets = Brackets {
        open: "(",
        separator: ",",
        close: ")",
    };
    const AFTER_LONE_ELEMENT: &'static str = "";
    const MAP: Brackets = Brackets {
        open: "Map(",
        separator: ", ",
        close: ")",
    };
    const BETWEEN_KEY_AND_VALUE: &'static str = " -> ";
    const ARGUMENTS: Brackets = Brackets {
        open: "(",
        separator: ",",
        close: ")",
    };
    const SHOWS_FIELD_NAMES: bool = false;
    const AFTER_UNIT_STRUCT: &'static str = "";
    const NESTED_STRINGS_ARE_BARE: bool = true;

    fn quoted(text: &str, out: &mut String) -> fmt::Result {
        out.push_str(text);
        Ok(())
    }

    /// As the list of its bytes: an array's own `toString` is only its address.
    fn bytes(bytes: &[u8], out: &mut String) -> fmt::Result {
        out.push_str(Self::LIST.open);
        for (index, byte) in bytes.iter().enumerate() {
            if index > 0 {
                out.push_str(Self::LIST.separator);
            }
            write!(out, "{}", byte.cast_signed())?;
        }
        out.push_str(Self::LIST.close);
        Ok(())
    }

    fn double(value: f64, out: &mut String) -> fmt::Result {
        float::java_double(value, out)
    }

    fn float(value: f32, out: &mut String) -> fmt::Result {
        float::java_float(value, out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use crate::display::scala;

    #[derive(Serialize)]
    struct Point {
        x: i32,
        label: &'static str,
    }

    #[derive(Serialize)]
    struct Pair(i32, &'static str);

    #[derive(Serialize)]
    struct Wrapper(&'static str);

    #[derive(Serialize)]
    struct Nothing;

    #[derive(Serialize)]
    enum Shape {
        Empty,
        Circle(f64),
        Box(i32, i32),
        Named { name: &'static str, size: f32 },
    }

    #[test]
    fn derived_types() {
        let point = Point { x: 1, label: "a" };
        assert_eq!(scala(&point).unwrap(), "Point(1,a)");
        assert_eq!(scala(&Pair(1, "a")).unwrap(), "Pair(1,a)");
        assert_eq!(scala(&Wrapper("a")).unwrap(), "Wrapper(a)");
        assert_eq!(scala(&Nothing).unwrap(), "Nothing");
        assert_eq!(scala(&Shape::Empty).unwrap(), "Empty");
        assert_eq!(scala(&Shape::Circle(1e7)).unwrap(), "Circle(1.0E7)");
        assert_eq!(scala(&Shape::Box(1, 2)).unwrap(), "Box(1,2)");
        let named = Shape::Named {
            name: "it's",
            size: 0.1,
        };
        assert_eq!(scala(&(named, 'c')).unwrap(), "(Named(it's,0.1),c)");
    }

    #[test]
    fn collections() {
        assert_eq!(scala(&("word", 3)).unwrap(), "(word,3)");
        assert_eq!(scala(&vec![1u8, 255]).unwrap(), "List(1, 255)");
        let bytes = bytes::Bytes::from_static(&[1, 127, 128, 255]);
        assert_eq!(scala(&bytes).unwrap(), "List(1, 127, -128, -1)");
        assert_eq!(scala(&[1, 2]).unwrap(), "(1,2)");
        let map = BTreeMap::from([("a", Some(1)), ("b", None)]);
        assert_eq!(scala(&map).unwrap(), "Map(a -> Some(1), b -> None)");
        assert_eq!(scala(&Some(Some(()))).unwrap(), "Some(Some(()))");
    }
}
