//! `backup show`: what a set holds.

use std::collections::BTreeMap;

use mainstay_engine::CollectionKind;
use mainstay_model::{ByteSize, Count, ExitStatus, Result};
use mainstay_ops::contents::{DocumentSetContents, SetContents};
use mainstay_repository::Set;
use serde_json::{Map, Value, json};

use super::{SetArgs, label, moment_of, set_json};
use crate::commands::{append_only, cluster, keyfile, logical};
use crate::printer::shown::moment;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Shows one set.
///
/// # Errors
/// `NotFound` when there is none; the repository's.
pub(super) async fn run(args: &SetArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let set = args.find(&repository, session).await?;
    match SetContents::of(&set)? {
        SetContents::Documents(contents) => Ok(session.printer.report(&Shown { set, contents: *contents })),
        SetContents::Cluster(contents) => {
            Ok(session.printer.report(&cluster::Shown { set, contents: *contents }))
        }
        SetContents::KeyFile(contents) => {
            Ok(session.printer.report(&keyfile::Shown::new(set, *contents, session)))
        }
        SetContents::AppendOnly(contents) => {
            Ok(session.printer.report(&append_only::Shown { set, contents: *contents }))
        }
        SetContents::Logical(contents) => {
            Ok(session.printer.report(&logical::Shown { set, contents: *contents }))
        }
    }
}

struct Shown {
    set: Set,
    contents: DocumentSetContents,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut set = set_json(&self.set, &self.contents);
        set["contents"] = json!(self.contents.collections);
        set["objects"] = json!(self.set.manifest().objects);
        Map::from_iter([("set".to_owned(), set)])
    }

    fn text(&self, look: &Look) -> String {
        let manifest = self.set.manifest();
        let contents = &self.contents;
        let mut text = format!("{} {}\n", look.paint(Tone::Strong, "backup set"), self.set.id());
        let facts = [
            (
                "of",
                format!(
                    "{} {} at {} in {}",
                    self.set.kind(),
                    contents.server.version,
                    contents.server.address,
                    contents.environment
                ),
            ),
            ("taken", format!("{} to {}", moment(manifest.begun_at), moment(manifest.completed_at))),
            ("moment", moment_of(&contents.consistency)),
            ("accounts", accounts_of(contents)),
            ("digest", contents.digest().to_string()),
            ("manifest", self.set.manifest_blake3().to_string()),
        ];
        for (name, value) in facts {
            text.push_str(&format!("  {} {value}\n", label(look, name)));
        }
        let stored: BTreeMap<_, _> =
            manifest.objects.iter().map(|object| (&object.name, object.stored_bytes)).collect();
        let mut table =
            Table::new(&["NAMESPACE", "KIND", "DOCUMENTS", "SIZE", "STORED", "PARTS", "INDEXES", "MOMENT"]);
        for record in &contents.collections {
            let digest = record.digest();
            let bytes: u64 = record.parts.iter().filter_map(|part| stored.get(&part.object)).sum();
            table.row(vec![
                record.namespace.to_string().into(),
                Cell::new(match record.kind {
                    CollectionKind::Collection if record.capped => "capped",
                    CollectionKind::Collection => "collection",
                    CollectionKind::View => "view",
                    CollectionKind::TimeSeries => "time series",
                }),
                Cell::right(Count(digest.documents).to_string()),
                Cell::right(ByteSize(digest.bytes).to_string()),
                Cell::right(ByteSize(bytes).to_string()),
                Cell::right(record.parts.len().to_string()),
                Cell::right(record.index_count.to_string()),
                Cell::new(if record.consistency == contents.consistency {
                    "the set's".to_owned()
                } else {
                    moment_of(&record.consistency)
                }),
            ]);
        }
        text + &table.render(look)
    }
}

/// How many users and roles a set holds; who they are is told by nothing but a plan that restores them.
fn accounts_of(contents: &DocumentSetContents) -> String {
    match &contents.accounts {
        None => "no users and roles".to_owned(),
        Some(accounts) => {
            format!("{} users, {} roles", accounts.users.digest.documents, accounts.roles.digest.documents)
        }
    }
}
