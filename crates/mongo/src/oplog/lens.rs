//! What oplog entries destroyed, for whoever looks for the moment before an accident.
//!
//! Looks at a few fields of each entry and decodes nothing else. Relies on the entry forms of MongoDB 4.2 to 8.0: commands are `op: "c"` with
//! the command as first field of `o`; transactions are `applyOps` with entries inside; a view is a document of `system.views`, and a time series
//! such a view and a collection `system.buckets.<name>`, dropped one after the other (by 6.0 the view first). Collections are told by the names that people know, and
//! databases that the server keeps for itself are passed over.

use std::collections::BTreeSet;

use mainstay_engine::{ChangeLens, ChangeSight, SightKind, document_frames};
use mainstay_model::{Error, ErrorKind, OpTime, Result};

use super::catalog::{BUCKETS, place_of};
use super::entry::position_of;
use crate::catalog::is_user_database;
use crate::raw::{self, Element, Malformed, kind};

/// How deep entries may lie in entries: transactions hold operations, and nothing deeper.
const DEPTH_MAX: usize = 4;

/// Looks into stored oplogs.
#[derive(Debug, Clone, Copy, Default)]
pub struct OplogLens;

impl ChangeLens for OplogLens {
    fn look(&self, entries: &[u8], found: &mut dyn FnMut(ChangeSight)) -> Result<()> {
        let corrupt = |what: String| Error::new(ErrorKind::Corrupt, format!("the log is no oplog: {what}"));
        let mut looker = Looker { found, buckets: BTreeSet::new(), views: BTreeSet::new() };
        for frame in document_frames(entries) {
            let entry = frame.map_err(|error| corrupt(error.to_string()))?;
            let at = position_of(entry).map_err(|error| corrupt(error.to_string()))?;
            looker
                .see(entry, at, DEPTH_MAX)
                .map_err(|error| corrupt(format!("{error} in the entry at {at}")))?;
        }
        Ok(())
    }
}

/// Looks at one entry after the other.
struct Looker<'a> {
    found: &'a mut dyn FnMut(ChangeSight),
    /// Names whose buckets were dropped, and names whose view was: the other half of a time series comes next, and is the same drop. Where
    /// the log was cut between the two it is told twice.
    buckets: BTreeSet<String>,
    views: BTreeSet<String>,
}

impl Looker<'_> {
    fn see(&mut self, entry: &[u8], at: OpTime, depth: usize) -> Result<(), Malformed> {
        let (mut op, mut namespace, mut object) = (None, None, None);
        for element in raw::elements(entry) {
            let element = element?;
            match element.key {
                b"op" => op = Some(element),
                b"ns" => namespace = Some(element),
                b"o" if element.kind == kind::DOCUMENT => object = Some(element.value),
                _ => {}
            }
        }
        let op = op.as_ref().and_then(Element::text).unwrap_or_default();
        let namespace = namespace.as_ref().and_then(Element::text).unwrap_or_default();
        let (database, collection) = namespace.split_once('.').unwrap_or((namespace, ""));
        match (op, object) {
            ("i", Some(object)) if collection == "system.views" => {
                if let Some(name) = raw::id_of(object)?.as_ref().and_then(Element::text) {
                    self.views.remove(name);
                    self.buckets.remove(name);
                }
            }
            ("d", object) if is_user_database(database) => {
                self.see_delete(database, collection, object, at)?;
            }
            ("c", Some(object)) => {
                let Some(command) = raw::elements(object).next().transpose()? else { return Ok(()) };
                if command.key == b"applyOps" && command.kind == kind::ARRAY && depth > 0 {
                    for inner in raw::elements(command.value) {
                        let inner = inner?;
                        if inner.kind == kind::DOCUMENT {
                            self.see(inner.value, at, depth - 1)?;
                        }
                    }
                } else if is_user_database(database) {
                    self.see_command(database, &command, object, at)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn see_delete(
        &mut self,
        database: &str,
        collection: &str,
        object: Option<&[u8]>,
        at: OpTime,
    ) -> Result<(), Malformed> {
        if collection != "system.views" {
            if let Some(place) = place_of(database, collection) {
                self.tell(at, SightKind::Delete, place.to_string(), String::new());
            }
            return Ok(());
        }
        let view = object.map(raw::id_of).transpose()?.flatten();
        if let Some(view) = view.as_ref().and_then(Element::text)
            && !self.buckets.remove(view)
        {
            self.views.insert(view.to_owned());
            self.tell(at, SightKind::Drop, view.to_owned(), String::new());
        }
        Ok(())
    }

    fn see_command(
        &mut self,
        database: &str,
        command: &Element<'_>,
        object: &[u8],
        at: OpTime,
    ) -> Result<(), Malformed> {
        let text = command.text().unwrap_or_default();
        let collection = place_of(database, text).map(|place| place.to_string());
        match (command.key, collection) {
            (b"dropDatabase", _) => {
                self.tell(at, SightKind::DropDatabase, database.to_owned(), String::new());
            }
            (b"drop", Some(collection)) => {
                let is_other_half = text.starts_with(BUCKETS) && self.views.remove(&collection);
                if !is_other_half {
                    if text.starts_with(BUCKETS) {
                        self.buckets.insert(collection.clone());
                    }
                    self.tell(at, SightKind::Drop, collection, String::new());
                }
            }
            // The names of the views are not told.
            (b"drop", None) if text == "system.views" => {
                self.tell(at, SightKind::Drop, database.to_owned(), "every view".to_owned());
            }
            (b"collMod", Some(collection)) => self.tell(at, SightKind::CollMod, collection, String::new()),
            (b"dropIndexes" | b"deleteIndexes" | b"dropIndex" | b"deleteIndex", Some(collection)) => {
                let index = raw::find(object, "index")?.and_then(|index| index.text().map(str::to_owned));
                self.tell(at, SightKind::DropIndexes, collection, index.unwrap_or_default());
            }
            (b"renameCollection", _) => {
                let replaces = raw::find(object, "dropTarget")?
                    .is_some_and(|target| target.kind == kind::BINARY || target.number() == Some(1));
                let to = raw::find(object, "to")?.and_then(|to| to.text().map(str::to_owned));
                if let (true, Some(to)) = (replaces, to) {
                    self.tell(at, SightKind::RenameOver, to, format!("by {text}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn tell(&mut self, at: OpTime, kind: SightKind, namespace: String, detail: String) {
        (self.found)(ChangeSight { at, kind, namespace, detail });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Document, Timestamp, doc};

    use super::*;

    fn entry(op: &str, ns: &str, o: Document) -> Vec<u8> {
        doc! { "op": op, "ns": ns, "o": o, "ts": Timestamp { time: 7, increment: 2 } }.to_vec().unwrap()
    }

    fn sights(bytes: &[u8]) -> Result<Vec<(&'static str, String, String)>> {
        let mut all = Vec::new();
        OplogLens.look(bytes, &mut |sight| all.push((sight.kind.name(), sight.namespace, sight.detail)))?;
        Ok(all)
    }

    #[test]
    fn what_destroys_is_seen_also_inside_transactions() {
        let uuid = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![1; 16] };
        let inner = doc! { "op": "d", "ns": "shop.users", "o": { "_id": 1 } };
        let log = [
            entry("i", "shop.users", doc! { "_id": 1 }),
            entry("d", "shop.users", doc! { "_id": 1 }),
            entry("c", "shop.$cmd", doc! { "drop": "orders" }),
            entry("c", "shop.$cmd", doc! { "dropDatabase": 1 }),
            entry(
                "c",
                "shop.$cmd",
                doc! { "renameCollection": "shop.a", "to": "shop.b", "dropTarget": uuid },
            ),
            entry(
                "c",
                "shop.$cmd",
                doc! { "renameCollection": "shop.a", "to": "shop.b", "dropTarget": false },
            ),
            entry("c", "shop.$cmd", doc! { "dropIndexes": "users", "index": "number_1" }),
            entry(
                "c",
                "admin.$cmd",
                doc! { "applyOps": [inner, { "op": "i", "ns": "shop.users", "o": {} }] },
            ),
            entry("c", "shop.$cmd", doc! { "drop": "system.buckets.metrics" }),
            entry("d", "shop.system.views", doc! { "_id": "shop.metrics" }),
            entry("d", "shop.system.views", doc! { "_id": "shop.active" }),
            entry("d", "shop.system.views", doc! { "_id": "shop.visits" }),
            entry("c", "shop.$cmd", doc! { "drop": "system.buckets.visits" }),
            entry("d", "shop.system.views", doc! { "_id": "shop.again" }),
            entry("i", "shop.system.views", doc! { "_id": "shop.again" }),
            entry("c", "shop.$cmd", doc! { "drop": "system.buckets.again" }),
            entry("d", "shop.system.buckets.prices", doc! { "_id": 1 }),
            entry("c", "shop.$cmd", doc! { "collMod": "system.buckets.prices" }),
            entry("c", "shop.$cmd", doc! { "drop": "system.views" }),
            entry("d", "config.transactions", doc! { "_id": 1 }),
            entry("d", "local.oplog.rs", doc! { "_id": 1 }),
            entry("c", "config.$cmd", doc! { "drop": "cache.chunks.shop.users" }),
            entry("n", "", doc! { "msg": "periodic noop" }),
        ]
        .concat();
        let expected = [
            ("delete", "shop.users", ""),
            ("drop", "shop.orders", ""),
            ("drop database", "shop", ""),
            ("rename over", "shop.b", "by shop.a"),
            ("drop indexes", "shop.users", "number_1"),
            ("delete", "shop.users", ""),
            ("drop", "shop.metrics", ""),
            ("drop", "shop.active", ""),
            ("drop", "shop.visits", ""),
            ("drop", "shop.again", ""),
            ("drop", "shop.again", ""),
            ("delete", "shop.prices", ""),
            ("collMod", "shop.prices", ""),
            ("drop", "shop", "every view"),
        ];
        let found = sights(&log).unwrap();
        let found: Vec<_> =
            found.iter().map(|(kind, ns, detail)| (*kind, ns.as_str(), detail.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn hostile_bytes_are_errors_and_never_panic() {
        let whole = entry("c", "a.$cmd", doc! { "applyOps": [{ "op": "d", "ns": "a.b", "o": {} }] });
        assert!(sights(&doc! { "op": "d" }.to_vec().unwrap()).is_err(), "an entry without ts");
        for index in 0..whole.len() {
            let _ = sights(&whole[..index]);
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[index] ^= 1 << bit;
                let _ = sights(&damaged);
            }
        }
    }
}
