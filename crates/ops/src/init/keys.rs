//! A server of keys and what is declared of its users. Deciding is pure; looking asks the trait.

use async_trait::async_trait;
use mainstay_engine::{
    KeyServerAct, KeyServerInit, PasswordMatch, SeenKeyUser, ServerIdentity, UserData, UserKeeping,
};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Result, StoreKind};

use super::declared::{DeclaredKeyUser, DeclaredKeys};
use super::{
    Act, InitStore, Item, PasswordCase, Sight, Standing, Survey, marker_item, no_password, of_another_store,
    password_item,
};

/// A server of keys with what is declared of it.
pub struct KeyStore<'a> {
    /// The server.
    pub server: &'a dyn KeyServerInit,
    /// What is declared.
    pub declared: &'a DeclaredKeys,
    /// Users whose password may be set again.
    pub rotate: &'a [String],
}

/// What was seen.
pub(super) struct Seen {
    identity: ServerIdentity,
    /// Of each declared user, in order.
    users: Vec<SeenUser>,
    /// Where the server keeps its users; asked only where some are declared.
    keeping: Option<UserKeeping>,
    data: Option<UserData>,
}

/// A declared user as it was found.
struct SeenUser {
    /// Its rules in the server's form.
    wanted: String,
    found: Option<SeenKeyUser>,
    password: PasswordMatch,
}

#[async_trait]
impl InitStore for KeyStore<'_> {
    fn kind(&self) -> StoreKind {
        StoreKind::Redis
    }

    fn rotate(&self) -> &[String] {
        self.rotate
    }

    async fn look(&self) -> Result<Sight> {
        self.seen().await.map(|seen| Sight(super::Seen::Keys(seen)))
    }

    async fn look_again(&self, sight: &mut Sight, act: &Act) -> Result<()> {
        let super::Seen::Keys(seen) = &mut sight.0 else { return Err(of_another_store()) };
        match act {
            Act::Keys(
                KeyServerAct::CreateUser { user, .. }
                | KeyServerAct::SetRules { user, .. }
                | KeyServerAct::SetPassword { user },
            ) => {
                for (declared, found) in self.declared.users.iter().zip(&mut seen.users) {
                    if declared.name == *user {
                        *found = self.user(declared).await?;
                    }
                }
            }
            Act::Mark { .. } => seen.identity = self.server.identity().await?,
            _ => return Err(of_another_store()),
        }
        Ok(())
    }

    fn compare(&self, sight: &Sight) -> Result<Survey> {
        let super::Seen::Keys(seen) = &sight.0 else { return Err(of_another_store()) };
        let users = self.declared.users.iter().zip(&seen.users);
        let mut items: Vec<Item> =
            users.flat_map(|(declared, found)| user_items(declared, found, self.rotate)).collect();
        items.extend(marker_item(self.declared.mark.as_ref(), seen.identity.marker.as_ref()));
        Ok(Survey {
            items,
            identity: seen.identity.clone(),
            data: seen.data.clone(),
            advice: seen.keeping.as_ref().map(advice).unwrap_or_default(),
        })
    }

    async fn act(&self, act: &Act, permit: &Permit) -> Result<()> {
        let Act::Keys(act) = act else { return Err(of_another_store()) };
        let password = match act {
            KeyServerAct::CreateUser { user, .. } | KeyServerAct::SetPassword { user } => {
                let declared = self.declared.users.iter().find(|declared| declared.name == *user);
                declared.and_then(|declared| declared.password.as_ref()?.secret.as_ref())
            }
            KeyServerAct::SetRules { .. } => None,
        };
        self.server.act(act, password, permit).await
    }

    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        self.server.mark(marker, permit).await
    }
}

impl KeyStore<'_> {
    async fn seen(&self) -> Result<Seen> {
        let identity = self.server.identity().await?;
        let mut users = Vec::new();
        for declared in &self.declared.users {
            users.push(self.user(declared).await?);
        }
        let keeping = match users.is_empty() {
            true => None,
            false => Some(self.server.keeping().await?),
        };
        Ok(Seen { identity, users, keeping, data: self.server.user_data().await? })
    }

    async fn user(&self, declared: &DeclaredKeyUser) -> Result<SeenUser> {
        let wanted = self.server.canonical(&declared.rules)?;
        let found = self.server.user(&declared.name).await?;
        let secret = declared.password.as_ref().and_then(|password| password.secret.as_ref());
        let password = match secret.filter(|_| found.is_some()) {
            Some(secret) => self.server.check_password(&declared.name, secret).await?,
            None => PasswordMatch::Unknown,
        };
        Ok(SeenUser { wanted, found, password })
    }
}

/// A user against what was seen of it.
fn user_items(declared: &DeclaredKeyUser, seen: &SeenUser, rotate: &[String]) -> Vec<Item> {
    let wanted = &seen.wanted;
    let (user, subject) = (declared.name.clone(), format!("user {}", declared.name));
    let Some(found) = &seen.found else {
        if let Some(password) = declared.password.as_ref().filter(|password| password.secret.is_none()) {
            return vec![Item::new(subject, Standing::Differs, no_password(password)).of_absent()];
        }
        let off = if declared.password.is_none() { ", off: no password is declared" } else { "" };
        let act = KeyServerAct::CreateUser { user, rules: declared.rules.clone() };
        return vec![
            Item::new(subject, Standing::ToDo(Act::Keys(act)), format!("make it, with {wanted}{off}"))
                .of_absent(),
        ];
    };
    let mut items = vec![match found.rules == *wanted {
        true => Item::there(&*subject),
        false => {
            let act = KeyServerAct::SetRules { user: user.clone(), rules: declared.rules.clone() };
            let detail = format!("its rules are {}; they become {wanted}", found.rules);
            Item::new(&*subject, Standing::Change(Act::Keys(act)), detail)
        }
    }];
    if declared.password.is_some() && !found.on {
        let detail = format!("it is off: `ACL SETUSER {} on` lets it in", declared.name);
        items.push(Item::new(format!("state of {subject}"), Standing::Differs, detail));
    }
    let case = PasswordCase {
        subject: &subject,
        declared: declared.password.as_ref(),
        found: seen.password,
        account: &declared.name,
        rotate,
    };
    items.extend(password_item(&case, || Act::Keys(KeyServerAct::SetPassword { user: user.clone() })));
    items
}

fn advice(keeping: &UserKeeping) -> Vec<String> {
    match keeping {
        UserKeeping::UserFile(_) | UserKeeping::ConfigFile(_) => Vec::new(),
        UserKeeping::Nowhere => vec![
            "the server keeps its users nowhere and forgets them when it ends: mount a folder with an empty file users.acl, and start it with \
             `command: [\"redis-server\", \"--aclfile\", \"/data/users.acl\"]` in the compose file"
                .to_owned(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use mainstay_model::Secret;

    use super::super::declared::{DeclaredPassword, PasswordPlace};
    use super::*;

    #[test]
    fn users_are_made_given_their_rules_and_keep_their_passwords() {
        let declared = |secret: Option<&str>| DeclaredKeyUser {
            name: "app".to_owned(),
            rules: vec!["~app:*".to_owned(), "+@read".to_owned()],
            password: Some(DeclaredPassword {
                place: PasswordPlace::Variable("APP_PWD".to_owned()),
                secret: secret.map(Secret::new),
            }),
        };
        let wanted = "~app:* -@all +@read";
        let seen = |rules: &str, on| SeenKeyUser { name: "app".to_owned(), on, rules: rules.to_owned() };
        let marks = |items: &[Item]| -> String {
            let mark = |item: &Item| match item.standing {
                Standing::There => '=',
                Standing::ToDo(_) => '+',
                Standing::Change(_) => '~',
                Standing::Differs => '!',
                Standing::Unknown => '?',
            };
            items.iter().map(mark).collect()
        };
        for (secret, found, password, expected) in [
            (Some("canary"), None, PasswordMatch::Unknown, "+"),
            (None, None, PasswordMatch::Unknown, "!"),
            (Some("canary"), Some(seen(wanted, true)), PasswordMatch::Same, "=="),
            (Some("canary"), Some(seen("~* +@all", true)), PasswordMatch::Other, "~!"),
            (Some("canary"), Some(seen(wanted, false)), PasswordMatch::None, "=!!"),
            (None, Some(seen(wanted, true)), PasswordMatch::Unknown, "=?"),
        ] {
            let seen = SeenUser { wanted: wanted.to_owned(), found, password };
            let items = user_items(&declared(secret), &seen, &[]);
            assert_eq!(marks(&items), expected, "{items:?}");
            assert!(!format!("{items:?}").contains("canary"));
        }
    }

    #[test]
    fn who_forgets_users_is_told_what_to_type() {
        assert!(advice(&UserKeeping::ConfigFile("/etc/redis.conf".to_owned())).is_empty());
        assert!(advice(&UserKeeping::Nowhere)[0].contains("--aclfile"));
    }
}
