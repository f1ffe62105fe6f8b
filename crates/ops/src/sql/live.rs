//! What the live database says of a table: how large it is, and whether it is large enough to matter.

use std::collections::BTreeMap;

use mainstay_engine::{RelationalInspection, TableName, TableUse};
use mainstay_migrations::ObjectName;
use mainstay_model::Result;
use serde::Serialize;

/// What a row takes beside its values: header and pointer (manual, "Database Page Layout").
const ROW_HEADER_BYTES: f64 = 28.0;
/// What the values of a row take where nobody knows.
const ROW_BYTES_GUESSED: f64 = 40.0;

/// A table of the live database. Numbers are the server's estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LiveTable {
    /// The table, with what is too long for its rows.
    pub bytes: u64,
    /// Its indexes.
    pub index_bytes: u64,
    /// Its rows.
    pub rows: u64,
}

/// The tables of the live database by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveTables(BTreeMap<TableName, LiveTable>);

impl LiveTables {
    /// Asks the server.
    ///
    /// # Errors
    /// The server's.
    pub async fn read(inspection: &dyn RelationalInspection) -> Result<Self> {
        Ok(Self::of(&inspection.tables().await?))
    }

    fn of(tables: &[TableUse]) -> Self {
        let named = |table: &TableUse| TableName { schema: table.schema.clone(), name: table.name.clone() };
        Self(tables.iter().map(|table| (named(table), measured(table))).collect())
    }

    /// The table of that name.
    pub fn get(&self, table: &TableName) -> Option<LiveTable> {
        self.0.get(table).copied()
    }

    /// The table that a statement may mean; of several the largest.
    pub fn find(&self, name: &ObjectName) -> Option<(&TableName, LiveTable)> {
        let may_be = |table: &TableName| {
            name.name == table.name && name.schema.as_ref().is_none_or(|schema| *schema == table.schema)
        };
        let meant = self.0.iter().filter(|(table, _)| may_be(table));
        meant.map(|(table, live)| (table, *live)).max_by_key(|(_, live)| live.bytes)
    }
}

/// The pages of the last vacuum or analyze say nothing of rows that were added since: rows are counted while the server runs.
fn measured(table: &TableUse) -> LiveTable {
    let rows = table.live_rows.max(table.rows.unwrap_or_default());
    let pages = table.pages.saturating_add(table.long_value_pages).saturating_mul(table.page_bytes);
    let by_rows = (ROW_HEADER_BYTES + table.row_bytes.unwrap_or(ROW_BYTES_GUESSED)) * rows as f64;
    LiveTable {
        bytes: pages.max(by_rows as u64),
        index_bytes: table.index_pages.saturating_mul(table.page_bytes),
        rows,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A live table of that size.
    pub(crate) fn live(tables: &[(&str, u64)]) -> LiveTables {
        let named = |name: &str| TableName { schema: "public".to_owned(), name: name.to_owned() };
        let sized = |bytes: u64| LiveTable { bytes, index_bytes: bytes / 2, rows: bytes / 100 };
        LiveTables(tables.iter().map(|(name, bytes)| (named(name), sized(*bytes))).collect())
    }

    #[test]
    fn a_name_without_a_schema_means_the_largest() {
        let mut tables = live(&[("orders", 10)]);
        let other = TableName { schema: "archive".to_owned(), name: "orders".to_owned() };
        tables.0.insert(other.clone(), LiveTable { bytes: 99, index_bytes: 0, rows: 1 });
        let name = |schema: Option<&str>, name: &str| ObjectName {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        };
        let found = |schema, table| tables.find(&name(schema, table)).map(|(table, _)| table.schema.clone());
        assert_eq!(found(None, "orders"), Some("archive".to_owned()));
        assert_eq!(found(Some("public"), "orders"), Some("public".to_owned()));
        assert_eq!(found(None, "users"), None);
    }
}
