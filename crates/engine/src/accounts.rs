//! Users and roles, as the server itself keeps them.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_guard::Permit;
use mainstay_model::Result;
use serde::{Deserialize, Serialize};

use crate::Namespace;

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

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accounts([secret])")
    }
}

/// A user or a role, by name: `user shop.anna`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountName {
    /// Which of the two.
    pub kind: AccountKind,
    /// The database that it belongs to.
    pub database: String,
    /// Its name there.
    pub name: String,
}

/// What has a name among accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// Somebody who logs in.
    User,
    /// A bundle of rights.
    Role,
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            AccountKind::User => "user",
            AccountKind::Role => "role",
        };
        write!(f, "{kind} {}.{}", self.database, self.name)
    }
}

/// What a merge does to each user and role that it brings, or has done; each list by kind, then name. Others it does not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountMerge {
    /// Those that are not there.
    pub added: Vec<AccountName>,
    /// Those that are there and otherwise: they become what is brought, credentials included.
    pub replaced: Vec<AccountName>,
    /// Those that are there and otherwise, and stay so: the account that merges, and the roles it holds, so that it never locks itself out.
    pub kept: Vec<AccountName>,
    /// How many are there and equal.
    pub unchanged: usize,
    /// Collections that the store needs on the way: they are made and dropped again, whoever made what stands there.
    pub scratch: Vec<Namespace>,
}

impl AccountMerge {
    /// How many of `kind` are added or replaced.
    pub fn count(&self, kind: AccountKind) -> usize {
        self.added.iter().chain(&self.replaced).filter(|name| name.kind == kind).count()
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

    /// What [`AccountStore::merge_accounts`] would do now. Changes nothing.
    ///
    /// # Errors
    /// `Auth`, naming the right that lacks; `Unsupported` when the documents have another form than this server's; `Corrupt` when they are not
    /// those of users and roles.
    async fn compare_accounts(&self, accounts: &Accounts, database: Option<&str>) -> Result<AccountMerge>;

    /// Brings users and roles, of all databases or of one: adds those that are not there and replaces those that are there otherwise, as
    /// [`AccountMerge`] says. Nobody is removed, at no moment, whatever is made meanwhile. Gives what was done; repeating is safe.
    ///
    /// # Errors
    /// As [`AccountStore::compare_accounts`], with nothing changed; `Refused`, likewise, when `permit` is for another server or another
    /// operation; `Server`, with names, when the server did not take some of them.
    async fn merge_accounts(
        &self,
        accounts: &Accounts,
        database: Option<&str>,
        permit: &Permit,
    ) -> Result<AccountMerge>;
}
