//! The rules that there are: what each is worth here, and whether it is on.
//!
//! Of squawk's rules those are off that ask for what the runner does itself (a lock timeout, robust statements, no transaction of one's own) and
//! those that a rule of ours says better.

use super::LintLevel::{self, Error, Note, Warning};

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) level: LintLevel,
    pub(super) is_default: bool,
    pub(super) is_own: bool,
    /// It is about those who use a table: no matter for one that the same file creates.
    pub(super) is_about_use: bool,
}

const fn own(name: &'static str, level: LintLevel) -> Rule {
    Rule { name, level, is_default: true, is_own: true, is_about_use: false }
}

/// A rule about locks, scans and those who use what is there.
const fn using(name: &'static str) -> Rule {
    Rule { name, level: Warning, is_default: true, is_own: false, is_about_use: true }
}

/// A rule about what is written, whoever uses it.
const fn writing(name: &'static str, level: LintLevel) -> Rule {
    Rule { name, level, is_default: true, is_own: false, is_about_use: false }
}

const fn off(rule: Rule) -> Rule {
    Rule { is_default: false, ..rule }
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    OWN.iter().chain(SQUAWK)
}

/// The rule of this name.
pub(super) fn rule(name: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.name == name)
}

const OWN: &[Rule] = &[
    own("alone-in-chunk", Warning),
    own("alone-in-transaction", Error),
    own("block-not-linted", Note),
    own("byte-order-mark", Error),
    own("concurrent-if-not-exists", Note),
    own("copy-from-stdin", Error),
    own("empty-migration", Note),
    own("new-enum-value", Warning),
    own("nonstandard-strings", Error),
    own("not-linted", Note),
    own("not-utf8", Warning),
    own("psql-command", Error),
    own("session-setting", Warning),
    own("transaction-control", Error),
    own("unbounded-write", Warning),
    own("unnamed-concurrent-index", Warning),
    own("unreadable", Note),
    own("unterminated", Error),
];

/// Squawk's, in the order of its own list (2.68).
pub(super) const SQUAWK: &[Rule] = &[
    using("require-concurrent-index-creation"),
    using("require-concurrent-index-deletion"),
    using("constraint-missing-not-valid"),
    using("adding-field-with-default"),
    using("adding-foreign-key-constraint"),
    using("changing-column-type"),
    using("adding-not-nullable-field"),
    using("adding-serial-primary-key-field"),
    using("renaming-column"),
    using("renaming-table"),
    using("disallowed-unique-constraint"),
    using("ban-drop-database"),
    writing("prefer-bigint-over-int", Note),
    writing("prefer-bigint-over-smallint", Note),
    writing("prefer-identity", Note),
    writing("prefer-repack", Note),
    off(writing("prefer-robust-stmts", Note)),
    writing("prefer-text-field", Note),
    writing("prefer-timestamp-tz", Note),
    writing("ban-char-field", Note),
    using("ban-drop-column"),
    using("ban-drop-table"),
    using("ban-drop-not-null"),
    off(writing("transaction-nesting", Warning)),
    using("adding-required-field"),
    off(writing("ban-concurrent-index-creation-in-transaction", Error)),
    writing("unused-ignore", Note),
    writing("ban-create-domain-with-constraint", Warning),
    writing("ban-alter-domain-with-add-constraint", Warning),
    using("ban-truncate-cascade"),
    off(writing("require-timeout-settings", Note)),
    off(writing("ban-uncommitted-transaction", Warning)),
    writing("require-enum-value-ordering", Note),
    off(writing("require-table-schema", Note)),
    writing("identifier-too-long", Warning),
    using("require-concurrent-partition-detach"),
    using("require-concurrent-reindex"),
    off(writing("require-lock-timeout", Note)),
    off(writing("require-statement-timeout", Note)),
    writing("ban-duplicate-column-assignments", Error),
    using("ban-drop-view"),
    using("ban-drop-function"),
    using("ban-drop-type"),
    using("ban-drop-default"),
    off(using("ban-drop-trigger")),
    using("ban-drop-schema"),
    using("ban-drop-sequence"),
    using("ban-drop-domain"),
    using("ban-drop-constraint"),
    using("ban-drop-generated-expression"),
    using("renaming-object"),
    using("ban-set-schema"),
    using("ban-alter-identity"),
    using("ban-drop-extension"),
    off(using("ban-alter-generated-expression")),
    off(using("ban-drop-index")),
    off(using("ban-set-default")),
    off(using("ban-disable-trigger")),
    off(using("ban-replica-identity")),
    off(using("ban-drop-policy")),
    off(using("ban-revoke")),
    off(using("ban-replace-view-function")),
    off(using("ban-alter-policy-condition")),
    off(using("ban-alter-policy-roles")),
    off(using("ban-create-policy")),
    off(using("ban-alter-function-options")),
    off(using("ban-alter-view-options")),
    off(using("ban-alter-role-options")),
    off(using("ban-alter-database-options")),
    off(using("ban-alter-row-level-security")),
    off(using("ban-new-write-restriction")),
    off(using("ban-add-enum-value")),
    off(using("ban-add-composite-attribute")),
    off(using("ban-add-column")),
    off(using("ban-detach-inheritance")),
    off(using("ban-alter-sequence-values")),
    off(using("ban-alter-system-options")),
    off(using("ban-alter-extension")),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_has_every_rule_of_squawk_and_none_twice() {
        let names: BTreeSet<&str> = all().map(|rule| rule.name).collect();
        assert_eq!(names.len(), OWN.len() + SQUAWK.len());
        // Squawk tells of unknown names itself, and has no name for that.
        for rule in SQUAWK.iter().filter(|rule| rule.name != "unused-ignore") {
            let known = squawk_linter::Rule::try_from(rule.name).unwrap();
            assert_eq!(known.to_string(), rule.name);
            assert!(!(known.is_opt_in() && rule.is_default), "{} is off in squawk", rule.name);
        }
        for rule in &squawk_linter::Linter::with_default_rules().rules {
            assert!(names.contains(rule.to_string().as_str()), "{rule} is not in the table");
        }
    }
}
