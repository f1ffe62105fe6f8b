//! Users and roles that come beside the collections: what a plan shows of them, and the merge, when the collections stand.
//!
//! The server's adapter decides what becomes of each ([`AccountMerge`]); the plan names everybody it touches. Applying compares again before the
//! first write, and once more when the collections stand, which may be hours and several tries later: when somebody else would be touched than
//! the plan says, it is stale. Nobody is ever removed.

use mainstay_engine::{AccountKind, AccountMerge, AccountName, AccountStore, Accounts};
use mainstay_model::{Assumption, Error, ErrorKind, PlanStep, Result};

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
    /// What stands now of what the plan took for granted of users and roles. What an earlier try may have merged is as planned; whether the rest
    /// is, shows before the merge.
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
    ///
    /// # Errors
    /// `StalePlan` when it would touch somebody whom the plan does not name so, with nobody changed; as [`AccountStore::merge_accounts`].
    pub(crate) async fn merge_accounts(
        self,
        brought: Option<&BroughtAccounts<'_>>,
    ) -> Result<Option<AccountMerge>> {
        let Some(brought) = brought else { return Ok(None) };
        self.check_lease()?;
        self.context.observer.phase("users and roles");
        self.check_touched(&brought.compare().await?)?;
        let BroughtAccounts { store, accounts, database } = brought;
        store.merge_accounts(accounts, database.as_deref(), self.permit).await.map(Some)
    }

    /// Refuses to touch anybody whom the plan does not name.
    fn check_touched(self, now: &AccountMerge) -> Result<()> {
        let unplanned = self.parameters.accounts.as_ref().map(|planned| unplanned(planned, now));
        let Some(names) = unplanned.filter(|names| !names.is_empty()) else { return Ok(()) };
        let names: Vec<String> = names.into_iter().map(ToString::to_string).collect();
        Err(Error::new(
            ErrorKind::StalePlan,
            format!("the merge would touch {} otherwise than the plan says", names.join(", ")),
        )
        .with_state("the collections stand; this try changed no user and no role")
        .with_hint(if self.parameters.origin.keeps_unfinished() {
            "undo what was changed about them and apply the same plan again, or give the run up (`mainstay restore list` names it) and make a new plan"
        } else {
            "make a new plan for the users and roles"
        }))
    }
}

/// Those whom a merge would touch now and `planned` does not: nobody is replaced who was not to be, and nobody added who was to be left alone.
/// What a try that was cut off has merged is equal by now, so that it is in neither list.
fn unplanned<'a>(planned: &AccountMerge, now: &'a AccountMerge) -> Vec<&'a AccountName> {
    let AccountMerge { added, replaced, .. } = planned;
    let appeared = now.added.iter().filter(|name| !added.contains(name) && !replaced.contains(name));
    appeared.chain(now.replaced.iter().filter(|name| !replaced.contains(name))).collect()
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
    let AccountMerge { added, replaced, kept, unchanged, scratch } = merge;
    let noun = origin.noun();
    let moment = if origin.has_log() { ", as they were when the set was taken" } else { "" };
    let scratch: Vec<String> = scratch.iter().map(ToString::to_string).collect();
    let on_the_way = match scratch.is_empty() {
        true => String::new(),
        false => {
            format!("; on the way {} are made and dropped, whoever made them before", scratch.join(" and "))
        }
    };
    let all = PlanStep {
        name: "merge users and roles".to_owned(),
        mark: '~',
        summary: format!(
            "{} are added, {} replaced, {unchanged} are equal already{moment}; all others stay{on_the_way}",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<AccountName> {
        let name = |name: &&str| AccountName {
            kind: AccountKind::User,
            database: "shop".to_owned(),
            name: (*name).to_owned(),
        };
        names.iter().map(name).collect()
    }

    fn merge(added: &[&str], replaced: &[&str]) -> AccountMerge {
        AccountMerge { added: names(added), replaced: names(replaced), ..AccountMerge::default() }
    }

    #[test]
    fn nobody_is_touched_whom_the_plan_does_not_name() {
        let planned = merge(&["anna", "bert"], &["carl", "dora"]);
        for (now, expected) in [
            (planned.clone(), &[][..]),
            // Half done, or all of it.
            (merge(&["bert"], &["dora"]), &[]),
            (merge(&[], &[]), &[]),
            // Somebody who was to be replaced was removed meanwhile.
            (merge(&["anna", "bert", "carl"], &["dora"]), &[]),
            // Somebody who was equal was changed, or removed.
            (merge(&[], &["carl", "emil"]), &["emil"]),
            (merge(&["emil"], &[]), &["emil"]),
            // Somebody of a name that was to be added has been made meanwhile: a password that nobody has consented to lose.
            (merge(&["bert"], &["anna"]), &["anna"]),
        ] {
            let found: Vec<AccountName> = unplanned(&planned, &now).into_iter().cloned().collect();
            assert_eq!(found, names(expected), "{now:?}");
        }
    }
}
