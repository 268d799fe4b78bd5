//! `window(time, length[, slide[, start]])`: windows of event time, as structs of `start` and `end`.
//!
//! Where windows overlap, a row is in several: the query is rewritten (`plan/rewrite.rs`) so that `window_slides` lists them, a row for each is made, and `in_window` takes
//! the function's place.

use std::{fmt, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, ListArray, PrimitiveArray, StructArray, TimestampMicrosecondArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, FieldRef, Fields, TimeUnit, TimestampMicrosecondType},
};
use datafusion::{
    common::ScalarValue,
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature,
        Volatility,
    },
};

use super::{event_time, interval, wrong};

pub(crate) const NAME: &str = "window";
/// The column's name, as in Spark.
const COLUMN: &str = "window";

/// Windows that a row is in, at most: each makes a row of its own.
const MOST_WINDOWS: i64 = 10_000;

/// How windows lie, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) length: i64,
    pub(crate) slide: i64,
    pub(crate) start: i64,
}

impl Windows {
    fn of_texts(texts: &[&str]) -> std::result::Result<Self, String> {
        let length = texts.first().ok_or("window needs a length")?;
        let length = interval::micros(length)?;
        let slide = match texts.get(1) {
            Some(text) => interval::micros(text)?,
            None => length,
        };
        let start = match texts.get(2) {
            Some(text) => interval::micros(text)?,
            None => 0,
        };
        if length <= 0 {
            return Err("the length of a window must be greater than 0".to_owned());
        }
        if slide <= 0 {
            return Err("the slide of a window must be greater than 0".to_owned());
        }
        if slide > length {
            return Err("the slide of a window must be no longer than its length".to_owned());
        }
        let windows = (length - 1) / slide + 1;
        if windows > MOST_WINDOWS {
            return Err(format!(
                "a row would be in {windows} windows, the length by the slide; {MOST_WINDOWS} at most: slide further, or group by shorter windows and add those up"
            ));
        }
        if start.unsigned_abs() >= slide.unsigned_abs() {
            return Err(
                "the start of windows must be less than their slide, either way".to_owned(),
            );
        }
        Ok(Self {
            length,
            slide,
            start,
        })
    }

    /// Of a call's arguments.
    pub(crate) fn of_call(arguments: &[Expr]) -> Result<Self> {
        let mut texts = Vec::new();
        for argument in arguments.iter().skip(1) {
            let Expr::Literal(value, _) = argument else {
                return Err(literal());
            };
            texts.push(text_of(value)?);
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Self::of_texts(&texts).map_err(wrong)
    }

    fn of_values(arguments: &[ColumnarValue]) -> Result<Self> {
        let mut texts = Vec::new();
        for argument in arguments.iter().skip(1) {
            let ColumnarValue::Scalar(value) = argument else {
                return Err(literal());
            };
            texts.push(text_of(value)?);
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Self::of_texts(&texts).map_err(wrong)
    }

    /// Where the newest window that holds a time begins.
    fn newest(&self, time: i64) -> i64 {
        let since = time.saturating_sub(self.start);
        time.saturating_sub(since.rem_euclid(self.slide))
    }

    pub(crate) fn overlap(&self) -> bool {
        self.slide < self.length
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [length, slide, start] = [self.length, self.slide, self.start].map(interval::text_of);
        write!(formatter, "{length} each {slide} from {start}")
    }
}

fn literal() -> datafusion::error::DataFusionError {
    wrong("length, slide and start of a window are literal texts such as '10 minutes'")
}

fn text_of(value: &ScalarValue) -> Result<String> {
    match value {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::Utf8View(Some(text))
        | ScalarValue::LargeUtf8(Some(text)) => Ok(text.clone()),
        _ => Err(literal()),
    }
}

fn bounds(time: &DataType) -> Fields {
    Fields::from(vec![
        Field::new("start", time.clone(), true),
        Field::new("end", time.clone(), true),
    ])
}

fn time_type(types: &[DataType]) -> Result<DataType> {
    match types.first() {
        Some(time @ DataType::Timestamp(TimeUnit::Microsecond, _)) => Ok(time.clone()),
        Some(other) => Err(wrong(format!(
            "window needs a column of type TIMESTAMP, but was given one of type {other}"
        ))),
        None => Err(wrong("window needs a column of times and a length")),
    }
}

fn types_of(arguments: &ReturnFieldArgs<'_>) -> Vec<DataType> {
    let fields = arguments.arg_fields.iter();
    fields.map(|field| field.data_type().clone()).collect()
}

fn check_call(arguments: &ReturnFieldArgs<'_>) -> Result<()> {
    let mut texts = Vec::new();
    for argument in arguments.scalar_arguments.iter().skip(1) {
        texts.push(text_of(argument.ok_or_else(literal)?)?);
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Windows::of_texts(&texts).map(drop).map_err(wrong)
}

fn structs(
    time: &DataType,
    starts: Vec<i64>,
    length: i64,
    nulls: Option<NullBuffer>,
) -> StructArray {
    let zone = match time {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let ends: Vec<i64> = starts
        .iter()
        .map(|start| start.saturating_add(length))
        .collect();
    let column = |times: Vec<i64>| -> ArrayRef {
        let times: TimestampMicrosecondArray = PrimitiveArray::new(times.into(), nulls.clone());
        Arc::new(times.with_timezone_opt(zone.clone()))
    };
    StructArray::new(
        bounds(time),
        vec![column(starts), column(ends)],
        nulls.clone(),
    )
}

/// The function as it is written.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct WindowFunction {
    signature: Signature,
}

impl Default for WindowFunction {
    fn default() -> Self {
        Self {
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        NAME
    }

    fn schema_name(&self, _arguments: &[Expr]) -> Result<String> {
        Ok(COLUMN.to_owned())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(bounds(&time_type(types)?)))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = Field::new(COLUMN, self.return_type(&types_of(&arguments))?, true);
        check_call(&arguments)?;
        Ok(Arc::new(event_time::marked_as(
            field,
            &arguments.arg_fields[0],
        )))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let windows = Windows::of_values(&arguments.args)?;
        if windows.overlap() {
            return Err(wrong(
                "a window that overlaps others can stand in a group by or a select only",
            ));
        }
        let times = arguments.args[0].to_array(arguments.number_rows)?;
        let values = times.as_primitive::<TimestampMicrosecondType>();
        let starts = values.values().iter().map(|time| windows.newest(*time));
        let made = structs(
            times.data_type(),
            starts.collect(),
            windows.length,
            times.nulls().cloned(),
        );
        Ok(ColumnarValue::Array(Arc::new(made)))
    }
}

/// `window_slides(time, length, slide, start)`: all windows that hold a time.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlidesFunction {
    signature: Signature,
}

impl Default for SlidesFunction {
    fn default() -> Self {
        Self {
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for SlidesFunction {
    fn name(&self) -> &str {
        "window_slides"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let window = DataType::Struct(bounds(&time_type(types)?));
        Ok(DataType::List(Arc::new(Field::new_list_field(
            window, true,
        ))))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let windows = Windows::of_values(&arguments.args)?;
        let times = arguments.args[0].to_array(arguments.number_rows)?;
        let values = times.as_primitive::<TimestampMicrosecondType>();
        let mut starts = Vec::new();
        let mut lengths = Vec::with_capacity(values.len());
        for time in values {
            let before = starts.len();
            if let Some(time) = time {
                let mut start = windows.newest(time);
                while time.saturating_sub(start) < windows.length {
                    starts.push(start);
                    match start.checked_sub(windows.slide) {
                        Some(earlier) => start = earlier,
                        None => break,
                    }
                }
            }
            lengths.push(starts.len() - before);
        }
        let made = structs(times.data_type(), starts, windows.length, None);
        let element = Field::new_list_field(made.data_type().clone(), true);
        let lists = ListArray::try_new(
            Arc::new(element),
            OffsetBuffer::from_lengths(lengths),
            Arc::new(made),
            times.nulls().cloned(),
        )?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

/// `in_window(window, time)`: the window, which is one of event time if the time is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct InWindowFunction {
    signature: Signature,
}

impl Default for InWindowFunction {
    fn default() -> Self {
        Self {
            signature: Signature::any(2, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for InWindowFunction {
    fn name(&self) -> &str {
        "in_window"
    }

    fn schema_name(&self, _arguments: &[Expr]) -> Result<String> {
        Ok(COLUMN.to_owned())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types
            .first()
            .cloned()
            .ok_or_else(|| wrong("in_window needs a window"))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = Field::new(COLUMN, self.return_type(&types_of(&arguments))?, true);
        let time = arguments.arg_fields.get(1);
        let time = time.ok_or_else(|| wrong("in_window needs a time"))?;
        Ok(Arc::new(event_time::marked_as(field, time)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let window = arguments.args.first();
        window
            .cloned()
            .ok_or_else(|| wrong("in_window needs a window"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    #[test]
    fn a_time_is_in_the_window_that_begins_at_or_before_it() {
        let windows = Windows::of_texts(&["10 minutes"]).unwrap();
        assert!(!windows.overlap());
        for (time, start) in [
            (0, 0),
            (10 * MINUTE, 10 * MINUTE),
            (10 * MINUTE - 1, 0),
            (-1, -10 * MINUTE),
        ] {
            assert_eq!(windows.newest(time), start, "{time}");
        }
        let shifted = Windows::of_texts(&["10 minutes", "10 minutes", "3 minutes"]).unwrap();
        assert_eq!(shifted.newest(2 * MINUTE), -7 * MINUTE);
        assert_eq!(shifted.newest(3 * MINUTE), 3 * MINUTE);
    }

    #[test]
    fn windows_that_make_no_sense_are_refused() {
        for texts in [
            &[][..],
            &["0 minutes"],
            &["10 minutes", "0 minutes"],
            &["10 minutes", "20 minutes"],
            &["10 minutes", "5 minutes", "5 minutes"],
            &["1 day", "1 microsecond"],
            &["10001 seconds", "1 second"],
            &["10 seconds", "999 microseconds"],
            &["soon"],
        ] {
            assert!(Windows::of_texts(texts).is_err(), "{texts:?}");
        }
        for texts in [
            ["10000 seconds", "1 second"],
            ["10 seconds", "1 millisecond"],
        ] {
            assert!(Windows::of_texts(&texts).is_ok(), "{texts:?}");
        }
    }

    #[test]
    fn windows_end_where_times_do() {
        let call = |time: i64| {
            let texts = ["10 minutes", "5 minutes"].map(|text| ColumnarValue::Scalar(text.into()));
            let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![time]));
            let time_field = Arc::new(Field::new("at", time.data_type().clone(), true));
            let text_field = Arc::new(Field::new("text", DataType::Utf8, true));
            let types = [time.data_type().clone()];
            let result = SlidesFunction::default().return_type(&types).unwrap();
            let made = SlidesFunction::default().invoke_with_args(ScalarFunctionArgs {
                args: [vec![ColumnarValue::Array(time)], texts.to_vec()].concat(),
                arg_fields: vec![time_field, Arc::clone(&text_field), text_field],
                number_rows: 1,
                return_field: Arc::new(Field::new("slides", result, true)),
                config_options: Arc::default(),
            });
            let made = made.unwrap().to_array(1).unwrap();
            made.as_list::<i32>().value(0).len()
        };
        assert_eq!(call(0), 2);
        assert_eq!(call(i64::MAX), 2);
        assert_eq!(call(i64::MIN), 1);
    }
}
