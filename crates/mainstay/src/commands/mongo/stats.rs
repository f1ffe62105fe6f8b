//! `mongo stats`: what collections and their indexes take.

use clap::Args;
use mainstay_engine::CollectionKind;
use mainstay_model::{ByteSize, Count, ExitStatus, Result, StoreKind};
use mainstay_ops::statistics::{self, StatisticsRow};
use serde_json::{Map, Value, json};

use super::choice::CollectionArgs;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `mongo stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    collections: CollectionArgs,
}

/// Measures.
///
/// # Errors
/// `Precondition` when a name matches nothing; the server's.
pub(crate) async fn run(args: StatsArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let selection = args.collections.selection(session);
    let rows =
        statistics::statistics(documents.source.as_ref(), documents.inspection.as_ref(), &selection).await?;
    Ok(session.printer.report(&Sizes(rows)))
}

struct Sizes(Vec<StatisticsRow>);

/// What rows are added up to.
#[derive(Default)]
struct Totals {
    documents: u64,
    data: u64,
    storage: u64,
    indexes: u64,
    reusable: u64,
    cache: u64,
}

impl Sizes {
    fn totals(&self) -> Totals {
        self.0.iter().fold(Totals::default(), |sum, row| Totals {
            documents: sum.documents + row.statistics.documents,
            data: sum.data + row.statistics.data_bytes,
            storage: sum.storage + row.statistics.storage_bytes,
            indexes: sum.indexes + row.index_bytes(),
            reusable: sum.reusable + row.reusable_bytes(),
            cache: sum.cache + row.cache_bytes(),
        })
    }
}

impl Report for Sizes {
    fn json(&self) -> Map<String, Value> {
        let row = |row: &StatisticsRow| {
            json!({
                "namespace": row.namespace.to_string(),
                "kind": row.kind,
                "capped": row.capped,
                "documents": row.statistics.documents,
                "data_bytes": row.statistics.data_bytes,
                "document_bytes_mean": row.document_bytes_mean(),
                "storage_bytes": row.statistics.storage_bytes,
                "index_bytes": row.index_bytes(),
                "reusable_bytes": row.reusable_bytes(),
                "cache_bytes": row.cache_bytes(),
                "indexes": row.statistics.indexes,
            })
        };
        let totals = self.totals();
        let totals = json!({
            "documents": totals.documents, "data_bytes": totals.data, "storage_bytes": totals.storage,
            "index_bytes": totals.indexes, "reusable_bytes": totals.reusable, "cache_bytes": totals.cache,
        });
        Map::from_iter([
            ("collections".to_owned(), self.0.iter().map(row).collect()),
            ("totals".to_owned(), totals),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let mut table = Table::new(&[
            "COLLECTION",
            "KIND",
            "DOCUMENTS",
            "DATA",
            "AVERAGE",
            "STORAGE",
            "INDEXES",
            "REUSABLE",
            "IN CACHE",
        ]);
        let size = |bytes: u64| Cell::right(ByteSize(bytes).to_string());
        for row in &self.0 {
            let name = Cell::new(row.namespace.to_string());
            let kind = match row.kind {
                CollectionKind::View => {
                    table.row(vec![name, Cell::new("view").tone(Tone::Faint)]);
                    continue;
                }
                CollectionKind::TimeSeries => "time series, in buckets",
                CollectionKind::Collection if row.capped => "capped",
                CollectionKind::Collection => "",
            };
            table.row(vec![
                name,
                Cell::new(kind).tone(Tone::Faint),
                Cell::right(Count(row.statistics.documents).to_string()),
                size(row.statistics.data_bytes),
                row.document_bytes_mean().map_or_else(|| Cell::right("-"), size),
                size(row.statistics.storage_bytes),
                size(row.index_bytes()),
                size(row.reusable_bytes()),
                size(row.cache_bytes()),
            ]);
            for index in &row.statistics.indexes {
                let told = |bytes: Option<u64>| bytes.map_or_else(Cell::default, size);
                table.row(vec![
                    Cell::new(format!("  {}", index.name)).tone(Tone::Faint),
                    Cell::new("index").tone(Tone::Faint),
                    Cell::default(),
                    Cell::default(),
                    Cell::default(),
                    Cell::default(),
                    size(index.bytes),
                    told(index.reusable_bytes),
                    told(index.cache_bytes),
                ]);
            }
        }
        let totals = self.totals();
        table.row(vec![
            Cell::new("all").tone(Tone::Strong),
            Cell::default(),
            Cell::right(Count(totals.documents).to_string()),
            size(totals.data),
            Cell::default(),
            size(totals.storage),
            size(totals.indexes),
            size(totals.reusable),
            size(totals.cache),
        ]);
        table.render(look)
    }
}
