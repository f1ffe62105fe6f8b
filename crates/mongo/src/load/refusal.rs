//! Documents that a server refuses, as its reply to a write names them. Refuses to repeat a value of a document but its `_id`.

use mainstay_engine::DocumentFailure;
use mainstay_model::Error;

use crate::error::{ServerError, WireError, code, without_values};
use crate::extjson;
use crate::raw::{self, kind};

/// How much of an `_id` is shown.
const SHOWN_ID_CHARS: usize = 200;

/// How MongoDB 6.0 refuses duplicates of a fractional `_id` in a clustered collection: it fails to decode the key while it words the refusal,
/// and gives that failure, of one of several codes, instead.
const UNDECODABLE_KEY: &str = "KeyString format error";

/// A refused document.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Its position in what was sent.
    pub(crate) position: usize,
    pub(crate) code: i32,
    pub(crate) message: String,
    /// The fields of the unique index it violates, for duplicates.
    key: Vec<String>,
}

impl Refusal {
    /// The server's error.
    pub(crate) fn into_error(self) -> Error {
        ServerError { code: self.code, name: String::new(), message: self.message }.into()
    }

    /// Whether a document may be there that the server takes for the same.
    pub(crate) fn is_duplicate(&self) -> bool {
        self.code == code::DUPLICATE_KEY || self.message.starts_with(UNDECODABLE_KEY)
    }

    /// Whether it was refused for its `_id`, as far as the server tells.
    pub(super) fn is_of_id(&self) -> bool {
        self.code == code::DUPLICATE_KEY && (self.key.is_empty() || self.key == ["_id"])
    }

    /// What is told of `document`, the refused one.
    pub(super) fn failure(&self, document: &[u8]) -> DocumentFailure {
        let message = match self.code {
            code::DUPLICATE_KEY if self.is_of_id() => "another document with this _id is there".to_owned(),
            code::DUPLICATE_KEY => {
                format!("another document has the same value of the unique index on {}", self.key.join(", "))
            }
            code::DOCUMENT_VALIDATION => {
                "the document does not satisfy the collection's validator".to_owned()
            }
            _ => without_values(&self.message),
        };
        DocumentFailure { id: shown_id(document), code: self.code, message, same_id: self.is_of_id() }
    }
}

/// The `_id` as canonical Extended JSON, cut.
fn shown_id(document: &[u8]) -> String {
    let id = raw::as_document(document).ok().and_then(|document| document.get("_id").ok().flatten());
    let mut text = String::new();
    match id {
        Some(id) if extjson::write_value(&mut text, id).is_ok() => {
            text.chars().take(SHOWN_ID_CHARS).collect()
        }
        Some(_) => "unreadable".to_owned(),
        None => "none".to_owned(),
    }
}

/// The refused documents of a write's reply, by position.
///
/// # Errors
/// When the write concern failed, or when a document was refused for a reason that will pass, so that the whole write must be repeated.
pub(crate) fn refusals_of(reply: &[u8]) -> Result<Vec<Refusal>, WireError> {
    if let Some(concern) =
        raw::find(reply, "writeConcernError")?.filter(|element| element.kind == kind::DOCUMENT)
    {
        let (code, message) = (number(concern.value, "code")?, text(concern.value, "errmsg")?);
        return Err(ServerError { code, name: text(concern.value, "codeName")?, message }.into());
    }
    let Some(errors) = raw::find(reply, "writeErrors")?.filter(|element| element.kind == kind::ARRAY) else {
        return Ok(Vec::new());
    };
    let mut refusals = Vec::new();
    for error in raw::elements(errors.value) {
        let error = error?.value;
        let refusal = Refusal {
            position: usize::try_from(number(error, "index")?).unwrap_or(usize::MAX),
            code: number(error, "code")?,
            message: text(error, "errmsg")?,
            key: key_fields(error)?,
        };
        let as_error =
            ServerError { code: refusal.code, name: String::new(), message: refusal.message.clone() };
        if Error::from(as_error.clone()).is_temporary() {
            return Err(as_error.into());
        }
        refusals.push(refusal);
    }
    Ok(refusals)
}

fn number(document: &[u8], key: &str) -> Result<i32, WireError> {
    let number = raw::find(document, key)?.and_then(|element| element.number()).unwrap_or(0);
    i32::try_from(number).map_err(|_| WireError::Protocol(format!("{key} out of range")))
}

fn text(document: &[u8], key: &str) -> Result<String, WireError> {
    Ok(raw::find(document, key)?.and_then(|element| element.text().map(str::to_owned)).unwrap_or_default())
}

fn key_fields(error: &[u8]) -> Result<Vec<String>, WireError> {
    let Some(pattern) = raw::find(error, "keyPattern")?.filter(|element| element.kind == kind::DOCUMENT)
    else {
        return Ok(Vec::new());
    };
    raw::elements(pattern.value).map(|field| Ok(String::from_utf8_lossy(field?.key).into_owned())).collect()
}
