//! The update format of oplog entries since MongoDB 5.0, `{$v: 2, diff: {…}}`, applied to documents as bytes.
//!
//! A diff of an object has, in this order and each at most once, `d` (fields to delete), `u` (fields to give another value where they
//! stand), `i` (fields to take away and append at the end) and one `s<name>` for every field whose own object or array changes. A diff of an
//! array begins with `a: true`; then come `l`, the new length, and for single elements `u<index>` (another value) and `s<index>` (a diff of
//! the element). The rules are those of the server's own applier, found out by letting servers apply diffs (see the tests):
//!
//! * `u` of a field that is not there appends it, before what `i` appends;
//! * a sub-diff of a field that is not there does nothing; one of a value that is no longer an object or array makes it null, because
//!   an entry further on must have given it another type and will do so again;
//! * an element beyond the end of an array is put there, with nulls up to it.
//!
//! So diffs can be applied again to documents that are further on, as long as everything after them is applied again too. `b`, the
//! difference of binary values that servers from 7.1 on write for compressed time series, is refused.

use std::collections::HashMap;
use std::io::Write as _;

use crate::raw::{self, Element, Malformed, kind};

/// The deepest nesting followed; servers keep 180 levels.
const DEPTH_MAX: usize = 250;

/// The longest result: a document of 16 MiB and room for the server's own.
const RESULT_BYTES_MAX: usize = 16 * 1024 * 1024 + 64 * 1024;

/// With more changes than these in one object, fields are looked up in a table.
const SCANNED_CHANGES_MAX: usize = 8;

/// A diff that cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DiffError {
    /// The bytes of the diff or of the document are no BSON.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// BSON, but not a diff.
    #[error("an update diff with {0}")]
    Shape(&'static str),
    /// A part of the format that is not understood.
    #[error("an update diff of binary values")]
    Binary,
    /// A result that no server would keep.
    #[error("an update diff whose result is larger than a document may be")]
    TooLarge,
}

/// `document` after `diff`.
pub(crate) fn apply(document: &[u8], diff: &[u8]) -> Result<Vec<u8>, DiffError> {
    let mut out = Vec::with_capacity(document.len() + diff.len());
    apply_to_object(&mut out, document, diff, 0)?;
    if out.len() > RESULT_BYTES_MAX {
        return Err(DiffError::TooLarge);
    }
    Ok(out)
}

/// Whether `diff` is one that [`apply`] understands, whatever document it meets.
pub(crate) fn check(diff: &[u8]) -> Result<(), DiffError> {
    check_level(diff, 0)
}

fn check_level(diff: &[u8], depth: usize) -> Result<(), DiffError> {
    if depth > DEPTH_MAX {
        return Err(DiffError::Shape("too many levels"));
    }
    if depth > 0 && is_of_array(diff)? {
        let read = ArrayDiff::read(diff)?;
        return read.changes.iter().try_for_each(|(_, change)| match change {
            ArrayChange::Inside(inner) => check_level(inner, depth + 1),
            ArrayChange::Update(_) => Ok(()),
        });
    }
    let read = ObjectDiff::read(diff)?;
    read.changes.iter().try_for_each(|(_, change)| match change {
        Change::Inside(inner) => check_level(inner, depth + 1),
        Change::Delete | Change::Update(_) | Change::Insert => Ok(()),
    })
}

/// Feeds foreign bytes to the applier: the first document is changed by the second. For fuzzers; the outcome is of no interest.
pub(crate) fn exercise(bytes: &[u8]) {
    let mut frames = mainstay_engine::document_frames(bytes).map_while(Result::ok);
    if let (Some(document), Some(diff)) = (frames.next(), frames.next())
        && let Ok(changed) = apply(document, diff)
    {
        let _ = apply(&changed, diff);
    }
}

/// What happens to one field.
#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Delete,
    /// Gets the value at this position of [`ObjectDiff::values`].
    Update(usize),
    /// Goes away here and is appended.
    Insert,
    Inside(&'a [u8]),
}

/// A diff of an object, taken apart.
struct ObjectDiff<'a> {
    changes: Vec<(&'a [u8], Change<'a>)>,
    /// Positions in `changes`, when there are many.
    table: HashMap<&'a [u8], usize>,
    /// The values of `u` and then of `i`.
    values: Vec<Element<'a>>,
}

impl<'a> ObjectDiff<'a> {
    fn read(diff: &'a [u8]) -> Result<Self, DiffError> {
        let mut read = Self { changes: Vec::new(), table: HashMap::new(), values: Vec::new() };
        for section in raw::elements(diff) {
            let section = section?;
            if section.kind != kind::DOCUMENT {
                return Err(DiffError::Shape("a section that is no document"));
            }
            match section.key {
                b"d" => {
                    for field in raw::elements(section.value) {
                        read.changes.push((field?.key, Change::Delete));
                    }
                }
                b"u" => {
                    for field in raw::elements(section.value) {
                        let field = field?;
                        read.changes.push((field.key, Change::Update(read.values.len())));
                        read.values.push(field);
                    }
                }
                b"i" => {
                    for field in raw::elements(section.value) {
                        let field = field?;
                        read.changes.push((field.key, Change::Insert));
                        read.values.push(field);
                    }
                }
                b"b" => return Err(DiffError::Binary),
                [b's', name @ ..] => read.changes.push((name, Change::Inside(section.value))),
                _ => return Err(DiffError::Shape("an unknown section")),
            }
        }
        if read.changes.len() > SCANNED_CHANGES_MAX {
            read.table =
                read.changes.iter().enumerate().map(|(position, (key, _))| (*key, position)).collect();
        }
        Ok(read)
    }

    #[inline]
    fn of(&self, key: &[u8]) -> Option<Change<'a>> {
        if self.table.is_empty() {
            return self.changes.iter().find(|(name, _)| *name == key).map(|(_, change)| *change);
        }
        self.table.get(key).map(|position| self.changes[*position].1)
    }
}

fn apply_to_object(out: &mut Vec<u8>, before: &[u8], diff: &[u8], depth: usize) -> Result<(), DiffError> {
    let diff = ObjectDiff::read(diff)?;
    let mut placed = vec![false; diff.values.len()];
    let begin = begin(out);
    for field in raw::elements(before) {
        let field = field?;
        match diff.of(field.key) {
            None => element(out, field.kind, field.key, field.value),
            Some(Change::Delete | Change::Insert) => {}
            Some(Change::Update(position)) => {
                let value = diff.values[position];
                element(out, value.kind, value.key, value.value);
                placed[position] = true;
            }
            Some(Change::Inside(inner)) => inside(out, &field, field.key, inner, depth)?,
        }
    }
    for (value, _) in diff.values.iter().zip(&placed).filter(|(_, placed)| !**placed) {
        element(out, value.kind, value.key, value.value);
    }
    end(out, begin);
    Ok(())
}

/// What happens to one element of an array.
enum ArrayChange<'a> {
    Update(Element<'a>),
    Inside(&'a [u8]),
}

/// A diff of an array, taken apart.
struct ArrayDiff<'a> {
    length: Option<usize>,
    /// By index.
    changes: Vec<(usize, ArrayChange<'a>)>,
}

impl<'a> ArrayDiff<'a> {
    fn read(diff: &'a [u8]) -> Result<Self, DiffError> {
        let mut read = Self { length: None, changes: Vec::new() };
        for section in raw::elements(diff) {
            let section = section?;
            match section.key {
                b"a" => {}
                b"l" => {
                    let length = section.number().and_then(|length| usize::try_from(length).ok());
                    read.length = Some(length.ok_or(DiffError::Shape("an impossible array length"))?);
                }
                [b'u', index @ ..] => read.changes.push((index_of(index)?, ArrayChange::Update(section))),
                [b's', index @ ..] if section.kind == kind::DOCUMENT => {
                    read.changes.push((index_of(index)?, ArrayChange::Inside(section.value)));
                }
                _ => return Err(DiffError::Shape("an unknown array section")),
            }
        }
        read.changes.sort_by_key(|(index, _)| *index);
        if read.changes.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(DiffError::Shape("two changes of one array element"));
        }
        Ok(read)
    }
}

fn index_of(digits: &[u8]) -> Result<usize, DiffError> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or(DiffError::Shape("an impossible array index"))
}

fn apply_to_array(out: &mut Vec<u8>, before: &[u8], diff: &[u8], depth: usize) -> Result<(), DiffError> {
    let diff = ArrayDiff::read(diff)?;
    let within = |index: usize| diff.length.is_none_or(|length| index < length);
    let mut changes = diff.changes.iter().peekable();
    let mut name = Vec::with_capacity(8);
    let begin = begin(out);
    let mut index = 0;
    for item in raw::elements(before) {
        let item = item?;
        if !within(index) {
            break;
        }
        decimal(&mut name, index);
        match changes.next_if(|(changed, _)| *changed == index) {
            None => element(out, item.kind, &name, item.value),
            Some((_, ArrayChange::Update(value))) => element(out, value.kind, &name, value.value),
            Some((_, ArrayChange::Inside(inner))) => inside(out, &item, &name, inner, depth)?,
        }
        index += 1;
    }
    while diff.length.is_some_and(|length| index < length) || changes.peek().is_some() {
        if out.len() > RESULT_BYTES_MAX {
            return Err(DiffError::TooLarge);
        }
        decimal(&mut name, index);
        match changes.next_if(|(changed, _)| *changed <= index) {
            Some((_, ArrayChange::Update(value))) => element(out, value.kind, &name, value.value),
            Some((_, ArrayChange::Inside(_))) | None => element(out, kind::NULL, &name, &[]),
        }
        index += 1;
    }
    end(out, begin);
    Ok(())
}

/// Writes `before` under `name`, changed by a diff of its inside.
fn inside(
    out: &mut Vec<u8>,
    before: &Element<'_>,
    name: &[u8],
    diff: &[u8],
    depth: usize,
) -> Result<(), DiffError> {
    if depth >= DEPTH_MAX {
        return Err(DiffError::Shape("too many levels"));
    }
    let apply = match (before.kind, is_of_array(diff)?) {
        (kind::DOCUMENT, false) => apply_to_object,
        (kind::ARRAY, true) => apply_to_array,
        _ => {
            element(out, kind::NULL, name, &[]);
            return Ok(());
        }
    };
    head(out, before.kind, name);
    apply(out, before.value, diff, depth + 1)
}

fn is_of_array(diff: &[u8]) -> Result<bool, DiffError> {
    let first = raw::elements(diff).next().transpose()?;
    Ok(first.is_some_and(|first| first.key == b"a" && first.kind == kind::BOOLEAN))
}

fn head(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    out.push(kind);
    out.extend_from_slice(name);
    out.push(0);
}

fn element(out: &mut Vec<u8>, kind: u8, name: &[u8], value: &[u8]) {
    head(out, kind, name);
    out.extend_from_slice(value);
}

fn decimal(name: &mut Vec<u8>, index: usize) {
    name.clear();
    write!(name, "{index}").expect("a vector takes all");
}

fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len() - 4
}

fn end(out: &mut Vec<u8>, begin: usize) {
    out.push(0);
    let length = i32::try_from(out.len() - begin).unwrap_or(i32::MAX);
    out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests;
