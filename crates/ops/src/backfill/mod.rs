//! Backfills: data brought into a new form where it stands, previewed, in batches, resumed, and brought back.
//!
//! [`plan()`] looks at the place and proves on real data, in a transaction that is given up, that the guard no longer means what was changed;
//! without that proof nothing is run. [`run()`] walks, two segments at a time, by batches whose size follows how long they take, and waits while replicas
//! lag or somebody asked it to. [`undo()`] brings back what nobody has changed since. Who runs holds the run in the store itself, so that two programs that know
//! nothing of each other never work on the same one. Relies on what [`BackfillStore`](mainstay_engine::BackfillStore) promises of its steps.

mod declared;
mod pace;
mod plan;
mod run;
mod undo;

use mainstay_engine::BackfillBody;
use mainstay_guard::BackupEvidence;
use mainstay_model::{Result, StoreKind, Target};
use mainstay_repository::{Repository, Set};

use crate::contents::{Needed, SetContents};
use crate::verify::{self, evidence_among};

pub use declared::{BackupWish, DeclaredBackfill};
pub use plan::{BackfillParameters, BackfillPlanning, plan, plan_import, plan_pause, plan_undo};
pub use run::{BackfillContext, BackfillReport, run};
pub use undo::{UndoReport, undo};

/// The registered names.
pub const OPERATION: &str = "backfill.run";
/// As above, for bringing back.
pub const OPERATION_UNDO: &str = "backfill.undo";
/// As above, for asking a run to stop.
pub const OPERATION_PAUSE: &str = "backfill.pause";
/// As above, for the history of another tool.
pub const OPERATION_IMPORT: &str = "backfill.import";

/// The newest sound backup of the target's server that holds what the backfill changes, as evidence for the guard.
///
/// # Errors
/// What the repository fails with.
pub async fn evidence(
    repository: &Repository,
    target: &Target,
    parameters: &BackfillParameters,
) -> Result<BackupEvidence> {
    let fingerprint = &target.fingerprint;
    match &parameters.declared.backfill.body {
        BackfillBody::Documents { namespace, .. } => {
            let needed = Needed { namespaces: vec![namespace.clone()], accounts: false };
            verify::evidence(repository, fingerprint, &needed).await
        }
        BackfillBody::Rows { schema, table, .. } => {
            let holds = |set: &Set| holds_table(set, fingerprint, schema, table);
            evidence_among(repository, StoreKind::Postgres, fingerprint, holds).await
        }
    }
}

/// A base backup holds everything; a dump the tables that it names.
fn holds_table(set: &Set, fingerprint: &str, schema: &str, table: &str) -> bool {
    match SetContents::of(set) {
        Ok(SetContents::Logical(contents)) => {
            contents.server.fingerprint == fingerprint
                && contents.logical.tables.iter().any(|one| one.schema == schema && one.table == table)
        }
        Ok(contents) => contents.server() == fingerprint,
        Err(_) => false,
    }
}
