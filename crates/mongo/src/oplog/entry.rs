//! One entry of the oplog, its fields found and nothing else decoded.
//!
//! The fields are those of the server's `OplogEntry` (MongoDB 4.2 to 8.0). An entry whose kind of operation is unknown is refused by name:
//! whoever replays a log may leave nothing out that it does not understand. Operations inside `applyOps` have the same form without a
//! position and take that of the entry that holds them.

use std::fmt;

use mainstay_engine::{CollectionIdentity, Namespace};
use mainstay_model::{Error, ErrorKind, OpTime};

use super::diff::DiffError;
use crate::raw::{self, DocumentWriter, Element, Malformed, kind};

/// A collection's UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Uuid([u8; 16]);

impl Uuid {
    /// The UUID in an element, if it is one.
    pub(super) fn of(element: &Element<'_>) -> Option<Self> {
        let is_uuid = element.kind == kind::BINARY && element.value.len() == 21 && element.value[4] == 4;
        is_uuid.then(|| element.value[5..].try_into().ok().map(Self))?
    }

    /// A UUID that no server gives: the `number`th.
    pub(super) fn stand_in(number: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    /// The UUID that an identity names.
    pub(super) fn parse(identity: &CollectionIdentity) -> Option<Self> {
        let text = identity.0.as_bytes();
        let mut bytes = [0; 16];
        if text.len() != 32 {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Insert,
    Update,
    Delete,
    Command,
    Nothing,
}

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0}")]
    Corrupt(String),
    #[error("{0}")]
    Unsupported(String),
}

impl From<DiffError> for Fault {
    fn from(error: DiffError) -> Self {
        match error {
            DiffError::Binary => Self::Unsupported(error.to_string()),
            _ => Self::Corrupt(error.to_string()),
        }
    }
}

impl Fault {
    /// The house's error, for the entry at `position`.
    pub(super) fn at(self, position: impl fmt::Display) -> Error {
        match self {
            Self::Unsupported(what) => {
                Error::new(ErrorKind::Unsupported, format!("the change log holds {what} at {position}"))
                    .with_state("what comes before that position can be restored")
                    .with_hint(format!("restore to a moment before {position}, or take a backup after it"))
            }
            Self::Malformed(_) | Self::Corrupt(_) => {
                Error::new(ErrorKind::Corrupt, format!("the change log is damaged at {position}: {self}"))
                    .with_hint("verify the stored log with `mainstay backup verify`")
            }
        }
    }
}

/// The session and number that the entries of a transaction have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session<'a> {
    /// `lsid`, as bytes.
    pub(super) id: &'a [u8],
    /// `txnNumber`.
    pub(super) number: i64,
}

/// An entry, or an operation inside one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// Its position, or that of the entry that holds it.
    pub(super) at: OpTime,
    pub(super) action: Action,
    /// `ns`.
    pub(super) namespace: &'a str,
    /// `ui`: the collection.
    pub(super) collection: Option<Uuid>,
    /// `o`: the document, the update, the `_id`, the command.
    pub(super) object: &'a [u8],
    /// `o2`: for updates, the `_id`.
    pub(super) second: Option<&'a [u8]>,
    pub(super) session: Option<Session<'a>>,
    /// `prevOpTime.ts`, unless it is the zero that means none.
    pub(super) previous: Option<OpTime>,
    /// `multiOpType: 1`: an `applyOps` that is no transaction but many inserts of one retryable write (from MongoDB 8.0 on).
    pub(super) vectored: bool,
    /// Whether an update of a document that is not there makes one (operations that a user gave to `applyOps`).
    pub(super) upsert: bool,
}

const NO_DOCUMENT: &[u8] = &[5, 0, 0, 0, 0];

impl<'a> Entry<'a> {
    /// The position of an entry and nothing else.
    pub(super) fn position(bytes: &[u8]) -> Result<OpTime, Fault> {
        Ok(position_of(bytes)?)
    }

    /// Reads an entry of the log.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let at = OpTime { seconds: 0, increment: 0 };
        let (entry, position) = Self::read_fields(bytes, at)?;
        position
            .map(|at| Self { at, ..entry })
            .ok_or_else(|| Fault::Corrupt("an entry without position".to_owned()))
    }

    /// The operations inside an `applyOps`, as bytes.
    pub(super) fn raw_operations(&self) -> impl Iterator<Item = Result<&'a [u8], Fault>> + use<'a> {
        let list = raw::find(self.object, "applyOps").ok().flatten().filter(|list| list.kind == kind::ARRAY);
        let missing = list.is_none().then(|| Err(Fault::Corrupt("applyOps without a list".to_owned())));
        let operations =
            raw::elements(list.map_or(NO_DOCUMENT, |list| list.value)).map(|operation| match operation? {
                operation if operation.kind == kind::DOCUMENT => Ok(operation.value),
                _ => Err(Fault::Corrupt("an operation that is no document".to_owned())),
            });
        missing.into_iter().chain(operations)
    }

    /// The operations inside an `applyOps`.
    pub(super) fn operations(&self) -> impl Iterator<Item = Result<Entry<'a>, Fault>> + use<'a> {
        let outer = *self;
        self.raw_operations().map(move |operation| Self::inside(operation?, &outer))
    }

    /// Reads an operation that `outer` holds, or that counts from there on.
    pub(super) fn inside(bytes: &'a [u8], outer: &Entry<'_>) -> Result<Self, Fault> {
        let (entry, _) = Self::read_fields(bytes, outer.at)?;
        if entry.action == Action::Command && entry.command()?.key == b"applyOps" {
            return Err(Fault::Unsupported("applyOps inside applyOps".to_owned()));
        }
        // Who asks for `applyOps` gets upserts unless they say otherwise; transactions never do.
        let refused =
            || matches!(raw::find(outer.object, "alwaysUpsert"), Ok(Some(flag)) if flag.number() == Some(0));
        let upsert = entry.upsert || (outer.session.is_none() && !refused());
        Ok(Self { upsert, ..entry })
    }

    fn read_fields(bytes: &'a [u8], at: OpTime) -> Result<(Self, Option<OpTime>), Fault> {
        let (mut position, mut action, mut session_id, mut number) = (None, None, None, None);
        let mut entry = Self {
            at,
            action: Action::Nothing,
            namespace: "",
            collection: None,
            object: NO_DOCUMENT,
            second: None,
            session: None,
            previous: None,
            vectored: false,
            upsert: false,
        };
        for field in raw::elements(bytes) {
            let field = field?;
            match field.key {
                b"ts" => position = field.optime(),
                b"op" => action = Some(action_of(&field)?),
                b"ns" => {
                    let text = field.text();
                    entry.namespace =
                        text.ok_or_else(|| Fault::Corrupt("a namespace that is no text".to_owned()))?;
                }
                b"ui" => entry.collection = Uuid::of(&field),
                b"o" if field.kind == kind::DOCUMENT => entry.object = field.value,
                b"o2" if field.kind == kind::DOCUMENT => entry.second = Some(field.value),
                b"lsid" if field.kind == kind::DOCUMENT => session_id = Some(field.value),
                b"txnNumber" => number = field.number(),
                b"prevOpTime" if field.kind == kind::DOCUMENT => entry.previous = previous_of(field.value)?,
                b"multiOpType" => entry.vectored = field.number() == Some(1),
                b"b" => entry.upsert = field.number() == Some(1),
                _ => {}
            }
        }
        entry.action = action.ok_or_else(|| Fault::Corrupt("an entry without operation".to_owned()))?;
        entry.session = session_id.zip(number).map(|(id, number)| Session { id, number });
        Ok((entry, position))
    }

    /// The command's name: the first field of its object.
    pub(super) fn command(&self) -> Result<Element<'a>, Fault> {
        let first = raw::elements(self.object).next().transpose()?;
        first.ok_or_else(|| Fault::Corrupt("a command without name".to_owned()))
    }

    /// Database and the rest of the namespace.
    pub(super) fn split_namespace(&self) -> Result<(&'a str, &'a str), Fault> {
        self.namespace
            .split_once('.')
            .ok_or_else(|| Fault::Corrupt(format!("the namespace `{}` without a dot", self.namespace)))
    }

    /// The `_id` of the document that an insert, update or delete is about: the stored one, whatever the client had asked with.
    pub(super) fn id(&self) -> Result<Element<'a>, Fault> {
        let holder = match (self.action, self.second) {
            (Action::Update, Some(second)) => second,
            _ => self.object,
        };
        raw::id_of(holder)?
            .ok_or_else(|| Fault::Unsupported(format!("a change of {} without _id", self.namespace)))
    }

    /// The same as bytes: type, name and value.
    pub(super) fn id_element(&self) -> Result<&'a [u8], Fault> {
        let id = self.id()?;
        let holder = match (self.action, self.second) {
            (Action::Update, Some(second)) => second,
            _ => self.object,
        };
        // Before the value stand a type byte and the name.
        Ok(&holder[id.offset - 1 - b"_id\0".len()..id.offset + id.value.len()])
    }

    /// What an update makes of its document.
    pub(super) fn update(&self) -> Result<Update<'a>, Fault> {
        let first = raw::elements(self.object).next().transpose()?;
        let Some(version) = first.filter(|first| first.key == b"$v") else {
            return Ok(Update::Replacement(self.object));
        };
        let unknown = || {
            Fault::Unsupported(format!(
                "an update of {} in the format of MongoDB 4.4 or older",
                self.namespace
            ))
        };
        if version.number() != Some(2) {
            return Err(unknown());
        }
        let diff = raw::find(self.object, "diff")?.filter(|diff| diff.kind == kind::DOCUMENT);
        diff.map(|diff| Update::Diff(diff.value)).ok_or_else(unknown)
    }
}

/// What an update makes of its document.
#[derive(Debug, Clone, Copy)]
pub(super) enum Update<'a> {
    /// Another document; as stored, except that the `_id` may be left out.
    Replacement(&'a [u8]),
    /// What a diff makes of it.
    Diff(&'a [u8]),
}

/// `document` with `id` in front, if it has none.
pub(super) fn with_id(document: &[u8], id: &Element<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    if raw::id_of(document)?.is_some() {
        return Ok(None);
    }
    let mut writer = DocumentWriter::new();
    writer.element(id.kind, "_id", id.value);
    for field in raw::elements(document) {
        let field = field?;
        writer.raw_element(field.kind, field.key, field.value);
    }
    Ok(Some(writer.finish()))
}

/// A namespace of `database` and what a command names in it.
pub(super) fn named(database: &str, name: &Element<'_>) -> Result<Namespace, Fault> {
    match name.text() {
        Some(name) => Ok(Namespace::new(database, name)),
        None => Err(Fault::Corrupt("a command that names no collection".to_owned())),
    }
}

fn action_of(field: &Element<'_>) -> Result<Action, Fault> {
    match field.text() {
        Some("i") => Ok(Action::Insert),
        Some("u") => Ok(Action::Update),
        Some("d") => Ok(Action::Delete),
        Some("c") => Ok(Action::Command),
        Some("n") => Ok(Action::Nothing),
        Some(other) => Err(Fault::Unsupported(format!(
            "an operation of the unknown kind `{}`",
            other.chars().take(20).collect::<String>()
        ))),
        None => Err(Fault::Corrupt("a kind of operation that is no text".to_owned())),
    }
}

fn previous_of(document: &[u8]) -> Result<Option<OpTime>, Fault> {
    let position = raw::find(document, "ts")?.and_then(|ts| ts.optime());
    Ok(position.filter(|position| position.seconds != 0))
}

/// The `ts` of an entry.
pub(super) fn position_of(entry: &[u8]) -> Result<OpTime, Malformed> {
    let position = raw::find(entry, "ts")?.and_then(|ts| ts.optime());
    position.ok_or(Malformed { offset: 0, what: "an entry without position" })
}
