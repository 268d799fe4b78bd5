//! Parquet files: a file is one split. Columns, and fields of structs, go by their names, which know no case.

use std::{fs::File, io, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
    record_batch::RecordBatch,
};
use millstream_common::failure::{Failure, FailureKind, Retry};
use millstream_connectors::text_files::source::{FileSplit, OnChanged};
use millstream_dataflow::program::TaskContext;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder,
        },
    },
    basic::Type,
    errors::ParquetError,
    schema::types::ColumnDescPtr,
};

use super::{BATCH_ROWS, BatchReader, batch, files::FileSource};

pub(super) struct ParquetReader {
    /// None once there is nothing more to read.
    batches: Option<ParquetRecordBatchReader>,
    path: String,
    schema: SchemaRef,
    ignores_corrupt: bool,
    /// Times that the file wasn't as planned and reading went on, not yet counted.
    lost: u64,
}

impl ParquetReader {
    pub(super) fn open(
        split: FileSplit,
        source: &FileSource,
        schema: SchemaRef,
    ) -> Result<Self, Failure> {
        let mut reader = Self {
            batches: None,
            path: split.path,
            schema,
            ignores_corrupt: source.ignore_corrupt_files,
            lost: 0,
        };
        let file = match File::open(&reader.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let gone = changed(
                    &reader.path,
                    "it is gone; put it back, or see that this executor has the same file system as the driver; option ignoreMissingFiles, or files.on_changed = warn, goes on without",
                );
                reader.tolerate(gone, source.on_missing() == OnChanged::Warn)?;
                return Ok(reader);
            }
            Err(error) => return Err(reader.unopened(&error)),
        };
        let metadata = file.metadata();
        let length = metadata.map_err(|error| reader.unopened(&error))?.len();
        if length != split.size {
            let found = format!(
                "it has {length} bytes now, {} when it was planned; let files appear complete by renaming them into the folder, or set files.min_age; files.on_changed = warn reads it as it is",
                split.size
            );
            let other = changed(&reader.path, &found);
            reader.tolerate(other, source.on_changed() == OnChanged::Warn)?;
        }
        let metadata = match metadata_of(&file) {
            Ok(metadata) => metadata,
            Err(error) => {
                reader.tolerate_corrupt(&error)?;
                return Ok(reader);
            }
        };
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let has = builder.schema().fields();
        let mut roots = Vec::new();
        for field in reader.schema.fields() {
            let found = find(has, field.name()).map_err(|error| reader.ambiguous(&error))?;
            roots.extend(found);
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
        match builder.build() {
            Ok(batches) => reader.batches = Some(batches),
            Err(error) => reader.tolerate_corrupt(&error)?,
        }
        Ok(reader)
    }

    fn ambiguous(&self, error: &Ambiguous) -> Failure {
        let message = format!(
            "{} can't be read: {error}; write it anew with one of them, or under different names",
            self.path
        );
        Failure::new(FailureKind::BadInput, message)
            .with_code("files.columns")
            .with_retry(Retry::Never)
    }

    fn unopened(&self, error: &io::Error) -> Failure {
        let message = format!("{} can't be read", self.path);
        Failure::caused_by(FailureKind::Io, message, error).with_code("files.read")
    }

    fn tolerate(&mut self, problem: Failure, tolerates: bool) -> Result<(), Failure> {
        if !tolerates {
            return Err(problem);
        }
        self.lost += 1;
        tracing::warn!(failure = %problem, "input is lost; going on with what is there");
        Ok(())
    }

    fn tolerate_corrupt(&mut self, error: &dyn std::error::Error) -> Result<(), Failure> {
        let corrupt = Failure::caused_by(
            FailureKind::BadInput,
            format!(
                "{} can't be read as Parquet; option ignoreCorruptFiles goes on without it, or write it anew under its name and set files.on_changed = warn",
                self.path
            ),
            error,
        )
        .with_code("files.corrupt")
        .with_retry(Retry::Never);
        self.tolerate(corrupt, self.ignores_corrupt)
    }

    /// Columns by name and of the types asked for; null where the file has none.
    fn fitted(&self, read: &RecordBatch) -> Result<RecordBatch, Failure> {
        let rows = read.num_rows();
        let has = read.schema();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in self.schema.fields() {
            let found = find(has.fields(), field.name());
            let Some(place) = found.map_err(|error| self.ambiguous(&error))? else {
                columns.push(new_null_array(field.data_type(), rows));
                continue;
            };
            let column = read.column(place);
            let fitted = fit(column, field.data_type()).map_err(|error| match error {
                Misfit::Ambiguous(error) => self.ambiguous(&error),
                Misfit::Type(error) => {
                    let message = format!(
                        "column {} of {} is {} and can't be read as {}; correct the schema, or take the file away and set ignoreMissingFiles",
                        field.name(),
                        self.path,
                        column.data_type(),
                        field.data_type()
                    );
                    Failure::caused_by(FailureKind::BadInput, message, &error)
                        .with_retry(Retry::Never)
                }
            })?;
            columns.push(fitted);
        }
        batch(&self.schema, columns, rows)
    }
}

/// What a file holds. Times of 96 bits are instants of microseconds, as in Spark: of nanoseconds there are enough for the years from 1677 to 2262 alone.
fn metadata_of(file: &File) -> Result<ArrowReaderMetadata, ParquetError> {
    let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new())?;
    let columns = metadata.parquet_schema().columns();
    let is_int96 = |column: &ColumnDescPtr| column.physical_type() == Type::INT96;
    if !columns.iter().any(is_int96) {
        return Ok(metadata);
    }
    let schema = metadata.schema();
    let mut leaves = columns.iter().map(is_int96);
    let fields = with_instants(schema.fields(), &mut leaves);
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)
}

/// The fields with instants for those leaves that are times of 96 bits; leaves come in the order of the file.
fn with_instants(fields: &Fields, leaves: &mut dyn Iterator<Item = bool>) -> Fields {
    let fields = fields.iter();
    fields.map(|field| with_instant(field, leaves)).collect()
}

fn with_instant(field: &FieldRef, leaves: &mut dyn Iterator<Item = bool>) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(with_instants(fields, leaves)),
        DataType::List(element) => DataType::List(with_instant(element, leaves)),
        DataType::Map(entries, is_sorted) => {
            DataType::Map(with_instant(entries, leaves), *is_sorted)
        }
        other => match leaves.next() {
            Some(true) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            _ => other.clone(),
        },
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// A name that could be either of two.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has the columns {one} and {other}, and names know no case")]
struct Ambiguous {
    one: String,
    other: String,
}

#[derive(Debug, thiserror::Error)]
enum Misfit {
    #[error(transparent)]
    Ambiguous(#[from] Ambiguous),
    #[error(transparent)]
    Type(#[from] ArrowError),
}

/// Which of these fields has a name, in any case.
fn find(fields: &Fields, name: &str) -> Result<Option<usize>, Ambiguous> {
    let wanted = name.to_lowercase();
    let places = fields.iter().enumerate();
    let mut alike = places.filter(|(_, field)| field.name().to_lowercase() == wanted);
    match (alike.next(), alike.next()) {
        (None, _) => Ok(None),
        (Some((place, _)), None) => Ok(Some(place)),
        (Some((_, one)), Some((_, other))) => Err(Ambiguous {
            one: one.name().clone(),
            other: other.name().clone(),
        }),
    }
}

/// Values as another type. Fields of structs go by name, and are null where there is none; the engine's own cast takes them by place where names differ.
fn fit(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    if values.data_type() == to {
        return Ok(Arc::clone(values));
    }
    Ok(match (values.data_type(), to) {
        (DataType::Struct(has), DataType::Struct(wanted)) => {
            Arc::new(fit_struct(values.as_struct(), has, wanted)?)
        }
        (DataType::List(_), DataType::List(element)) => {
            let lists = values.as_list::<i32>();
            let elements = fit(lists.values(), element.data_type())?;
            Arc::new(ListArray::try_new(
                Arc::clone(element),
                lists.offsets().clone(),
                elements,
                lists.nulls().cloned(),
            )?)
        }
        (DataType::Map(..), DataType::Map(entries, is_sorted)) => {
            let maps = values.as_map();
            let DataType::Struct(wanted) = entries.data_type() else {
                return Err(ArrowError::SchemaError("a map without entries".to_owned()).into());
            };
            let mut pair = Vec::new();
            for (column, field) in maps.entries().columns().iter().zip(wanted) {
                pair.push(fit(column, field.data_type())?);
            }
            let pairs = StructArray::try_new(wanted.clone(), pair, None)?;
            Arc::new(MapArray::try_new(
                Arc::clone(entries),
                maps.offsets().clone(),
                pairs,
                maps.nulls().cloned(),
                *is_sorted,
            )?)
        }
        _ => {
            let options = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            cast_with_options(values, to, &options)?
        }
    })
}

fn fit_struct(values: &StructArray, has: &Fields, wanted: &Fields) -> Result<StructArray, Misfit> {
    let mut columns = Vec::new();
    for field in wanted {
        columns.push(match find(has, field.name())? {
            Some(place) => fit(values.column(place), field.data_type())?,
            None => new_null_array(field.data_type(), values.len()),
        });
    }
    let nulls = values.nulls().cloned();
    Ok(StructArray::try_new_with_length(
        wanted.clone(),
        columns,
        nulls,
        values.len(),
    )?)
}

fn changed(path: &str, found: &str) -> Failure {
    let message = format!("{path} can't be read as planned: {found}");
    Failure::new(FailureKind::DataLoss, message).with_code("files.changed")
}

impl BatchReader for ParquetReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        task.cancel.check()?;
        let next = self.batches.as_mut().and_then(Iterator::next);
        let given = match next {
            None => None,
            Some(Ok(read)) => {
                task.counts.input_rows += read.num_rows() as u64;
                task.counts.input_bytes += read.get_array_memory_size() as u64;
                Some(self.fitted(&read)?)
            }
            Some(Err(error)) => {
                self.tolerate_corrupt(&error)?;
                self.batches = None;
                None
            }
        };
        task.counts.malformed += std::mem::take(&mut self.lost);
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Int32Array, Int64Array, StringArray},
        datatypes::{Field, Int64Type, TimestampMicrosecondType},
    };

    use super::*;

    fn named(names: &[&str]) -> Fields {
        let names = names.iter();
        names
            .map(|name| Field::new(*name, DataType::Int32, true))
            .collect()
    }

    #[test]
    fn names_know_no_case() {
        let fields = named(&["Emp_Id", "name", "ÉTÉ", "NAME"]);
        assert_eq!(find(&fields, "emp_id"), Ok(Some(0)));
        assert_eq!(find(&fields, "été"), Ok(Some(2)));
        assert_eq!(find(&fields, "salary"), Ok(None));
        let ambiguous = find(&fields, "name").unwrap_err();
        assert_eq!(
            ambiguous.to_string(),
            "it has the columns name and NAME, and names know no case"
        );
    }

    #[test]
    fn fields_of_structs_go_by_name_wherever_structs_are() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let has = Fields::from(vec![
            Field::new("X", DataType::Int32, true),
            Field::new("other", DataType::Utf8, true),
        ]);
        let pairs = StructArray::new(has.clone(), vec![numbers, texts], None);
        let to = |names: &[&str]| {
            let fields = names
                .iter()
                .map(|name| Field::new(*name, DataType::Int64, true));
            DataType::Struct(fields.collect())
        };
        let values: ArrayRef = Arc::new(pairs.clone());
        let fitted = fit(&values, &to(&["x"])).unwrap();
        assert_eq!(
            fitted.as_struct().column(0).as_ref(),
            &Int64Array::from(vec![1, 2])
        );
        // The place of another field is no name.
        let fitted = fit(&values, &to(&["y", "x"])).unwrap();
        assert_eq!(fitted.as_struct().column(0).null_count(), 2);
        assert_eq!(
            fitted.as_struct().column(1).as_ref(),
            &Int64Array::from(vec![1, 2])
        );

        let element = Arc::new(Field::new_list_field(DataType::Struct(has), true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([2]);
        let lists: ArrayRef = Arc::new(ListArray::new(element, offsets, values, None));
        let wanted = DataType::List(Arc::new(Field::new_list_field(to(&["x"]), true)));
        let fitted = fit(&lists, &wanted).unwrap();
        assert_eq!(fitted.data_type(), &wanted);
        let alike = Fields::from(vec![
            Field::new("x", DataType::Int64, true),
            Field::new("X", DataType::Int64, true),
        ]);
        let alike: ArrayRef = Arc::new(StructArray::new_null(alike, 1));
        assert!(matches!(
            fit(&alike, &to(&["x"])),
            Err(Misfit::Ambiguous(_))
        ));
    }

    /// `int96.parquet` is Spark's: see `tests/golden/int96.py`.
    #[test]
    fn times_of_96_bits_are_instants_of_microseconds_also_far_from_1970() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");
        let file = File::open(format!("{golden}int96.parquet")).unwrap();
        let metadata = metadata_of(&file).unwrap();
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let read: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
        let [read] = read.as_slice() else {
            panic!("{} batches", read.len());
        };
        let instants = DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into()));
        let micros = |times: &ArrayRef| -> Vec<Option<i64>> {
            let times = fit(times, &instants).unwrap();
            times
                .as_primitive::<TimestampMicrosecondType>()
                .iter()
                .collect()
        };
        let expected = read["micros"].as_primitive::<Int64Type>().iter();
        let expected: Vec<Option<i64>> = expected.collect();
        assert_eq!(expected.len(), 9);
        assert!(expected.contains(&Some(-62_135_596_800_000_000)));
        assert_eq!(micros(&read["at"]), expected);
        assert_eq!(micros(read["inside"].as_struct().column(1)), expected);
        assert_eq!(micros(read["list"].as_list::<i32>().values()), expected);
        let values = read["map"].as_map().entries().column(1);
        assert_eq!(micros(values), expected);
    }
}
