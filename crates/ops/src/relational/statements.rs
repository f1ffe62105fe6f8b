//! Which statements cost most, with what to do about them.
//!
//! The server adds up by itself what each statement costs whatever its values are; here shares and means are reckoned, and what shows in the
//! numbers alone is advised. Judging is pure. Reads only.

use mainstay_engine::{RelationalInspection, StatementCost, StatementCosts, StatementRequest};
use mainstay_model::Result;
use serde::Serialize;

use super::shown;
use crate::shape::Literals;

/// From this share of blocks found in memory on there is nothing to say. As pghero has it.
const HIT_RATIO_MIN: f64 = 0.99;
/// Blocks read by one call from which it is worth saying: 8 MiB.
const BLOCKS_READ_MIN: f64 = 1_024.0;

/// What a statement costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatementGroup {
    /// The server's number of it.
    pub id: String,
    /// Where it runs.
    pub database: Option<String>,
    /// Whose it is.
    pub user: Option<String>,
    /// The statement; `None` when the role may not see it.
    pub statement: Option<String>,
    /// How often it ran.
    pub calls: u64,
    /// For how long in all, in milliseconds.
    pub total_ms: f64,
    /// Of what all statements took, from 0 to 1.
    pub share: f64,
    /// On average.
    pub mean_ms: f64,
    /// At most.
    pub max_ms: f64,
    /// Rows for each call.
    pub rows_per_call: f64,
    /// Share of the blocks found in the server's memory; `None` when it needed none.
    pub hit_ratio: Option<f64>,
    /// Blocks read for each call.
    pub blocks_read_per_call: f64,
    /// Blocks of temporary files written for each call.
    pub temporary_blocks_per_call: f64,
    /// WAL made by each call, in bytes.
    pub wal_bytes_per_call: f64,
    /// What could be done, one sentence each.
    pub advice: Vec<String>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatementReport {
    /// The dearest first.
    pub groups: Vec<StatementGroup>,
    /// How many are left out.
    pub groups_left_out: u64,
    /// What all statements took, in milliseconds.
    pub total_ms: f64,
    /// For how long the server has counted, in seconds.
    pub since_seconds: Option<u64>,
    /// How often the server forgot statements for want of room.
    pub forgotten: Option<u64>,
}

/// Reads and reckons.
///
/// # Errors
/// `Precondition` when the server does not keep statements; the server's.
pub async fn report(
    inspection: &dyn RelationalInspection,
    request: StatementRequest,
    literals: Literals,
) -> Result<StatementReport> {
    Ok(reckon(&inspection.statements(request).await?, literals))
}

/// Reckons what was read.
pub fn reckon(costs: &StatementCosts, literals: Literals) -> StatementReport {
    let groups: Vec<StatementGroup> =
        costs.list.iter().map(|cost| group(cost, costs.total_ms, literals)).collect();
    StatementReport {
        groups_left_out: costs.count.saturating_sub(groups.len() as u64),
        groups,
        total_ms: costs.total_ms,
        since_seconds: costs.since_seconds,
        forgotten: costs.forgotten,
    }
}

fn group(cost: &StatementCost, total_ms: f64, literals: Literals) -> StatementGroup {
    let each = |amount: u64| amount as f64 / cost.calls.max(1) as f64;
    let blocks = cost.blocks_hit.saturating_add(cost.blocks_read);
    let mut group = StatementGroup {
        id: cost.id.clone(),
        database: cost.database.clone(),
        user: cost.user.clone(),
        statement: cost.statement.as_ref().map(|statement| shown(statement, literals)),
        calls: cost.calls,
        total_ms: cost.total_ms,
        share: if total_ms > 0.0 { cost.total_ms / total_ms } else { 0.0 },
        mean_ms: cost.mean_ms,
        max_ms: cost.max_ms,
        rows_per_call: each(cost.rows),
        hit_ratio: (blocks > 0).then(|| cost.blocks_hit as f64 / blocks as f64),
        blocks_read_per_call: each(cost.blocks_read),
        temporary_blocks_per_call: each(cost.temporary_blocks_written),
        wal_bytes_per_call: each(cost.wal_bytes),
        advice: Vec::new(),
    };
    group.advice = advice(&group);
    group
}

fn advice(group: &StatementGroup) -> Vec<String> {
    let mut advice = Vec::new();
    if group.temporary_blocks_per_call >= 1.0 {
        advice.push(
            "it sorts or hashes more than fits into memory: an index in the order it wants, or more work_mem for its role".to_owned(),
        );
    }
    let reads_much = group.blocks_read_per_call >= BLOCKS_READ_MIN;
    if reads_much && group.hit_ratio.is_some_and(|ratio| ratio < HIT_RATIO_MIN) {
        advice.push(
            "it reads much that is not in memory: look with EXPLAIN (ANALYZE, BUFFERS) for a scan that an index would spare".to_owned(),
        );
    }
    advice
}

#[cfg(test)]
mod tests {
    use mainstay_engine::SqlText;

    use super::*;

    fn cost(calls: u64, total_ms: f64) -> StatementCost {
        StatementCost {
            id: "1".to_owned(),
            database: Some("shop".to_owned()),
            user: Some("app".to_owned()),
            statement: Some(SqlText::new("SELECT <string>".to_owned(), "SELECT 'canary'".to_owned())),
            calls,
            total_ms,
            mean_ms: 1.0,
            max_ms: 2.0,
            rows: 10,
            blocks_hit: 0,
            blocks_read: 0,
            temporary_blocks_written: 0,
            wal_bytes: 0,
        }
    }

    fn reckoned(list: Vec<StatementCost>) -> StatementReport {
        let costs = StatementCosts { list, count: 7, total_ms: 200.0, since_seconds: None, forgotten: None };
        reckon(&costs, Literals::Hidden)
    }

    #[test]
    fn shares_and_means_are_reckoned() {
        let report = reckoned(vec![cost(4, 50.0), cost(0, 0.0)]);
        assert_eq!((report.groups[0].share, report.groups[0].rows_per_call), (0.25, 2.5));
        assert_eq!((report.groups[1].rows_per_call, report.groups[1].hit_ratio), (10.0, None));
        assert_eq!(report.groups_left_out, 5);
        assert!(!format!("{report:?}").contains("canary"));
    }

    #[test]
    fn what_the_numbers_show_is_advised() {
        let cases = [
            (cost(4, 1.0), 0),
            (StatementCost { temporary_blocks_written: 4, ..cost(4, 1.0) }, 1),
            (StatementCost { temporary_blocks_written: 3, ..cost(4, 1.0) }, 0),
            (StatementCost { blocks_read: 8_000, blocks_hit: 9_000, ..cost(4, 1.0) }, 1),
            (StatementCost { blocks_read: 8_000, blocks_hit: 900_000, ..cost(4, 1.0) }, 0),
            (StatementCost { blocks_read: 80, blocks_hit: 0, ..cost(4, 1.0) }, 0),
        ];
        for (cost, count) in cases {
            assert_eq!(reckoned(vec![cost.clone()]).groups[0].advice.len(), count, "{cost:?}");
        }
    }
}
