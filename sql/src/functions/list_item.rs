//! `list[place]`: the element of a list at a place, counted from 0. One before the list or past its end is an error, as in Spark's ANSI mode.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, UInt64Array},
    compute::{cast, take},
    datatypes::{DataType, Field, FieldRef, Int64Type},
};
use datafusion::{
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature,
        Volatility,
    },
};

use super::{checked::ended, wrong};

pub(crate) const NAME: &str = "list_item";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListItemFunction {
    signature: Signature,
}

impl Default for ListItemFunction {
    fn default() -> Self {
        Self {
            signature: Signature::any(2, Volatility::Immutable),
        }
    }
}

/// That of the elements.
fn element(list: &DataType) -> Result<&FieldRef> {
    match list {
        DataType::List(field) => Ok(field),
        other => Err(wrong(format!("{other} is no list"))),
    }
}

impl ScalarUDFImpl for ListItemFunction {
    fn name(&self) -> &str {
        NAME
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        match arguments {
            [list, place] => Ok(format!("{}[{}]", list.schema_name(), place.schema_name())),
            _ => Err(wrong("an element has a list and a place")),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(element(&types[0])?.data_type().clone())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [list, place] = arguments.arg_fields else {
            return Err(wrong("an element has a list and a place"));
        };
        if !place.data_type().is_integer() && !place.data_type().is_null() {
            let data_type = place.data_type();
            return Err(wrong(format!(
                "a place in a list is a whole number, no {data_type}"
            )));
        }
        let data_type = element(list.data_type())?.data_type().clone();
        Ok(Arc::new(Field::new(NAME, data_type, true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let lists = arguments.args[0].to_array(arguments.number_rows)?;
        let places = arguments.args[1].to_array(arguments.number_rows)?;
        items(&lists, &places).map(ColumnarValue::Array)
    }
}

fn items(lists: &ArrayRef, places: &ArrayRef) -> Result<ArrayRef> {
    let lists = lists.as_list::<i32>();
    let places = cast(places, &DataType::Int64)?;
    let places = places.as_primitive::<Int64Type>();
    let mut taken = Vec::with_capacity(lists.len());
    for (row, ends) in lists.value_offsets().windows(2).enumerate() {
        if lists.is_null(row) || places.is_null(row) {
            taken.push(None);
            continue;
        }
        let place = places.value(row);
        let length = i64::from(ends[1] - ends[0]);
        if !(0..length).contains(&place) {
            return Err(ended(format!(
                "a list of {length} elements has none at {place}; places count from 0, and `CASE WHEN size(list) > {place} THEN list[{place}] END` is null where there is none"
            )));
        }
        taken.push(u64::try_from(i64::from(ends[0]) + place).ok());
    }
    Ok(take(lists.values(), &UInt64Array::from(taken), None)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray, StringArray};

    use super::*;

    #[test]
    fn an_element_is_where_its_place_says_and_past_the_end_is_an_error() {
        let mut lists = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        lists.append_value([Some("a"), None, Some("c")]);
        lists.append_null();
        lists.append_value([Some("d")]);
        let lists: ListArray = lists.finish();
        let of = |lists: &ListArray, places: [Option<i64>; 2]| {
            let places: ArrayRef = Arc::new(Int64Array::from_iter(places));
            let lists: ArrayRef = Arc::new(lists.clone());
            items(&lists, &places)
        };
        let first: ArrayRef = Arc::new(StringArray::from(vec![Some("c"), None]));
        assert_eq!(&of(&lists.slice(0, 2), [Some(2), Some(9)]).unwrap(), &first);
        let last: ArrayRef = Arc::new(StringArray::from(vec![None, Some("d")]));
        assert_eq!(&of(&lists.slice(1, 2), [Some(9), Some(0)]).unwrap(), &last);
        let null: ArrayRef = Arc::new(StringArray::from(vec![None, Some("d")]));
        let without_place = [None, Some(0)];
        let slice = ListArray::from(lists.slice(1, 2).into_data());
        assert_eq!(&of(&slice, without_place).unwrap(), &null);
        for place in [-1, 3] {
            let error = of(&lists.slice(0, 2), [Some(place), None]).unwrap_err();
            assert!(error.to_string().contains("3 elements"), "{error}");
        }
    }
}
