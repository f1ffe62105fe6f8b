//! Which collections an operation is about.

use mainstay_engine::{CollectionInfo, DocumentSource, Namespace};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};

use crate::placement::SHADOW_PREFIX;

/// Databases and collections asked for by name. Empty means everything the source lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Whole databases.
    pub databases: Vec<String>,
    /// Single collections.
    pub collections: Vec<Namespace>,
}

impl Selection {
    /// True when nothing was named, so that everything is meant.
    pub fn is_everything(&self) -> bool {
        self.databases.is_empty() && self.collections.is_empty()
    }

    /// Whether `namespace` is meant.
    pub fn includes(&self, namespace: &Namespace) -> bool {
        self.is_everything()
            || self.databases.contains(&namespace.database)
            || self.collections.contains(namespace)
    }

    /// Refuses a selection with a name that matches none of `found`, and one that matches nothing at all.
    ///
    /// # Errors
    /// `Precondition`, naming every name without a match.
    pub(crate) fn check_matches<'a>(
        &self,
        found: impl IntoIterator<Item = &'a Namespace>,
        place: &str,
    ) -> Result<()> {
        let found: Vec<&Namespace> = found.into_iter().collect();
        let lost_databases = self
            .databases
            .iter()
            .filter(|name| !found.iter().any(|namespace| namespace.database == **name))
            .cloned();
        let lost_collections =
            self.collections.iter().filter(|wanted| !found.contains(wanted)).map(ToString::to_string);
        let lost: Vec<String> = lost_databases.chain(lost_collections).collect();
        let message = match (lost.is_empty(), found.is_empty()) {
            (true, false) => return Ok(()),
            (true, true) => format!("{place} holds no collections"),
            (false, _) => format!("{place} does not hold {}", lost.join(", ")),
        };
        Err(Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(
            "check the spelling: names are case-sensitive, a collection is given as database.collection",
        ))
    }

    /// The selected collections of `source`, by name: when everything is meant, all there are. What an unfinished restore is loading beside
    /// others is left out.
    ///
    /// # Errors
    /// `Precondition` when a name matches nothing; `Auth` when everything is meant and the user may not see all of it; what the source
    /// fails with.
    pub(crate) async fn resolve(&self, source: &dyn DocumentSource) -> Result<Vec<CollectionInfo>> {
        let databases = match self.is_everything() {
            true => source.every_database().await.context("list databases")?,
            false => self.named_databases(),
        };
        self.resolve_in(databases, source).await
    }

    /// As [`Selection::resolve`]; when everything is meant, what the user may see: for a look at the server, which promises nothing.
    ///
    /// # Errors
    /// As [`Selection::resolve`], but for `Auth`.
    pub(crate) async fn resolve_visible(&self, source: &dyn DocumentSource) -> Result<Vec<CollectionInfo>> {
        let databases = self.visible_databases(source).await?;
        self.resolve_in(databases, source).await
    }

    async fn resolve_in(
        &self,
        databases: Vec<String>,
        source: &dyn DocumentSource,
    ) -> Result<Vec<CollectionInfo>> {
        self.check_user_databases()?;
        let mut selected = Vec::new();
        for database in databases {
            let collections = source
                .collections(&database)
                .await
                .with_context(|| format!("list collections of {database}"))?;
            let wanted = |collection: &CollectionInfo| {
                self.includes(&collection.namespace)
                    && !collection.namespace.collection.starts_with(SHADOW_PREFIX)
            };
            selected.extend(collections.into_iter().filter(wanted));
        }
        self.check_matches(selected.iter().map(|collection| &collection.namespace), "the server")?;
        Ok(selected)
    }

    /// The databases that are meant, by name; each exists.
    ///
    /// # Errors
    /// `Usage` for the server's own databases; `Precondition` when one does not exist; what the source fails with.
    pub async fn database_names(&self, source: &dyn DocumentSource) -> Result<Vec<String>> {
        self.check_user_databases()?;
        let named = self.visible_databases(source).await?;
        let known = source.databases().await.context("list databases")?;
        let lost: Vec<&str> = named.iter().filter(|name| !known.contains(name)).map(String::as_str).collect();
        if lost.is_empty() {
            return Ok(named);
        }
        Err(Error::new(ErrorKind::Precondition, format!("the server does not hold {}", lost.join(", ")))
            .with_state("nothing was changed")
            .with_hint(
                "check the spelling: names are case-sensitive; `mainstay mongo stats` lists what there is",
            ))
    }

    /// Refuses the server's own databases, which no backup or restore of user data may name.
    ///
    /// # Errors
    /// `Usage`.
    pub(crate) fn check_user_databases(&self) -> Result<()> {
        let named = self.databases.iter().chain(self.collections.iter().map(|namespace| &namespace.database));
        named.map(String::as_str).try_for_each(check_user_database)
    }

    async fn visible_databases(&self, source: &dyn DocumentSource) -> Result<Vec<String>> {
        match self.is_everything() {
            true => source.databases().await.context("list databases"),
            false => Ok(self.named_databases()),
        }
    }

    fn named_databases(&self) -> Vec<String> {
        let named = self.collections.iter().map(|namespace| &namespace.database);
        let mut databases: Vec<String> = self.databases.iter().chain(named).cloned().collect();
        databases.sort();
        databases.dedup();
        databases
    }
}

/// Databases that belong to the server itself (MongoDB manual, "Reserved databases"), and Mainstay's own.
const RESERVED_DATABASES: [&str; 4] = ["admin", "config", "local", "mainstay"];
/// The longest name of a database in bytes (MongoDB manual, "Naming restrictions").
const DATABASE_NAME_BYTES_MAX: usize = 63;

/// Refuses a name under which user data cannot or must not lie.
///
/// # Errors
/// `Usage`, naming the rule.
pub(crate) fn check_user_database(name: &str) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(ErrorKind::Usage, format!("`{name}` cannot be the name of a database here: {why}"))
            .with_state("nothing was changed")
            .with_hint("name a database of your own"))
    };
    if RESERVED_DATABASES.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return refuse("it belongs to the server or to mainstay");
    }
    if name.is_empty() || name.len() > DATABASE_NAME_BYTES_MAX {
        return refuse("a name has 1 to 63 bytes");
    }
    if name.contains(['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0']) {
        return refuse("a name holds no blank and none of /\\.\"$*<>:|?");
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["", "admin", "Local", "a.b", "a b", "a$b", &"x".repeat(64)] {
            assert_eq!(check_user_database(name).unwrap_err().kind(), ErrorKind::Usage, "{name}");
        }
        for name in ["shop", "магазин", "a-b_c", &"x".repeat(63)] {
            assert!(check_user_database(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_name_without_a_match_is_told() {
        let found = [Namespace::new("shop", "users"), Namespace::new("other", "a.b")];
        let selection = Selection {
            databases: vec!["shop".to_owned(), "shpo".to_owned()],
            collections: vec![Namespace::new("other", "a.b"), Namespace::new("other", "A")],
        };
        let error = selection.check_matches(&found, "the set").unwrap_err();
        assert_eq!(error.message(), "the set does not hold shpo, other.A");
        assert!(Selection::default().check_matches(&found, "the set").is_ok());
        assert!(Selection::default().check_matches([], "the set").is_err());
    }
}
