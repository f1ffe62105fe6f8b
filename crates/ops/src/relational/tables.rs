//! Which tables hold dead weight: rows that are dead and not yet removed, and pages that rows no longer fill.
//!
//! Bloat is an estimate: how many pages the rows would take by their mean width, against the pages there are, both of the last vacuum or
//! analyze. It knows nothing of rows that were added since, and little of tables of few columns with many sizes; a table is judged by it
//! only when it is large. Estimating and judging are pure. Reads only.

use mainstay_engine::{RelationalInspection, TableUse};
use mainstay_model::{ByteSize, Count, Finding, Result};
use serde::Serialize;

use super::finding;
use crate::bounds::Bounds;

/// Share of dead rows among all.
const DEAD: Bounds = Bounds { warning: 0.1, critical: 0.3 };
/// So many must be dead before a share of them means anything.
const DEAD_ROWS_MIN: u64 = 10_000;
/// Share of a table that rows do not fill.
const BLOAT: Bounds = Bounds { warning: 0.5, critical: 0.8 };
/// Smaller tables are not worth the trouble.
const BLOAT_TABLE_BYTES_MIN: u64 = 200 * 1024 * 1024;

/// Bytes of a page that hold no rows: its header (manual, "Database Page Layout").
const PAGE_HEADER_BYTES: f64 = 24.0;
/// Bytes of a row's header, alignment included, and of the pointer to it.
const ROW_HEADER_BYTES: u64 = 24;
const ROW_POINTER_BYTES: u64 = 4;
/// To which rows are aligned.
const ALIGNMENT_BYTES: u64 = 8;

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableWeight {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The table itself.
    pub bytes: u64,
    /// Its indexes.
    pub index_bytes: u64,
    /// What is too long for its rows.
    pub long_value_bytes: u64,
    /// Rows that are alive.
    pub live_rows: u64,
    /// Rows that are dead and not yet removed.
    pub dead_rows: u64,
    /// Their share, from 0 to 1.
    pub dead_ratio: f64,
    /// Bytes that rows do not fill, estimated; `None` when there are no statistics that this role may read.
    pub bloat_bytes: Option<u64>,
    /// Their share of the table, from 0 to 1.
    pub bloat_ratio: Option<f64>,
    /// Seconds since the last vacuum.
    pub vacuumed_seconds: Option<u64>,
    /// Seconds since the last vacuum that nobody asked for.
    pub autovacuumed_seconds: Option<u64>,
    /// Seconds since the last analyze.
    pub analyzed_seconds: Option<u64>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct TableReport {
    /// The tables, those with the most dead weight first.
    pub tables: Vec<TableWeight>,
    /// How many are left out.
    pub left_out: usize,
    /// Tables with rows whose bloat cannot be estimated.
    pub not_estimated: usize,
    /// What is bad about it.
    pub findings: Vec<Finding>,
}

/// Reads and judges; `tables_max` of them are told, findings of all.
///
/// # Errors
/// The server's.
pub async fn observe(inspection: &dyn RelationalInspection, tables_max: usize) -> Result<TableReport> {
    Ok(judge(&inspection.tables().await?, tables_max))
}

/// Judges what was read.
pub fn judge(tables: &[TableUse], tables_max: usize) -> TableReport {
    let mut weights: Vec<TableWeight> = tables.iter().map(weigh).collect();
    weights.sort_by_key(|table| std::cmp::Reverse((dead_weight(table), table.bytes)));
    let mut findings: Vec<Finding> = weights.iter().filter_map(dead_rows).collect();
    findings.extend(weights.iter().filter_map(bloat));
    let not_estimated = weights.iter().filter(|table| table.bytes > 0 && table.bloat_bytes.is_none()).count();
    let left_out = weights.len().saturating_sub(tables_max);
    weights.truncate(tables_max);
    TableReport { tables: weights, left_out, not_estimated, findings }
}

fn weigh(table: &TableUse) -> TableWeight {
    let bytes = |pages: u64| pages.saturating_mul(table.page_bytes);
    let all = table.live_rows.saturating_add(table.dead_rows);
    let bloat_pages = estimated_pages(table).map(|needed| table.pages.saturating_sub(needed));
    TableWeight {
        schema: table.schema.clone(),
        table: table.name.clone(),
        bytes: bytes(table.pages),
        index_bytes: bytes(table.index_pages),
        long_value_bytes: bytes(table.long_value_pages),
        live_rows: table.live_rows,
        dead_rows: table.dead_rows,
        dead_ratio: table.dead_rows as f64 / all.max(1) as f64,
        bloat_bytes: bloat_pages.map(bytes),
        bloat_ratio: bloat_pages.map(|pages| pages as f64 / table.pages.max(1) as f64),
        vacuumed_seconds: table.vacuumed_seconds,
        autovacuumed_seconds: table.autovacuumed_seconds,
        analyzed_seconds: table.analyzed_seconds,
    }
}

/// How many pages the rows would take.
fn estimated_pages(table: &TableUse) -> Option<u64> {
    let (rows, width) = (table.rows?, table.row_bytes?);
    // One bit for each column where any value is absent.
    let nulls = if table.has_nulls { u64::from(table.columns).div_ceil(8) } else { 0 };
    let aligned = |bytes: u64| bytes.next_multiple_of(ALIGNMENT_BYTES);
    let row = aligned(ROW_HEADER_BYTES - 1 + nulls) + aligned(width.ceil() as u64) + ROW_POINTER_BYTES;
    let room = (table.page_bytes as f64 - PAGE_HEADER_BYTES) * f64::from(table.fill_percent) / 100.0;
    let rows_per_page = (room / row as f64).floor().max(1.0);
    Some((rows as f64 / rows_per_page).ceil() as u64)
}

/// By what tables are sorted: bytes that could be given back or filled again.
fn dead_weight(table: &TableWeight) -> u64 {
    let dead = (table.bytes as f64 * table.dead_ratio) as u64;
    dead.max(table.bloat_bytes.unwrap_or(0))
}

fn dead_rows(table: &TableWeight) -> Option<Finding> {
    if table.dead_rows < DEAD_ROWS_MIN {
        return None;
    }
    let severity = DEAD.severity(table.dead_ratio)?;
    let name = format!("{}.{}", table.schema, table.table);
    Some(finding(
        "dead_rows",
        severity,
        &name,
        format!(
            "{} of {} rows are dead ({:.0} %)",
            Count(table.dead_rows),
            Count(table.live_rows.saturating_add(table.dead_rows)),
            table.dead_ratio * 100.0
        ),
        format!(
            "`VACUUM (VERBOSE) {name};` removes them unless an old transaction or slot may still see them (`mainstay pg activity`, `mainstay pg slots`)"
        ),
    ))
}

fn bloat(table: &TableWeight) -> Option<Finding> {
    if table.bytes < BLOAT_TABLE_BYTES_MIN {
        return None;
    }
    let severity = BLOAT.severity(table.bloat_ratio?)?;
    let name = format!("{}.{}", table.schema, table.table);
    Some(finding(
        "bloat",
        severity,
        &name,
        format!(
            "about {} of {} hold no rows ({:.0} %)",
            ByteSize(table.bloat_bytes?),
            ByteSize(table.bytes),
            table.bloat_ratio? * 100.0
        ),
        "new rows will fill them; only `VACUUM FULL`, which locks the table, or pg_repack gives them back to the disk",
    ))
}

#[cfg(test)]
mod tests {
    use mainstay_model::Severity;

    use super::*;

    fn table(pages: u64, rows: Option<u64>, width: Option<f64>) -> TableUse {
        TableUse {
            schema: "public".to_owned(),
            name: "t".to_owned(),
            pages,
            index_pages: 1,
            long_value_pages: 0,
            page_bytes: 8_192,
            rows,
            live_rows: rows.unwrap_or(0),
            dead_rows: 0,
            columns: 2,
            row_bytes: width,
            has_nulls: false,
            fill_percent: 100,
            vacuumed_seconds: None,
            autovacuumed_seconds: None,
            analyzed_seconds: None,
            freeze_age: 0,
        }
    }

    #[test]
    fn pages_are_estimated_from_rows_and_their_width() {
        // 24 of header, 8 of values, 4 of pointer: 226 rows to a page.
        let cases = [
            (table(10, Some(2_260), Some(4.0)), Some(10)),
            (table(10, Some(2_261), Some(8.0)), Some(11)),
            (table(10, Some(0), Some(8.0)), Some(0)),
            (table(10, None, Some(8.0)), None),
            (table(10, Some(5), None), None),
            // Rows wider than a page lie elsewhere; nothing divides by zero.
            (table(10, Some(5), Some(1e9)), Some(5)),
            (TableUse { fill_percent: 50, ..table(10, Some(2_260), Some(4.0)) }, Some(20)),
        ];
        for (table, pages) in cases {
            assert_eq!(estimated_pages(&table), pages, "{table:?}");
        }
    }

    #[test]
    fn dead_rows_and_bloat_have_their_bounds() {
        let dead = |live_rows, dead_rows| TableUse { live_rows, dead_rows, ..table(10, None, None) };
        let large = BLOAT_TABLE_BYTES_MIN / 8_192;
        let filled = |pages: u64, of: u64| table(pages, Some(226 * of), Some(8.0));
        let cases = [
            (dead(0, 9_999), None),
            (dead(90_000, 10_000), Some(("postgres.dead_rows", Severity::Warning))),
            (dead(100_000, 10_000), None),
            (dead(70_000, 30_000), Some(("postgres.dead_rows", Severity::Critical))),
            (filled(large - 1, 1), None),
            (filled(large, large), None),
            (filled(large, large / 2), Some(("postgres.bloat", Severity::Warning))),
            (filled(large, large / 6), Some(("postgres.bloat", Severity::Critical))),
        ];
        for (table, expected) in cases {
            let report = judge(std::slice::from_ref(&table), 10);
            let found = report.findings.first().map(|finding| (finding.id.as_str(), finding.severity));
            assert_eq!(found, expected, "{table:?}");
        }
    }

    #[test]
    fn those_with_the_most_dead_weight_come_first() {
        let named = |name: &str, table: TableUse| TableUse { name: name.to_owned(), ..table };
        let tables = [
            named("full", table(1_000, Some(226_000), Some(8.0))),
            named("empty", table(500, Some(0), Some(8.0))),
            named("unknown", table(10, None, None)),
        ];
        let report = judge(&tables, 2);
        let names: Vec<&str> = report.tables.iter().map(|table| table.table.as_str()).collect();
        assert_eq!((names, report.left_out, report.not_estimated), (vec!["empty", "full"], 1, 1));
    }
}
