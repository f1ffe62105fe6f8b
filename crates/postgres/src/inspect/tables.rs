//! What tables take, from the server's statistics.
//!
//! Only catalogs and statistics are read, never a table or its file: `pg_relation_size` and its kin wait behind whoever has a table
//! locked. The width of rows is seen only of tables that the role may read (`pg_stats`), which is why it may be absent.

use mainstay_engine::TableUse;
use mainstay_model::Result;

use crate::session::Session;

const TABLES: &str = "\
    SELECT n.nspname, c.relname, c.relpages, c.reltuples::bigint AS rows, c.relnatts, s.n_live_tup, s.n_dead_tup, \
    current_setting('block_size') AS block, age(c.relfrozenxid) AS freeze_age, \
    (SELECT sum(x.relpages) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid) AS index_pages, \
    (SELECT t.relpages FROM pg_class t WHERE t.oid = c.reltoastrelid) AS long_pages, \
    (SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor') AS fill, \
    w.width, w.has_nulls, w.seen, \
    (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns, \
    floor(extract(epoch FROM clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum)))::bigint AS vacuumed, \
    floor(extract(epoch FROM clock_timestamp() - s.last_autovacuum))::bigint AS autovacuumed, \
    floor(extract(epoch FROM clock_timestamp() - greatest(s.last_analyze, s.last_autoanalyze)))::bigint AS analyzed \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_stat_user_tables s ON s.relid = c.oid \
    LEFT JOIN LATERAL (SELECT sum((1 - p.null_frac) * p.avg_width) AS width, bool_or(p.null_frac > 0) AS has_nulls, count(*) AS seen \
    FROM pg_stats p WHERE p.schemaname = n.nspname AND p.tablename = c.relname AND NOT p.inherited) w ON true \
    WHERE c.relkind IN ('r', 'm') ORDER BY c.relpages DESC, n.nspname, c.relname";

/// Every table that is not the server's own, the largest first.
pub(super) async fn read(session: &Session<'_>) -> Result<Vec<TableUse>> {
    let mut tables = Vec::new();
    for row in session.rows(TABLES).await? {
        let count = |column: &str| session.value::<u64>(&row, column).map(Option::unwrap_or_default);
        let seconds = |column: &str| -> Result<Option<u64>> {
            Ok(session.value::<i64>(&row, column)?.map(|seconds| u64::try_from(seconds).unwrap_or(0)))
        };
        let columns = session.value::<u32>(&row, "columns")?.unwrap_or_default();
        // Columns without statistics would be taken for columns without values.
        let is_whole = session.value::<u32>(&row, "seen")?.unwrap_or_default() >= columns;
        tables.push(TableUse {
            schema: session.text(&row, "nspname")?.to_owned(),
            name: session.text(&row, "relname")?.to_owned(),
            pages: count("relpages")?,
            index_pages: count("index_pages")?,
            long_value_pages: count("long_pages")?,
            page_bytes: count("block")?,
            // Minus one before the first vacuum or analyze.
            rows: session.value::<i64>(&row, "rows")?.and_then(|rows| u64::try_from(rows).ok()),
            live_rows: count("n_live_tup")?,
            dead_rows: count("n_dead_tup")?,
            columns,
            row_bytes: session.value::<f64>(&row, "width")?.filter(|_| is_whole),
            has_nulls: session.truth(&row, "has_nulls"),
            fill_percent: session.value::<u8>(&row, "fill")?.unwrap_or(100).clamp(10, 100),
            vacuumed_seconds: seconds("vacuumed")?,
            autovacuumed_seconds: seconds("autovacuumed")?,
            analyzed_seconds: seconds("analyzed")?,
            freeze_age: count("freeze_age")?,
        });
    }
    Ok(tables)
}
