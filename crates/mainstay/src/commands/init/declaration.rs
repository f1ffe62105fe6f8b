//! `[init]` with what the rest of the configuration fills in: databases that are not named, passwords, rules of roles.

use std::path::Path;
use std::sync::Arc;

use mainstay_engine::{DocumentInit, KeyServerInit, Namespace, Principal, RelationalGrant, RelationalInit};
use mainstay_indexes::{DeclaredIndex, Manifest, ManifestError};
use mainstay_model::{Error, ErrorKind, Result, Secret, StoreKind};
use mainstay_ops::init::declared::{
    DeclaredDocuments, DeclaredKeyUser, DeclaredKeys, DeclaredPassword, DeclaredRelational, Mark,
    PasswordPlace,
};
use mainstay_ops::init::scripts::{Image, ScriptReport};
use mainstay_ops::init::{DocumentStore, InitStore, KeyStore, RelationalStore};
use mainstay_redis::{AclRole, AclUser};

use crate::config::file::ConfigFile;
use crate::config::init::{InitSection, MongoSection, PostgresSection, RedisSection, RedisUserSection};
use crate::config::source::read_value_file;
use crate::wiring::Session;

/// Declared indexes by collection.
type Indexes = Vec<(Namespace, Vec<DeclaredIndex>)>;

/// What is declared of each server; `None` where nothing is.
pub(super) struct Declaration {
    mongo: Option<DeclaredDocuments>,
    postgres: Option<DeclaredRelational>,
    redis: Option<DeclaredKeys>,
}

/// A server that is looked at.
pub(super) enum Server {
    Mongo(Arc<dyn DocumentInit>),
    Postgres(Arc<dyn RelationalInit>),
    Redis(Arc<dyn KeyServerInit>),
}

impl Server {
    /// The server with what is declared of it.
    pub(super) fn store<'a>(
        &'a self,
        declaration: &'a Declaration,
        rotate: &'a [String],
    ) -> Box<dyn InitStore + 'a> {
        const MADE: &str = "a server is made of what is declared of it";
        match self {
            Self::Mongo(server) => {
                let declared = declaration.mongo.as_ref().expect(MADE);
                Box::new(DocumentStore { server: server.as_ref(), declared, rotate })
            }
            Self::Postgres(server) => {
                let declared = declaration.postgres.as_ref().expect(MADE);
                Box::new(RelationalStore { server: server.as_ref(), declared, rotate })
            }
            Self::Redis(server) => {
                let declared = declaration.redis.as_ref().expect(MADE);
                Box::new(KeyStore { server: server.as_ref(), declared, rotate })
            }
        }
    }
}

impl Declaration {
    /// What the configuration declares. Reads the passwords that it names, and hides them from all output.
    ///
    /// # Errors
    /// `Precondition` when nothing is declared; `Config` when a password's file cannot be read, or a database is not named anywhere.
    pub(super) fn of(session: &Session) -> Result<Self> {
        let section = session.configuration.init.clone().ok_or_else(nothing_declared)?;
        Self::of_section(section, None, session)
    }

    /// What `report` found in an image's scripts, as it is printed for the configuration.
    ///
    /// # Errors
    /// `Config` when it is no declaration that can be read, or a password's file cannot be.
    pub(super) fn of_scripts(report: &ScriptReport, session: &Session) -> Result<Self> {
        let file = ConfigFile::parse(Path::new("the declaration of the scripts"), &report.toml)?;
        let mut section = file.init.unwrap_or_default();
        match report.image {
            Image::Mongo => section.mongo = Some(section.mongo.take().unwrap_or_default()),
            Image::Postgres => section.postgres = Some(section.postgres.take().unwrap_or_default()),
        }
        let unread = |error: ManifestError| Error::new(ErrorKind::Config, error.to_string());
        let manifest = Manifest::parse(&report.toml).map_err(unread)?;
        let indexes = match report.database_of_indexes() {
            Some(database) => manifest
                .collections
                .into_iter()
                .map(|(name, indexes)| (Namespace::new(database, name), indexes))
                .collect(),
            None => Vec::new(),
        };
        Self::of_section(section, Some(indexes), session)
    }

    /// What `section` declares, with its own indexes or those of the configuration's manifest.
    fn of_section(section: InitSection, indexes: Option<Indexes>, session: &Session) -> Result<Self> {
        let secrets = secrets(&section, session)?;
        let all: Vec<Secret> = secrets.iter().map(|(_, secret)| secret.clone()).collect();
        session.printer.hide(&all, &session.public_words());
        let given = |password: &mut DeclaredPassword| {
            let found = secrets.iter().find(|(place, _)| *place == password.place);
            password.secret = found.map(|(_, secret)| secret.clone());
        };
        let mark = mark(&section, session)?;
        let configuration = &session.configuration;
        let of = |is_there: bool, configured: bool| is_there || (section.mark && configured);
        let mongo = of(section.mongo.is_some(), configuration.mongo.is_some())
            .then(|| mongo(section.mongo.clone().unwrap_or_default(), indexes, mark.clone(), &given, session))
            .transpose()?;
        let postgres = of(section.postgres.is_some(), configuration.postgres.is_some())
            .then(|| postgres(section.postgres.clone().unwrap_or_default(), mark.clone(), &given, session))
            .transpose()?;
        let redis = of(section.redis.is_some(), configuration.redis.is_some())
            .then(|| redis(section.redis.clone().unwrap_or_default(), mark.clone(), &given))
            .transpose()?;
        Ok(Self { mongo, postgres, redis })
    }

    /// The stores of which something is declared, or the one that is asked for.
    ///
    /// # Errors
    /// `Precondition` when nothing is declared of it, or of any.
    pub(super) fn stores(&self, wanted: Option<StoreKind>) -> Result<Vec<StoreKind>> {
        let is_declared = |kind: &StoreKind| match kind {
            StoreKind::Mongo => self.mongo.is_some(),
            StoreKind::Postgres => self.postgres.is_some(),
            StoreKind::Redis => self.redis.is_some(),
        };
        let stores: Vec<StoreKind> = StoreKind::ALL
            .into_iter()
            .filter(|kind| wanted.is_none_or(|wanted| wanted == *kind) && is_declared(kind))
            .collect();
        match (stores.is_empty(), wanted) {
            (false, _) => Ok(stores),
            (true, None) => Err(nothing_declared()),
            (true, Some(kind)) => {
                Err(Error::new(ErrorKind::Precondition, format!("nothing is declared of {kind}"))
                    .with_state("nothing was changed")
                    .with_hint(format!("declare it in [init.{kind}] of mainstay.toml")))
            }
        }
    }

    /// Refuses accounts that are none of those declared with a password.
    ///
    /// # Errors
    /// `Usage`.
    pub(super) fn check_rotated(&self, stores: &[StoreKind], rotate: &[String]) -> Result<()> {
        let mut known: Vec<String> = Vec::new();
        let of = |kind: StoreKind| stores.contains(&kind);
        for user in self.mongo.iter().filter(|_| of(StoreKind::Mongo)).flat_map(|declared| &declared.users) {
            known.extend([user.user.name.clone(), user.user.to_string()]);
        }
        let roles =
            self.postgres.iter().filter(|_| of(StoreKind::Postgres)).flat_map(|declared| &declared.roles);
        known.extend(roles.filter(|role| role.password.is_some()).map(|role| role.name.clone()));
        let users = self.redis.iter().filter(|_| of(StoreKind::Redis)).flat_map(|declared| &declared.users);
        known.extend(users.filter(|user| user.password.is_some()).map(|user| user.name.clone()));
        match rotate.iter().find(|account| !known.contains(account)) {
            None => Ok(()),
            Some(account) => Err(Error::new(
                ErrorKind::Usage,
                format!("no account {account:?} is declared with a password, so none can be set"),
            )
            .with_state("nothing was changed")
            .with_hint(match known.is_empty() {
                true => "declare one with `password_variable` or `password_file`".to_owned(),
                false => format!("those are {}", known.join(", ")),
            })),
        }
    }

    /// The server of `kind`.
    ///
    /// # Errors
    /// `Precondition` when nothing is declared of it, or it has no url; `Config` when its connection cannot be described.
    pub(super) async fn server(&self, kind: StoreKind, session: &Session) -> Result<Server> {
        self.stores(Some(kind))?;
        Ok(match kind {
            StoreKind::Mongo => {
                let users = self.mongo.iter().flat_map(|declared| &declared.users);
                let administrators: Vec<(Principal, Secret)> = users
                    .filter(|user| user.is_administrator())
                    .filter_map(|user| Some((user.user.clone(), user.password.secret.clone()?)))
                    .collect();
                Server::Mongo(session.document_init(administrators).await?)
            }
            StoreKind::Postgres => Server::Postgres(session.relational_init()?),
            StoreKind::Redis => Server::Redis(session.key_server_init()?),
        })
    }
}

fn nothing_declared() -> Error {
    Error::new(ErrorKind::Precondition, "nothing is declared of any server")
        .with_state("nothing was changed")
        .with_hint("declare it in [init.mongo], [init.postgres] and [init.redis] of mainstay.toml; `mainstay init check FOLDER` reads an image's scripts and prints a beginning")
}

/// The passwords that can be read, by place. A variable that is not set has none; whoever needs it says so.
fn secrets(section: &InitSection, session: &Session) -> Result<Vec<(PasswordPlace, Secret)>> {
    let mut secrets = Vec::new();
    for place in section.places().into_values() {
        let value = match &place {
            PasswordPlace::File(path) => Some(read_value_file(path, "`password_file`")?),
            PasswordPlace::Variable(name) => {
                let twin = format!("{name}_FILE");
                match (session.outside.variable(name), session.outside.variable(&twin)) {
                    (Some(_), Some(_)) => {
                        return Err(Error::new(
                            ErrorKind::Config,
                            format!("{name} and {twin} are both set: which one holds?"),
                        )
                        .with_hint("unset one of them"));
                    }
                    (Some(value), None) => Some(value.to_owned()),
                    (None, Some(file)) => {
                        Some(read_value_file(&session.outside.working_dir.join(file), &twin)?)
                    }
                    (None, None) => None,
                }
            }
        };
        secrets.extend(value.map(|value| (place, Secret::new(value))));
    }
    Ok(secrets)
}

fn mark(section: &InitSection, session: &Session) -> Result<Option<Mark>> {
    if !section.mark {
        return Ok(None);
    }
    let configured = session.configured_environment();
    match (configured.name, configured.class) {
        (Some(name), Some(class)) => Ok(Some(Mark { name, class })),
        _ => Err(Error::new(
            ErrorKind::Config,
            "`mark` of [init] writes the environment's marker, and the environment has no name or no class",
        )
        .with_hint("set `name` and `class` in [environment]")),
    }
}

fn mongo(
    section: MongoSection,
    indexes: Option<Indexes>,
    mark: Option<Mark>,
    given: &dyn Fn(&mut DeclaredPassword),
    session: &Session,
) -> Result<DeclaredDocuments> {
    let configured = session.configured_database();
    let named = |database: &mut String| match (&configured, database.is_empty()) {
        (_, false) => Ok(()),
        (Some(configured), true) => {
            database.clone_from(configured);
            Ok(())
        }
        (None, true) => Err(Error::new(
            ErrorKind::Config,
            "[init.mongo] declares something without its `database`, and no database is configured",
        )
        .with_hint("set `database` in [mongo] of mainstay.toml, or DB_NAME")),
    };
    let MongoSection { set, mut roles, mut users, mut collections } = section;
    for role in &mut roles {
        named(&mut role.role.database)?;
        role.privileges.iter_mut().try_for_each(|privilege| named(&mut privilege.database))?;
        role.roles = in_database(&role.roles, &named)?;
    }
    for user in &mut users {
        named(&mut user.user.database)?;
        user.roles = in_database(&user.roles, &named)?;
        given(&mut user.password);
    }
    collections.iter_mut().try_for_each(|collection| named(&mut collection.namespace.database))?;
    let indexes = match indexes {
        Some(indexes) => indexes,
        None => indexes_of(configured.as_deref(), session)?,
    };
    Ok(DeclaredDocuments { set, roles, users, collections, indexes, mark })
}

/// The indexes of the manifest, when there is one. They are those of the configured database.
fn indexes_of(database: Option<&str>, session: &Session) -> Result<Indexes> {
    let (Some(database), Some(_)) = (database, &session.configuration.index_manifest) else {
        return Ok(Vec::new());
    };
    let collections = session.index_manifest()?.collections.into_iter();
    Ok(collections.map(|(name, indexes)| (Namespace::new(database, name), indexes)).collect())
}

fn in_database<C: FromIterator<Principal>>(
    roles: &std::collections::BTreeSet<Principal>,
    named: &dyn Fn(&mut String) -> Result<()>,
) -> Result<C> {
    roles
        .iter()
        .cloned()
        .map(|mut role| {
            named(&mut role.database)?;
            Ok(role)
        })
        .collect()
}

fn postgres(
    section: PostgresSection,
    mark: Option<Mark>,
    given: &dyn Fn(&mut DeclaredPassword),
    session: &Session,
) -> Result<DeclaredRelational> {
    let PostgresSection { mut roles, databases, mut grants } = section;
    roles.iter_mut().filter_map(|role| role.password.as_mut()).for_each(given);
    for grant in grants.iter_mut().filter(|grant| grant.database.is_empty()) {
        grant.database = session.relational_init()?.database();
    }
    Ok(DeclaredRelational { roles, databases, grants: united(grants), mark })
}

/// The grants with one for each role and object: what is declared of the same in several places is one thing, and has one name.
fn united(grants: Vec<RelationalGrant>) -> Vec<RelationalGrant> {
    let mut united: Vec<RelationalGrant> = Vec::new();
    for grant in grants {
        let same = united.iter_mut().find(|known| {
            known.role == grant.role && known.database == grant.database && known.object == grant.object
        });
        match same {
            Some(known) => known.privileges.extend(grant.privileges),
            None => united.push(grant),
        }
    }
    united
}

fn redis(
    section: RedisSection,
    mark: Option<Mark>,
    given: &dyn Fn(&mut DeclaredPassword),
) -> Result<DeclaredKeys> {
    let users = section.users.into_iter().map(|mut user| {
        user.password.iter_mut().for_each(given);
        let rules = match &user.role {
            None => user.rules,
            Some(_) => rules_of(&user)?,
        };
        Ok(DeclaredKeyUser { name: user.name, rules, password: user.password })
    });
    Ok(DeclaredKeys { users: users.collect::<Result<_>>()?, mark })
}

/// The rules of one of this program's own users, as `redis acl` prints them.
fn rules_of(user: &RedisUserSection) -> Result<Vec<String>> {
    let role = AclRole::ALL.into_iter().find(|role| user.role.as_deref() == Some(role.name()));
    let role = role.ok_or_else(|| Error::new(ErrorKind::Internal, "a role was read that there is not"))?;
    let user = AclUser { name: user.name.clone(), role, patterns: user.patterns.clone(), password: None };
    // The state of a user without a password comes first: `reset off`.
    Ok(user.rules()?.split_off(2))
}

#[cfg(test)]
mod tests {
    use mainstay_engine::GrantObject;

    use super::*;

    #[test]
    fn rights_on_the_same_are_one_declared_thing() {
        let grant = |role: &str, database: &str, object: GrantObject, right: &str| RelationalGrant {
            role: role.to_owned(),
            database: database.to_owned(),
            object,
            privileges: [right.to_owned()].into(),
        };
        let schema = || GrantObject::Schema { schema: "public".to_owned() };
        let all = united(vec![
            grant("app", "shop", schema(), "USAGE"),
            grant("app", "audit", schema(), "USAGE"),
            grant("app", "shop", GrantObject::Database, "CONNECT"),
            grant("app", "shop", schema(), "CREATE"),
            grant("other", "shop", schema(), "USAGE"),
        ]);
        assert_eq!(all.len(), 4, "{all:?}");
        assert_eq!(all[0].privileges.iter().collect::<Vec<_>>(), ["CREATE", "USAGE"]);
    }
}
