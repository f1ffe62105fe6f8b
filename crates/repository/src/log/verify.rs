//! Verification of the log: slices are read back, and what is missing, damaged or out of place is named.
//!
//! Which slices were found damaged is recorded for each chain, so that whoever lists it later knows without reading it. A chain in which nothing
//! was ever found has no records. A record says everything that is known when it is made: what this verification found, and of earlier ones
//! what it did not read again.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use mainstay_journal::Sequence;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    ChainId, ErrorKind, Finding, LogPosition, Result, ResultExt, Severity, StoreKind, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{Chain, ChainDamage, Slice};
use crate::layout;
use crate::repository::Repository;
use crate::verify::{Inspector, sort, verify_object};

/// The kind of a sealed record.
const RECORD_KIND: &str = "log_verification";
/// How often recording is tried again when another verification of the same chain took the number.
const RECORD_ATTEMPTS_MAX: usize = 16;

/// What is known of a chain after a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LogVerification {
    /// The chain.
    chain_id: ChainId,
    /// When it was verified.
    at: Timestamp,
    /// From where on.
    after: LogPosition,
    /// The version of mainstay that did it.
    tool_version: String,
    /// The names of the slices that are known to be damaged.
    damaged: Vec<String>,
}

/// What a verification of a chain, or of its end, found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogReport {
    /// The store whose log it is.
    #[serde(skip)]
    pub store: StoreKind,
    /// The chain.
    pub chain_id: ChainId,
    /// From where on it was verified.
    #[serde(skip)]
    pub after: LogPosition,
    /// How many slices were read back.
    pub slices: u64,
    /// How many plain bytes they have.
    pub bytes: u64,
    /// What is wrong, worst first, then by slice.
    pub findings: Vec<Finding>,
}

impl LogReport {
    /// True when everything verified can be replayed: no finding is critical.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Critical)
    }

    /// The names of the slices that it found damaged.
    fn damaged_slices(&self) -> impl Iterator<Item = &str> {
        let critical = self.findings.iter().filter(|finding| finding.severity == Severity::Critical);
        let names = critical.filter_map(|finding| finding.subject.rsplit('/').next());
        names.filter(|name| Slice::parse(name, 0).is_some())
    }

    /// What is known when `before` was known: of what this verification did not read again, that stays.
    fn known_damage(&self, before: &[String]) -> Vec<String> {
        let is_unread = |name: &str| Slice::parse(name, 0).is_some_and(|slice| slice.through <= self.after);
        let kept = before.iter().map(String::as_str).filter(|name| is_unread(name));
        let mut known: Vec<String> = kept.chain(self.damaged_slices()).map(str::to_owned).collect();
        known.sort_unstable();
        known.dedup();
        known
    }
}

impl Repository {
    /// Reads back every slice of `chain` that holds something after `after`: hash, decryption, decompression, and what the inspector that
    /// `inspector` makes for each says of its entries. At most `concurrency` slices are read at the same time. Holes and misplaced slices
    /// past `after` are findings, too. Changes nothing.
    ///
    /// # Errors
    /// Whatever kept it from reading. Damage is a finding, not an error.
    pub async fn verify_chain(
        &self,
        chain: &Chain,
        after: LogPosition,
        inspector: &(dyn Fn(&Slice) -> Option<Box<dyn Inspector>> + Send + Sync),
        concurrency: usize,
        observer: &dyn Observer,
    ) -> Result<LogReport> {
        chain.check_readable()?;
        let slices = chain.slices_between(after, chain.end());
        observer.phase(&format!("verify log {}", chain.id()));
        observer.expect(slices.iter().map(|slice| Work { items: 1, bytes: slice.bytes }).sum());
        let mut findings = damage_findings(chain, after);
        let store = chain.description().store;
        if let Err(error) = chain.repository().chain_description_again(chain).await {
            match error.kind() {
                ErrorKind::Corrupt | ErrorKind::Unsupported => findings.push(finding(
                    chain,
                    "log.description_damaged",
                    layout::chain_description(store, chain.id()).as_str(),
                    error.message(),
                )),
                _ => return Err(error),
            }
        }
        let mut reads =
            futures::stream::iter(slices)
                .map(|slice| async move {
                    verify_object(store, chain.site(slice)?, inspector(slice), observer).await
                })
                .buffer_unordered(concurrency.max(1));
        let mut bytes = 0_u64;
        while let Some(read) = reads.next().await {
            let (faults, plain) = read?;
            findings.extend(faults.into_iter().map(|fault| Finding { remedy: REMEDY.to_owned(), ..fault }));
            bytes = bytes.saturating_add(plain);
        }
        sort(&mut findings);
        let (chain_id, slices) = (chain.id().clone(), slices.len() as u64);
        Ok(LogReport { store, chain_id, after, slices, bytes, findings })
    }

    /// Records which slices a verification found damaged; nothing where none is, nor ever was.
    ///
    /// # Errors
    /// The store's.
    pub async fn record_log_verification(&self, report: &LogReport) -> Result<()> {
        let sequence = self.log_verifications(report.store, &report.chain_id);
        for attempt in 1.. {
            let (last, before) = last_known(&sequence).await?;
            let damaged = report.known_damage(&before);
            if damaged == before {
                return Ok(());
            }
            let record = LogVerification {
                chain_id: report.chain_id.clone(),
                at: self.now(),
                after: report.after,
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
                damaged,
            };
            match sequence.append(last + 1, &record).await {
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < RECORD_ATTEMPTS_MAX => {}
                appended => {
                    return appended
                        .map(drop)
                        .with_context(|| format!("record what was found in chain {}", report.chain_id));
                }
            }
        }
        Ok(())
    }

    /// The names of the slices that verifications found damaged, by chain. They may have been removed or replaced since.
    ///
    /// # Errors
    /// The store's.
    pub async fn known_log_damage(&self, store: StoreKind) -> Result<BTreeMap<ChainId, Vec<String>>> {
        let folder = layout::all_log_verifications(store);
        let names = self.store().folders(&folder).await;
        let names = names.with_context(|| format!("list what was found in the log of {store}"))?;
        let mut known = BTreeMap::new();
        for id in names.iter().filter_map(|name| name.parse::<ChainId>().ok()) {
            let damaged = last_known(&self.log_verifications(store, &id)).await?.1;
            if !damaged.is_empty() {
                known.insert(id, damaged);
            }
        }
        Ok(known)
    }

    fn log_verifications(&self, store: StoreKind, id: &ChainId) -> Sequence {
        Sequence::new(self.store().clone(), layout::log_verifications(store, id), RECORD_KIND)
    }

    /// Reads the description again: it may have been damaged since the listing.
    async fn chain_description_again(&self, chain: &Chain) -> Result<()> {
        self.chain_description(chain.description().store, chain.id()).await.map(drop)
    }
}

/// The number of the last record, 0 for none, and what it says. One that cannot be read says nothing, and does not keep newer ones away.
async fn last_known(sequence: &Sequence) -> Result<(u64, Vec<String>)> {
    let Some(last) = sequence.numbers().await?.last().copied() else { return Ok((0, Vec::new())) };
    match sequence.read::<LogVerification>(last).await {
        Ok(entry) => Ok((last, entry.body.damaged)),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
            Ok((last, Vec::new()))
        }
        Err(error) => Err(error.context("read what was found in the log")),
    }
}

/// What to do about a slice.
const REMEDY: &str = "Copy it back from an off-site copy of the repository. Without it, moments after it can be restored only from \
                      backup sets that are newer: take one with `mainstay backup create`.";

fn damage_findings(chain: &Chain, after: LogPosition) -> Vec<Finding> {
    let folder = layout::chain(chain.description().store, chain.id());
    let damage = chain.damage().iter().filter_map(|damage| match damage {
        ChainDamage::Missing(run) if run.through > after => {
            let message = format!("has no slice with what follows {} up to {}", run.after, run.through);
            Some(finding(chain, "log.slice_missing", folder.as_str(), &message))
        }
        ChainDamage::Misplaced(slice) if slice.through > after => {
            let subject = format!("{folder}/{}", slice.name());
            Some(finding(chain, "log.slice_misplaced", &subject, "does not continue the slice before it"))
        }
        ChainDamage::Empty(slice) if slice.through > after => {
            let subject = format!("{folder}/{}", slice.name());
            Some(finding(chain, "log.slice_empty", &subject, "has no bytes: what it held is lost"))
        }
        _ => None,
    });
    let superseded = chain.superseded().iter().filter(|slice| slice.through > after).map(|slice| Finding {
        severity: Severity::Note,
        remedy: "Nothing needs it; it may be deleted by hand.".to_owned(),
        ..finding(
            chain,
            "log.slice_superseded",
            &format!("{folder}/{}", slice.name()),
            "is not read: what it was to hold is in other slices, too",
        )
    });
    damage.chain(superseded).collect()
}

fn finding(chain: &Chain, id: &str, subject: &str, message: &str) -> Finding {
    Finding {
        id: id.to_owned(),
        severity: Severity::Critical,
        store: Some(chain.description().store),
        subject: subject.to_owned(),
        message: message.to_owned(),
        remedy: REMEDY.to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::Blake3;

    use super::*;
    use crate::log::LogKind;
    use crate::manifest::Encryption;

    fn slice(after: u64, through: u64) -> Slice {
        Slice {
            after: LogPosition(after),
            through: LogPosition(through),
            token: 1,
            blake3: Blake3::of(b"x"),
            kind: LogKind::Replication,
            encryption: Encryption::None,
            bytes: 0,
        }
    }

    #[test]
    fn what_was_not_read_again_stays_known() {
        let id = ChainId::new(Timestamp::from_second(1).unwrap(), 1);
        let report = |after: u64, damaged: &[Slice]| LogReport {
            store: StoreKind::Redis,
            chain_id: id.clone(),
            after: LogPosition(after),
            slices: 1,
            bytes: 1,
            findings: { damaged.iter() }
                .map(|slice| Finding {
                    id: "object.damaged".to_owned(),
                    severity: Severity::Critical,
                    store: Some(StoreKind::Redis),
                    subject: format!("redis/log/{id}/{}", slice.name()),
                    message: String::new(),
                    remedy: String::new(),
                })
                .collect(),
        };
        let (first, second) = (slice(0, 10), slice(10, 20));
        let names = |slices: &[&Slice]| slices.iter().map(|slice| slice.name()).collect::<Vec<_>>();
        let known = report(0, std::slice::from_ref(&first)).known_damage(&[]);
        assert_eq!(known, names(&[&first]));
        let known = report(10, std::slice::from_ref(&second)).known_damage(&known);
        assert_eq!(known, names(&[&first, &second]), "the first was not read");
        assert_eq!(report(10, &[]).known_damage(&known), names(&[&first]), "the second was copied back");
        assert!(report(0, &[]).known_damage(&known).is_empty());
    }
}
