//! Users and roles that come beside the collections: what a plan shows of them, and the merge, when the collections stand.
//!
//! The server's adapter decides what becomes of each ([`AccountMerge`]); the plan names everybody it touches. Applying compares again before the
//! first write: when somebody else would be touched than the plan says, it is stale. Nobody is ever removed.

use mainstay_engine::{AccountKind, AccountMerge, AccountName, AccountStore, Accounts};
use mainstay_model::{Assumption, PlanStep, Result};

use super::origin::Origin;
use super::work::Placement;

/// What a plan calls what it takes for granted of users and roles.
const ASSUMPTION: &str = "users and roles";

/// Users and roles to bring, and where.
pub(crate) struct BroughtAccounts<'a> {
    pub(crate) store: &'a dyn AccountStore,
    pub(crate) accounts: Accounts,
    /// The one database whose users and roles come; all without it.
    pub(crate) database: Option<String>,
}

impl BroughtAccounts<'_> {
    /// What merging them would do now.
    ///
    /// # Errors
    /// As [`AccountStore::compare_accounts`].
    pub(crate) async fn compare(&self) -> Result<AccountMerge> {
        self.store.compare_accounts(&self.accounts, self.database.as_deref()).await
    }
}

impl Placement<'_> {
    /// What stands now of what the plan took for granted of users and roles. What an earlier try may have merged is as planned.
    pub(crate) async fn accounts_seen(
        self,
        brought: Option<&BroughtAccounts<'_>>,
    ) -> Result<Option<Assumption>> {
        match brought {
            None => Ok(None),
            Some(_) if self.run.is_begun().await => Ok(self.assumption(ASSUMPTION).cloned()),
            Some(brought) => Ok(Some(assumption(&brought.compare().await?))),
        }
    }

    /// Merges users and roles, if the plan says so, and tells who stays otherwise than brought.
    pub(crate) async fn merge_accounts(
        self,
        brought: Option<&BroughtAccounts<'_>>,
    ) -> Result<Option<AccountMerge>> {
        let Some(BroughtAccounts { store, accounts, database }) = brought else { return Ok(None) };
        self.check_lease()?;
        self.context.observer.phase("users and roles");
        store.merge_accounts(accounts, database.as_deref(), self.permit).await.map(Some)
    }
}

/// That the same users and roles are touched, and in the same way.
pub(super) fn assumption(merge: &AccountMerge) -> Assumption {
    let told = |what: &str, names: &[AccountName]| {
        (!names.is_empty()).then(|| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            format!("{what} {}", names.join(", "))
        })
    };
    let AccountMerge { added, replaced, kept, .. } = merge;
    let parts = [told("add", added), told("replace", replaced), told("keep", kept)];
    let told: Vec<String> = parts.into_iter().flatten().collect();
    let value = if told.is_empty() { "equal".to_owned() } else { told.join("; ") };
    Assumption { name: ASSUMPTION.to_owned(), value }
}

/// The steps of a plan that brings them.
pub(super) fn steps(origin: &Origin, merge: &AccountMerge) -> Vec<PlanStep> {
    let AccountMerge { added, replaced, kept, unchanged } = merge;
    let noun = origin.noun();
    let moment = if origin.has_log() { ", as they were when the set was taken" } else { "" };
    let all = PlanStep {
        name: "merge users and roles".to_owned(),
        mark: '~',
        summary: format!(
            "{} are added, {} replaced, {unchanged} are equal already{moment}; all others stay",
            added.len(),
            replaced.len()
        ),
    };
    let each = |verb: &str, mark: char, names: &[AccountName], summary: &dyn Fn(AccountKind) -> String| {
        let step = |name: &AccountName| PlanStep {
            name: format!("{verb} {name}"),
            mark,
            summary: summary(name.kind),
        };
        names.iter().map(step).collect::<Vec<_>>()
    };
    let mut steps = vec![all];
    steps.extend(each("add", '+', added, &|_| format!("as the {noun} has it")));
    steps.extend(each("replace", '~', replaced, &|kind| match kind {
        AccountKind::User => format!("becomes what the {noun} says, roles and password included"),
        AccountKind::Role => format!("becomes what the {noun} says, with all its rights"),
    }));
    steps.extend(each("keep", ' ', kept, &|kind| match kind {
        AccountKind::User => {
            format!("this account does the work and stays as it is; the {noun} has it otherwise")
        }
        AccountKind::Role => {
            format!(
                "the account that does the work holds it, so it stays as it is; the {noun} has it otherwise"
            )
        }
    }));
    steps
}
