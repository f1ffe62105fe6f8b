//! Canonical JSON: one value, one text. Plans are hashed and manifests are sealed over this text.
//!
//! Keys are sorted by their bytes, there is no white space, text is escaped as `serde_json` does. Floating-point numbers are refused:
//! what is hashed is counted, not measured.

use serde::Serialize;
use serde_json::Value;

use crate::{Blake3, Error, ErrorKind, Result};

/// The canonical text of `value`.
///
/// # Errors
/// [`ErrorKind::Internal`] when the value cannot be JSON or holds a floating-point number.
pub fn to_string<T: Serialize>(value: &T) -> Result<String> {
    let value = serde_json::to_value(value)
        .map_err(|source| Error::new(ErrorKind::Internal, "value has no JSON form").with_source(source))?;
    let mut text = String::new();
    write_value(&mut text, &value)?;
    Ok(text)
}

/// The BLAKE3 of the canonical text of `value`.
///
/// # Errors
/// As [`to_string`].
pub fn hash<T: Serialize>(value: &T) -> Result<Blake3> {
    Ok(Blake3::of(to_string(value)?.as_bytes()))
}

fn write_value(text: &mut String, value: &Value) -> Result<()> {
    match value {
        Value::Number(number) if number.is_f64() => Err(Error::new(
            ErrorKind::Internal,
            format!("floating-point number {number} in a canonical value"),
        )),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&value.to_string());
            Ok(())
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_value(text, item)?;
            }
            text.push(']');
            Ok(())
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| name.as_bytes());
            text.push('{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::String(name.clone()).to_string());
                text.push(':');
                write_value(text, member)?;
            }
            text.push('}');
            Ok(())
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({"b": [{"z": 1, "a": "é\n"}], "a": null});
        assert_eq!(to_string(&value).unwrap(), r#"{"a":null,"b":[{"a":"é\n","z":1}]}"#);
    }

    #[test]
    fn measured_numbers_are_refused() {
        assert!(to_string(&json!({"rate": 0.5})).is_err());
    }
}
