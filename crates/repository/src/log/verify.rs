//! Verification of the log: slices are read back, and what is missing, damaged or out of place is named.

use futures::StreamExt as _;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{ChainId, ErrorKind, Finding, LogPosition, Result, Severity};
use serde::Serialize;

use super::{Chain, ChainDamage, Slice};
use crate::layout;
use crate::repository::Repository;
use crate::verify::{Inspector, sort, verify_object};

/// What a verification of a chain, or of its end, found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogReport {
    /// The chain.
    pub chain_id: ChainId,
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
        Ok(LogReport { chain_id: chain.id().clone(), slices: slices.len() as u64, bytes, findings })
    }

    /// Reads the description again: it may have been damaged since the listing.
    async fn chain_description_again(&self, chain: &Chain) -> Result<()> {
        self.chain_description(chain.description().store, chain.id()).await.map(drop)
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
