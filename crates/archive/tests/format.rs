//! The format against files of the stock tools, and against every way to damage a small one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read as _;
use std::path::PathBuf;

use bytes::Bytes;
use mainstay_archive::{
    ArchiveReader, ArchiveWriter, Entry, EntryKind, Event, Fault, Header, Prelude, ReadError, Role, Summary,
    gzip,
};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if !gzip::is_gzip(&bytes) {
        return bytes;
    }
    let mut plain = Vec::new();
    gzip::Decoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    plain
}

/// Everything an archive holds: prelude, documents of each entry, sums.
type Contents = (Prelude, Vec<Vec<u8>>, Summary);

fn read(bytes: &[u8], piece_bytes: usize) -> Result<Contents, ReadError> {
    let mut reader = ArchiveReader::default();
    let (mut prelude, mut documents) = (None, Vec::new());
    for piece in bytes.chunks(piece_bytes) {
        reader.push(Bytes::copy_from_slice(piece));
        while let Some(event) = reader.event()? {
            match event {
                Event::Prelude(found) => {
                    documents = vec![Vec::new(); found.entries.len()];
                    prelude = Some(found);
                }
                Event::Documents { entry, bytes, .. } => documents[entry].extend_from_slice(&bytes),
                Event::Opened { .. } | Event::Closed { .. } => {}
            }
        }
    }
    let summary = reader.end()?;
    Ok((prelude.unwrap(), documents, summary))
}

#[test]
fn files_of_the_stock_tools_are_read_however_they_are_cut() {
    for name in [
        "full.archive",
        "full.archive.gz",
        "db_shop.archive",
        "coll_types.archive",
        "coll_empty.archive",
        "view_only.archive",
    ] {
        let bytes = fixture(name);
        let whole = read(&bytes, bytes.len()).unwrap();
        for piece_bytes in [1, 3, 7, 64, 1_000] {
            assert_eq!(read(&bytes, piece_bytes).unwrap(), whole, "{name} in pieces of {piece_bytes}");
        }
    }
}

#[test]
fn a_full_dump_holds_what_its_makers_put_in() {
    let (prelude, documents, summary) = read(&fixture("full.archive"), 1 << 20).unwrap();
    assert_eq!(prelude.header.server_version, "6.0.27");
    assert_eq!(prelude.header.concurrent_collections, 4);
    let find = |database: &str, collection: &str| {
        prelude
            .entries
            .iter()
            .position(|entry| entry.database == database && entry.collection == collection)
            .unwrap()
    };
    let roles: Vec<_> =
        prelude.entries.iter().map(Entry::role).filter(|role| *role != Role::Ordinary).collect();
    for role in [Role::Users, Role::Roles, Role::AuthVersion] {
        assert!(roles.contains(&role), "{role:?} in {roles:?}");
    }
    let series = find("shop", "metrics_ts");
    assert_eq!(prelude.entries[series].kind, EntryKind::TimeSeries);
    assert!(summary.entries[series].documents > 0);
    assert_eq!(prelude.entries[find("shop", "adults")].kind, EntryKind::View);
    // The directory form of the same server holds the same documents.
    assert_eq!(documents[find("shop", "types")], fixture("dir_full/shop/types.bson"));
    assert_eq!(documents[find("shop", "users")], fixture("dir_full/shop/users.bson"));
    assert_eq!(
        prelude.entries[find("shop", "coll_fr")].metadata.as_bytes(),
        fixture("dir_full/shop/coll_fr.metadata.json")
    );
}

#[test]
fn edge_cases_end_as_with_the_stock_tool() {
    for name in ["ok", "multimember.gz", "extra_meta_field", "eof_only_empty", "relaxed_json"] {
        let bytes = fixture(&format!("edge/{name}"));
        assert!(read(&bytes, 100).is_ok(), "{name}");
    }
    let fault = |name: &str| read(&fixture(&format!("edge/{name}")), 100).unwrap_err().fault;
    assert!(matches!(fault("badcrc"), Fault::Checksum { .. }));
    assert!(matches!(fault("missing_eof"), Fault::Unclosed(_)));
    assert!(matches!(fault("reopened"), Fault::Reopened(_)));
    assert!(matches!(fault("trailing_term"), Fault::StrayTerminator));
    assert!(matches!(fault("trunc_mid"), Fault::Truncated(_)));
    assert!(matches!(fault("crc_int32"), Fault::BlockHead(_)));
    // Its frame is whole; what is wrong lies inside the document, which whoever inserts it will find.
    let found = read(&fixture("edge/malformed_body_doc"), 100);
    assert!(
        found.is_ok()
            || matches!(found, Err(ReadError { fault: Fault::Terminator(_) | Fault::Length(_), .. }))
    );
}

fn text_element(key: &str, text: &str) -> Vec<u8> {
    let length = i32::try_from(text.len() + 1).unwrap().to_le_bytes();
    [&[2], key.as_bytes(), &[0], &length, text.as_bytes(), &[0]].concat()
}

fn document(elements: &[Vec<u8>]) -> Vec<u8> {
    let body = elements.concat();
    let length = i32::try_from(body.len() + 5).unwrap().to_le_bytes();
    [&length[..], &body, &[0]].concat()
}

const TERM: [u8; 4] = [0xFF; 4];

fn prelude_bytes() -> Vec<u8> {
    let entry = document(&[text_element("db", "a"), text_element("collection", "b")]);
    [&mainstay_archive::MAGIC[..], &document(&[text_element("server_version", "6.0.27")]), &entry, &TERM]
        .concat()
}

fn head(collection: &str, closing: bool, more: &[Vec<u8>]) -> Vec<u8> {
    let flag = [&[8][..], b"EOF\0", &[u8::from(closing)]].concat();
    let checksum = [&[0x12][..], b"CRC\0", &[0; 8]].concat();
    let mut elements = vec![flag, checksum, text_element("collection", collection), text_element("db", "a")];
    elements.extend_from_slice(more);
    document(&elements)
}

#[test]
fn every_broken_rule_has_its_own_error() {
    let prelude = prelude_bytes();
    let closed = [head("b", true, &[]), TERM.to_vec()].concat();
    let fault = |parts: &[&[u8]]| read(&parts.concat(), 9).unwrap_err().fault;
    assert!(read(&[&prelude[..], &closed].concat(), 9).is_ok());
    assert_eq!(fault(&[b"BZh9"]), Fault::Magic);
    assert_eq!(read(&[], 9).unwrap_err().fault, Fault::Magic);
    assert_eq!(fault(&[&prelude[..4], &TERM]), Fault::NoHeader);
    assert!(matches!(
        fault(&[&prelude[..4], &document(&[text_element("concurrent_collections", "x")])]),
        Fault::Header(_)
    ));
    assert!(matches!(fault(&[&prelude, &head("c", false, &[])]), Fault::Unlisted(_)));
    assert!(matches!(
        fault(&[&prelude, &head("b", false, &[text_element("zstd", "1")])]),
        Fault::BlockHead(_)
    ));
    assert!(matches!(
        fault(&[&prelude, &head("b", true, &[]), &[5, 0, 0, 0, 0], &TERM]),
        Fault::ClosingData(_)
    ));
    assert!(matches!(fault(&[&prelude, &closed, &closed]), Fault::Reopened(_)));
    assert!(matches!(fault(&[&prelude, &closed, &TERM]), Fault::StrayTerminator));
    assert!(matches!(fault(&[&prelude]), Fault::Unclosed(_)));
    assert!(matches!(fault(&[&prelude, &head("b", false, &[])]), Fault::Truncated(_)));
    assert_eq!(
        fault(&[&prelude, &head("b", false, &[]), &[1, 0, 0, 1]]),
        Fault::Length(16 * 1024 * 1024 + 1)
    );
    assert_eq!(fault(&[&prelude, &head("b", false, &[]), &[4, 0, 0, 0]]), Fault::Length(4));
    assert_eq!(fault(&[&prelude, &head("b", false, &[]), &[5, 0, 0, 0, 1]]), Fault::Terminator(5));
    let entry = document(&[text_element("db", "a"), text_element("collection", "b")]);
    assert!(matches!(fault(&[&prelude[..prelude.len() - 4], &entry, &TERM]), Fault::Listed(_)));
    let nameless = document(&[text_element("db", "a")]);
    assert!(matches!(fault(&[&prelude[..prelude.len() - 4], &nameless, &TERM]), Fault::Entry(_)));
}

#[test]
fn a_fault_is_told_where_it_is() {
    let prelude = prelude_bytes();
    let block = head("b", false, &[]);
    let bytes = [&prelude[..], &block, &[5, 0, 0, 0, 0], &[5, 0, 0, 0, 0], &[5, 0, 0, 0, 7]].concat();
    let expected = (prelude.len() + block.len() + 10) as u64;
    for piece_bytes in [1, 2, 6, 1_000] {
        assert_eq!(read(&bytes, piece_bytes).unwrap_err().offset, expected, "pieces of {piece_bytes}");
    }
}

#[test]
fn every_truncation_and_every_flip_is_an_error_or_changes_no_document() {
    for name in ["coll_types.archive", "coll_empty.archive", "view_only.archive", "edge/ok"] {
        let bytes = fixture(name);
        let (_, documents, _) = read(&bytes, bytes.len()).unwrap();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end], 4_096).is_err(), "{name} cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                // What tells nothing of documents (names, metadata, versions) has no checksum.
                if let Ok((_, found, _)) = read(&damaged, 4_096) {
                    assert_eq!(found, documents, "{name}, bit {bit} of byte {at}");
                }
            }
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let (prelude, documents, summary) = read(&fixture("full.archive"), 1 << 20).unwrap();
    let header = Header { concurrent_collections: 1, ..prelude.header };
    let (mut writer, mut bytes) = ArchiveWriter::begin(&header, &prelude.entries).unwrap();
    let mut order: Vec<usize> = (0..prelude.entries.len()).collect();
    order.sort_by_key(|entry| match prelude.entries[*entry].role() {
        Role::Users | Role::Roles | Role::AuthVersion => 0,
        Role::Ordinary => 1,
        Role::Oplog => 2,
    });
    for entry in order {
        if !documents[entry].is_empty() {
            bytes.extend(writer.documents(entry, &documents[entry]).unwrap());
            bytes.extend(&documents[entry]);
        }
        bytes.extend(writer.close(entry).unwrap());
    }
    writer.end().unwrap();
    let (again, documents_again, summary_again) = read(&bytes, 1 << 16).unwrap();
    assert_eq!((again.entries, again.header), (prelude.entries, header));
    assert_eq!((documents_again, summary_again.entries), (documents, summary.entries));
    assert_eq!(summary_again.open_max, 1);
}
