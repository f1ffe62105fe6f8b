//! What oplog entries destroyed, for whoever looks for the moment before an accident.
//!
//! Looks at a few fields of each entry and decodes nothing else. Relies on the entry forms of MongoDB 4.2 to 8.0: commands are `op: "c"` with
//! the command as first field of `o`; transactions are `applyOps` with entries inside.

use mainstay_engine::{ChangeLens, ChangeSight, SightKind, document_frames};
use mainstay_model::{Error, ErrorKind, OpTime, Result};

use super::tail::position_of;
use crate::raw::{self, Element, Malformed, kind};

/// How deep entries may lie in entries: transactions hold operations, and nothing deeper.
const DEPTH_MAX: usize = 4;

/// Looks into stored oplogs.
#[derive(Debug, Clone, Copy, Default)]
pub struct OplogLens;

impl ChangeLens for OplogLens {
    fn look(&self, entries: &[u8], found: &mut dyn FnMut(ChangeSight)) -> Result<()> {
        let corrupt = |what: String| Error::new(ErrorKind::Corrupt, format!("the log is no oplog: {what}"));
        for frame in document_frames(entries) {
            let entry = frame.map_err(|error| corrupt(error.to_string()))?;
            let at = position_of(entry).map_err(|error| corrupt(error.to_string()))?;
            see(entry, at, DEPTH_MAX, found)
                .map_err(|error| corrupt(format!("{error} in the entry at {at}")))?;
        }
        Ok(())
    }
}

fn see(entry: &[u8], at: OpTime, depth: usize, found: &mut dyn FnMut(ChangeSight)) -> Result<(), Malformed> {
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
    let mut tell =
        |kind, namespace: String, detail: String| found(ChangeSight { at, kind, namespace, detail });
    match (op, object) {
        ("d", _) => tell(SightKind::Delete, namespace.to_owned(), String::new()),
        ("c", Some(object)) => {
            let Some(command) = raw::elements(object).next().transpose()? else { return Ok(()) };
            let database = namespace.strip_suffix(".$cmd").unwrap_or(namespace);
            let text = command.text().unwrap_or_default();
            let collection = format!("{database}.{text}");
            match command.key {
                b"drop" => tell(SightKind::Drop, collection, String::new()),
                b"dropDatabase" => tell(SightKind::DropDatabase, database.to_owned(), String::new()),
                b"collMod" => tell(SightKind::CollMod, collection, String::new()),
                b"dropIndexes" | b"deleteIndexes" | b"dropIndex" | b"deleteIndex" => {
                    let index = raw::find(object, "index")?.and_then(|index| index.text().map(str::to_owned));
                    tell(SightKind::DropIndexes, collection, index.unwrap_or_default());
                }
                b"renameCollection" => {
                    let replaces = raw::find(object, "dropTarget")?
                        .is_some_and(|target| target.kind == kind::BINARY || target.number() == Some(1));
                    let to = raw::find(object, "to")?.and_then(|to| to.text().map(str::to_owned));
                    if let (true, Some(to)) = (replaces, to) {
                        tell(SightKind::RenameOver, to, format!("by {text}"));
                    }
                }
                b"applyOps" if command.kind == kind::ARRAY && depth > 0 => {
                    for inner in raw::elements(command.value) {
                        let inner = inner?;
                        if inner.kind == kind::DOCUMENT {
                            see(inner.value, at, depth - 1, found)?;
                        }
                    }
                }
                _ => {}
            }
        }
        _ => {}
    }
    Ok(())
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
