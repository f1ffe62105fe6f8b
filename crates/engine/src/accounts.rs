//! Users and roles, as the server itself keeps them.

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_guard::Permit;
use mainstay_model::Result;

/// Users and roles as documents, credentials included. Nobody prints them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// The users, one document after another.
    pub users: Bytes,
    /// The roles that users have made.
    pub roles: Bytes,
    /// The one document that tells the version of their form.
    pub version: Bytes,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accounts([secret])")
    }
}

/// Reads and merges the users and roles of a document store.
#[async_trait]
pub trait AccountStore: Send + Sync {
    /// All users and roles, or those of one database.
    ///
    /// # Errors
    /// `Auth` when this user may not read them.
    async fn accounts(&self, database: Option<&str>) -> Result<Accounts>;

    /// Adds users and roles, of all databases or of one; those of the same name become what `accounts` says, credentials included, and all
    /// others stay. Repeating is safe.
    ///
    /// # Errors
    /// `Refused`, with nothing changed, when `permit` is for another server or another operation; `Auth`, naming the right that lacks;
    /// `Unsupported` when the documents have another form than this server's.
    async fn merge_accounts(
        &self,
        accounts: &Accounts,
        database: Option<&str>,
        permit: &Permit,
    ) -> Result<()>;
}
