//! Ranges: the pieces of a collection that are read at the same time.
//!
//! Two kinds. A *natural* range follows the storage order by record id: it begins after one record and ends with another, both found
//! beforehand at the same cluster time, so that they are sure to be there. An *index* range follows the index on `_id`, whose order is
//! total over all BSON types: `min` is inclusive, `max` exclusive, and without a `max` the end is an exclusive `MaxKey`. (A filter `{_id: {$gte, $lt}}` would miss values of other types.)
//!
//! In a journal a range is JSON whose opaque parts are base64 of BSON: an `_id` must come back byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mainstay_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::raw::{self, Element, Malformed, kind};

/// A BSON document kept byte for byte; base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Exact(Vec<u8>);

impl Exact {
    /// Keeps `document`.
    ///
    /// # Errors
    /// When it is no framed document.
    pub(super) fn new(document: Vec<u8>) -> Result<Self, Malformed> {
        raw::as_document(&document)?;
        Ok(Self(document))
    }

    /// The document's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<String> for Exact {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = BASE64.decode(text).map_err(|error| error.to_string())?;
        Self::new(bytes).map_err(|error| error.to_string())
    }
}

impl From<Exact> for String {
    fn from(exact: Exact) -> Self {
        BASE64.encode(exact.0)
    }
}

/// Where a document stands in storage order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RecordId {
    /// The number of an ordinary collection.
    Number(i64),
    /// The key of a clustered collection (buckets of a time series are one), in the server's own byte order.
    Key(Vec<u8>),
}

impl RecordId {
    /// The record id of a `$recordId` element; `None` for null (nothing was read) and for what is neither number nor key.
    pub(super) fn of(element: &Element<'_>) -> Option<Self> {
        match element.kind {
            kind::INT64 => element.number().map(Self::Number),
            // A length and a subtype precede the bytes.
            kind::BINARY => element.value.get(5..).map(|key| Self::Key(key.to_vec())),
            _ => None,
        }
    }
}

/// A document where one natural range ends and the next begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Boundary {
    /// Its place in storage order.
    pub(super) record: RecordId,
    /// `{$recordId: …}`, as the server takes it for `$_resumeAfter`.
    pub(super) token: Exact,
    /// `{_id: …}`.
    pub(super) id: Exact,
}

/// One range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Bounds {
    /// In storage order: after one boundary (or from the beginning), through another (or to the end).
    Natural {
        after: Option<Boundary>,
        through: Option<Boundary>,
        /// The member whose record ids these are: every member of a replica set numbers its records by itself. `None` where there are no
        /// members, and for a range that begins and ends with the collection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        member: Option<String>,
    },
    /// In the order of the index on `_id`: from one `{_id: …}` (or the first), before another (or through the last).
    Index { min: Option<Exact>, max: Option<Exact> },
}

impl Bounds {
    /// The whole collection in storage order.
    pub(super) const WHOLE: Self = Self::Natural { after: None, through: None, member: None };

    /// The whole collection in the order of the index on `_id`.
    pub(super) const WHOLE_BY_ID: Self = Self::Index { min: None, max: None };

    /// The ranges between boundaries that are sorted by record, in the storage of `member`.
    pub(super) fn natural(boundaries: Vec<Boundary>, member: Option<&str>) -> Vec<Self> {
        if boundaries.is_empty() {
            return vec![Self::WHOLE];
        }
        let member = member.map(str::to_owned);
        between(boundaries)
            .map(|(after, through)| Self::Natural { after, through, member: member.clone() })
            .collect()
    }

    /// The member that the range belongs to.
    pub(super) fn member(&self) -> Option<&str> {
        match self {
            Self::Natural { member, .. } => member.as_deref(),
            Self::Index { .. } => None,
        }
    }

    /// The ranges between `{_id: …}` documents that are sorted by the server.
    pub(super) fn index(cuts: Vec<Exact>) -> Vec<Self> {
        between(cuts).map(|(min, max)| Self::Index { min, max }).collect()
    }

    /// The form for journals.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("bounds are made of text and numbers")
    }

    /// Reads [`Bounds::to_json`] back.
    pub(super) fn from_json(value: &serde_json::Value) -> Result<Self> {
        serde_json::from_value(value.clone()).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("the bounds of a range are not readable: {error}"))
                .with_hint("take the backup anew")
        })
    }
}

/// Each cut with its follower: `(None, a), (a, b), (b, None)`.
fn between<T: Clone>(cuts: Vec<T>) -> impl Iterator<Item = (Option<T>, Option<T>)> {
    let begins = std::iter::once(None).chain(cuts.clone().into_iter().map(Some));
    let ends = cuts.into_iter().map(Some).chain(std::iter::once(None));
    begins.zip(ends)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn ranges_touch_and_survive_a_journal() {
        let cut = |id: i32| Exact::new(rawdoc! { "_id": id }.into_bytes()).unwrap();
        let ranges = Bounds::index(vec![cut(1), cut(2)]);
        assert_eq!(
            ranges,
            [
                Bounds::Index { min: None, max: Some(cut(1)) },
                Bounds::Index { min: Some(cut(1)), max: Some(cut(2)) },
                Bounds::Index { min: Some(cut(2)), max: None },
            ]
        );
        let boundary = Boundary {
            record: RecordId::Key(vec![0, 255]),
            token: Exact::new(rawdoc! { "$recordId": 5_i64 }.into_bytes()).unwrap(),
            id: cut(9),
        };
        for range in
            ranges.into_iter().chain(Bounds::natural(vec![boundary], Some("h:1"))).chain([Bounds::WHOLE])
        {
            assert_eq!(Bounds::from_json(&range.to_json()).unwrap(), range);
        }
        let broken = serde_json::json!({ "index": { "min": "AAAA", "max": null } });
        assert_eq!(Bounds::from_json(&broken).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
