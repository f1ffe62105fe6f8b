//! `pg slots`: replication slots and how much WAL they retain.

use mainstay_engine::SlotUse;
use mainstay_model::{ByteSize, ExitStatus, Result, Severity};
use mainstay_ops::relational::slots::{self, SlotReport};
use serde_json::{Map, Value, json};

use crate::commands::findings;
use crate::printer::shown::duration;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Looks and judges.
///
/// # Errors
/// The server's.
pub(super) async fn run(session: &Session) -> Result<ExitStatus> {
    let (inspection, address) = session.relational()?;
    let report = slots::observe(inspection.as_ref(), &address).await?;
    Ok(session.printer.report(&Shown(report)))
}

struct Shown(SlotReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("slots".to_owned(), json!(self.0.slots.list)),
            ("retained_bytes_max".to_owned(), json!(self.0.slots.retained_bytes_max)),
            ("findings".to_owned(), json!(self.0.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let slots = &self.0.slots;
        if slots.list.is_empty() {
            return "the server has no replication slots\n".to_owned();
        }
        let mut table = Table::new(&["SLOT", "KIND", "DATABASE", "READER", "RETAINS", "WAL", "SAFE FOR"]);
        for slot in &slots.list {
            let status = slot.invalid.as_deref().or(slot.wal_status.as_deref());
            let tone = match status {
                None | Some("reserved") => Tone::Plain,
                Some("extended") => Tone::Warn,
                Some(_) => Tone::Bad,
            };
            table.row(vec![
                slot.name.as_str().into(),
                format!("{}{}", slot.kind, if slot.temporary { ", temporary" } else { "" }).into(),
                slot.database.as_deref().unwrap_or("-").into(),
                reader(slot),
                Cell::right(slot.retained_bytes.map_or("-".to_owned(), |bytes| ByteSize(bytes).to_string())),
                Cell::new(status.unwrap_or("-")).tone(tone),
                Cell::right(match slot.safe_bytes {
                    None => "-".to_owned(),
                    Some(bytes) => ByteSize(u64::try_from(bytes).unwrap_or(0)).to_string(),
                }),
            ]);
        }
        let bound = match slots.retained_bytes_max {
            None => "max_slot_wal_keep_size bounds nothing\n".to_owned(),
            Some(bytes) => format!("max_slot_wal_keep_size is {}\n", ByteSize(bytes)),
        };
        table.render(look) + &bound + &findings::text(&self.0.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

fn reader(slot: &SlotUse) -> Cell {
    match (slot.active, slot.pid, slot.inactive_seconds) {
        (true, Some(pid), _) => Cell::new(format!("process {pid}")).tone(Tone::Good),
        (true, None, _) => Cell::new("somebody").tone(Tone::Good),
        (false, _, Some(seconds)) => Cell::new(format!("nobody for {}", duration(seconds))).tone(Tone::Warn),
        (false, _, None) => Cell::new("nobody").tone(Tone::Warn),
    }
}
