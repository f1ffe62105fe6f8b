//! A relational server and what is declared of it. Deciding is pure; looking asks the trait.
//!
//! Of a database, a role or a schema that is not there yet nothing is asked: what belongs to it is planned, and looked at when it is there.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use mainstay_engine::{
    GrantObject, PasswordMatch, RelationalAct, RelationalGrant, RelationalInit, RoleAttributes, SeenDatabase,
    SeenGrant, SeenRole, UserData,
};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Result, StoreKind};

use super::declared::{DeclaredDatabase, DeclaredRelational, DeclaredRole};
use super::{
    Act, InitStore, Item, PasswordCase, Sight, Standing, Survey, marker_item, no_password, of_another_store,
    password_item,
};

/// A relational server with what is declared of it.
pub struct RelationalStore<'a> {
    /// The server.
    pub server: &'a dyn RelationalInit,
    /// What is declared.
    pub declared: &'a DeclaredRelational,
    /// Roles whose password may be set again.
    pub rotate: &'a [String],
}

/// How the names of items about memberships begin.
const MEMBERSHIPS: &str = "memberships of ";

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    roles: Vec<SeenRole>,
    /// Of each declared role, in order.
    passwords: Vec<PasswordMatch>,
    databases: Vec<SeenDatabase>,
    /// Of databases that are there.
    contents: BTreeMap<String, Contents>,
    /// Of each declared grant, in order; `None` where its role or database is not there.
    grants: Vec<Option<SeenGrant>>,
    data: Option<UserData>,
}

/// What is in a database.
#[derive(Default)]
struct Contents {
    installed: BTreeSet<String>,
    available: BTreeSet<String>,
    /// Schemas with their owners.
    schemas: Vec<(String, String)>,
}

#[async_trait]
impl InitStore for RelationalStore<'_> {
    fn kind(&self) -> StoreKind {
        StoreKind::Postgres
    }

    fn rotate(&self) -> &[String] {
        self.rotate
    }

    async fn look(&self) -> Result<Sight> {
        let identity = self.server.identity().await?;
        Ok(Sight(super::Seen::Relational(identity, self.seen().await?)))
    }

    async fn look_again(&self, sight: &mut Sight, act: &Act) -> Result<()> {
        let super::Seen::Relational(identity, seen) = &mut sight.0 else { return Err(of_another_store()) };
        match act {
            Act::Relational(act) => self.see_again(seen, act).await,
            Act::Mark { .. } => {
                *identity = self.server.identity().await?;
                Ok(())
            }
            _ => Err(of_another_store()),
        }
    }

    fn compare(&self, sight: &Sight) -> Result<Survey> {
        let super::Seen::Relational(identity, seen) = &sight.0 else { return Err(of_another_store()) };
        let mut items = decide(self.declared, seen, self.rotate);
        items.extend(marker_item(self.declared.mark.as_ref(), identity.marker.as_ref()));
        Ok(Survey { items, identity: identity.clone(), data: seen.data.clone(), advice: Vec::new() })
    }

    async fn act(&self, act: &Act, permit: &Permit) -> Result<()> {
        let Act::Relational(act) = act else { return Err(of_another_store()) };
        let password = match act {
            RelationalAct::CreateRole { role, .. } | RelationalAct::SetPassword { role } => {
                let declared = self.declared.roles.iter().find(|declared| declared.name == *role);
                declared.and_then(|declared| declared.password.as_ref()?.secret.as_ref())
            }
            _ => None,
        };
        self.server.act(act, password, permit).await
    }

    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        self.server.mark(marker, permit).await
    }
}

impl RelationalStore<'_> {
    async fn seen(&self) -> Result<Seen> {
        let mut seen = Seen {
            roles: self.server.roles().await?,
            databases: self.server.databases().await?,
            ..Seen::default()
        };
        for declared in &self.declared.roles {
            let password = self.password(declared, &seen).await?;
            seen.passwords.push(password);
        }
        for declared in &self.declared.databases {
            self.see_contents(&mut seen, &declared.name).await?;
        }
        for grant in &self.declared.grants {
            let compared = self.compared(grant, &seen).await?;
            seen.grants.push(compared);
        }
        let own = self.server.database();
        if seen.database(&own).is_some() {
            seen.data = self.server.user_data(&own).await?;
        }
        Ok(seen)
    }

    /// Looks again at what `act` is done to.
    async fn see_again(&self, seen: &mut Seen, act: &RelationalAct) -> Result<()> {
        match act {
            RelationalAct::CreateRole { role, .. }
            | RelationalAct::AlterRole { role, .. }
            | RelationalAct::SetPassword { role }
            | RelationalAct::GrantRoles { role, .. } => self.see_role(seen, role).await,
            RelationalAct::CreateDatabase { database, .. } | RelationalAct::OwnDatabase { database, .. } => {
                seen.databases = self.server.databases().await?;
                self.see_contents(seen, database).await
            }
            RelationalAct::CreateExtension { database, .. }
            | RelationalAct::CreateSchema { database, .. }
            | RelationalAct::OwnSchema { database, .. } => self.see_contents(seen, database).await,
            RelationalAct::Grant { grant } => self.see_grant(seen, grant).await,
        }
    }

    async fn see_role(&self, seen: &mut Seen, role: &str) -> Result<()> {
        seen.roles = self.server.roles().await?;
        for (number, declared) in self.declared.roles.iter().enumerate() {
            if declared.name != role {
                continue;
            }
            let password = self.password(declared, seen).await?;
            if let Some(known) = seen.passwords.get_mut(number) {
                *known = password;
            }
        }
        Ok(())
    }

    async fn see_contents(&self, seen: &mut Seen, database: &str) -> Result<()> {
        if seen.database(database).is_none() {
            return Ok(());
        }
        let (installed, available) = self.server.extensions(database).await?;
        let schemas = self.server.schemas(database).await?;
        seen.contents.insert(database.to_owned(), Contents { installed, available, schemas });
        Ok(())
    }

    async fn see_grant(&self, seen: &mut Seen, grant: &RelationalGrant) -> Result<()> {
        for (number, declared) in self.declared.grants.iter().enumerate() {
            let is_it = declared.role == grant.role
                && declared.database == grant.database
                && declared.object == grant.object;
            if !is_it {
                continue;
            }
            let compared = self.compared(declared, seen).await?;
            if let Some(known) = seen.grants.get_mut(number) {
                *known = compared;
            }
        }
        Ok(())
    }

    async fn password(&self, declared: &DeclaredRole, seen: &Seen) -> Result<PasswordMatch> {
        let is_there = seen.role(&declared.name).is_some();
        let secret = declared.password.as_ref().and_then(|password| password.secret.as_ref());
        match secret.filter(|_| is_there) {
            Some(secret) => self.server.check_password(&declared.name, secret).await,
            None => Ok(PasswordMatch::Unknown),
        }
    }

    /// How a grant compares; `None` where its role or database is not there, as far as it was seen.
    async fn compared(&self, grant: &RelationalGrant, seen: &Seen) -> Result<Option<SeenGrant>> {
        let is_role = |name: &str| seen.role(name).is_some() || name.starts_with("pg_");
        let by_is_there = match &grant.object {
            GrantObject::FutureTables { by, .. } | GrantObject::FutureSequences { by, .. } => is_role(by),
            _ => true,
        };
        match is_role(&grant.role) && by_is_there && seen.database(&grant.database).is_some() {
            true => self.server.compare_grant(grant).await.map(Some),
            false => Ok(None),
        }
    }
}

impl Seen {
    fn role(&self, name: &str) -> Option<&SeenRole> {
        self.roles.iter().find(|role| role.name == name)
    }

    fn database(&self, name: &str) -> Option<&SeenDatabase> {
        self.databases.iter().find(|database| database.name == name)
    }
}

/// Every declared thing against what was seen, in the order in which it is done.
fn decide(declared: &DeclaredRelational, seen: &Seen, rotate: &[String]) -> Vec<Item> {
    let mut items = Vec::new();
    for (role, password) in declared.roles.iter().zip(&seen.passwords) {
        items.extend(role_items(role, *password, seen, rotate));
    }
    // A role may be a member of one that is declared after it: memberships come when all roles are there.
    items.sort_by_key(|item| item.name.starts_with(MEMBERSHIPS));
    for database in &declared.databases {
        items.extend(database_items(database, seen));
    }
    for (grant, seen) in declared.grants.iter().zip(&seen.grants) {
        items.extend(grant_items(grant, seen.as_ref()));
    }
    items
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn to_do(name: impl Into<String>, act: RelationalAct, detail: impl Into<String>) -> Item {
    Item::new(name, Standing::ToDo(Act::Relational(act)), detail)
}

fn change(name: impl Into<String>, act: RelationalAct, detail: impl Into<String>) -> Item {
    Item::new(name, Standing::Change(Act::Relational(act)), detail)
}

fn role_items(declared: &DeclaredRole, password: PasswordMatch, seen: &Seen, rotate: &[String]) -> Vec<Item> {
    let (role, subject) = (declared.name.clone(), format!("role {}", declared.name));
    let members = |lacking: BTreeSet<String>| {
        let detail = format!("make it a member of {}", list(&lacking));
        let act = RelationalAct::GrantRoles { role: role.clone(), member_of: lacking };
        to_do(format!("{MEMBERSHIPS}{subject}"), act, detail)
    };
    let Some(found) = seen.role(&declared.name) else {
        if let Some(password) = declared.password.as_ref().filter(|password| password.secret.is_none()) {
            return vec![Item::new(subject, Standing::Differs, no_password(password)).of_absent()];
        }
        let words = declared.attributes.words().join(" ");
        let act = RelationalAct::CreateRole { role: role.clone(), attributes: declared.attributes.clone() };
        let mut items = vec![to_do(&*subject, act, format!("make it {words}").trim().to_owned()).of_absent()];
        items.extend((!declared.member_of.is_empty()).then(|| members(declared.member_of.clone())));
        return items;
    };
    let other = declared.attributes.beyond(&found.attributes);
    let mut items = vec![match other == RoleAttributes::default() {
        true => Item::there(&*subject),
        false => {
            let detail = format!("becomes {}", other.words().join(" "));
            change(&*subject, RelationalAct::AlterRole { role: role.clone(), attributes: other }, detail)
        }
    }];
    if !declared.member_of.is_empty() {
        let lacking: BTreeSet<String> = declared.member_of.difference(&found.member_of).cloned().collect();
        items.push(match lacking.is_empty() {
            true => Item::there(format!("{MEMBERSHIPS}{subject}")),
            false => members(lacking),
        });
    }
    let more: BTreeSet<String> = found.member_of.difference(&declared.member_of).cloned().collect();
    let mut beyond: Vec<String> = Vec::new();
    beyond.extend(found.superuser.then(|| "it is a superuser".to_owned()));
    beyond.extend((!more.is_empty()).then(|| format!("it is a member of {}", list(&more))));
    if !beyond.is_empty() {
        let detail = format!("{}, which is not declared", beyond.join(" and "));
        items.push(Item::new(format!("rights of {subject}"), Standing::Differs, detail));
    }
    let case = PasswordCase {
        subject: &subject,
        declared: declared.password.as_ref(),
        found: password,
        account: &declared.name,
        rotate,
    };
    items.extend(password_item(&case, || Act::Relational(RelationalAct::SetPassword { role: role.clone() })));
    items
}

fn database_items(declared: &DeclaredDatabase, seen: &Seen) -> Vec<Item> {
    let (database, subject) = (declared.name.clone(), format!("database {}", declared.name));
    let mut items = Vec::new();
    match seen.database(&declared.name) {
        None => {
            let act = RelationalAct::CreateDatabase {
                database: database.clone(),
                owner: declared.owner.clone(),
                encoding: declared.encoding.clone(),
                locale: declared.locale.clone(),
            };
            let owner = declared.owner.as_ref().map(|owner| format!(", owned by {owner}"));
            items.push(to_do(&*subject, act, format!("make it{}", owner.unwrap_or_default())).of_absent());
        }
        Some(found) => {
            items.push(match declared.owner.as_ref().filter(|owner| **owner != found.owner) {
                None => Item::there(&*subject),
                Some(owner) => {
                    let act = RelationalAct::OwnDatabase { database: database.clone(), owner: owner.clone() };
                    change(&*subject, act, format!("it goes from {} to {owner}", found.owner))
                }
            });
            let encoding =
                declared.encoding.as_ref().filter(|one| encoding_name(one) != encoding_name(&found.encoding));
            let locale = declared.locale.as_ref().filter(|one| !one.eq_ignore_ascii_case(&found.locale));
            for (what, other, found) in
                [("encoding", encoding, &found.encoding), ("locale", locale, &found.locale)]
            {
                if let Some(declared) = other {
                    let detail = format!("it is {found}, declared is {declared}: that cannot be changed");
                    items.push(Item::new(format!("{what} of {subject}"), Standing::Differs, detail));
                }
            }
        }
    }
    let contents = seen.contents.get(&declared.name);
    for extension in &declared.extensions {
        let name = format!("extension {extension} in {database}");
        let act = RelationalAct::CreateExtension { database: database.clone(), extension: extension.clone() };
        items.push(match contents {
            Some(contents) if contents.installed.contains(extension) => Item::there(name),
            Some(contents) if !contents.available.contains(extension) => {
                let detail =
                    "the server's machine does not have it: install its package there, then plan again";
                Item::new(name, Standing::Differs, detail).of_absent()
            }
            _ => to_do(name, act, "install it").of_absent(),
        });
    }
    for (schema, owner) in &declared.schemas {
        items.push(schema_item(&database, schema, owner.as_ref(), contents));
    }
    items
}

/// The name of an encoding as the server compares names: `UTF-8` is `UTF8`.
fn encoding_name(written: &str) -> String {
    written.chars().filter(|one| !"-_".contains(*one)).map(|one| one.to_ascii_lowercase()).collect()
}

fn schema_item(database: &str, schema: &str, owner: Option<&String>, contents: Option<&Contents>) -> Item {
    let name = format!("schema {schema} in {database}");
    let (database, schema_name) = (database.to_owned(), schema.to_owned());
    let found = contents.and_then(|contents| contents.schemas.iter().find(|(found, _)| found == schema));
    // A database is made with a schema `public`.
    match (found, owner) {
        (None, _) if contents.is_none() && schema == "public" && owner.is_none() => {
            Item::new(name, Standing::There, "it comes with the database")
        }
        (None, _) if contents.is_none() && schema == "public" => {
            let owner = owner.cloned().unwrap_or_default();
            let detail = format!("it goes to {owner}");
            change(name, RelationalAct::OwnSchema { database, schema: schema_name, owner }, detail)
        }
        (None, owner) => {
            let detail =
                owner.map_or_else(|| "make it".to_owned(), |owner| format!("make it, owned by {owner}"));
            to_do(
                name,
                RelationalAct::CreateSchema { database, schema: schema_name, owner: owner.cloned() },
                detail,
            )
            .of_absent()
        }
        (Some((_, found)), Some(owner)) if found != owner => {
            let detail = format!("it goes from {found} to {owner}");
            change(
                name,
                RelationalAct::OwnSchema { database, schema: schema_name, owner: owner.clone() },
                detail,
            )
        }
        (Some(_), _) => Item::there(name),
    }
}

fn grant_items(declared: &RelationalGrant, seen: Option<&SeenGrant>) -> Vec<Item> {
    let object = match &declared.object {
        GrantObject::Database => format!("database {}", declared.database),
        object => format!("{object} in database {}", declared.database),
    };
    let name = format!("rights of {} on {object}", declared.role);
    let grant = |privileges: &BTreeSet<String>| {
        let act = RelationalAct::Grant {
            grant: RelationalGrant { privileges: privileges.clone(), ..declared.clone() },
        };
        to_do(&*name, act, format!("grant {}", list(privileges)))
    };
    let Some(seen) = seen else { return vec![grant(&declared.privileges)] };
    if seen.absent && matches!(declared.object, GrantObject::Table { .. }) {
        let detail = "the table is not there: whoever makes it comes first, then plan again";
        return vec![Item::new(name, Standing::Differs, detail)];
    }
    let mut items = vec![match seen.missing.is_empty() {
        true => Item::there(&*name),
        false => grant(&seen.missing),
    }];
    if !seen.beyond.is_empty() {
        let detail = format!("{} was given besides, which is not declared", list(&seen.beyond));
        items.push(Item::new(format!("more {name}"), Standing::Differs, detail));
    }
    items
}

#[cfg(test)]
mod tests {
    use mainstay_model::Secret;

    use super::super::declared::{DeclaredPassword, PasswordPlace};
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn role(member_of: &[&str], secret: Option<&str>) -> DeclaredRole {
        DeclaredRole {
            name: "app".to_owned(),
            attributes: RoleAttributes { login: Some(true), ..RoleAttributes::default() },
            member_of: names(member_of),
            password: Some(DeclaredPassword {
                place: PasswordPlace::Variable("APP_PWD".to_owned()),
                secret: secret.map(Secret::new),
            }),
        }
    }

    fn marks(items: &[Item]) -> String {
        let mark = |item: &Item| match item.standing {
            Standing::There => '=',
            Standing::ToDo(_) => '+',
            Standing::Change(_) => '~',
            Standing::Differs => '!',
            Standing::Unknown => '?',
        };
        items.iter().map(mark).collect()
    }

    fn with_role(login: bool, member_of: &[&str], superuser: bool) -> Seen {
        let attributes =
            RoleAttributes { login: Some(login), createdb: Some(true), ..RoleAttributes::default() };
        let found = SeenRole { name: "app".to_owned(), attributes, superuser, member_of: names(member_of) };
        Seen { roles: vec![found], ..Seen::default() }
    }

    #[test]
    fn roles_become_what_is_declared_and_lose_nothing() {
        for (seen, password, expected) in [
            (Seen::default(), PasswordMatch::Unknown, "++"),
            (with_role(true, &["readers"], false), PasswordMatch::Same, "==="),
            (with_role(false, &[], false), PasswordMatch::Same, "~+="),
            (with_role(true, &["readers", "pg_monitor"], true), PasswordMatch::Other, "==!!"),
            (with_role(true, &["readers"], false), PasswordMatch::Unknown, "==?"),
        ] {
            let items = role_items(&role(&["readers"], Some("canary")), password, &seen, &[]);
            assert_eq!(marks(&items), expected, "{items:?}");
            assert!(!format!("{items:?}").contains("canary"));
        }
        assert_eq!(marks(&role_items(&role(&[], None), PasswordMatch::Unknown, &Seen::default(), &[])), "!");
        let rotate = ["app".to_owned()];
        let seen = with_role(true, &[], false);
        assert_eq!(marks(&role_items(&role(&[], Some("x")), PasswordMatch::Other, &seen, &rotate)), "=~");
    }

    #[test]
    fn databases_and_what_is_in_them_come_in_order() {
        let declared = DeclaredDatabase {
            name: "shop".to_owned(),
            owner: Some("own".to_owned()),
            encoding: Some("UTF8".to_owned()),
            extensions: vec!["pg_trgm".to_owned()],
            schemas: vec![("public".to_owned(), Some("own".to_owned())), ("audit".to_owned(), None)],
            ..DeclaredDatabase::default()
        };
        assert_eq!(marks(&database_items(&declared, &Seen::default())), "++~+");
        let found = |owner: &str, encoding: &str| SeenDatabase {
            name: "shop".to_owned(),
            owner: owner.to_owned(),
            encoding: encoding.to_owned(),
            locale: "C".to_owned(),
        };
        let contents = |installed: &[&str], available: &[&str]| Contents {
            installed: names(installed),
            available: names(available),
            schemas: vec![("public".to_owned(), "own".to_owned()), ("audit".to_owned(), "x".to_owned())],
        };
        for (database, contents, expected) in [
            (found("own", "UTF8"), contents(&["pg_trgm"], &[]), "===="),
            (found("x", "LATIN1"), contents(&[], &["pg_trgm"]), "~!+=="),
            (found("own", "UTF8"), contents(&[], &[]), "=!=="),
        ] {
            let seen = Seen {
                databases: vec![database],
                contents: BTreeMap::from([("shop".to_owned(), contents)]),
                ..Seen::default()
            };
            assert_eq!(marks(&database_items(&declared, &seen)), expected);
        }
        for (encoding, expected) in [("utf-8", "="), ("Utf_8", "="), ("UTF16", "=!")] {
            let declared = DeclaredDatabase {
                name: "shop".to_owned(),
                encoding: Some(encoding.to_owned()),
                ..DeclaredDatabase::default()
            };
            let seen = Seen { databases: vec![found("own", "UTF8")], ..Seen::default() };
            assert_eq!(marks(&database_items(&declared, &seen)), expected, "{encoding}");
        }
    }

    #[test]
    fn memberships_come_when_all_roles_are_there() {
        let named = |name: &str, member_of: &[&str]| DeclaredRole {
            name: name.to_owned(),
            ..role(member_of, Some("x"))
        };
        let declared = DeclaredRelational {
            roles: vec![named("app", &["readers"]), named("readers", &["all"]), named("all", &[])],
            ..DeclaredRelational::default()
        };
        let seen = Seen { passwords: vec![PasswordMatch::Unknown; 3], ..Seen::default() };
        let items = decide(&declared, &seen, &[]);
        assert_eq!(
            items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(),
            [
                "role app",
                "role readers",
                "role all",
                "memberships of role app",
                "memberships of role readers"
            ]
        );
    }

    #[test]
    fn rights_are_given_and_never_taken() {
        let grant = |object| RelationalGrant {
            role: "app".to_owned(),
            database: "shop".to_owned(),
            object,
            privileges: names(&["SELECT", "INSERT"]),
        };
        let tables = grant(GrantObject::Tables { schema: "public".to_owned() });
        let table = grant(GrantObject::Table { schema: "public".to_owned(), table: "orders".to_owned() });
        let seen = |missing: &[&str], beyond: &[&str], absent| SeenGrant {
            missing: names(missing),
            beyond: names(beyond),
            absent,
        };
        for (declared, seen, expected) in [
            (&tables, None, "+"),
            (&tables, Some(seen(&[], &[], false)), "="),
            (&tables, Some(seen(&["INSERT"], &["DELETE"], false)), "+!"),
            (&table, Some(seen(&["INSERT"], &[], true)), "!"),
        ] {
            assert_eq!(marks(&grant_items(declared, seen.as_ref())), expected, "{seen:?}");
        }
    }
}
