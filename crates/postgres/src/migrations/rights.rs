//! What to grant when the server refuses the tracking table, its schema or the ledger of steps to our role.
//!
//! Pure. A statement of a migration is not told of here: what it needs is its author's to know.

use mainstay_migrations::TrackingTable;
use mainstay_model::{Error, ErrorKind};

use super::tracking::quoted;
use crate::config::Settings;
use crate::quote::name;

/// SQLSTATE insufficient_privilege.
const DENIED: &str = "42501";

/// The error, with what to grant for reading the tracking table where that was refused.
pub(super) fn to_read(error: Error, settings: &Settings, table: &TrackingTable) -> Error {
    let (schema, role) = (name(&table.schema), name(settings.user()));
    hinted(
        error,
        format!(
            "as the table's owner: `GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {} TO {role}`",
            quoted(table)
        ),
    )
}

/// The error, with what to grant for making a schema where that was refused.
pub(super) fn to_make_schema(error: Error, settings: &Settings) -> Error {
    let (database, role) = (name(settings.database()), name(settings.user()));
    hinted(error, format!("as the database's owner: `GRANT CREATE ON DATABASE {database} TO {role}`"))
}

/// The error, with what to grant for making a table in `schema` where that was refused.
pub(super) fn to_make_table(error: Error, settings: &Settings, schema: &str) -> Error {
    let (schema, role) = (name(schema), name(settings.user()));
    hinted(error, format!("as the schema's owner: `GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}`"))
}

/// What to grant when the server answered with `code` and `message` to a lock on the tracking table or to a row of it, or of the ledger.
pub(super) fn to_write(
    code: &str,
    message: &str,
    settings: &Settings,
    table: &TrackingTable,
) -> Option<String> {
    if code != DENIED {
        return None;
    }
    let (schema, role) = (name(&table.schema), name(settings.user()));
    Some(match message.contains("sql_steps") {
        true => {
            format!("as its owner: `GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.sql_steps TO {role}`")
        }
        false => format!(
            "as the table's owner: `GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {role}; \
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}`; a file that says SET ROLE ends with `RESET ROLE`",
            quoted(table)
        ),
    })
}

fn hinted(error: Error, hint: String) -> Error {
    match error.kind() {
        ErrorKind::Auth => error.with_hint(hint),
        _ => error,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::Secret;

    use super::*;
    use crate::config::PostgresConfig;

    #[test]
    fn what_is_refused_says_what_to_grant() {
        let config = PostgresConfig::new(Secret::new("postgres://app@h/shop"));
        let settings = Settings::resolve(&config).unwrap();
        let table = TrackingTable { schema: "drizzle".to_owned(), name: "m\"s".to_owned() };
        let denied = || Error::new(ErrorKind::Auth, "permission denied");
        let hint = |error: Error| error.hint().unwrap_or_default().to_owned();
        assert_eq!(
            hint(to_read(denied(), &settings, &table)),
            "as the table's owner: `GRANT USAGE ON SCHEMA \"drizzle\" TO \"app\"; \
             GRANT SELECT ON \"drizzle\".\"m\"\"s\" TO \"app\"`"
        );
        assert!(hint(to_make_schema(denied(), &settings)).contains("CREATE ON DATABASE \"shop\" TO \"app\""));
        assert!(hint(to_make_table(denied(), &settings, "x")).contains("USAGE, CREATE ON SCHEMA \"x\""));
        let other = Error::new(ErrorKind::Server, "something else");
        assert_eq!(to_read(other, &settings, &table).hint(), None);

        let written = |code, message| to_write(code, message, &settings, &table);
        assert!(
            written("42501", "permission denied for table m").unwrap().contains("DELETE ON \"drizzle\".")
        );
        assert!(
            written("42501", "permission denied for table sql_steps").unwrap().contains("mainstay.sql_steps")
        );
        assert_eq!(written("55P03", "canceling statement due to lock timeout"), None);
    }
}
