//! The table of configuration keys: everything else about configuration is derived from it.
//!
//! A key has a section and a name in `mainstay.toml`; its variable is `MAINSTAY_` and both in capitals; a variable with `_FILE` appended
//! names a file that holds the value. The runbook's own names stand beside the keys they feed. `docs/configuration.md` holds the same
//! table, and a test compares the two.

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A connection string with one of these schemes. May hold a password, so it is handled as a secret.
    Url(&'static [&'static str]),
    /// Where the repository is: `file:./folder`, `/folder`, `s3://bucket/prefix` or `memory:`.
    Location,
    /// A secret. It never stands in a file of configuration: there, `<name>_file` names the file that holds it.
    Secret,
    /// A path. Relative ones are taken from the folder of the file that says so, otherwise from the working directory.
    Path,
    /// `true` or `false`.
    Switch,
    /// A whole number within these bounds, both inclusive.
    Number(i64, i64),
    /// A number of bytes with an optional unit.
    Size,
    /// A length of time: `24h`, `90m`, `1d`.
    Duration,
    /// A list of texts; in a variable, separated by commas.
    List,
}

impl Form {
    /// The form in words, for messages and documentation.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Word(words) => words.join(", "),
            Self::Url(schemes) => {
                schemes.iter().map(|scheme| format!("{scheme}://…")).collect::<Vec<_>>().join(" or ")
            }
            Self::Location => "place: file:./folder, /folder, s3://bucket/prefix or memory:".to_owned(),
            Self::Secret => "secret".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Number(least, most) => format!("whole number from {least} to {most}"),
            Self::Size => "size such as 64MiB".to_owned(),
            Self::Duration => "duration such as 24h".to_owned(),
            Self::List => "list of text".to_owned(),
        }
    }
}

/// One configuration key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The table it stands in: `mongo`, `repository.s3`.
    pub(crate) section: &'static str,
    /// Its name there.
    pub(crate) name: &'static str,
    /// What its value must look like.
    pub(crate) form: Form,
    /// The value when nothing says otherwise, as it would be written; empty for none.
    pub(crate) default: &'static str,
    /// Names that other tools and the runbook use for the same thing, strongest first.
    pub(crate) also: &'static [&'static str],
    /// The global flag that sets it, without dashes.
    pub(crate) flag: Option<&'static str>,
    /// What it means, for people.
    pub(crate) summary: &'static str,
}

impl Key {
    /// `mongo.url`: how messages name it.
    pub(crate) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Its environment variable. The section `repository.s3` is shortened to `S3`.
    pub(crate) fn variable(&self) -> String {
        let section = self.section.strip_prefix("repository.").unwrap_or(self.section).replace('.', "_");
        format!("MAINSTAY_{}_{}", section.to_uppercase(), self.name.to_uppercase())
    }

    /// Its name inside a file of configuration: `password_file` for the secret `password`.
    pub(crate) fn file_name(&self) -> String {
        match self.form {
            Form::Secret => format!("{}_file", self.name),
            _ => self.name.to_owned(),
        }
    }

    /// Whether `<variable>_FILE` may name a file holding the value. Keys that are paths themselves need no such thing.
    pub(crate) fn has_file_variable(&self) -> bool {
        self.form != Form::Path
    }

    /// Whether its value may hold a password and must be redacted or hidden when shown.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self.form, Form::Secret | Form::Url(_))
    }
}

const fn key(section: &'static str, name: &'static str, form: Form, summary: &'static str) -> Key {
    Key { section, name, form, default: "", also: &[], flag: None, summary }
}

const fn or(mut key: Key, default: &'static str) -> Key {
    key.default = default;
    key
}

const fn also(mut key: Key, names: &'static [&'static str]) -> Key {
    key.also = names;
    key
}

const fn flag(mut key: Key, flag: &'static str) -> Key {
    key.flag = Some(flag);
    key
}

/// Every key, in the order in which `config show` and the documentation list them.
pub(crate) const KEYS: &[Key] = &[
    key(
        "environment",
        "name",
        Form::Text,
        "what this environment is called; compared with the marker inside each store",
    ),
    key(
        "environment",
        "class",
        Form::Word(&["development", "staging", "production"]),
        "how protected it is; unknown counts as production",
    ),
    flag(
        also(
            key("mongo", "url", Form::Url(&["mongodb", "mongodb+srv"]), "MongoDB connection string"),
            &["MIGRATION_MONGO_URL"],
        ),
        "mongo-url",
    ),
    also(
        key("mongo", "username", Form::Text, "user, when the url names none"),
        &["MONGO_INITDB_ROOT_USERNAME"],
    ),
    also(key("mongo", "password", Form::Secret, "that user's password"), &["MONGO_INITDB_ROOT_PASSWORD"]),
    key(
        "mongo",
        "auth_source",
        Form::Text,
        "database that knows the user; `admin` when neither this nor the url says so",
    ),
    also(
        key("mongo", "database", Form::Text, "database to operate on, when the url names none"),
        &["DB_NAME"],
    ),
    key("mongo", "tls", Form::Switch, "encrypt the connection; the url's `tls` option otherwise"),
    key("mongo", "tls_ca_file", Form::Path, "PEM file of the authority that signed the server's certificate"),
    key("mongo", "tls_certificate_key_file", Form::Path, "PEM file with the client's certificate and key"),
    key(
        "mongo",
        "indexes",
        Form::Path,
        "file that declares the indexes, as docs/indexes.md says; or the section [mongo.indexes] itself",
    ),
    key("mongo", "direct", Form::Switch, "talk to the named host only, even when it names other members"),
    flag(
        also(
            key("postgres", "url", Form::Url(&["postgres", "postgresql"]), "PostgreSQL connection string"),
            &["PG_URL", "MIGRATION_PG_URL"],
        ),
        "postgres-url",
    ),
    key("postgres", "user", Form::Text, "user, when the url names none"),
    key("postgres", "password", Form::Secret, "that user's password"),
    key(
        "postgres",
        "sslmode",
        Form::Word(&["disable", "prefer", "require", "verify-ca", "verify-full"]),
        "encryption and what is checked, as libpq names it; the url's `sslmode` otherwise",
    ),
    key("postgres", "ca_file", Form::Path, "PEM file of the authority that signed the server's certificate"),
    key(
        "postgres",
        "client_dir",
        Form::Path,
        "folder with `pg_dump` and `pg_restore` of the server's major version; Debian's folder for it, then the PATH otherwise",
    ),
    key(
        "sql",
        "folder",
        Form::Path,
        "folder of the SQL migrations; what drizzle.config.ts beside the file of configuration says otherwise, then `drizzle`",
    ),
    key(
        "sql",
        "schema",
        Form::Text,
        "schema of the table that says which are applied; as above, then `drizzle`",
    ),
    key("sql", "table", Form::Text, "that table; as above, then `__drizzle_migrations`"),
    key(
        "sql",
        "shadow_url",
        Form::Url(&["postgres", "postgresql"]),
        "server that shadow databases are made on, of the same major version; that of [postgres] otherwise",
    ),
    key("sql", "shadow_password", Form::Secret, "password of its user"),
    or(
        key(
            "sql",
            "large_table",
            Form::Size,
            "from here on a table is large: rewriting it, or reading it while others wait, is a finding of `sql rehearse`",
        ),
        "64MiB",
    ),
    or(
        key("sql.quotes", "table", Form::Text, "table of quotes, with its schema unless that is `public`"),
        "payment_quotes",
    ),
    or(key("sql.quotes", "key", Form::Text, "its key"), "id"),
    or(key("sql.quotes", "payment_column", Form::Text, "its column that names the payment"), "payment_id"),
    or(
        key("sql.quotes", "created_column", Form::Text, "its column that says when a quote was made"),
        "created_at",
    ),
    or(key("sql.quotes", "payments", Form::Text, "table of payments"), "payments"),
    or(key("sql.quotes", "payments_key", Form::Text, "its column that is named"), "id"),
    also(
        key(
            "sql.quotes",
            "enabled",
            Form::Text,
            "whether the application writes quotes: its own switch, on or off; where nobody says, that is not judged",
        ),
        &["ORACLE_QUOTING_ENABLED"],
    ),
    key(
        "sql.quotes",
        "off_since",
        Form::Text,
        "since when it does not, as in 2026-11-01T00:00:00Z; quotes made from then on are wrong, all of them when nobody says",
    ),
    flag(
        key(
            "redis",
            "url",
            Form::Url(&["redis", "rediss", "redis+sentinel", "rediss+sentinel"]),
            "Redis connection string; `redis+sentinel://host,host/name` for the primary that Sentinels tell",
        ),
        "redis-url",
    ),
    key("redis", "username", Form::Text, "ACL user, when the url names none"),
    also(key("redis", "password", Form::Secret, "that user's password"), &["REDIS_PASSWORD"]),
    key("redis", "sentinel_password", Form::Secret, "what Sentinels ask for, when the url names some"),
    key("redis", "tls", Form::Switch, "encrypt the connection; `rediss://` does so, too"),
    key("redis", "ca_file", Form::Path, "PEM file of the authority that signed the server's certificate"),
    key(
        "redis.policy",
        "save",
        Form::List,
        "when Redis makes a snapshot: seconds and changes, as in `\"3600 1\"`; an empty list for never",
    ),
    key("redis.policy", "appendonly", Form::Switch, "whether Redis keeps an append-only file"),
    key(
        "redis.policy",
        "appendfsync",
        Form::Word(&["always", "everysec", "no"]),
        "when that file is made durable",
    ),
    key("redis.policy", "maxmemory", Form::Size, "most memory of Redis; 0 for no limit"),
    key(
        "redis.policy",
        "maxmemory_policy",
        Form::Word(&[
            "noeviction",
            "allkeys-lru",
            "allkeys-lfu",
            "allkeys-random",
            "volatile-lru",
            "volatile-lfu",
            "volatile-random",
            "volatile-ttl",
        ]),
        "what goes when that is reached",
    ),
    key(
        "redis.policy",
        "repl_backlog_size",
        Form::Size,
        "how much of the replication stream is kept for replicas and captures that were away",
    ),
    key(
        "redis.classes",
        "session",
        Form::List,
        "globs of keys that keep users signed in; never evicted or purged unasked",
    ),
    key("redis.classes", "revocation", Form::List, "globs of keys that keep revoked tokens out; the same"),
    key(
        "redis.classes",
        "idempotency",
        Form::List,
        "globs of keys that keep work from being done twice; the same",
    ),
    key("redis.classes", "queue", Form::List, "globs of keys that hold jobs to be done; the same"),
    key("redis.classes", "counter", Form::List, "globs of rate limits and other counters"),
    key("redis.classes", "cache", Form::List, "globs of keys that can be made again"),
    flag(
        key("repository", "url", Form::Location, "where backups, journals and the audit chain are kept"),
        "repository-url",
    ),
    or(
        key(
            "repository",
            "compression_level",
            Form::Number(1, 19),
            "zstd level: 1 is fastest, 19 is smallest",
        ),
        "3",
    ),
    or(
        key(
            "repository",
            "compression_threads",
            Form::Number(0, 256),
            "compressing threads; 0 means one per processor",
        ),
        "0",
    ),
    key(
        "repository",
        "recipients",
        Form::List,
        "age public keys; with any, every object is encrypted to all of them",
    ),
    also(
        key(
            "repository",
            "identity",
            Form::Secret,
            "age secret keys, one per line, to read encrypted objects",
        ),
        &["MAINSTAY_AGE_IDENTITY"],
    ),
    key("repository", "write_limit", Form::Size, "most bytes per second written to the repository"),
    or(
        key(
            "repository",
            "lease_ttl",
            Form::Duration,
            "how long the lease of a killed process keeps others away; every holder renews at a third of it",
        ),
        "60s",
    ),
    also(
        key("repository.s3", "endpoint", Form::Text, "S3 endpoint other than Amazon's"),
        &["AWS_ENDPOINT_URL"],
    ),
    also(key("repository.s3", "region", Form::Text, "S3 region"), &["AWS_REGION", "AWS_DEFAULT_REGION"]),
    also(
        key("repository.s3", "access_key_id", Form::Text, "name of the S3 access key"),
        &["AWS_ACCESS_KEY_ID"],
    ),
    also(
        key("repository.s3", "secret_access_key", Form::Secret, "the S3 access key itself"),
        &["AWS_SECRET_ACCESS_KEY"],
    ),
    also(
        key("repository.s3", "session_token", Form::Secret, "token of temporary S3 credentials"),
        &["AWS_SESSION_TOKEN"],
    ),
    or(key("repository.s3", "allow_http", Form::Switch, "permit an endpoint without TLS"), "false"),
    or(
        key(
            "repository.s3",
            "virtual_hosted",
            Form::Switch,
            "put the bucket into the host name instead of the path",
        ),
        "false",
    ),
    or(
        key(
            "policy",
            "backup_age_max",
            Form::Duration,
            "oldest last backup that `doctor` accepts, and oldest verified backup that counts before a destructive operation in production",
        ),
        "24h",
    ),
    or(
        key(
            "capture",
            "slice_age",
            Form::Duration,
            "how old what was captured may become before it is written: what the loss of the server can cost",
        ),
        "5s",
    ),
    key(
        "compose",
        "file",
        Form::Path,
        "compose file that `doctor` reads; `compose.yaml` and its kin otherwise",
    ),
];

/// Variables of the `MAINSTAY_` family that are not keys: where the configuration is, and what the project's own tests use.
pub(crate) const OTHER_VARIABLES: &[&str] =
    &["MAINSTAY_CONFIG", "MAINSTAY_CACHE", "MAINSTAY_DENY_ADVISORIES"];
/// Prefixes of such variables.
pub(crate) const OTHER_VARIABLE_PREFIXES: &[&str] = &["MAINSTAY_ENGINE_", "MAINSTAY_TESTKIT_"];

/// The key called `name` in `section` of a file of configuration.
pub(crate) fn find(section: &str, file_name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.file_name() == file_name)
}

/// The sections, each once, in order.
pub(crate) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&'static str> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

/// The nearest of `candidates` to `given`, when it is near enough to be a slip of the finger.
pub(crate) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = (given.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(given, candidate), candidate))
        .filter(|(slips, candidate)| *slips <= slips_max || strsim::jaro_winkler(given, candidate) >= 0.9)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// The table of keys as Markdown: what `config show --variables` prints and `docs/configuration.md` holds.
pub(crate) fn markdown_table() -> String {
    let mut text = String::from(
        "| Key | Variable | Also | Flag | Form | Default | Meaning |\n|---|---|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let also = key.also.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ");
        let flag = key.flag.map(|flag| format!("`--{flag}`")).unwrap_or_default();
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        text.push_str(&format!(
            "| `{}.{}` | `{}` | {also} | {flag} | {} | {default} | {} |\n",
            key.section,
            key.file_name(),
            key.variable(),
            key.form.describe(),
            key.summary,
        ));
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_keys_share_a_variable() {
        let mut names = BTreeSet::new();
        for key in KEYS {
            let mut own = vec![key.variable()];
            own.extend(key.also.iter().map(|name| (*name).to_owned()));
            if key.has_file_variable() {
                own.extend(own.clone().iter().map(|name| format!("{name}_FILE")));
            }
            for name in own {
                assert!(names.insert(name.clone()), "{name} is used twice");
            }
        }
    }

    #[test]
    fn the_documentation_holds_the_same_table() {
        let documented =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md"))
                .unwrap();
        let table = markdown_table();
        assert!(documented.contains(&table), "docs/configuration.md should hold this table:\n{table}");
    }

    #[test]
    fn slips_of_the_finger_are_understood() {
        let names = ["url", "username", "tls_ca_file"];
        assert_eq!(nearest("ulr", names), Some("url"));
        assert_eq!(nearest("user_name", names), Some("username"));
        assert_eq!(nearest("zzz", names), None);
    }
}
