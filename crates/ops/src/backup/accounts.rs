//! Users and roles as objects of a set, when they are asked for.
//!
//! They are read last and not at the set's moment: a resumed backup need not keep them, and what they protect is younger. They are as safe as
//! the repository is: nothing shows them, and a repository without encryption is warned of.

use bytes::Bytes;
use mainstay_engine::{Accounts, DocumentDigest};
use mainstay_model::{Error, ErrorKind, ObjectName, Result, ResultExt};
use mainstay_repository::SetWriter;

use super::BackupContext;
use crate::contents::{ACCOUNTS_BYTES_MAX, AccountsRecord, PartRecord, ROLE_ACCOUNTS};

/// Reads the server's users and roles into the set.
///
/// # Errors
/// `Auth` when this user may not read them; `Unsupported` when there are more than a restore would read.
pub(super) async fn write(context: &BackupContext<'_>, writer: &SetWriter) -> Result<AccountsRecord> {
    context.observer.phase("users and roles");
    let Accounts { users, roles, version } =
        context.accounts.accounts(None).await.context("read users and roles")?;
    if !context.repository.is_encrypted() {
        context.observer.notice(
            "warning: the set holds what passwords are checked with, and the repository is not encrypted: whoever reads it can try \
             passwords; `repository.recipients` of a new repository encrypts",
        );
    }
    Ok(AccountsRecord {
        users: put(writer, "system.users", users).await?,
        roles: put(writer, "system.roles", roles).await?,
        version: put(writer, "system.version", version).await?,
    })
}

async fn put(writer: &SetWriter, collection: &str, documents: Bytes) -> Result<PartRecord> {
    if documents.len() > ACCOUNTS_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "admin.{collection} has {} bytes, at most {ACCOUNTS_BYTES_MAX} can be kept",
                documents.len()
            ),
        )
        .with_hint("leave `--users-and-roles` out"));
    }
    let object = ObjectName::from_parts(["admin", collection]).with_suffix(".bson");
    let mut digest = DocumentDigest::default();
    digest.add_concatenation(&documents).map_err(|source| {
        Error::new(ErrorKind::Corrupt, "users or roles are not framed documents").with_source(source)
    })?;
    writer.put(&object, ROLE_ACCOUNTS, documents).await.context("store users and roles")?;
    Ok(PartRecord { object, digest })
}
