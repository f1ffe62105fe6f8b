//! Replication slots, and how much WAL they keep from being removed.
//!
//! A slot that nobody reads fills the disk until the server stops; one that is bounded is lost instead, and with it whoever relied on it.
//! Judging is pure. Reads only.

use mainstay_engine::{RelationalInspection, SlotUse, Slots};
use mainstay_model::{ByteSize, Finding, Result, Severity};

use super::finding;
use crate::bounds::Bounds;

const GIB: f64 = 1_073_741_824.0;
/// Bytes that a slot retains.
const RETAINED: Bounds = Bounds { warning: GIB, critical: 4.0 * GIB };
/// Seconds that nobody reads a slot before it is said. Own.
const INACTIVE_SECONDS: u64 = 3_600;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotReport {
    /// The slots, that which retains most first.
    pub slots: Slots,
    /// What is bad about them.
    pub findings: Vec<Finding>,
}

/// Looks and judges. `address` is the server's, for findings.
///
/// # Errors
/// The server's.
pub async fn observe(inspection: &dyn RelationalInspection, address: &str) -> Result<SlotReport> {
    let mut slots = inspection.slots().await?;
    let findings = findings(&slots, address);
    slots.list.sort_by_key(|slot| std::cmp::Reverse(slot.retained_bytes));
    Ok(SlotReport { slots, findings })
}

/// What is bad about slots.
pub(super) fn findings(slots: &Slots, address: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = slots.list.iter().filter_map(judge).collect();
    let is_lasting = |slot: &SlotUse| !slot.temporary;
    if slots.retained_bytes_max.is_none() && slots.list.iter().any(is_lasting) {
        findings.push(finding(
            "slots_unbounded",
            Severity::Note,
            address,
            "nothing bounds the WAL that slots retain: one that nobody reads fills the disk".to_owned(),
            "`ALTER SYSTEM SET max_slot_wal_keep_size = '…'; SELECT pg_reload_conf();` with less than the disk has free",
        ));
    }
    findings
}

/// The worst of one slot.
fn judge(slot: &SlotUse) -> Option<Finding> {
    let name = &slot.name;
    let said = |id, severity, message, remedy: String| Some(finding(id, severity, name, message, remedy));
    let drop = format!(
        "if nobody needs it any more: `SELECT pg_drop_replication_slot('{}');`",
        name.replace('\'', "''")
    );
    if let Some(why) =
        slot.invalid.as_deref().or(slot.wal_status.as_deref().filter(|status| *status == "lost"))
    {
        return said(
            "slot_lost",
            Severity::Critical,
            format!("slot {name} can no longer be used ({why}): whoever reads it must begin anew"),
            drop,
        );
    }
    let reader = match slot.active {
        true => "its reader is slow",
        false => "nobody reads it",
    };
    let retained = slot.retained_bytes.unwrap_or(0);
    if slot.wal_status.as_deref() == Some("unreserved") {
        return said(
            "slot_unreserved",
            Severity::Critical,
            format!("slot {name} is about to lose the WAL it needs; {reader}"),
            "start or hurry its reader, or raise max_slot_wal_keep_size while the disk has room".to_owned(),
        );
    }
    if let Some(severity) = RETAINED.severity(retained as f64) {
        let message = format!("slot {name} retains {} of WAL; {reader}", ByteSize(retained));
        return said("slot_retains", severity, message, format!("start or hurry its reader; {drop}"));
    }
    let inactive = slot.inactive_seconds.filter(|seconds| *seconds >= INACTIVE_SECONDS)?;
    let message = format!("nobody has read slot {name} for {:.1} h", inactive as f64 / 3_600.0);
    said("slot_inactive", Severity::Warning, message, format!("start its reader; {drop}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotUse {
        SlotUse {
            name: "s".to_owned(),
            kind: "physical".to_owned(),
            database: None,
            active: false,
            pid: None,
            temporary: false,
            retained_bytes: Some(0),
            wal_status: Some("reserved".to_owned()),
            safe_bytes: None,
            inactive_seconds: Some(5),
            invalid: None,
        }
    }

    #[test]
    fn each_trouble_has_its_finding() {
        use Severity::{Critical, Warning};
        let retaining = |bytes| SlotUse { retained_bytes: Some(bytes), ..slot() };
        let status = |status: &str| SlotUse { wal_status: Some(status.to_owned()), ..retaining(8 << 30) };
        let gib = 1_u64 << 30;
        let cases = [
            (slot(), None),
            (retaining(gib - 1), None),
            (retaining(gib), Some(("postgres.slot_retains", Warning))),
            (retaining(4 * gib), Some(("postgres.slot_retains", Critical))),
            (status("unreserved"), Some(("postgres.slot_unreserved", Critical))),
            (status("lost"), Some(("postgres.slot_lost", Critical))),
            (
                SlotUse { invalid: Some("wal_removed".to_owned()), ..slot() },
                Some(("postgres.slot_lost", Critical)),
            ),
            (SlotUse { inactive_seconds: Some(3_600), ..slot() }, Some(("postgres.slot_inactive", Warning))),
            (SlotUse { retained_bytes: None, ..slot() }, None),
        ];
        for (slot, expected) in cases {
            let bounded = Slots { list: vec![slot.clone()], retained_bytes_max: Some(1) };
            let found = findings(&bounded, "h:1");
            let told = found.first().map(|finding| (finding.id.as_str(), finding.severity));
            assert_eq!(told, expected, "{slot:?}");
        }
        let unbounded = Slots { list: vec![slot()], retained_bytes_max: None };
        assert_eq!(findings(&unbounded, "h:1")[0].id, "postgres.slots_unbounded");
        let passing = Slots { list: vec![SlotUse { temporary: true, ..slot() }], retained_bytes_max: None };
        assert!(findings(&passing, "h:1").is_empty());
    }
}
