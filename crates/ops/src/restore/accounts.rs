//! A set's users and roles, on their way to a server.

use mainstay_engine::{AccountStore, Accounts};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use mainstay_repository::Set;

use crate::contents::{ACCOUNTS_BYTES_MAX, DocumentSetContents, PartRecord};
use crate::placement::BroughtAccounts;

/// Reads the users and roles of `set`, whose objects the repository checks as they are read.
///
/// # Errors
/// `Precondition` when it was taken without; `Corrupt` when they are damaged.
pub(super) async fn read<'a>(
    set: &Set,
    contents: &DocumentSetContents,
    store: &'a dyn AccountStore,
) -> Result<BroughtAccounts<'a>> {
    let Some(record) = &contents.accounts else {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("set {} was taken without users and roles", set.id()),
        )
        .with_state("nothing was changed")
        .with_hint(
            "leave `--users-and-roles` out; `mainstay backup create --users-and-roles` takes them along",
        ));
    };
    let read = async |part: &PartRecord| {
        let documents = set.read_all(&part.object, ACCOUNTS_BYTES_MAX).await;
        documents.context("read the users and roles of the set")
    };
    let accounts = Accounts {
        users: read(&record.users).await?,
        roles: read(&record.roles).await?,
        version: read(&record.version).await?,
    };
    Ok(BroughtAccounts { store, accounts, database: None })
}
