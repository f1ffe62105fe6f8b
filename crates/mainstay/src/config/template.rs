//! The file that `config init` writes: every section, commented, nothing set that a stranger's machine would misunderstand.

/// The text of a new `mainstay.toml`.
pub(crate) const TEMPLATE: &str = r#"# Mainstay's configuration for this project. `mainstay config check` finds mistakes; docs/configuration.md lists every key.
# Passwords do not belong here: set them with variables (MAINSTAY_MONGO_PASSWORD, REDIS_PASSWORD, …), or name files that hold them.

[environment]
# What this environment is called and how protected it is: development, staging or production. Unknown counts as production.
# name = "marketplace-dev"
# class = "development"

[mongo]
# url = "mongodb://127.0.0.1:27017"
# database = "marketplace"
# username = "mainstay"
# password_file = "/run/secrets/mongo_password"
# auth_source = "admin"
# tls_ca_file = "certificates/ca.pem"

[postgres]
# url = "postgres://127.0.0.1:5432/marketplace"
# user = "mainstay"
# password_file = "/run/secrets/postgres_password"
# sslmode = "verify-full"
# ca_file = "certificates/ca.pem"

[sql]
# Migrations of PostgreSQL in Drizzle's own formats; drizzle.config.ts is asked otherwise.
# folder = "drizzle"
# schema = "drizzle"
# table = "__drizzle_migrations"
# shadow_url = "postgres://127.0.0.1:5433/postgres"
# large_table = "64MiB"

[redis]
# url = "redis://127.0.0.1:6379"
# password_file = "/run/secrets/redis_password"

[redis.policy]
# How Redis persists and evicts; `mainstay redis policy drift` compares, `plan` and `apply` change.
# save = ["3600 1", "300 100", "60 10000"]
# appendonly = true
# appendfsync = "everysec"
# maxmemory = "256MiB"
# maxmemory_policy = "noeviction"
# repl_backlog_size = "64MiB"

[redis.classes]
# Which keys are what: the first four are neither evicted nor purged unasked.
# session = ["auth:session:*", "auth:refresh:*"]
# revocation = ["auth:revoked:*"]
# idempotency = ["payment:idem:*"]
# queue = ["queue:*"]
# counter = ["ratelimit:*"]
# cache = ["cache:*"]

[repository]
# Where backups, journals and the audit chain are kept: a folder (relative to this file), or s3://bucket/prefix.
# url = "file:./backups"
# compression_level = 3
# recipients = ["age1…"]
# identity_file = "/run/secrets/age_identity"
# write_limit = "50MB"

[repository.s3]
# endpoint = "https://s3.example.net"
# region = "eu-central-1"

[policy]
# A last backup older than this is a finding of `mainstay doctor`.
# backup_age_max = "24h"

[capture]
# What `mainstay capture` has read is written at the latest after this time.
# slice_age = "5s"

[backfills]
# Files that declare changes of data; docs/backfill.md tells how, `mainstay backfill list` what has run of them.
# folder = "backfills"

[compose]
# file = "compose.yaml"
"#;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::TEMPLATE;
    use crate::config::file::ConfigFile;

    #[test]
    fn the_template_is_valid_as_it_is_and_uncommented() {
        let path = std::path::Path::new("mainstay.toml");
        assert!(ConfigFile::parse(path, TEMPLATE).unwrap().entries.is_empty());
        let uncommented: String = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!(ConfigFile::parse(path, &uncommented).unwrap().entries.len(), 43);
    }
}
