//! Bringing a server of any age to what is declared of it: `init`.
//!
//! The flow is looked at, decided, done. A [`declared`] value says what should be; a survey looks at the whole of it on the server; a pure
//! function turns the two into [`Item`]s, each *there*, *to do*, or otherwise, and each to do with exactly one act that the server takes whole
//! or not at all. The plan keeps the acts. Applying looks at the whole again before the first act and behind the last, and right before and after each
//! act at what it is done to: an act is done only while the same decision still comes out of the same declaration, and counts only when its item is
//! found there afterwards. So a run that was killed, or was never needed, ends in the same place, and a plan file can do nothing that is not
//! declared.
//!
//! Nothing is ever dropped or revoked: what a server has beyond the declaration is told and left. A password that is there is never set again
//! unless its account is named (`--rotate`). Passwords stand in no item, act, plan, record or message.

mod apply;
pub mod declared;
mod documents;
mod keys;
mod plan;
mod relational;
pub mod scripts;

use async_trait::async_trait;
use mainstay_engine::{DocumentAct, KeyServerAct, PasswordMatch, RelationalAct, ServerIdentity, UserData};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{EnvironmentClass, Error, ErrorKind, Result, StoreKind};
use serde::{Deserialize, Serialize};

pub use apply::{InitContext, InitReport, InitStepDone, apply, check};
pub use documents::DocumentStore;
pub use keys::KeyStore;
pub use plan::{InitPlan, ItemCounts, plan, rotated};
pub use relational::RelationalStore;

/// The registered name of an initiation that only adds.
pub const OPERATION: &str = "init.apply";
/// The registered name of one that changes what is there: rules, validators, passwords, owners.
pub const OPERATION_CHANGE: &str = "init.apply.change";

/// One thing done to a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "store", content = "do", deny_unknown_fields)]
pub enum Act {
    /// To a server of documents.
    Documents(DocumentAct),
    /// To a relational server.
    Relational(RelationalAct),
    /// To a server of keys.
    Keys(KeyServerAct),
    /// The environment's marker is written.
    Mark {
        /// The environment's name.
        name: String,
        /// How protected it is.
        class: EnvironmentClass,
    },
}

/// How something declared stands on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is there, as declared.
    There,
    /// It is not there; the act makes it.
    ToDo(Act),
    /// It is there otherwise; the act changes it.
    Change(Act),
    /// It is there otherwise, or cannot be there, and is left so.
    Differs,
    /// Whether it is as declared cannot be told.
    Unknown,
}

/// Something declared, compared with a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// A stable name: `user shop.app`, `grant on schema public to app`.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
    /// What is missing, what differs, or what to type.
    pub detail: String,
    /// There is no such thing, whatever is to be done about it.
    pub absent: bool,
}

impl Item {
    fn new(name: impl Into<String>, standing: Standing, detail: impl Into<String>) -> Self {
        Self { name: name.into(), standing, detail: detail.into(), absent: false }
    }

    /// The same of what is not there at all.
    fn of_absent(self) -> Self {
        Self { absent: true, ..self }
    }

    fn there(name: impl Into<String>) -> Self {
        Self::new(name, Standing::There, "")
    }

    /// The act that is due.
    pub fn act(&self) -> Option<&Act> {
        match &self.standing {
            Standing::ToDo(act) | Standing::Change(act) => Some(act),
            Standing::There | Standing::Differs | Standing::Unknown => None,
        }
    }
}

/// What was seen of a server, compared with what is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Which server.
    pub identity: ServerIdentity,
    /// Every declared thing, in the order in which it is to be done.
    pub items: Vec<Item>,
    /// What users have put in, where it can be told.
    pub data: Option<UserData>,
    /// What a person should do that nobody can do from here.
    pub advice: Vec<String>,
}

/// What was seen of a server, for [`InitStore::compare`]: each store's own.
pub struct Sight(Seen);

/// What was seen of a server of each kind.
enum Seen {
    Documents(Box<documents::Seen>),
    Relational(ServerIdentity, relational::Seen),
    Keys(keys::Seen),
}

/// A server with what is declared of it.
#[async_trait]
pub trait InitStore: Send + Sync {
    /// Which store.
    fn kind(&self) -> StoreKind;

    /// Accounts whose password may be set again.
    fn rotate(&self) -> &[String];

    /// Looks at everything declared.
    ///
    /// # Errors
    /// The server's; `Config` when what is declared cannot be.
    async fn look(&self) -> Result<Sight>;

    /// Looks again at what `act` is done to, and at what only its doing lets be seen; the rest stays as it was seen.
    ///
    /// # Errors
    /// The server's; `Internal` for a sight or an act of another store.
    async fn look_again(&self, sight: &mut Sight, act: &Act) -> Result<()>;

    /// Compares what was seen with what is declared.
    ///
    /// # Errors
    /// `Internal` for a sight of another store.
    fn compare(&self, sight: &Sight) -> Result<Survey>;

    /// Looks at everything declared, and compares.
    ///
    /// # Errors
    /// As [`InitStore::look`].
    async fn survey(&self) -> Result<Survey> {
        self.compare(&self.look().await?)
    }

    /// Does one thing.
    ///
    /// # Errors
    /// The server's; `Internal` for an act of another store.
    async fn act(&self, act: &Act, permit: &Permit) -> Result<()>;

    /// Writes the environment's marker.
    ///
    /// # Errors
    /// The server's.
    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()>;
}

/// The error of what crossed to the wrong store.
fn of_another_store() -> Error {
    Error::new(ErrorKind::Internal, "what was seen or is to be done is of another store")
}

/// The item of the environment's marker.
fn marker_item(mark: Option<&declared::Mark>, marker: Option<&Marker>) -> Option<Item> {
    let mark = mark?;
    let name = "environment marker";
    let what = format!("{} ({})", mark.name, mark.class);
    Some(match marker {
        Some(marker) if marker.environment == mark.name && marker.class == mark.class => Item::there(name),
        // A marker decides how protected a server is: only `environment mark` replaces one.
        Some(marker) => Item::new(
            name,
            Standing::Differs,
            format!(
                "it says {} ({}), declared is {what}: `mainstay environment mark` replaces it",
                marker.environment, marker.class
            ),
        ),
        None => {
            let act = Act::Mark { name: mark.name.clone(), class: mark.class };
            Item::new(name, Standing::ToDo(act), format!("write {what}"))
        }
    })
}

/// An account with a password: what is declared of that, and what was found.
struct PasswordCase<'a> {
    /// `user shop.app`.
    subject: &'a str,
    declared: Option<&'a declared::DeclaredPassword>,
    found: PasswordMatch,
    /// The name that `--rotate` takes.
    account: &'a str,
    rotate: &'a [String],
}

/// The item of an existing account's password; `None` when none is declared.
fn password_item(case: &PasswordCase<'_>, set: impl FnOnce() -> Act) -> Option<Item> {
    let declared = case.declared?;
    let name = format!("password of {}", case.subject);
    let may_rotate = case.rotate.iter().any(|account| account == case.account);
    let hint = format!("`--rotate {}` sets it", case.account);
    Some(match (declared.secret.is_some(), case.found) {
        (false, _) => {
            Item::new(name, Standing::Unknown, format!("not compared: {} is not set", declared.place))
        }
        (true, PasswordMatch::Same) => Item::there(name),
        (true, _) if may_rotate => Item::new(name, Standing::Change(set()), "set to the declared one"),
        (true, PasswordMatch::Other) => {
            Item::new(name, Standing::Differs, format!("it is another one; {hint}"))
        }
        (true, PasswordMatch::None) => Item::new(name, Standing::Differs, format!("it has none; {hint}")),
        (true, PasswordMatch::Unknown) => {
            Item::new(name, Standing::Unknown, format!("nobody here may compare it; {hint}"))
        }
    })
}

/// What is said of an account that is to be made, and whose declared password is not given.
fn no_password(declared: &declared::DeclaredPassword) -> String {
    format!("it cannot be made: its password is not given, set {}", declared.place)
}

#[cfg(test)]
mod tests {
    use mainstay_model::Secret;

    use super::declared::{DeclaredPassword, PasswordPlace};
    use super::*;

    fn act() -> Act {
        Act::Keys(KeyServerAct::SetPassword { user: "app".to_owned() })
    }

    #[test]
    fn a_password_is_set_again_only_when_its_account_is_named() {
        let given = DeclaredPassword {
            place: PasswordPlace::Variable("APP_PWD".to_owned()),
            secret: Some(Secret::new("canary")),
        };
        let missing = DeclaredPassword { place: PasswordPlace::Variable("APP_PWD".to_owned()), secret: None };
        let rotate = ["app".to_owned()];
        for (declared, found, rotate, expected) in [
            (&given, PasswordMatch::Same, &[][..], Standing::There),
            (&given, PasswordMatch::Same, &rotate[..], Standing::There),
            (&given, PasswordMatch::Other, &[], Standing::Differs),
            (&given, PasswordMatch::Other, &rotate, Standing::Change(act())),
            (&given, PasswordMatch::None, &[], Standing::Differs),
            (&given, PasswordMatch::Unknown, &[], Standing::Unknown),
            (&given, PasswordMatch::Unknown, &rotate, Standing::Change(act())),
            (&missing, PasswordMatch::Other, &rotate, Standing::Unknown),
        ] {
            let case =
                PasswordCase { subject: "user app", declared: Some(declared), found, account: "app", rotate };
            let item = password_item(&case, act);
            assert_eq!(item.as_ref().map(|item| &item.standing), Some(&expected), "{found:?} {rotate:?}");
            assert!(!format!("{item:?}").contains("canary"));
        }
    }
}
