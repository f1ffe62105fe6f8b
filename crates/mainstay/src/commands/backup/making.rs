//! What making a set takes whatever it holds: a repository, a permit, somebody who watches, and a record of how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_guard::{BackupEvidence, Guard, Outcome, Permit};
use mainstay_model::{Plan, Result};
use mainstay_repository::{Repository, Set};
use serde_json::{Value, json};

use crate::commands::close;
use crate::printer::Progress;
use crate::wiring::Session;

/// A backup that may be made.
pub(crate) struct Making {
    pub(crate) repository: Repository,
    pub(crate) permit: Permit,
    pub(crate) holder: String,
    pub(crate) progress: Arc<Progress>,
    guard: Guard,
    began: Instant,
}

impl Making {
    /// Opens the repository, or makes it, and obtains the permit.
    ///
    /// # Errors
    /// The repository's; `Refused`.
    pub(crate) async fn begin(plan: &Plan, session: &Session) -> Result<Self> {
        Self::begin_approved(plan, None, session).await
    }

    /// The same for a plan that may have been approved beforehand.
    ///
    /// # Errors
    /// As [`Making::begin`]; `Usage` when `approve` is no hash.
    pub(crate) async fn begin_approved(
        plan: &Plan,
        approve: Option<&str>,
        session: &Session,
    ) -> Result<Self> {
        let repository = session.repository_or_create().await?;
        let guard = session.guard(&repository);
        let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
        let (progress, holder) = (session.printer.progress(), session.holder());
        Ok(Self { repository, permit, holder, progress, guard, began: Instant::now() })
    }

    /// Records how it ended; gives what was made, and how long that took. `set_of` tells the new set, and what else the audit log shall know of it.
    ///
    /// # Errors
    /// That of `made`; the audit log's.
    pub(crate) async fn close<T>(
        self,
        made: Result<T>,
        set_of: impl Fn(&T) -> (&Set, Value),
    ) -> Result<(T, Duration)> {
        drop(self.progress);
        let outcome = match &made {
            Ok(report) => {
                let (set, more) = set_of(report);
                let mut facts = json!({"set": set.id(), "manifest": set.manifest_blake3()});
                if let (Value::Object(facts), Value::Object(more)) = (&mut facts, more) {
                    facts.extend(more);
                }
                Outcome::Done { summary: format!("made backup set {}", set.id()), facts }
            }
            Err(error) => Outcome::of_error(error),
        };
        let report = close(&self.guard, self.permit, made, outcome).await?;
        Ok((report, self.began.elapsed()))
    }
}
