//! Compares with what Spark itself printed: `golden/values.jsonl` lists the values, `golden/python.txt` and
//! `golden/scala.txt` hold what the scripts beside them got from PySpark and from Scala.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, Serializer,
};
use serde_json::Value;

use super::{python, python_block, python_time, scala, scala_block, scala_time, unprintable};

const VALUES: &str = include_str!("golden/values.jsonl");
const PYTHON: &str = include_str!("golden/python.txt");
const SCALA: &str = include_str!("golden/scala.txt");

/// Serialises `{"type": content}` by the serde call of that type.
struct Tagged<'a>(&'a Value);

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &Value) -> T {
    text(value).parse().unwrap()
}

fn static_name(value: &Value) -> &'static str {
    text(value).to_owned().leak()
}

impl Serialize for Tagged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (tag, content) = self.0.as_object().unwrap().iter().next().unwrap();
        match tag.as_str() {
            "str" => serializer.serialize_str(text(content)),
            "char" => serializer.serialize_char(parse(content)),
            "bool" => serializer.serialize_bool(content.as_bool().unwrap()),
            "f64" => serializer.serialize_f64(parse(content)),
            "f32" => serializer.serialize_f32(parse(content)),
            "i8" => serializer.serialize_i8(parse(content)),
            "i16" => serializer.serialize_i16(parse(content)),
            "i32" => serializer.serialize_i32(parse(content)),
            "i64" => serializer.serialize_i64(parse(content)),
            "i128" => serializer.serialize_i128(parse(content)),
            "u8" => serializer.serialize_u8(parse(content)),
            "u16" => serializer.serialize_u16(parse(content)),
            "u32" => serializer.serialize_u32(parse(content)),
            "u64" => serializer.serialize_u64(parse(content)),
            "u128" => serializer.serialize_u128(parse(content)),
            "unit" => serializer.serialize_unit(),
            "none" => serializer.serialize_none(),
            "some" => serializer.serialize_some(&Tagged(content)),
            "tuple" => {
                let elements = list(content);
                let mut tuple = serializer.serialize_tuple(elements.len())?;
                for element in elements {
                    tuple.serialize_element(&Tagged(element))?;
                }
                tuple.end()
            }
            "seq" => {
                let mut seq = serializer.serialize_seq(None)?;
                for element in list(content) {
                    seq.serialize_element(&Tagged(element))?;
                }
                seq.end()
            }
            "map" => {
                let mut map = serializer.serialize_map(None)?;
                for entry in list(content) {
                    map.serialize_entry(&Tagged(&entry[0]), &Tagged(&entry[1]))?;
                }
                map.end()
            }
            "bytes" => {
                let bytes: Vec<u8> = serde_json::from_value(content.clone()).unwrap();
                serializer.serialize_bytes(&bytes)
            }
            "struct" => {
                let fields = list(&content[1]);
                let name = static_name(&content[0]);
                let mut record = serializer.serialize_struct(name, fields.len())?;
                for field in fields {
                    record.serialize_field(static_name(&field[0]), &Tagged(&field[1]))?;
                }
                record.end()
            }
            "newtype_struct" => {
                serializer.serialize_newtype_struct(static_name(&content[0]), &Tagged(&content[1]))
            }
            "newtype_variant" => serializer.serialize_newtype_variant(
                "Enum",
                0,
                static_name(&content[0]),
                &Tagged(&content[1]),
            ),
            "unit_struct" => serializer.serialize_unit_struct(static_name(content)),
            "unit_variant" => serializer.serialize_unit_variant("Enum", 0, static_name(content)),
            unknown => panic!("unknown type {unknown}"),
        }
    }
}

struct Language {
    name: &'static str,
    golden: &'static str,
    show: fn(&Tagged<'_>) -> String,
    time: fn(i64, &TimeZone) -> String,
    block: fn(&str, &[String], bool, &mut String),
}

fn show_block(language: &Language, block: &Value) -> String {
    let time_zone = TimeZone::posix(text(&block["tz"])).unwrap();
    let time = (language.time)(block["time_ms"].as_i64().unwrap(), &time_zone);
    let rows = list(&block["rows"]);
    let limit = usize::try_from(block["num"].as_u64().unwrap()).unwrap();
    let shown: Vec<String> = rows
        .iter()
        .take(limit)
        .map(|row| (language.show)(&Tagged(row)))
        .collect();
    let mut out = String::new();
    (language.block)(&time, &shown, rows.len() > limit, &mut out);
    out
}

/// As `escape` in the scripts that wrote the golden files.
fn escape(printed: &str) -> String {
    let mut out = String::new();
    for character in printed.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(character),
            _ => out.push_str(&format!("\\u{{{:x}}}", u32::from(character))),
        }
    }
    out
}

/// What was printed, by the name of the value.
fn golden_lines(golden: &'static str) -> BTreeMap<&'static str, &'static str> {
    golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once('\t').unwrap())
        .collect()
}

/// Fails with every line that differs.
fn compare(language: &Language) {
    let mut golden = golden_lines(language.golden);
    let mut names = BTreeSet::new();
    let mut differences = Vec::new();
    for line in VALUES.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let name = text(&case["name"]);
        assert!(names.insert(name.to_owned()), "two values are named {name}");
        if case.get("only").is_some_and(|only| only != language.name) {
            continue;
        }
        let printed = match case.get("block") {
            Some(block) => show_block(language, block),
            None => (language.show)(&Tagged(&case["value"])) + "\n",
        };
        let shown = escape(&printed);
        let wanted = golden.remove(name).unwrap_or("a line in the golden file");
        if shown != wanted {
            differences.push(format!("{name}\n  got    {shown}\n  wanted {wanted}"));
        }
    }
    differences.extend(golden.keys().map(|name| format!("{name}\n  has no value")));
    assert!(
        differences.is_empty(),
        "{} lines differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn values_and_blocks_are_shown_as_pyspark_does() {
    compare(&Language {
        name: "python",
        golden: PYTHON,
        show: |value| python(value).unwrap(),
        time: python_time,
        block: python_block,
    });
}

#[test]
fn values_and_blocks_are_shown_as_scala_does() {
    compare(&Language {
        name: "scala",
        golden: SCALA,
        show: |value| scala(value).unwrap(),
        time: |time_ms, _time_zone| scala_time(time_ms),
        block: scala_block,
    });
}

/// Every character there is, by a digest that Python made.
#[test]
fn the_same_characters_are_printable() {
    let wanted = PYTHON
        .lines()
        .find_map(|line| line.strip_prefix("# printable "))
        .unwrap();
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for character in '\0'..=char::MAX {
        let is_printable = match character {
            '\0'..='\x7f' => (' '..='~').contains(&character),
            _ => !unprintable::contains(character),
        };
        digest = (digest ^ u64::from(is_printable)).wrapping_mul(0x100_0000_01b3);
    }
    assert_eq!(format!("{digest:016x}"), wanted);
}
