//! `[init]`: what is declared of the servers, read from the project's file.
//!
//! As strict as the rest of the file: a key that is not known, or a value of another kind, is an error with its line and the nearest name. A
//! password is never in the file: `password_variable` or `password_file` says where it is, and it is read when a command needs it. What the
//! declaration means for a server is decided in `mainstay_ops::init`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use mainstay_engine::{GrantObject, Namespace, Principal, Privilege, RelationalGrant, RoleAttributes};
use mainstay_indexes::is_collection_name;
use mainstay_model::{ByteSize, Error, Result};
use mainstay_ops::init::declared::{
    DeclaredCollection, DeclaredDatabase, DeclaredDocumentRole, DeclaredDocumentUser, DeclaredPassword,
    DeclaredRole, DeclaredSet, PasswordPlace,
};
use mainstay_redis::AclRole;
use serde_json::{Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{Reader, type_name};
use super::key::nearest;
use super::resolved::parse_days;

/// The section's name.
pub(super) const SECTION: &str = "init";
/// Rights by what they are given on (PostgreSQL manual, "Privileges"), as far as they are given on wholes.
const DATABASE_RIGHTS: &[&str] = &["CONNECT", "CREATE", "TEMPORARY"];
const SCHEMA_RIGHTS: &[&str] = &["USAGE", "CREATE"];
const TABLE_RIGHTS: &[&str] =
    &["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"];
const SEQUENCE_RIGHTS: &[&str] = &["USAGE", "SELECT", "UPDATE"];

/// What `[init]` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct InitSection {
    /// Each server gets the environment's marker.
    pub(crate) mark: bool,
    /// `[init.mongo]`. Databases that are not named are those of the configuration: empty here.
    pub(crate) mongo: Option<MongoSection>,
    /// `[init.postgres]`.
    pub(crate) postgres: Option<PostgresSection>,
    /// `[init.redis]`.
    pub(crate) redis: Option<RedisSection>,
}

/// `[init.mongo]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct MongoSection {
    /// The replica set.
    pub(crate) set: Option<DeclaredSet>,
    /// `[init.mongo.roles.NAME]`.
    pub(crate) roles: Vec<DeclaredDocumentRole>,
    /// `[init.mongo.users.NAME]`.
    pub(crate) users: Vec<DeclaredDocumentUser>,
    /// `[init.mongo.collections.NAME]`.
    pub(crate) collections: Vec<DeclaredCollection>,
}

/// `[init.postgres]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct PostgresSection {
    /// `[init.postgres.roles.NAME]`.
    pub(crate) roles: Vec<DeclaredRole>,
    /// `[init.postgres.databases.NAME]`.
    pub(crate) databases: Vec<DeclaredDatabase>,
    /// `[[init.postgres.privileges]]`.
    pub(crate) grants: Vec<RelationalGrant>,
}

/// `[init.redis]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct RedisSection {
    /// `[init.redis.users.NAME]`.
    pub(crate) users: Vec<RedisUserSection>,
}

/// `[init.redis.users.NAME]`.
#[derive(Debug, Clone)]
pub(crate) struct RedisUserSection {
    /// Its name.
    pub(crate) name: String,
    /// What of this program it is for, when it is for that.
    pub(crate) role: Option<String>,
    /// The role's patterns.
    pub(crate) patterns: Vec<String>,
    /// Its rules, when it has no role.
    pub(crate) rules: Vec<String>,
    /// Its password.
    pub(crate) password: Option<DeclaredPassword>,
}

/// Reads `[init]` of a document; `None` when it has none.
///
/// # Errors
/// `Config`, naming file and line.
pub(super) fn parse(reader: &Reader<'_>, document: &DeTable<'_>) -> Result<Option<InitSection>> {
    let Some((name, value)) = document.iter().find(|(name, _)| name.get_ref() == SECTION) else {
        return Ok(None);
    };
    let DeValue::Table(table) = value.get_ref() else {
        return Err(reader
            .error(name.span().start, "`init` is a section, not a value")
            .with_hint("write [init] and its keys on lines of their own"));
    };
    let section = Section { reader, path: SECTION.to_owned(), offset: name.span().start, table };
    section.only(&["mark", "mongo", "postgres", "redis"])?;
    Ok(Some(InitSection {
        mark: section.switch("mark")?.unwrap_or(false),
        mongo: section.section("mongo")?.map(|section| mongo(&section)).transpose()?,
        postgres: section.section("postgres")?.map(|section| postgres(&section)).transpose()?,
        redis: section.section("redis")?.map(|section| redis(&section)).transpose()?,
    }))
}

/// A table of the declaration.
struct Section<'a> {
    reader: &'a Reader<'a>,
    path: String,
    /// Where it begins, for what is missing in it.
    offset: usize,
    table: &'a DeTable<'a>,
}

impl<'a> Section<'a> {
    /// Refuses keys that are not among `known`.
    fn only(&self, known: &[&str]) -> Result<()> {
        let Some((name, _)) = self.table.iter().find(|(name, _)| !known.contains(&name.get_ref().as_ref()))
        else {
            return Ok(());
        };
        let (given, offset): (&str, usize) = (name.get_ref().as_ref(), name.span().start);
        if given == "password" {
            return Err(self
                .reader
                .error(offset, format!("`password` of [{}] is a secret and does not belong in this file", self.path))
                .with_hint("name what holds it: `password_variable = \"APP_PASSWORD\"` or `password_file = \"/run/secrets/app\"`"));
        }
        let error = self.reader.error(offset, format!("unknown key `{given}` in [{}]", self.path));
        Err(match nearest(given, known.iter().copied()) {
            Some(nearest) => error.with_hint(format!("did you mean `{nearest}`?")),
            None => error.with_hint(format!("known keys of [{}]: {}", self.path, known.join(", "))),
        })
    }

    fn get(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
    }

    fn wrong(&self, name: &str, value: &Spanned<DeValue<'_>>, expected: &str) -> Error {
        let found = type_name(value.get_ref());
        let message = format!("`{name}` of [{}] must be {expected}, found {found}", self.path);
        self.reader.error(value.span().start, message)
    }

    /// A fault of the value of `name`.
    fn fault(&self, name: &str, what: impl std::fmt::Display) -> Error {
        let offset = self.get(name).map_or(self.offset, |value| value.span().start);
        self.reader.error(offset, format!("`{name}` of [{}] {what}", self.path))
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong(name, value, "text"))?;
        match text.is_empty() || text.contains('\0') {
            true => Err(self.fault(name, "is empty, or holds what no name can")),
            false => Ok(Some(text.to_owned())),
        }
    }

    fn required(&self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| self.fault(name, "is missing"))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let wrong = || self.wrong(name, value, "a list of text");
        let DeValue::Array(items) = value.get_ref() else { return Err(wrong()) };
        items.iter().map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    }

    fn switch(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Boolean(on) => Ok(Some(*on)),
            _ => Err(self.wrong(name, value, "true or false")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        whole(value.get_ref()).map(Some).ok_or_else(|| self.wrong(name, value, "a whole number"))
    }

    fn word(&self, name: &str, words: &[&str]) -> Result<Option<String>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if words.contains(&text.as_str()) {
            return Ok(Some(text));
        }
        let error = self.fault(name, format!("must be one of {}", words.join(", ")));
        Err(match nearest(&text, words.iter().copied()) {
            Some(word) => error.with_hint(format!("did you mean `{word}`?")),
            None => error,
        })
    }

    fn section(&self, name: &str) -> Result<Option<Section<'a>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        self.section_of(name, value).map(Some)
    }

    fn section_of(&self, name: &str, value: &'a Spanned<DeValue<'a>>) -> Result<Section<'a>> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(Section {
                reader: self.reader,
                path: format!("{}.{name}", self.path),
                offset: value.span().start,
                table,
            }),
            _ => Err(self.wrong(name, value, "a section")),
        }
    }

    /// The sections below `name` by their own names, in the order of the file.
    fn named(&self, name: &str) -> Result<Vec<(String, Section<'a>)>> {
        let Some(section) = self.section(name)? else { return Ok(Vec::new()) };
        let mut all: Vec<_> = section.table.iter().collect();
        all.sort_by_key(|(name, _)| name.span().start);
        all.into_iter()
            .map(|(name, value)| {
                let name = name.get_ref().to_string();
                if name.is_empty() || name.contains('\0') {
                    return Err(section
                        .reader
                        .error(value.span().start, "a name is empty, or holds what none can"));
                }
                section.section_of(&name, value).map(|inner| (name, inner))
            })
            .collect()
    }

    /// The tables of the list `name`.
    fn list(&self, name: &str) -> Result<Vec<Section<'a>>> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong(name, value, "a list of tables"));
        };
        items.iter().map(|item| self.section_of(name, item)).collect()
    }

    /// Where a password is.
    fn password(&self) -> Result<Option<DeclaredPassword>> {
        let place = match (self.text("password_variable")?, self.text("password_file")?) {
            (None, None) => return Ok(None),
            (Some(variable), None) => PasswordPlace::Variable(variable),
            (None, Some(file)) => {
                let folder = self.reader.path.parent().unwrap_or(self.reader.path);
                PasswordPlace::File(folder.join(file))
            }
            (Some(_), Some(_)) => {
                return Err(
                    self.fault("password_file", "and `password_variable` are both there: which one holds?")
                );
            }
        };
        Ok(Some(DeclaredPassword { place, secret: None }))
    }
}

fn whole(value: &DeValue<'_>) -> Option<i64> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', "").parse().ok(),
        _ => None,
    }
}

/// `role`, or `role@database`.
fn principal(text: &str, database: &str) -> Principal {
    match text.rsplit_once('@') {
        Some((name, database)) => Principal { database: database.to_owned(), name: name.to_owned() },
        None => Principal { database: database.to_owned(), name: text.to_owned() },
    }
}

fn mongo(section: &Section<'_>) -> Result<MongoSection> {
    section.only(&["replica_set", "members", "roles", "users", "collections"])?;
    let members = section.texts("members")?;
    let set = section.text("replica_set")?.map(|name| DeclaredSet { name, members: members.clone() });
    if set.is_none() && !members.is_empty() {
        return Err(section.fault("members", "needs the set's name: `replica_set = \"rs0\"`"));
    }
    let mut roles = Vec::new();
    for (name, section) in section.named("roles")? {
        section.only(&["database", "privileges", "roles"])?;
        let database = section.text("database")?.unwrap_or_default();
        roles.push(DeclaredDocumentRole {
            privileges: section
                .list("privileges")?
                .iter()
                .map(|one| privilege(one, &database))
                .collect::<Result<_>>()?,
            roles: section.texts("roles")?.iter().map(|role| principal(role, &database)).collect(),
            role: Principal { database, name },
        });
    }
    let mut users = Vec::new();
    for (name, section) in section.named("users")? {
        section.only(&["database", "password_variable", "password_file", "roles"])?;
        let database = section.text("database")?.unwrap_or_default();
        users.push(DeclaredDocumentUser {
            password: section.password()?.ok_or_else(|| {
                section.fault("password_variable", "or `password_file` must say where the password is")
            })?,
            roles: section.texts("roles")?.iter().map(|role| principal(role, &database)).collect(),
            user: Principal { database, name },
        });
    }
    let mut collections = Vec::new();
    for (name, section) in section.named("collections")? {
        collections.push(collection(name, &section)?);
    }
    Ok(MongoSection { set, roles, users, collections })
}

fn privilege(section: &Section<'_>, database: &str) -> Result<Privilege> {
    section.only(&["database", "collection", "actions"])?;
    let actions: BTreeSet<String> = section.texts("actions")?.into_iter().collect();
    if actions.is_empty() {
        return Err(section.fault("actions", "must name what is allowed"));
    }
    Ok(Privilege {
        database: section.text("database")?.unwrap_or_else(|| database.to_owned()),
        collection: section.text("collection")?.unwrap_or_default(),
        actions,
    })
}

fn collection(name: String, section: &Section<'_>) -> Result<DeclaredCollection> {
    if !is_collection_name(&name) {
        let message = format!("{name:?} is no name of a collection of yours");
        return Err(section
            .reader
            .error(section.offset, message)
            .with_hint("name the collection as the server lists it, without its database"));
    }
    section.only(&[
        "database",
        "validator",
        "validation_level",
        "validation_action",
        "collation",
        "capped",
        "max_documents",
        "time_series",
        "expire_after",
    ])?;
    let (mut changeable, mut fixed) = (Vec::new(), Vec::new());
    if let Some(text) = section.text("validator")? {
        // The text goes on as it is: its order counts.
        match serde_json::from_str(&text) {
            Ok(Value::Object(_)) => changeable.push(format!("\"validator\":{text}")),
            Ok(_) => return Err(section.fault("validator", "must be a document of Extended JSON")),
            Err(error) => return Err(section.fault("validator", format!("is no Extended JSON: {error}"))),
        }
    }
    if let Some(level) = section.word("validation_level", &["off", "strict", "moderate"])? {
        changeable.push(format!("\"validationLevel\":\"{level}\""));
    }
    if let Some(action) = section.word("validation_action", &["error", "warn"])? {
        changeable.push(format!("\"validationAction\":\"{action}\""));
    }
    if let Some(text) = section.text("expire_after")? {
        let time = text.parse::<SignedDuration>().ok().filter(SignedDuration::is_positive);
        let time = time.or_else(|| parse_days(&text));
        let seconds = time.map(|time| time.as_secs()).filter(|seconds| *seconds > 0);
        let seconds =
            seconds.ok_or_else(|| section.fault("expire_after", "must be a duration such as 24h"))?;
        changeable.push(format!("\"expireAfterSeconds\":{}", long(seconds)));
    }
    if let Some(inner) = section.section("collation")? {
        fixed.push(format!("\"collation\":{}", plain(&inner)?));
    }
    if let Some(text) = section.text("capped")? {
        let size = text.parse::<ByteSize>().ok().map(|size| size.bytes()).filter(|size| *size > 0);
        let size = size.and_then(|size| i64::try_from(size).ok());
        let size = size.ok_or_else(|| section.fault("capped", "must be a size such as 16MiB"))?;
        fixed.push(format!("\"capped\":true,\"size\":{}", long(size)));
    }
    if let Some(count) = section.number("max_documents")? {
        if section.get("capped").is_none() || count < 1 {
            return Err(
                section.fault("max_documents", "bounds a capped collection: set `capped` to its size")
            );
        }
        fixed.push(format!("\"max\":{}", long(count)));
    }
    if let Some(inner) = section.section("time_series")? {
        inner.only(&["time", "meta", "granularity"])?;
        let mut series = vec![format!("\"timeField\":{}", json!(inner.required("time")?))];
        series.extend(inner.text("meta")?.map(|meta| format!("\"metaField\":{}", json!(meta))));
        let granularity = inner.word("granularity", &["seconds", "minutes", "hours"])?;
        series.extend(granularity.map(|word| format!("\"granularity\":\"{word}\"")));
        fixed.push(format!("\"timeseries\":{{{}}}", series.join(",")));
    }
    let database = section.text("database")?.unwrap_or_default();
    Ok(DeclaredCollection {
        namespace: Namespace::new(database, name),
        changeable: format!("{{{}}}", changeable.join(",")),
        fixed: format!("{{{}}}", fixed.join(",")),
    })
}

fn long(number: i64) -> Value {
    json!({"$numberLong": number.to_string()})
}

/// A table of texts, numbers and switches as JSON.
fn plain(section: &Section<'_>) -> Result<Value> {
    let mut object = serde_json::Map::new();
    for (name, value) in section.table {
        let value = match value.get_ref() {
            DeValue::String(text) => json!(text),
            DeValue::Boolean(on) => json!(on),
            other => whole(other)
                .map(Value::from)
                .ok_or_else(|| section.wrong(name.get_ref(), value, "text, a whole number, true or false"))?,
        };
        object.insert(name.get_ref().to_string(), value);
    }
    Ok(Value::Object(object))
}

fn postgres(section: &Section<'_>) -> Result<PostgresSection> {
    section.only(&["roles", "databases", "privileges"])?;
    let mut roles = Vec::new();
    for (name, section) in section.named("roles")? {
        section.only(&[
            "login",
            "createdb",
            "createrole",
            "replication",
            "inherit",
            "bypassrls",
            "connection_limit",
            "member_of",
            "password_variable",
            "password_file",
        ])?;
        let password = section.password()?;
        roles.push(DeclaredRole {
            name,
            attributes: RoleAttributes {
                // Whoever has a password is to log in with it.
                login: section.switch("login")?.or(password.is_some().then_some(true)),
                createdb: section.switch("createdb")?,
                createrole: section.switch("createrole")?,
                replication: section.switch("replication")?,
                inherit: section.switch("inherit")?,
                bypassrls: section.switch("bypassrls")?,
                connection_limit: section.number("connection_limit")?,
            },
            member_of: section.texts("member_of")?.into_iter().collect(),
            password,
        });
    }
    let mut databases = Vec::new();
    for (name, section) in section.named("databases")? {
        section.only(&["owner", "encoding", "locale", "extensions", "schemas"])?;
        let mut schemas = Vec::new();
        for (name, schema) in section.named("schemas")? {
            schema.only(&["owner"])?;
            schemas.push((name, schema.text("owner")?));
        }
        databases.push(DeclaredDatabase {
            name,
            owner: section.text("owner")?,
            encoding: section.text("encoding")?,
            locale: section.text("locale")?,
            extensions: section.texts("extensions")?,
            schemas,
        });
    }
    let grants = section.list("privileges")?.iter().map(grant).collect::<Result<_>>()?;
    Ok(PostgresSection { roles, databases, grants })
}

/// A row of the table of rights.
fn grant(section: &Section<'_>) -> Result<RelationalGrant> {
    section.only(&["role", "database", "on", "grant", "by"])?;
    let (object, rights) = grant_object(section)?;
    let mut privileges = BTreeSet::new();
    for word in section.texts("grant")? {
        let word = match word.to_ascii_uppercase() {
            temp if temp == "TEMP" => "TEMPORARY".to_owned(),
            word => word,
        };
        if word == "ALL" {
            let error =
                section.fault("grant", "names each right: ALL means more with every version of the server");
            return Err(error.with_hint(format!("there are {}", rights.join(", "))));
        }
        if !rights.contains(&word.as_str()) {
            let error = section.fault("grant", format!("has {word:?}, which is no right on {object}"));
            return Err(match nearest(&word, rights.iter().copied()) {
                Some(right) => error.with_hint(format!("did you mean `{right}`?")),
                None => error.with_hint(format!("there are {}", rights.join(", "))),
            });
        }
        privileges.insert(word);
    }
    if privileges.is_empty() {
        return Err(section.fault("grant", "must name the rights"));
    }
    Ok(RelationalGrant {
        role: section.required("role")?,
        database: section.text("database")?.unwrap_or_default(),
        object,
        privileges,
    })
}

/// `database`, `schema S`, `table S.T`, `tables in S`, `sequences in S`, `future tables in S`, `future sequences in S`.
fn grant_object(section: &Section<'_>) -> Result<(GrantObject, &'static [&'static str])> {
    let on = section.required("on")?;
    let by = section.text("by")?;
    let words: Vec<&str> = on.split_whitespace().collect();
    let schema = |name: &str| name.to_owned();
    let creator = |by: Option<String>| {
        by.ok_or_else(|| {
            section.fault("by", "must name the role that will make them: rights follow the maker")
        })
    };
    let (object, rights) = match words.as_slice() {
        ["database"] => (GrantObject::Database, DATABASE_RIGHTS),
        ["schema", name] => (GrantObject::Schema { schema: schema(name) }, SCHEMA_RIGHTS),
        ["table", name] => {
            let (schema, table) = name
                .split_once('.')
                .ok_or_else(|| section.fault("on", "names a table with its schema: `table public.orders`"))?;
            (GrantObject::Table { schema: schema.to_owned(), table: table.to_owned() }, TABLE_RIGHTS)
        }
        ["tables", "in", name] => (GrantObject::Tables { schema: schema(name) }, TABLE_RIGHTS),
        ["sequences", "in", name] => (GrantObject::Sequences { schema: schema(name) }, SEQUENCE_RIGHTS),
        ["future", "tables", "in", name] => {
            return Ok((GrantObject::FutureTables { schema: schema(name), by: creator(by)? }, TABLE_RIGHTS));
        }
        ["future", "sequences", "in", name] => {
            return Ok((
                GrantObject::FutureSequences { schema: schema(name), by: creator(by)? },
                SEQUENCE_RIGHTS,
            ));
        }
        _ => {
            return Err(section.fault("on", "is nothing that rights are given on here").with_hint(
                "write `database`, `schema S`, `table S.T`, `tables in S`, `sequences in S`, `future tables in S` or `future sequences in S`",
            ));
        }
    };
    match by {
        Some(_) => {
            Err(section.fault("by", "goes with `future tables in S` and `future sequences in S` alone"))
        }
        None => Ok((object, rights)),
    }
}

fn redis(section: &Section<'_>) -> Result<RedisSection> {
    section.only(&["users"])?;
    let mut users = Vec::new();
    for (name, section) in section.named("users")? {
        section.only(&["role", "patterns", "rules", "password_variable", "password_file"])?;
        let role = section.word("role", &AclRole::ALL.map(AclRole::name))?;
        let rules = section.texts("rules")?;
        if role.is_some() != rules.is_empty() {
            return Err(section.fault("rules", "or `role` says what the user may do, and one of them alone"));
        }
        let patterns = section.texts("patterns")?;
        users.push(RedisUserSection { name, role, patterns, rules, password: section.password()? });
    }
    Ok(RedisSection { users })
}

impl InitSection {
    /// Every place of a password.
    pub(crate) fn places(&self) -> BTreeMap<String, PasswordPlace> {
        let mongo = self.mongo.iter().flat_map(|section| &section.users).map(|user| &user.password);
        let postgres =
            self.postgres.iter().flat_map(|section| &section.roles).filter_map(|role| role.password.as_ref());
        let redis =
            self.redis.iter().flat_map(|section| &section.users).filter_map(|user| user.password.as_ref());
        mongo.chain(postgres).chain(redis).map(|one| (one.place.to_string(), one.place.clone())).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::path::Path;

    use mainstay_model::ErrorKind;

    use super::super::file::ConfigFile;
    use super::*;

    fn parse(text: &str) -> Result<InitSection> {
        ConfigFile::parse(Path::new("/project/mainstay.toml"), text).map(|file| file.init.unwrap_or_default())
    }

    #[test]
    fn a_declaration_is_read_whole() {
        let section = parse(
            r#"
[init]
mark = true
[init.mongo]
replica_set = "rs0"
members = ["h:1"]
[init.mongo.roles.reader]
privileges = [{ collection = "orders", actions = ["find"] }]
[init.mongo.users.app]
password_variable = "APP_PWD"
roles = ["readWrite", "reader", "read@other"]
[init.mongo.collections.events]
capped = "1MiB"
max_documents = 10
validator = '{"b": 1, "a": 2}'
validation_level = "moderate"
[init.mongo.collections.metrics]
time_series = { time = "at", granularity = "minutes" }
expire_after = "30d"
[init.postgres.roles.app]
password_file = "app.secret"
member_of = ["readers"]
[init.postgres.databases.shop]
owner = "app"
extensions = ["pg_trgm"]
[init.postgres.databases.shop.schemas.audit]
owner = "app"
[[init.postgres.privileges]]
role = "app"
on = "future tables in public"
by = "owner"
grant = ["select", "INSERT"]
[init.redis.users.app]
rules = ["~app:*", "+@read"]
password_variable = "REDIS_APP"
"#,
        )
        .unwrap();
        let mongo = section.mongo.as_ref().unwrap();
        assert_eq!(mongo.set.as_ref().unwrap().members, ["h:1"]);
        assert_eq!(
            mongo.users[0].roles.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [".readWrite", ".reader", "other.read"]
        );
        assert_eq!(
            mongo.collections[0].changeable,
            r#"{"validator":{"b": 1, "a": 2},"validationLevel":"moderate"}"#
        );
        assert!(mongo.collections[0].fixed.contains("\"max\""), "{}", mongo.collections[0].fixed);
        assert!(mongo.collections[1].changeable.contains("2592000"), "{}", mongo.collections[1].changeable);
        let postgres = section.postgres.as_ref().unwrap();
        assert_eq!(postgres.roles[0].attributes.login, Some(true));
        assert_eq!(postgres.databases[0].schemas, [("audit".to_owned(), Some("app".to_owned()))]);
        assert_eq!(postgres.grants[0].object.to_string(), "future tables in public by owner");
        let places: Vec<String> = section.places().into_keys().collect();
        assert_eq!(places, ["file /project/app.secret", "variable APP_PWD", "variable REDIS_APP"]);
    }

    #[test]
    fn every_role_of_redis_can_be_declared() {
        for role in AclRole::ALL {
            let section = parse(&format!("[init.redis.users.a]\nrole = \"{}\"", role.name())).unwrap();
            assert_eq!(section.redis.unwrap().users[0].role.as_deref(), Some(role.name()));
        }
    }

    #[test]
    fn faults_name_line_and_remedy() {
        for (text, message, hint) in [
            ("init = 3", "mainstay.toml:1: `init` is a section", "write [init]"),
            ("[init.mongodb]", "unknown key `mongodb` in [init]", "did you mean `mongo`?"),
            (
                "[init.mongo.users.app]\nrole = []",
                ":2: unknown key `role` in [init.mongo.users.app]",
                "did you mean `roles`?",
            ),
            (
                "[init.mongo.users.app]\npassword = \"canary\"",
                "is a secret and does not belong in this file",
                "password_variable",
            ),
            ("[init.mongo.users.app]\nroles = [\"read\"]", "must say where the password is", ""),
            ("[init.mongo]\nmembers = [\"h:1\"]", "needs the set's name", ""),
            ("[init.mongo.collections.a]\nvalidator = \"{canary\"", "is no Extended JSON", ""),
            (
                "[init.mongo.collections.a]\nvalidation_level = \"strickt\"",
                "must be one of",
                "did you mean `strict`?",
            ),
            ("[init.mongo.collections.a]\nmax_documents = 5", "bounds a capped collection", ""),
            (
                "[init.mongo.collections.\"a$b\"]",
                ":1: \"a$b\" is no name of a collection",
                "as the server lists",
            ),
            ("[init.mongo.collections.\"system.a\"]", "is no name of a collection", ""),
            (
                "[[init.postgres.privileges]]\nrole = \"a\"\non = \"schema s\"\ngrant = [\"USAG\"]",
                "is no right on schema s",
                "did you mean `USAGE`?",
            ),
            (
                "[[init.postgres.privileges]]\nrole = \"a\"\non = \"database\"\ngrant = [\"ALL\"]",
                "names each right",
                "CONNECT",
            ),
            (
                "[[init.postgres.privileges]]\nrole = \"a\"\non = \"future tables in s\"\ngrant = [\"SELECT\"]",
                "must name the role that will make them",
                "",
            ),
            (
                "[[init.postgres.privileges]]\nrole = \"a\"\non = \"everything\"\ngrant = [\"SELECT\"]",
                "is nothing that rights are given on",
                "tables in S",
            ),
            ("[init.redis.users.a]\nrole = \"observe\"\nrules = [\"~*\"]", "one of them alone", ""),
            (
                "[init.redis.users.a]\npassword_variable = \"A\"\npassword_file = \"b\"\nrole = \"mark\"",
                "which one holds",
                "",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(error.to_string().contains(message), "{text}: {error}");
            assert!(error.hint().unwrap_or_default().contains(hint), "{text}: {error:?}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}
