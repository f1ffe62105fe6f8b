//! What the captured WAL allows: PostgreSQL's part of `backup list`.

use mainstay_model::{ByteSize, Lsn, Timestamp};
use mainstay_ops::wal::ranges::{TimelineWal, WalRanges};

use super::log::damaged_text;
use crate::printer::shown::{ago, moment};
use crate::printer::{Cell, Look, Table, Tone};

/// For people; nothing when nothing was captured.
pub(super) fn ranges_text(wal: &WalRanges, now: Timestamp, look: &Look) -> String {
    let mut text = String::new();
    for server in &wal.servers {
        for timeline in &server.timelines {
            let change = timeline.last_change_at.map_or_else(
                || "no change in its newest slices".to_owned(),
                |at| format!("last change {}, {}", moment(at), ago(at, now)),
            );
            text.push_str(&format!(
                "\n{} {} in {}, timeline {}: newest recovery point LSN {} ({change})\n",
                look.paint(Tone::Strong, "WAL of"),
                server.server,
                server.environment,
                timeline.timeline,
                timeline.recovery_point,
            ));
            text.push_str(&table(timeline).render(look));
        }
    }
    if !wal.damaged.is_empty() {
        text.push('\n');
        text.push_str(&damaged_text(&wal.damaged, look));
    }
    text
}

fn table(timeline: &TimelineWal) -> Table {
    let mut rows: Vec<(Lsn, Vec<Cell>)> = Vec::new();
    for range in &timeline.ranges {
        let from = format!("{} ({})", range.from, moment(range.from_at));
        let why = format!("set {}", range.set);
        rows.push((range.from, row("restorable", Tone::Good, (from, range.from), range.through, why)));
    }
    for part in &timeline.without_set {
        let why = "take a backup: `mainstay backup create --store postgres`".to_owned();
        rows.push((
            part.from,
            row("no set", Tone::Warn, (part.from.to_string(), part.from), part.through, why),
        ));
    }
    for gap in &timeline.gaps {
        rows.push((
            gap.from,
            row("gap", Tone::Bad, (gap.from.to_string(), gap.from), gap.until, gap.why.clone()),
        ));
    }
    rows.sort_by_key(|(from, _)| *from);
    let mut table = Table::new(&["", "FROM LSN", "TO LSN", "LENGTH", ""]);
    for (_, cells) in rows {
        table.row(cells);
    }
    table
}

fn row(what: &'static str, tone: Tone, (shown, from): (String, Lsn), to: Lsn, why: String) -> Vec<Cell> {
    let length = ByteSize(to.0.saturating_sub(from.0));
    vec![
        Cell::new(what).tone(tone),
        shown.into(),
        to.to_string().into(),
        Cell::right(length.to_string()),
        why.into(),
    ]
}
