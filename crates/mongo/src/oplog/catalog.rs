//! Which collections exist, under which names and definitions: the commands of a log folded into what listCollections and listIndexes
//! would show after it.
//!
//! Collections are known by their UUID. The fold begins with what a set says and may meet entries that the set's listing reflects already;
//! it comes to the same end nevertheless, because every entry either sets something absolutely or does nothing where it has been done, and
//! everything up to the end follows. What listCollections shows differs from what the entries say in a few points, found out from servers:
//!
//! * a validator or its level or action, once changed, makes level and action explicit;
//! * the size of capped collections goes up to a multiple of 256 bytes;
//! * an index's `sparse: 1` is shown as true, its `expireAfterSeconds` as a whole number, the bounds of a `2d` index as doubles;
//! * a clustered collection's key is an index without being one;
//! * a time series shows the options of its buckets without validator and clustered key, and its indexes in terms of its own fields.
//!
//! An index that is being built exists from its commit on. Temporary collections (those of `$out`, `$merge` and `convertToCapped` before they
//! get their name) are the server's own: they are not part of the result. Refuses commands it does not know.

use std::collections::BTreeMap;

use bson::raw::RawDocument;
use bson::{RawDocumentBuf, rawdoc};
use mainstay_engine::{CollectionIdentity, CollectionKind, Namespace, StoredCollection};
use mainstay_model::{Error, ErrorKind, Result};

use super::entry::{Entry, Fault, Uuid, named};
use super::views::Views;
use crate::catalog::{is_user_collection, is_user_database};
use crate::metadata::{Metadata, without};
use crate::raw::{self, DocumentWriter, Element, kind};

pub(super) const BUCKETS: &str = "system.buckets.";

/// `collMod` of a time series by granularity: the longest span of a bucket (MongoDB manual, "timeseries.granularity").
const GRANULARITIES: [(&str, i32); 3] = [("seconds", 3_600), ("minutes", 86_400), ("hours", 2_592_000)];

/// Fields of a command that say how it was sent, not what it does.
const GENERIC_FIELDS: [&[u8]; 6] =
    [b"writeConcern", b"comment", b"lsid", b"maxTimeMS", b"apiVersion", b"$db"];

/// A collection that exists.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    /// Its name; for a time series that of the series.
    pub(super) namespace: Namespace,
    pub(super) kind: CollectionKind,
    options: RawDocumentBuf,
    indexes: Vec<RawDocumentBuf>,
}

/// What exists at some position of the log.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    collections: BTreeMap<Uuid, Definition>,
    views: Views,
    /// Collections that are written to, but neither in the set nor created by the log.
    foreign: BTreeMap<Uuid, Namespace>,
}

impl Catalog {
    /// What a set holds.
    pub(super) fn of(stored: &[StoredCollection]) -> Result<Self> {
        let mut catalog = Self::default();
        for collection in stored {
            let metadata = Metadata::parse(&collection.metadata)?;
            let namespace = collection.namespace.clone();
            if collection.kind != CollectionKind::Collection {
                // A time series has a view too; its options are of no interest.
                let options = match collection.kind {
                    CollectionKind::View => metadata.options.clone(),
                    _ => rawdoc! { "viewOn": BUCKETS },
                };
                catalog.views.put(namespace.clone(), options);
            }
            if collection.kind == CollectionKind::View {
                continue;
            }
            let uuid =
                collection.identity.as_ref().and_then(Uuid::parse).ok_or_else(|| unidentified(&namespace))?;
            let mut definition = Definition {
                namespace,
                kind: collection.kind,
                options: metadata.options,
                indexes: metadata.indexes,
            };
            if definition.is_clustered() {
                definition.indexes.retain(|index| !index.get_bool("clustered").unwrap_or(false));
            }
            catalog.collections.insert(uuid, definition);
        }
        Ok(catalog)
    }

    /// Gives the collection that went under `stand_in` its UUID.
    ///
    /// # Errors
    /// `Corrupt` when another collection has it.
    pub(super) fn identify(&mut self, stand_in: Uuid, uuid: Uuid) -> Result<(), Fault> {
        let Some(definition) = self.collections.remove(&stand_in) else { return Ok(()) };
        self.foreign.remove(&uuid);
        match self.collections.insert(uuid, definition) {
            None => Ok(()),
            Some(other) => Err(Fault::Corrupt(format!("{} under another name", other.namespace))),
        }
    }

    /// Applies a change of a document in `system.views`.
    pub(super) fn change_view(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        self.views.change(entry)
    }

    /// Remembers a collection that is written to without being known.
    pub(super) fn notice(&mut self, uuid: Uuid, namespace: impl FnOnce() -> Namespace) {
        if !self.collections.contains_key(&uuid) {
            self.foreign.entry(uuid).or_insert_with(namespace);
        }
    }

    /// Applies a command, transactions aside.
    pub(super) fn command(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let (database, _) = entry.split_namespace()?;
        if !is_user_database(database) {
            return Ok(());
        }
        let name = entry.command()?;
        match name.key {
            b"create" => self.create(entry, database, &name),
            b"drop" => self.drop_collection(entry, database, &name),
            b"dropDatabase" => {
                self.drop_database(database);
                Ok(())
            }
            b"renameCollection" => self.rename(entry, &name),
            b"createIndexes" => self.create_index(entry, &name),
            b"commitIndexBuild" => self.commit_indexes(entry),
            b"abortIndexBuild" => self.abort_indexes(entry),
            b"dropIndexes" | b"deleteIndexes" | b"dropIndex" | b"deleteIndex" => self.drop_index(entry),
            b"collMod" => self.modify(entry),
            b"startIndexBuild" | b"emptycapped" | b"dbCheck" => Ok(()),
            other => Err(unknown(other, entry)),
        }
    }

    fn create(&mut self, entry: &Entry<'_>, database: &str, name: &Element<'_>) -> Result<(), Fault> {
        let stored = named(database, name)?;
        let Some((namespace, kind)) = place(&stored) else { return resharding(&stored) };
        let uuid = entry.collection.ok_or_else(|| anonymous(entry))?;
        let mut options = without(raw::as_document(entry.object)?, &["create", "idIndex", "uuid"]);
        let id_index = raw::find(entry.object, "idIndex")?.filter(|index| index.kind == kind::DOCUMENT);
        let clustered = raw::find(options.as_bytes(), "clusteredIndex")?.is_some();
        let indexes = match id_index {
            _ if clustered => Vec::new(),
            Some(index) => vec![listed_index(index.value)?],
            None => vec![default_id_index(&options)],
        };
        if kind == CollectionKind::TimeSeries {
            options = without(&options, &["validator", "clusteredIndex"]);
        }
        self.foreign.remove(&uuid);
        self.collections.insert(uuid, Definition { namespace, kind, options, indexes });
        Ok(())
    }

    fn drop_collection(
        &mut self,
        entry: &Entry<'_>,
        database: &str,
        name: &Element<'_>,
    ) -> Result<(), Fault> {
        let stored = named(database, name)?;
        if stored.collection == "system.views" {
            self.views.drop_database(database);
        } else if place(&stored).is_some() {
            self.forget(entry.collection.ok_or_else(|| anonymous(entry))?);
        }
        Ok(())
    }

    fn forget(&mut self, uuid: Uuid) {
        self.collections.remove(&uuid);
        self.foreign.remove(&uuid);
    }

    fn drop_database(&mut self, database: &str) {
        self.views.drop_database(database);
        self.collections.retain(|_, definition| definition.namespace.database != database);
        self.foreign.retain(|_, namespace| namespace.database != database);
    }

    fn rename(&mut self, entry: &Entry<'_>, from: &Element<'_>) -> Result<(), Fault> {
        let target = raw::find(entry.object, "to")?.and_then(|to| to.text());
        let target = target.and_then(|to| to.split_once('.')).zip(from.text());
        let Some(((database, collection), from)) = target else {
            return Err(Fault::Corrupt("a rename without names".to_owned()));
        };
        let stored = Namespace::new(database, collection);
        if let Some((database, collection)) = from.split_once('.') {
            resharding(&Namespace::new(database, collection))?;
        }
        let uuid = entry.collection.ok_or_else(|| anonymous(entry))?;
        if let Some(dropped) = raw::find(entry.object, "dropTarget")? {
            match Uuid::of(&dropped) {
                Some(dropped) => self.forget(dropped),
                None if dropped.number() == Some(0) => {}
                None => {
                    return Err(Fault::Unsupported(format!(
                        "a rename to {stored} that does not tell what it replaces"
                    )));
                }
            }
        }
        let keeps_temporary = raw::find(entry.object, "stayTemp")?.and_then(|flag| flag.number()) == Some(1);
        let Some((namespace, kind)) = place(&stored) else {
            return Err(Fault::Unsupported(format!("a rename to {stored}")));
        };
        if let Some(definition) = self.collections.get_mut(&uuid) {
            definition.namespace = namespace;
            definition.kind = kind;
            if !keeps_temporary {
                definition.options = without(&definition.options, &["temp"]);
            }
        } else {
            self.foreign.insert(uuid, namespace);
        }
        Ok(())
    }

    fn definition(&mut self, entry: &Entry<'_>) -> Result<Option<&mut Definition>, Fault> {
        let uuid = entry.collection.ok_or_else(|| anonymous(entry))?;
        if !self.collections.contains_key(&uuid) {
            let (database, _) = entry.split_namespace()?;
            let stored = named(database, &entry.command()?)?;
            if let Some((namespace, _)) = place(&stored) {
                self.foreign.entry(uuid).or_insert(namespace);
            }
        }
        Ok(self.collections.get_mut(&uuid))
    }

    fn create_index(&mut self, entry: &Entry<'_>, name: &Element<'_>) -> Result<(), Fault> {
        let Some(definition) = self.definition(entry)? else { return Ok(()) };
        // Newer servers put the specification into a field of its own.
        let spec = match raw::find(entry.object, "spec")?.filter(|spec| spec.kind == kind::DOCUMENT) {
            Some(spec) => spec.value.to_vec(),
            None => {
                let key = std::str::from_utf8(name.key).unwrap_or_default();
                without(raw::as_document(entry.object)?, &[key]).as_bytes().to_vec()
            }
        };
        definition.put_index(&spec)
    }

    fn commit_indexes(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let Some(definition) = self.definition(entry)? else { return Ok(()) };
        for spec in index_specs(entry)? {
            definition.put_index(spec?)?;
        }
        Ok(())
    }

    fn abort_indexes(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let Some(definition) = self.definition(entry)? else { return Ok(()) };
        for spec in index_specs(entry)? {
            if let Some(name) = raw::find(spec?, "name")?.and_then(|name| name.text()) {
                definition.indexes.retain(|index| !is_named(index, name));
            }
        }
        Ok(())
    }

    fn drop_index(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let Some(definition) = self.definition(entry)? else { return Ok(()) };
        let index = raw::find(entry.object, "index")?;
        match index.map(|index| (index, index.text())) {
            Some((_, Some("*"))) => definition.indexes.retain(|index| is_key_of_id(index)),
            Some((_, Some(name))) => definition.indexes.retain(|index| !is_named(index, name)),
            Some((key, None)) if key.kind == kind::DOCUMENT => {
                definition.indexes.retain(|index| {
                    !index.get_document("key").is_ok_and(|theirs| theirs.as_bytes() == key.value)
                });
            }
            _ => return Err(Fault::Corrupt("a dropped index without name".to_owned())),
        }
        Ok(())
    }

    fn modify(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let Some(definition) = self.definition(entry)? else { return Ok(()) };
        for field in raw::elements(entry.object).skip(1) {
            let field = field?;
            match field.key {
                b"index" if field.kind == kind::DOCUMENT => definition.modify_index(field.value)?,
                b"timeseries" if field.kind == kind::DOCUMENT => {
                    definition.modify_time_series(field.value)?
                }
                key if GENERIC_FIELDS.contains(&key) || key.starts_with(b"$") => {}
                _ => definition.modify_option(&field)?,
            }
        }
        Ok(())
    }

    /// The collections that exist, temporary ones and half-made time series aside.
    pub(super) fn collections(&self) -> impl Iterator<Item = (Uuid, &Definition)> {
        self.collections.iter().map(|(uuid, definition)| (*uuid, definition)).filter(|(_, definition)| {
            let temporary = matches!(raw::find(definition.options.as_bytes(), "temp"), Ok(Some(flag)) if flag.number() == Some(1));
            let half_made =
                definition.kind == CollectionKind::TimeSeries && !self.views.contains(&definition.namespace);
            !temporary && !half_made
        })
    }

    /// The views that exist, with their metadata.
    pub(super) fn views(&self) -> impl Iterator<Item = Result<(Namespace, String)>> {
        self.views.proper().map(|(namespace, options)| {
            let metadata = Metadata {
                options: options.clone(),
                indexes: Vec::new(),
                uuid: None,
                name: Some(namespace.collection.clone()),
                kind: CollectionKind::View,
            };
            Ok((namespace.clone(), metadata.to_text()?))
        })
    }

    /// What was written to without being known, and was not dropped.
    pub(super) fn foreign(&self) -> Vec<Namespace> {
        let mut foreign: Vec<_> = self.foreign.values().cloned().collect();
        foreign.sort();
        foreign.dedup();
        foreign
    }
}

impl Definition {
    /// Its definition as the server would list it.
    pub(super) fn metadata(&self, uuid: Uuid) -> Metadata {
        let clustered = self.is_clustered().then(|| clustered_index(&self.options)).flatten();
        Metadata {
            options: self.options.clone(),
            indexes: clustered.into_iter().chain(self.indexes.iter().cloned()).collect(),
            uuid: (self.kind == CollectionKind::Collection).then(|| uuid.to_string()),
            name: Some(self.namespace.collection.clone()),
            kind: self.kind,
        }
    }

    /// Whether `_id` is its storage key and listed as an index. That of a time series is not.
    fn is_clustered(&self) -> bool {
        self.kind == CollectionKind::Collection && matches!(self.options.get("clusteredIndex"), Ok(Some(_)))
    }

    fn put_index(&mut self, spec: &[u8]) -> Result<(), Fault> {
        let listed = match self.kind {
            CollectionKind::TimeSeries => match series_index(spec, &self.options)? {
                Some(index) => index,
                None => return Ok(()),
            },
            _ => listed_index(spec)?,
        };
        let name = listed.get_str("name").unwrap_or_default();
        match self.indexes.iter_mut().find(|index| is_named(index, name)) {
            Some(index) => *index = listed,
            None => self.indexes.push(listed),
        }
        Ok(())
    }

    fn modify_index(&mut self, change: &[u8]) -> Result<(), Fault> {
        let Some(name) = raw::find(change, "name")?.and_then(|name| name.text()) else {
            return Err(Fault::Unsupported("a collMod of an index without name".to_owned()));
        };
        let Some(index) = self.indexes.iter_mut().find(|index| is_named(index, name)) else {
            return Ok(());
        };
        for field in raw::elements(change) {
            let field = field?;
            let number = field.number().unwrap_or(0);
            match field.key {
                b"name" | b"keyPattern" => {}
                b"expireAfterSeconds" => {
                    *index = with(index, "expireAfterSeconds", Some((kind::INT32, &whole(number))));
                }
                b"hidden" => *index = with(index, "hidden", flag(number)),
                b"prepareUnique" => *index = with(index, "prepareUnique", flag(number)),
                b"unique" => {
                    *index = with(&without(index, &["prepareUnique"]), "unique", flag(number));
                }
                b"forceNonUnique" => *index = without(index, &["unique", "prepareUnique"]),
                other => return Err(unknown_option(other, &self.namespace)),
            }
        }
        Ok(())
    }

    fn modify_time_series(&mut self, change: &[u8]) -> Result<(), Fault> {
        let before = self.options.get_document("timeseries").map(ToOwned::to_owned).unwrap_or_default();
        let granularity = raw::find(change, "granularity")?.and_then(|name| name.text());
        let span = |name| GRANULARITIES.iter().find(|(known, _)| *known == name).map(|(_, span)| *span);
        let mut after = match granularity {
            Some(name) => {
                let span = span(name).ok_or_else(|| {
                    Fault::Unsupported(format!("a collMod of {} to another granularity", self.namespace))
                })?;
                let after = without(&before, &["bucketRoundingSeconds"]);
                with(&after, "bucketMaxSpanSeconds", Some((kind::INT32, &span.to_le_bytes())))
            }
            None => without(&before, &["granularity"]),
        };
        for field in raw::elements(change) {
            let field = field?;
            let key = std::str::from_utf8(field.key).unwrap_or_default();
            after = with(&after, key, Some((field.kind, field.value)));
        }
        self.options = with(&self.options, "timeseries", Some((kind::DOCUMENT, after.as_bytes())));
        Ok(())
    }

    fn modify_option(&mut self, field: &Element<'_>) -> Result<(), Fault> {
        let number = field.number();
        let options = &self.options;
        let as_given = Some((field.kind, field.value));
        self.options = match field.key {
            b"validator" => {
                let given = as_given.filter(|_| field.value != NO_FIELDS);
                with_validation_defaults(&with(options, "validator", given))
            }
            b"validationLevel" => with_validation_defaults(&with(options, "validationLevel", as_given)),
            b"validationAction" => with_validation_defaults(&with(options, "validationAction", as_given)),
            b"changeStreamPreAndPostImages" => {
                let enabled = field.kind == kind::DOCUMENT
                    && raw::find(field.value, "enabled")?.and_then(|flag| flag.number()) == Some(1);
                with(options, "changeStreamPreAndPostImages", as_given.filter(|_| enabled))
            }
            b"recordPreImages" => with(options, "recordPreImages", flag(number.unwrap_or(0))),
            b"expireAfterSeconds" => {
                let seconds = number.map(i64::to_le_bytes);
                with(
                    options,
                    "expireAfterSeconds",
                    seconds.as_ref().map(|seconds| (kind::INT64, seconds.as_slice())),
                )
            }
            b"cappedSize" => {
                let size = number.unwrap_or(0).max(4_096).saturating_add(255) & !255;
                with_number(options, "size", size)
            }
            b"cappedMax" => with_number(options, "max", number.unwrap_or(0)),
            b"isTemp" => with(options, "temp", flag(number.unwrap_or(0))),
            // Internal to the server, and not listed.
            b"timeseriesBucketsMayHaveMixedSchemaData" | b"timeseriesBucketingParametersHaveChanged" => {
                return Ok(());
            }
            other => return Err(unknown_option(other, &self.namespace)),
        };
        Ok(())
    }
}

const NO_FIELDS: &[u8] = &[5, 0, 0, 0, 0];

/// Where a stored collection shows: time series under the name of the series. `None` for the server's own.
fn place(stored: &Namespace) -> Option<(Namespace, CollectionKind)> {
    match stored.collection.strip_prefix(BUCKETS) {
        Some(series) => Some((Namespace::new(&stored.database, series), CollectionKind::TimeSeries)),
        None if is_user_collection(&stored.collection) => Some((stored.clone(), CollectionKind::Collection)),
        None => None,
    }
}

/// Refuses what moves a collection to other shards.
pub(super) fn resharding(stored: &Namespace) -> Result<(), Fault> {
    match stored.collection.starts_with("system.resharding.") {
        true => Err(Fault::Unsupported(format!("resharding into {stored}"))),
        false => Ok(()),
    }
}

/// As [`place`], by the text of a namespace whose database is a user's.
pub(super) fn place_of(database: &str, collection: &str) -> Option<Namespace> {
    place(&Namespace::new(database, collection)).map(|(namespace, _)| namespace)
}

fn index_specs<'a>(
    entry: &Entry<'a>,
) -> Result<impl Iterator<Item = Result<&'a [u8], Fault>> + use<'a>, Fault> {
    let list = raw::find(entry.object, "indexes")?.filter(|list| list.kind == kind::ARRAY);
    let list = list.ok_or_else(|| Fault::Corrupt("an index build without indexes".to_owned()))?;
    Ok(raw::elements(list.value).map(|spec| match spec? {
        spec if spec.kind == kind::DOCUMENT => Ok(spec.value),
        _ => Err(Fault::Corrupt("an index that is no document".to_owned())),
    }))
}

/// An index as listIndexes shows it.
fn listed_index(spec: &[u8]) -> Result<RawDocumentBuf, Fault> {
    let two_dimensional = is_two_dimensional(spec)?;
    let mut listed = DocumentWriter::new();
    for field in raw::elements(spec) {
        let field = field?;
        match (field.key, field.number()) {
            (b"ns", _) => {}
            (b"background" | b"unique" | b"sparse" | b"hidden" | b"prepareUnique", Some(number)) => {
                listed.raw_element(kind::BOOLEAN, field.key, &[u8::from(number != 0)]);
            }
            (b"expireAfterSeconds" | b"v", Some(number)) => {
                listed.raw_element(kind::INT32, field.key, &whole(number));
            }
            (b"bits", Some(number)) if two_dimensional => {
                listed.raw_element(kind::INT32, field.key, &whole(number))
            }
            (b"min" | b"max", Some(number)) if two_dimensional && field.kind != kind::DOUBLE => {
                listed.raw_element(kind::DOUBLE, field.key, &(number as f64).to_le_bytes());
            }
            _ => listed.raw_element(field.kind, field.key, field.value),
        }
    }
    Ok(raw::as_document(&listed.finish())?.to_owned())
}

fn is_two_dimensional(spec: &[u8]) -> Result<bool, Fault> {
    let key = raw::find(spec, "key")?.filter(|key| key.kind == kind::DOCUMENT);
    Ok(key.is_some_and(|key| raw::elements(key.value).flatten().any(|field| field.text() == Some("2d"))))
}

/// The index on the storage key of a clustered collection, as listIndexes shows it: made of three options.
fn clustered_index(options: &RawDocument) -> Option<RawDocumentBuf> {
    let mut index = options.get_document("clusteredIndex").ok()?.to_owned();
    if let Ok(Some(collation)) = raw::find(options.as_bytes(), "collation") {
        index = with(&index, "collation", Some((collation.kind, collation.value)));
    }
    if let Ok(Some(seconds)) = raw::find(options.as_bytes(), "expireAfterSeconds") {
        let seconds = whole(seconds.number().unwrap_or(0));
        index = with(&index, "expireAfterSeconds", Some((kind::INT32, &seconds)));
    }
    Some(with(&index, "clustered", flag(1)))
}

fn default_id_index(options: &RawDocument) -> RawDocumentBuf {
    let index = rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
    match raw::find(options.as_bytes(), "collation") {
        Ok(Some(collation)) => with(&index, "collation", Some((collation.kind, collation.value))),
        _ => index,
    }
}

fn is_key_of_id(index: &RawDocument) -> bool {
    index.get_document("key").is_ok_and(|key| {
        let mut fields = raw::elements(key.as_bytes()).flatten();
        fields.next().is_some_and(|field| field.key == b"_id") && fields.next().is_none()
    })
}

fn is_named(index: &RawDocument, name: &str) -> bool {
    index.get_str("name").is_ok_and(|theirs| theirs == name)
}

/// An index on the buckets of a time series, in terms of the series; `None` when listIndexes would not show it.
fn series_index(spec: &[u8], options: &RawDocument) -> Result<Option<RawDocumentBuf>, Fault> {
    // What cannot be told from the buckets' index is kept beside it.
    if let Some(original) =
        raw::find(spec, "originalSpec")?.filter(|original| original.kind == kind::DOCUMENT)
    {
        let mut index = listed_index(original.value)?;
        if let Some(hidden) = raw::find(spec, "hidden")? {
            index = with(&index, "hidden", flag(hidden.number().unwrap_or(0)));
        }
        return Ok(Some(index));
    }
    let series = options.get_document("timeseries").map(RawDocument::as_bytes).unwrap_or(NO_FIELDS);
    let meta = raw::find(series, "metaField")?.and_then(|name| name.text());
    let key = raw::find(spec, "key")?.filter(|key| key.kind == kind::DOCUMENT);
    let Some(key) = key.and_then(|key| series_key(key.value, meta)) else { return Ok(None) };
    Ok(Some(with(&listed_index(spec)?, "key", Some((kind::DOCUMENT, &key)))))
}

/// A key on buckets in terms of the series: `meta` is the metadata field, a pair of minimum and maximum the field itself.
fn series_key(key: &[u8], meta: Option<&str>) -> Option<Vec<u8>> {
    let mut writer = DocumentWriter::new();
    let mut fields = raw::elements(key);
    while let Some(field) = fields.next() {
        let field = field.ok()?;
        let name = std::str::from_utf8(field.key).ok()?;
        if let Some(rest) = name.strip_prefix("meta").filter(|rest| rest.is_empty() || rest.starts_with('.'))
        {
            writer.element(field.kind, &format!("{}{rest}", meta?), field.value);
            continue;
        }
        let (one, other) = match field.number()? {
            number if number > 0 => ("control.min.", "control.max."),
            _ => ("control.max.", "control.min."),
        };
        let measured = name.strip_prefix(one)?;
        let partner = fields.next()?.ok()?;
        if std::str::from_utf8(partner.key).ok()?.strip_prefix(other)? != measured {
            return None;
        }
        writer.element(field.kind, measured, field.value);
    }
    Some(writer.finish())
}

/// `document` with another value of a field, in its place or at the end; without the field for `None`.
fn with(document: &RawDocument, key: &str, value: Option<(u8, &[u8])>) -> RawDocumentBuf {
    let mut writer = DocumentWriter::new();
    let mut value = value;
    for field in raw::elements(document.as_bytes()).map_while(std::result::Result::ok) {
        if field.key != key.as_bytes() {
            writer.raw_element(field.kind, field.key, field.value);
        } else if let Some((kind, bytes)) = value.take() {
            writer.element(kind, key, bytes);
        }
    }
    if let Some((kind, bytes)) = value {
        writer.element(kind, key, bytes);
    }
    RawDocumentBuf::from_bytes(writer.finish()).expect("elements of a document make a document")
}

/// Numbers of this size are listed as the narrower type that holds them.
fn with_number(document: &RawDocument, key: &str, number: i64) -> RawDocumentBuf {
    match i32::try_from(number) {
        Ok(number) => with(document, key, Some((kind::INT32, &number.to_le_bytes()))),
        Err(_) => with(document, key, Some((kind::INT64, &number.to_le_bytes()))),
    }
}

fn with_validation_defaults(options: &RawDocument) -> RawDocumentBuf {
    let mut options = options.to_owned();
    for (key, default) in [("validationLevel", "strict"), ("validationAction", "error")] {
        if matches!(options.get(key), Ok(None)) {
            let value = [&(default.len() as i32 + 1).to_le_bytes(), default.as_bytes(), &[0]].concat();
            options = with(&options, key, Some((kind::STRING, &value)));
        }
    }
    options
}

/// A flag that is listed only when it is set.
fn flag(number: i64) -> Option<(u8, &'static [u8])> {
    (number != 0).then_some((kind::BOOLEAN, &[1]))
}

fn whole(number: i64) -> [u8; 4] {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX }).to_le_bytes()
}

fn unknown(command: &[u8], entry: &Entry<'_>) -> Fault {
    let command: String = String::from_utf8_lossy(command).chars().take(60).collect();
    Fault::Unsupported(format!(
        "the command `{command}` on {}, which this version cannot replay,",
        entry.namespace
    ))
}

fn unknown_option(option: &[u8], namespace: &Namespace) -> Fault {
    let option: String = String::from_utf8_lossy(option).chars().take(60).collect();
    Fault::Unsupported(format!("a collMod of {namespace} with the unknown option `{option}`"))
}

fn anonymous(entry: &Entry<'_>) -> Fault {
    Fault::Unsupported(format!("an entry for {} that does not tell the collection's UUID", entry.namespace))
}

fn unidentified(namespace: &Namespace) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the set does not say which collection {namespace} was"))
        .with_hint("take a new backup with this version; a change log can continue it")
}

/// The identity that a UUID is.
pub(super) fn identity(uuid: Uuid) -> CollectionIdentity {
    CollectionIdentity(uuid.to_string())
}
