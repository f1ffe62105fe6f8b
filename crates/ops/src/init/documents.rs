//! A server of documents and what is declared of it. Deciding is pure; looking asks the trait.
//!
//! What a server does not tell, because it is not initiated or lets nobody in yet, counts as not there: the act is planned, and the survey before
//! it, which can see by then, says whether it is needed.

use std::collections::BTreeSet;

use async_trait::async_trait;
use mainstay_engine::{
    DocumentAccess, DocumentAct, DocumentInit, DocumentServer, Membership, Namespace, PasswordMatch,
    Principal, Privilege, SeenCollection, SeenPrincipal, UserData,
};
use mainstay_guard::{Marker, Permit};
use mainstay_indexes::{Collation, DeclaredIndex, Json, ListedIndex};
use mainstay_model::{Count, Error, ErrorKind, Result, StoreKind};
use serde_json::Value;

use super::declared::{
    DeclaredCollection, DeclaredDocumentRole, DeclaredDocumentUser, DeclaredDocuments, DeclaredSet,
};
use super::{
    Act, InitStore, Item, PasswordCase, Sight, Standing, Survey, marker_item, no_password, of_another_store,
    password_item,
};

/// A server of documents with what is declared of it.
pub struct DocumentStore<'a> {
    /// The server.
    pub server: &'a dyn DocumentInit,
    /// What is declared.
    pub declared: &'a DeclaredDocuments,
    /// Accounts whose password may be set again, as `name` or `database.name`.
    pub rotate: &'a [String],
}

/// What was seen.
pub(super) struct Seen {
    server: DocumentServer,
    users: Option<Vec<SeenPrincipal>>,
    roles: Option<Vec<SeenPrincipal>>,
    /// Of each declared user, in order.
    passwords: Vec<PasswordMatch>,
    /// Of each declared collection, in order: what there is, and how many documents its validator would refuse where that matters.
    collections: Vec<SeenDeclared>,
    /// Of each collection with declared indexes, in order.
    indexed: Vec<SeenIndexed>,
    data: Option<UserData>,
}

/// A declared collection as it was found.
#[derive(Default)]
struct SeenDeclared {
    /// The options that are declared, canonical.
    changeable: Value,
    fixed: Value,
    collection: Option<SeenCollection>,
    violations: Option<u64>,
}

/// A collection with declared indexes as it was found; one that is not there is empty.
struct SeenIndexed {
    collation: Collation,
    indexes: Vec<ListedIndex>,
    /// Whether it holds no document; asked only where an index lacks.
    is_empty: bool,
}

#[async_trait]
impl InitStore for DocumentStore<'_> {
    fn kind(&self) -> StoreKind {
        StoreKind::Mongo
    }

    fn rotate(&self) -> &[String] {
        self.rotate
    }

    async fn look(&self) -> Result<Sight> {
        let seen = self.seen().await?;
        Ok(Sight(super::Seen::Documents(Box::new(seen))))
    }

    async fn look_again(&self, sight: &mut Sight, act: &Act) -> Result<()> {
        let super::Seen::Documents(seen) = &mut sight.0 else { return Err(of_another_store()) };
        match act {
            Act::Documents(act) => self.see_again(seen, act).await,
            Act::Mark { .. } => {
                seen.server = self.server.look().await?;
                Ok(())
            }
            _ => Err(of_another_store()),
        }
    }

    fn compare(&self, sight: &Sight) -> Result<Survey> {
        let super::Seen::Documents(seen) = &sight.0 else { return Err(of_another_store()) };
        Ok(Survey {
            items: decide(self.declared, seen, self.rotate),
            advice: advice(self.declared, seen),
            identity: seen.server.identity.clone(),
            data: seen.data.clone(),
        })
    }

    async fn act(&self, act: &Act, permit: &Permit) -> Result<()> {
        let Act::Documents(act) = act else { return Err(of_another_store()) };
        let of_user = |user: &Principal| {
            let declared = self.declared.users.iter().find(|declared| declared.user == *user)?;
            declared.password.secret.as_ref()
        };
        let password = match act {
            DocumentAct::CreateUser { user, .. } | DocumentAct::SetPassword { user } => of_user(user),
            _ => None,
        };
        self.server.act(act, password, permit).await
    }

    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        self.server.mark(marker, permit).await
    }
}

impl DocumentStore<'_> {
    async fn seen(&self) -> Result<Seen> {
        let server = self.server.look().await?;
        let (users, roles) = (self.server.users().await?, self.server.roles().await?);
        let mut passwords = Vec::new();
        for declared in &self.declared.users {
            passwords.push(self.password(declared, users.as_deref()).await?);
        }
        let of_collections = self.declared.collections.iter().map(|declared| &declared.namespace);
        let of_indexes = self.declared.indexes.iter().map(|(namespace, _)| namespace);
        let databases: BTreeSet<&str> =
            of_collections.chain(of_indexes).map(|namespace| namespace.database.as_str()).collect();
        let mut listed = Vec::new();
        for database in databases {
            listed.extend(self.server.collections(database).await?.unwrap_or_default());
        }
        let mut collections = Vec::new();
        for declared in &self.declared.collections {
            collections.push(self.collection(declared, &listed).await?);
        }
        let mut indexed = Vec::new();
        for (namespace, wanted) in &self.declared.indexes {
            indexed.push(self.indexed(namespace, wanted, &listed).await?);
        }
        let data = self.server.user_data().await?;
        Ok(Seen { server, users, roles, passwords, collections, indexed, data })
    }

    /// Looks again at what `act` is done to; at everything where the server told nothing yet, for then one act may let all be seen.
    async fn see_again(&self, seen: &mut Seen, act: &DocumentAct) -> Result<()> {
        if seen.users.is_none() || seen.roles.is_none() {
            *seen = self.seen().await?;
            return Ok(());
        }
        match act {
            DocumentAct::Initiate { .. } => *seen = self.seen().await?,
            DocumentAct::CreateRole { .. } | DocumentAct::GrantToRole { .. } => {
                seen.roles = self.server.roles().await?;
            }
            DocumentAct::CreateUser { user, .. }
            | DocumentAct::GrantToUser { user, .. }
            | DocumentAct::SetPassword { user } => {
                seen.users = self.server.users().await?;
                for (declared, password) in self.declared.users.iter().zip(&mut seen.passwords) {
                    if declared.user == *user {
                        *password = self.password(declared, seen.users.as_deref()).await?;
                    }
                }
            }
            DocumentAct::CreateCollection { namespace, .. }
            | DocumentAct::ChangeCollection { namespace, .. }
            | DocumentAct::CreateIndex { namespace, .. } => self.see_collection(seen, namespace).await?,
        }
        Ok(())
    }

    /// Looks again at a collection and its indexes.
    async fn see_collection(&self, seen: &mut Seen, namespace: &Namespace) -> Result<()> {
        let listed = self.server.collections(&namespace.database).await?.unwrap_or_default();
        for (declared, found) in self.declared.collections.iter().zip(&mut seen.collections) {
            if declared.namespace == *namespace {
                *found = self.collection(declared, &listed).await?;
            }
        }
        for ((of, wanted), found) in self.declared.indexes.iter().zip(&mut seen.indexed) {
            if of == namespace {
                *found = self.indexed(namespace, wanted, &listed).await?;
            }
        }
        Ok(())
    }

    async fn password(
        &self,
        declared: &DeclaredDocumentUser,
        users: Option<&[SeenPrincipal]>,
    ) -> Result<PasswordMatch> {
        match &declared.password.secret {
            Some(secret) if find(users, &declared.user).is_some() => {
                self.server.check_password(&declared.user, secret).await
            }
            _ => Ok(PasswordMatch::Unknown),
        }
    }

    /// A declared collection among those of its database.
    async fn collection(
        &self,
        declared: &DeclaredCollection,
        listed: &[SeenCollection],
    ) -> Result<SeenDeclared> {
        let changeable = json(&self.server.canonical(&declared.changeable)?);
        let fixed = json(&self.server.canonical(&declared.fixed)?);
        let collection = listed.iter().find(|seen| seen.namespace == declared.namespace).cloned();
        let mut found = SeenDeclared { changeable, fixed, collection, ..SeenDeclared::default() };
        if let Some(collection) = found.collection.as_ref().filter(|one| one.kind == "collection") {
            let own = json(&collection.options);
            let validator = found.changeable.get("validator");
            if validator.is_some_and(|validator| !equal(Some(validator), own.get("validator"))) {
                let text = validator.map(Value::to_string).unwrap_or_default();
                found.violations = self.server.violations(&declared.namespace, &text).await?;
            }
        }
        Ok(found)
    }

    /// A collection with declared indexes among those of its database.
    async fn indexed(
        &self,
        namespace: &Namespace,
        wanted: &[DeclaredIndex],
        listed: &[SeenCollection],
    ) -> Result<SeenIndexed> {
        let found = listed.iter().find(|found| found.namespace == *namespace);
        // A collection that is to be made gives its indexes the collation that it is made with.
        let declared = self.declared.collections.iter().find(|one| one.namespace == *namespace);
        let options = match (found, declared) {
            (Some(found), _) => found.options.clone(),
            (None, Some(declared)) => self.server.canonical(&declared.fixed)?,
            (None, None) => "{}".to_owned(),
        };
        let read = |text: &str| Json::parse(text).map_err(|error| unreadable(namespace, error));
        let collation = match read(&options)?.get("collation") {
            Some(document) if found.is_some() => Collation::of_document(document),
            Some(document) => Collation::of_collection(document),
            None => Ok(Collation::Simple),
        };
        let collation = collation.map_err(|why| unreadable(namespace, why))?;
        let mut indexes = Vec::new();
        if found.is_some() {
            for index in self.server.indexes(namespace).await? {
                indexes.push(ListedIndex::read(&read(&index)?).map_err(|why| unreadable(namespace, why))?);
            }
        }
        let lacks_some = wanted.iter().any(|index| built(index, &indexes, &collation).is_none());
        let is_empty = match found.is_some() && lacks_some {
            true => self.server.is_empty(namespace).await?,
            false => found.is_none(),
        };
        Ok(SeenIndexed { collation, indexes, is_empty })
    }
}

fn unreadable(namespace: &Namespace, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("what the server tells of the indexes of {namespace} cannot be read: {why}"),
    )
}

fn find<'a>(list: Option<&'a [SeenPrincipal]>, name: &Principal) -> Option<&'a SeenPrincipal> {
    list?.iter().find(|seen| seen.name == *name)
}

/// Every declared thing against what was seen, in the order in which it is done.
fn decide(declared: &DeclaredDocuments, seen: &Seen, rotate: &[String]) -> Vec<Item> {
    let mut items = decided(declared, seen, rotate);
    if seen.users.is_none() {
        // What the server does not tell yet may be there; that its set is not initiated it tells.
        let is_set = |item: &Item| matches!(item.act(), Some(Act::Documents(DocumentAct::Initiate { .. })));
        items.iter_mut().filter(|item| !is_set(item)).for_each(|item| item.absent = false);
    }
    items
}

fn decided(declared: &DeclaredDocuments, seen: &Seen, rotate: &[String]) -> Vec<Item> {
    let mut items = Vec::new();
    items.extend(declared.set.as_ref().map(|set| set_item(set, &seen.server)));
    let users = || declared.users.iter().zip(&seen.passwords);
    let nobody_first = seen.server.access == DocumentAccess::Exception
        && !declared.users.iter().any(DeclaredDocumentUser::is_administrator);
    for (user, password) in users().filter(|(user, _)| user.is_administrator()) {
        items.extend(user_items(user, *password, seen, rotate));
    }
    if nobody_first {
        items.push(Item::new(
            "first user",
            Standing::Differs,
            "the server asks for a user and has none: declare one of `admin` with the role `root` or `userAdminAnyDatabase`",
        ));
        return items;
    }
    let roles = ordered(&declared.roles).into_iter();
    items.extend(roles.flat_map(|role| role_items(role, seen.roles.as_deref())));
    for (user, password) in users().filter(|(user, _)| !user.is_administrator()) {
        items.extend(user_items(user, *password, seen, rotate));
    }
    items.extend(
        declared
            .collections
            .iter()
            .zip(&seen.collections)
            .flat_map(|(one, seen)| collection_items(one, seen)),
    );
    for ((namespace, indexes), seen) in declared.indexes.iter().zip(&seen.indexed) {
        items.extend(index_items(namespace, indexes, seen));
    }
    items.extend(marker_item(declared.mark.as_ref(), seen.server.identity.marker.as_ref()));
    items
}

fn set_item(declared: &DeclaredSet, server: &DocumentServer) -> Item {
    let name = format!("replica set {}", declared.name);
    let differs = |detail: String| Item::new(&*name, Standing::Differs, detail);
    match &server.membership {
        Membership::Awaiting => {
            let (members, shown) = match declared.members.as_slice() {
                [] => {
                    let own = &server.identity.address;
                    (vec![own.clone()], format!("this server alone, as {own}"))
                }
                members => (members.to_vec(), members.join(", ")),
            };
            let act = DocumentAct::Initiate { set: declared.name.clone(), members };
            Item::new(
                &*name,
                Standing::ToDo(Act::Documents(act)),
                format!("initiate it of {shown}, and wait for its primary"),
            )
            .of_absent()
        }
        Membership::Member { set, .. } if *set != declared.name => {
            differs(format!("the server is a member of {set}: the name of a set cannot be changed"))
        }
        Membership::Member { members, .. } => {
            let wanted: BTreeSet<&String> = declared.members.iter().collect();
            let found: BTreeSet<&String> = members.iter().collect();
            match wanted.is_empty() || wanted == found {
                true => Item::there(&*name),
                false => differs(format!(
                    "its members are {}: rs.add() and rs.remove() change them",
                    members.join(", ")
                )),
            }
        }
        Membership::Standalone => differs(format!(
            "the server was started without it: start it with `--replSet {}` (and `--keyFile` where it asks for passwords), then plan again",
            declared.name
        )),
        Membership::Router => differs("the server routes to shards, which have sets of their own".to_owned()),
    }
}

/// The declared roles, each behind those that it holds. Those of a circle, which the server refuses, stay as they are declared.
fn ordered(declared: &[DeclaredDocumentRole]) -> Vec<&DeclaredDocumentRole> {
    let mut rest: Vec<&DeclaredDocumentRole> = declared.iter().collect();
    let mut ordered = Vec::new();
    while !rest.is_empty() {
        let waits = |role: &DeclaredDocumentRole| rest.iter().any(|other| role.roles.contains(&other.role));
        let next = rest.iter().position(|&role| !waits(role)).unwrap_or(0);
        ordered.push(rest.remove(next));
    }
    ordered
}

fn names(principals: &BTreeSet<Principal>) -> String {
    principals.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn user_items(
    declared: &DeclaredDocumentUser,
    password: PasswordMatch,
    seen: &Seen,
    rotate: &[String],
) -> Vec<Item> {
    let subject = format!("user {}", declared.user);
    let Some(found) = find(seen.users.as_deref(), &declared.user) else {
        if declared.password.secret.is_none() {
            return vec![Item::new(subject, Standing::Differs, no_password(&declared.password)).of_absent()];
        }
        let act = DocumentAct::CreateUser {
            user: declared.user.clone(),
            roles: declared.roles.iter().cloned().collect(),
        };
        let unseen = if seen.users.is_none() { ", unless it is there already" } else { "" };
        let detail = format!("make it, with {}{unseen}", names(&declared.roles));
        return vec![Item::new(subject, Standing::ToDo(Act::Documents(act)), detail).of_absent()];
    };
    let lacking: BTreeSet<Principal> = declared.roles.difference(&found.roles).cloned().collect();
    let beyond: BTreeSet<Principal> = found.roles.difference(&declared.roles).cloned().collect();
    let mut items = vec![match lacking.is_empty() {
        true => Item::there(&*subject),
        false => {
            let detail = format!("give it {}", names(&lacking));
            let act = DocumentAct::GrantToUser {
                user: declared.user.clone(),
                roles: lacking.into_iter().collect(),
            };
            Item::new(&*subject, Standing::ToDo(Act::Documents(act)), detail)
        }
    }];
    items.extend(beyond_item(&subject, &names(&beyond)));
    let full = declared.user.to_string();
    let account = if rotate.contains(&full) { &full } else { &declared.user.name };
    let case = PasswordCase {
        subject: &subject,
        declared: Some(&declared.password),
        found: password,
        account,
        rotate,
    };
    items.extend(password_item(&case, || {
        Act::Documents(DocumentAct::SetPassword { user: declared.user.clone() })
    }));
    items
}

fn beyond_item(subject: &str, what: &str) -> Option<Item> {
    (!what.is_empty()).then(|| {
        let detail = format!("it has {what} besides, which is not declared");
        Item::new(format!("rights of {subject}"), Standing::Differs, detail)
    })
}

fn role_items(declared: &DeclaredDocumentRole, seen: Option<&[SeenPrincipal]>) -> Vec<Item> {
    let subject = format!("role {}", declared.role);
    let Some(found) = find(seen, &declared.role) else {
        let act = DocumentAct::CreateRole {
            role: declared.role.clone(),
            privileges: declared.privileges.clone(),
            roles: declared.roles.iter().cloned().collect(),
        };
        let unseen = if seen.is_none() { ", unless it is there already" } else { "" };
        let standing = Standing::ToDo(Act::Documents(act));
        return vec![Item::new(subject, standing, format!("make it{unseen}")).of_absent()];
    };
    let privileges = beyond(&declared.privileges, &found.privileges);
    let roles: BTreeSet<Principal> = declared.roles.difference(&found.roles).cloned().collect();
    let grant = |privileges: Vec<Privilege>, roles: BTreeSet<Principal>| {
        Act::Documents(DocumentAct::GrantToRole {
            role: declared.role.clone(),
            privileges,
            roles: roles.into_iter().collect(),
        })
    };
    let mut items = vec![match privileges.is_empty() {
        true => Item::there(&*subject),
        false => {
            let detail = format!("give it {}", privileges.iter().map(shown).collect::<Vec<_>>().join("; "));
            Item::new(&*subject, Standing::ToDo(grant(privileges, BTreeSet::new())), detail)
        }
    }];
    if !declared.roles.is_empty() {
        let name = format!("roles of {subject}");
        items.push(match roles.is_empty() {
            true => Item::there(name),
            false => {
                let detail = format!("give it {}", names(&roles));
                Item::new(name, Standing::ToDo(grant(Vec::new(), roles)), detail)
            }
        });
    }
    let more: Vec<String> = beyond(&found.privileges, &declared.privileges).iter().map(shown).collect();
    let more_roles: BTreeSet<Principal> = found.roles.difference(&declared.roles).cloned().collect();
    let more = [more, more_roles.iter().map(ToString::to_string).collect()].concat();
    items.extend(beyond_item(&subject, &more.join("; ")));
    items
}

/// Of each of `wanted`, the actions that `held` does not have on the same thing.
fn beyond(wanted: &[Privilege], held: &[Privilege]) -> Vec<Privilege> {
    let actions_on = |one: &Privilege| -> BTreeSet<String> {
        let same = |other: &&Privilege| other.database == one.database && other.collection == one.collection;
        held.iter().filter(same).flat_map(|other| other.actions.iter().cloned()).collect()
    };
    let rest = wanted.iter().map(|one| {
        let actions = one.actions.difference(&actions_on(one)).cloned().collect();
        Privilege { actions, ..one.clone() }
    });
    rest.filter(|one| !one.actions.is_empty()).collect()
}

fn shown(privilege: &Privilege) -> String {
    let any = |name: &str| if name.is_empty() { "*".to_owned() } else { name.to_owned() };
    let actions = privilege.actions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("{actions} on {}.{}", any(&privilege.database), any(&privilege.collection))
}

fn collection_items(declared: &DeclaredCollection, seen: &SeenDeclared) -> Vec<Item> {
    let namespace = &declared.namespace;
    let name = format!("collection {namespace}");
    let Some(found) = &seen.collection else {
        let options = merged(&declared.fixed, &declared.changeable);
        let act = DocumentAct::CreateCollection { namespace: namespace.clone(), options };
        return vec![Item::new(name, Standing::ToDo(Act::Documents(act)), "make it").of_absent()];
    };
    let wanted_kind = if seen.fixed.get("timeseries").is_some() { "timeseries" } else { "collection" };
    if found.kind != wanted_kind {
        let detail = format!("it is a {}, declared is a {wanted_kind}: that cannot be changed", found.kind);
        return vec![Item::new(name, Standing::Differs, detail)];
    }
    let own = json(&found.options);
    let mut items = Vec::new();
    let fixed: Vec<String> = members(&seen.fixed)
        .filter(|(key, value)| !is_contained(key, value, own.get(*key)))
        .map(|(key, _)| key.clone())
        .collect();
    if !fixed.is_empty() {
        let detail = format!("{} is otherwise, which cannot be changed", fixed.join(", "));
        items.push(Item::new(format!("options of {name}"), Standing::Differs, detail));
    }
    let changed: Vec<&String> = members(&seen.changeable)
        .filter(|(key, value)| !equal(Some(*value), own.get(*key).or(default_of(key).as_ref())))
        .map(|(key, _)| key)
        .collect();
    items.insert(
        0,
        match changed.is_empty() {
            true => Item::there(name),
            false => {
                let act = DocumentAct::ChangeCollection {
                    namespace: namespace.clone(),
                    options: declared.changeable.clone(),
                };
                let what = changed.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", ");
                let violations = match (changed.iter().any(|key| *key == "validator"), seen.violations) {
                    (false, _) => String::new(),
                    (true, Some(0)) => "; no document that is there violates it".to_owned(),
                    (true, Some(count)) => format!("; {} documents that are there violate it", Count(count)),
                    (true, None) => "; documents that violate it could not be counted in time".to_owned(),
                };
                Item::new(
                    name,
                    Standing::Change(Act::Documents(act)),
                    format!("{what} becomes as declared{violations}"),
                )
            }
        },
    );
    items
}

/// The index of a collection that is the declared one and is not being built.
fn built<'s>(
    declared: &DeclaredIndex,
    indexes: &'s [ListedIndex],
    collation: &Collation,
) -> Option<&'s ListedIndex> {
    let spec = declared.spec(collation);
    indexes.iter().find(|found| found.build.is_none() && found.spec == spec)
}

/// The declared indexes of a collection. On one with documents a build is the business of `index plan`, which counts what stands against it.
fn index_items(namespace: &Namespace, declared: &[DeclaredIndex], seen: &SeenIndexed) -> Vec<Item> {
    let item = |declared: &DeclaredIndex| {
        let own = declared.name();
        let name = format!("index {namespace}.{own}");
        if let Some(found) = built(declared, &seen.indexes, &seen.collation) {
            return match found.name == own {
                true => Item::there(name),
                false => Item::new(name, Standing::There, format!("under the name {}", found.name)),
            };
        }
        if seen.indexes.iter().any(|found| found.name == own) {
            let detail = "it is another one, or is being built: `mainstay index drift` compares";
            return Item::new(name, Standing::Differs, detail);
        }
        if !seen.is_empty {
            let detail = "it is missing, and the collection has documents: `mainstay index plan` says what building it takes";
            return Item::new(name, Standing::Differs, detail).of_absent();
        }
        let index = declared.definition(&own, &seen.collation).to_string();
        let act = DocumentAct::CreateIndex { namespace: namespace.clone(), index };
        Item::new(name, Standing::ToDo(Act::Documents(act)), "build it").of_absent()
    };
    declared.iter().map(item).collect()
}

/// What a server does when an option is not said.
fn default_of(key: &str) -> Option<Value> {
    match key {
        "validationLevel" => Some(Value::from("strict")),
        "validationAction" => Some(Value::from("error")),
        "validator" => Some(Value::Object(serde_json::Map::new())),
        _ => None,
    }
}

/// Whether a fixed option holds: the server adds what was not said of a collation or a time series, and rounds the size of what is capped up.
fn is_contained(key: &str, declared: &Value, seen: Option<&Value>) -> bool {
    let Some(seen) = seen else { return false };
    match (key, normal(declared), normal(seen)) {
        ("size", declared, seen) => match (number(&declared), number(&seen)) {
            (Some(declared), Some(seen)) => seen == declared || seen == declared.next_multiple_of(256),
            _ => false,
        },
        (_, Value::Object(declared), Value::Object(seen)) => {
            declared.iter().all(|(name, value)| seen.get(name) == Some(value))
        }
        (_, declared, seen) => declared == seen,
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_str()?.strip_prefix('#')?.parse().ok()
}

fn equal(one: Option<&Value>, other: Option<&Value>) -> bool {
    one.map(normal) == other.map(normal)
}

/// Canonical Extended JSON with numbers of all types alike, as the server compares them.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            if let Some((kind, Value::String(text))) = members.iter().next().filter(|_| members.len() == 1)
                && ["$numberInt", "$numberLong", "$numberDouble"].contains(&kind.as_str())
            {
                let whole =
                    text.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && number.abs() < 9e15);
                return Value::from(match (text.parse::<i64>(), whole) {
                    (Ok(number), _) => format!("#{number}"),
                    (_, Some(number)) => format!("#{number:.0}"),
                    _ => format!("#{text}"),
                });
            }
            members.iter().map(|(name, value)| (name.clone(), normal(value))).collect()
        }
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Extended JSON as a value; what the adapter gave is JSON.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// Two documents of Extended JSON as one.
fn merged(one: &str, other: &str) -> String {
    let inner = |text: &str| {
        text.trim().trim_start_matches('{').strip_suffix('}').unwrap_or_default().trim().to_owned()
    };
    let parts: Vec<String> = [inner(one), inner(other)].into_iter().filter(|part| !part.is_empty()).collect();
    format!("{{{}}}", parts.join(","))
}

fn advice(declared: &DeclaredDocuments, seen: &Seen) -> Vec<String> {
    let mut advice = Vec::new();
    if seen.server.access == DocumentAccess::Open && !declared.users.is_empty() {
        let key_file = match seen.server.membership {
            Membership::Standalone | Membership::Router => "`--auth`".to_owned(),
            Membership::Awaiting | Membership::Member { .. } => {
                "`--keyFile FILE`, the same on every member".to_owned()
            }
        };
        advice.push(format!(
            "the server asks nobody for a password: once the users are there, start it with {key_file}"
        ));
    }
    advice
}

#[cfg(test)]
mod tests {
    use mainstay_engine::ServerIdentity;
    use mainstay_model::Secret;

    use super::super::declared::{DeclaredPassword, PasswordPlace};
    use super::*;

    fn principal(database: &str, name: &str) -> Principal {
        Principal { database: database.to_owned(), name: name.to_owned() }
    }

    fn roles(names: &[&str]) -> BTreeSet<Principal> {
        names.iter().map(|name| principal("shop", name)).collect()
    }

    fn seen(access: DocumentAccess, membership: Membership) -> Seen {
        let identity = ServerIdentity {
            fingerprint: "server-1".to_owned(),
            process: "process-1".to_owned(),
            address: "h:1".to_owned(),
            version: "6.0.27".to_owned(),
            marker: None,
        };
        let server = DocumentServer { identity, access, membership };
        Seen {
            server,
            users: Some(vec![]),
            roles: Some(vec![]),
            passwords: vec![],
            collections: vec![],
            indexed: vec![],
            data: None,
        }
    }

    fn user(database: &str, role: &str, secret: Option<&str>) -> DeclaredDocumentUser {
        DeclaredDocumentUser {
            user: principal(database, "app"),
            password: DeclaredPassword {
                place: PasswordPlace::Variable("APP_PWD".to_owned()),
                secret: secret.map(Secret::new),
            },
            roles: BTreeSet::from([principal(database, role)]),
        }
    }

    fn standings(items: &[Item]) -> Vec<(&str, char)> {
        let mark = |item: &Item| match item.standing {
            Standing::There => '=',
            Standing::ToDo(_) => '+',
            Standing::Change(_) => '~',
            Standing::Differs => '!',
            Standing::Unknown => '?',
        };
        items.iter().map(|item| (item.name.as_str(), mark(item))).collect()
    }

    #[test]
    fn a_set_is_initiated_once_and_never_changed() {
        let declared = DeclaredSet { name: "rs0".to_owned(), members: vec!["h:1".to_owned()] };
        let member = |set: &str, hosts: &[&str]| Membership::Member {
            set: set.to_owned(),
            members: hosts.iter().map(|host| (*host).to_owned()).collect(),
        };
        for (membership, expected) in [
            (Membership::Awaiting, '+'),
            (member("rs0", &["h:1"]), '='),
            (member("rs0", &["h:1", "h:2"]), '!'),
            (member("other", &["h:1"]), '!'),
            (Membership::Standalone, '!'),
            (Membership::Router, '!'),
        ] {
            let item = set_item(&declared, &seen(DocumentAccess::Open, membership.clone()).server);
            assert_eq!(standings(&[item])[0].1, expected, "{membership:?}");
        }
    }

    #[test]
    fn a_set_of_one_server_is_planned_with_its_address() {
        let declared = DeclaredSet { name: "rs0".to_owned(), members: vec![] };
        let item = set_item(&declared, &seen(DocumentAccess::Open, Membership::Awaiting).server);
        assert!(item.detail.contains("this server alone, as h:1"), "{item:?}");
        let Some(Act::Documents(DocumentAct::Initiate { members, .. })) = item.act() else {
            panic!("{item:?}");
        };
        assert_eq!(*members, ["h:1"]);
    }

    #[test]
    fn users_are_made_given_what_they_lack_and_never_deprived() {
        let declared = user("shop", "readWrite", Some("canary"));
        let holding = |held: &[&str]| Seen {
            users: Some(vec![SeenPrincipal {
                name: declared.user.clone(),
                roles: roles(held),
                privileges: vec![],
            }]),
            ..seen(DocumentAccess::User("admin.root".to_owned()), Membership::Standalone)
        };
        let nobody = seen(DocumentAccess::Open, Membership::Standalone);
        for (seen, password, expected) in [
            (&nobody, PasswordMatch::Unknown, vec![("user shop.app", '+')]),
            (
                &holding(&["readWrite"]),
                PasswordMatch::Same,
                vec![("user shop.app", '='), ("password of user shop.app", '=')],
            ),
            (
                &holding(&["dbAdmin"]),
                PasswordMatch::Other,
                vec![
                    ("user shop.app", '+'),
                    ("rights of user shop.app", '!'),
                    ("password of user shop.app", '!'),
                ],
            ),
        ] {
            let items = user_items(&declared, password, seen, &[]);
            assert_eq!(standings(&items), expected);
            assert!(!format!("{items:?}").contains("canary"));
        }
        let rotated =
            user_items(&declared, PasswordMatch::Other, &holding(&["readWrite"]), &["shop.app".to_owned()]);
        assert_eq!(standings(&rotated)[1].1, '~');
        let without = user_items(&user("shop", "readWrite", None), PasswordMatch::Unknown, &nobody, &[]);
        assert!(standings(&without)[0].1 == '!' && without[0].detail.contains("APP_PWD"), "{without:?}");
    }

    #[test]
    fn a_server_that_lets_nobody_in_needs_an_administrator_first() {
        let closed =
            Seen { users: None, roles: None, ..seen(DocumentAccess::Exception, Membership::Standalone) };
        let with = |users: Vec<DeclaredDocumentUser>| {
            let passwords = vec![PasswordMatch::Unknown; users.len()];
            decide(
                &DeclaredDocuments { users, ..DeclaredDocuments::default() },
                &Seen { passwords, ..clone(&closed) },
                &[],
            )
        };
        assert_eq!(standings(&with(vec![user("shop", "readWrite", Some("x"))])), [("first user", '!')]);
        let both = with(vec![user("shop", "readWrite", Some("x")), user("admin", "root", Some("x"))]);
        assert_eq!(standings(&both), [("user admin.app", '+'), ("user shop.app", '+')]);
    }

    fn clone(seen: &Seen) -> Seen {
        Seen {
            server: seen.server.clone(),
            users: seen.users.clone(),
            roles: seen.roles.clone(),
            passwords: seen.passwords.clone(),
            collections: Vec::new(),
            indexed: Vec::new(),
            data: None,
        }
    }

    #[test]
    fn roles_get_what_they_lack_on_each_thing() {
        let privilege = |collection: &str, actions: &[&str]| Privilege {
            database: "shop".to_owned(),
            collection: collection.to_owned(),
            actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        };
        let declared = DeclaredDocumentRole {
            role: principal("shop", "reader"),
            privileges: vec![privilege("orders", &["find", "listIndexes"])],
            roles: roles(&["read"]),
        };
        let held = SeenPrincipal {
            name: declared.role.clone(),
            roles: BTreeSet::new(),
            privileges: vec![privilege("orders", &["find", "remove"])],
        };
        assert_eq!(standings(&role_items(&declared, Some(&[]))), [("role shop.reader", '+')]);
        let items = role_items(&declared, Some(std::slice::from_ref(&held)));
        assert_eq!(
            standings(&items),
            [
                ("role shop.reader", '+'),
                ("roles of role shop.reader", '+'),
                ("rights of role shop.reader", '!')
            ]
        );
        assert_eq!(items[0].detail, "give it listIndexes on shop.orders");
        // What was given stays an item: the same plan finds it again.
        let held = SeenPrincipal { roles: roles(&["read"]), ..held };
        let items = role_items(&declared, Some(std::slice::from_ref(&held)));
        assert_eq!(standings(&items)[1], ("roles of role shop.reader", '='));
    }

    #[test]
    fn roles_come_behind_those_that_they_hold() {
        let role = |name: &str, held: &[&str]| DeclaredDocumentRole {
            role: principal("shop", name),
            privileges: vec![],
            roles: roles(held),
        };
        let names = |declared: Vec<DeclaredDocumentRole>| -> Vec<String> {
            let declared = DeclaredDocuments { roles: declared, ..DeclaredDocuments::default() };
            let items = decide(&declared, &seen(DocumentAccess::Open, Membership::Standalone), &[]);
            items.into_iter().map(|item| item.name).collect()
        };
        let bad = vec![role("a", &["b", "read"]), role("b", &["c"]), role("c", &["readWrite"])];
        assert_eq!(names(bad), ["role shop.c", "role shop.b", "role shop.a"]);
        let circle = vec![role("a", &["b"]), role("b", &["a"])];
        assert_eq!(names(circle), ["role shop.a", "role shop.b"]);
    }

    #[test]
    fn options_are_equal_when_the_server_takes_them_so() {
        let found = |options: &str, kind: &str| {
            Some(SeenCollection {
                namespace: Namespace::new("shop", "orders"),
                kind: kind.to_owned(),
                options: options.to_owned(),
            })
        };
        let case = |changeable: &str, fixed: &str, collection, violations| {
            let declared = DeclaredCollection {
                namespace: Namespace::new("shop", "orders"),
                changeable: changeable.to_owned(),
                fixed: fixed.to_owned(),
            };
            let seen =
                SeenDeclared { changeable: json(changeable), fixed: json(fixed), collection, violations };
            collection_items(&declared, &seen)
        };
        let validator = r#"{"validator":{"qty":{"$gte":{"$numberInt":"1"}}}}"#;
        let as_double =
            r#"{"validator":{"qty":{"$gte":{"$numberDouble":"1.0"}}},"validationLevel":"strict"}"#;
        assert_eq!(
            standings(&case(validator, "{}", found(as_double, "collection"), None)),
            [("collection shop.orders", '=')]
        );
        let changed = case(validator, "{}", found("{}", "collection"), Some(3));
        assert_eq!(standings(&changed), [("collection shop.orders", '~')]);
        assert!(changed[0].detail.contains("3 documents that are there violate it"), "{changed:?}");
        let level = case(r#"{"validationLevel":"strict"}"#, "{}", found("{}", "collection"), None);
        assert_eq!(standings(&level)[0].1, '=');
        let collation = r#"{"collation":{"locale":"de"}}"#;
        let expanded = r#"{"collation":{"locale":"de","strength":{"$numberInt":"3"},"version":"57.1"}}"#;
        assert_eq!(standings(&case("{}", collation, found(expanded, "collection"), None)).len(), 1);
        assert_eq!(standings(&case("{}", collation, found("{}", "collection"), None))[1].1, '!');
        let capped = r#"{"capped":true,"size":{"$numberInt":"1000"}}"#;
        let rounded = r#"{"capped":true,"size":{"$numberInt":"1024"}}"#;
        assert_eq!(standings(&case("{}", capped, found(rounded, "collection"), None)).len(), 1);
        assert_eq!(standings(&case("{}", "{}", found("{}", "view"), None))[0].1, '!');
        let made = case(validator, capped, None, None);
        let Standing::ToDo(Act::Documents(DocumentAct::CreateCollection { options, .. })) = &made[0].standing
        else {
            panic!("{made:?}");
        };
        assert!(
            json(options).get("capped").is_some() && json(options).get("validator").is_some(),
            "{options}"
        );
    }

    #[test]
    fn indexes_are_built_where_nothing_stands_against_them() {
        let declared = |keys: &str| DeclaredIndex::new(vec![keys.parse().expect("a key")]);
        let listed = |text: &str| ListedIndex::read(&Json::parse(text).expect("JSON")).expect("an index");
        let indexes = || {
            vec![
                listed(r#"{"key": {"a": 1}, "name": "a_1"}"#),
                listed(r#"{"key": {"b": 1}, "name": "mine"}"#),
                listed(r#"{"key": {"x": 1}, "name": "c_1"}"#),
            ]
        };
        let wanted = [declared("a"), declared("b"), declared("c"), declared("d")];
        let namespace = Namespace::new("shop", "orders");
        for (is_empty, expected) in [(true, ['=', '=', '!', '+']), (false, ['=', '=', '!', '!'])] {
            let seen = SeenIndexed { collation: Collation::Simple, indexes: indexes(), is_empty };
            let items = index_items(&namespace, &wanted, &seen);
            assert_eq!(standings(&items).iter().map(|(_, mark)| *mark).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn who_asks_nobody_is_told_what_to_type() {
        let declared = DeclaredDocuments {
            users: vec![user("shop", "readWrite", None)],
            ..DeclaredDocuments::default()
        };
        assert!(advice(&declared, &seen(DocumentAccess::Open, Membership::Standalone))[0].contains("--auth"));
        assert!(
            advice(&declared, &seen(DocumentAccess::Open, Membership::Awaiting))[0].contains("--keyFile")
        );
        let known = DocumentAccess::User("admin.root".to_owned());
        assert!(advice(&declared, &seen(known, Membership::Standalone)).is_empty());
    }
}
