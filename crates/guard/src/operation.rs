//! The registry of operations: every command of the binary, with what it does to the world.
//!
//! Names are the leaf's path in the command tree joined by dots; a command whose effect depends on its options has one entry for each
//! effect (`restore.apply.new`, `restore.apply.drop`). An operation that is not listed here gets no permit and no record.

use mainstay_model::Effect;

/// A registered operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its stable name: `restore.apply.drop`.
    pub name: &'static str,
    /// The worst it does.
    pub effect: Effect,
    /// What it does, as a bare action.
    pub summary: &'static str,
    /// Where it does that.
    pub reach: Reach,
}

/// What an operation touches beyond reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The stores.
    Store,
    /// The repository alone, or nothing. What only adds there asks nobody, in whatever environment: a backup must run at night without a
    /// person at a terminal.
    Repository,
}

/// Every operation, sorted by name.
pub const OPERATIONS: &[Operation] = &[
    reads("apply", "carry out a plan file; the plan's own operation decides what it needs"),
    reads("audit.list", "show the audit log"),
    reads("audit.verify", "check the audit log's chain"),
    keeps("backup.create", "take a backup of a store into the repository"),
    Operation {
        name: "backup.create.plain-transfer",
        effect: Effect::Disruptive,
        summary: "take a backup of a server of keys that packs nothing meanwhile, by a setting that is put back",
        reach: Reach::Store,
    },
    reads("backup.export", "hand out the dump of a logical backup set as a plain file"),
    reads("backup.list", "list the backup sets of the repository and what can be restored"),
    reads("backup.log", "find the destructive entries of the captured change log"),
    keeps("backup.prune", "remove what interrupted backups left behind; never an object that a set needs"),
    reads("backup.show", "show a backup set's manifest"),
    keeps("backup.verify", "read every byte of a backup set back and record the result"),
    keeps("capture.mongo", "follow the change log of MongoDB and keep it in the repository"),
    keeps("capture.postgres", "follow the WAL of PostgreSQL and keep it in the repository"),
    keeps("capture.redis", "follow the replication stream of Redis and keep it in the repository"),
    reads("completions", "print completions for a shell"),
    reads("config.check", "check the configuration"),
    reads("config.init", "write a first configuration file where there is none"),
    reads("config.show", "show the configuration and where each value comes from"),
    reads("doctor", "look for misconfigurations of the stores"),
    Operation {
        name: "environment.mark",
        effect: Effect::Disruptive,
        summary: "write the environment's name and class into a store",
        reach: Reach::Store,
    },
    reads("environment.show", "show which environment this is and which source says so"),
    adds("index.apply.build", "build indexes that refuse no write and expire nothing"),
    Operation {
        name: "index.apply.change",
        effect: Effect::Disruptive,
        summary: "build, change and hide indexes, so that writes or queries may be answered otherwise",
        reach: Reach::Store,
    },
    Operation {
        name: "index.apply.drop",
        effect: Effect::Disruptive,
        summary: "drop indexes, whose definitions are kept",
        reach: Reach::Store,
    },
    Operation {
        name: "index.apply.expire",
        effect: Effect::Destructive,
        summary: "change indexes so that documents which exist now expire at once",
        reach: Reach::Store,
    },
    reads("index.audit", "find indexes that nobody uses, that are redundant, that were forgotten"),
    reads("index.drift", "compare the indexes of a database with what is declared"),
    reads("index.import.live", "write the indexes of a database as a manifest"),
    reads("index.import.mongoose", "write the indexes that a project of Mongoose declares as a manifest"),
    reads("index.plan", "decide how to change the indexes of a database to what is declared"),
    reads("index.restore", "list dropped indexes, and decide how to build one again"),
    reads("index.retire", "decide which hidden indexes are dropped for good"),
    adds("init.apply", "make what is declared of a server and is not there"),
    Operation {
        name: "init.apply.change",
        effect: Effect::Disruptive,
        summary: "make what is declared of a server, and change what is there otherwise",
        reach: Reach::Store,
    },
    reads("init.check", "tell what an image's one-time scripts would and did not do"),
    reads("init.plan", "compare a server with what is declared of it and decide the steps"),
    reads("man", "print the manual page"),
    reads("mongo.count", "count the documents of collections"),
    reads("mongo.dump", "write a dump that stock tools restore; the store is only read"),
    Operation {
        name: "mongo.load.drop",
        effect: Effect::Destructive,
        summary: "replace existing collections by those of a dump",
        reach: Reach::Store,
    },
    Operation {
        name: "mongo.load.merge",
        effect: Effect::Destructive,
        summary: "load a dump's documents, users or roles into what exists",
        reach: Reach::Store,
    },
    adds("mongo.load.new", "load a dump under names that do not exist yet"),
    reads("mongo.locks", "show lock waits, queues, tickets and cache pressure"),
    reads("mongo.ops", "show what a server is doing now"),
    Operation {
        name: "mongo.ops.kill",
        effect: Effect::Disruptive,
        summary: "end an operation that a client is waiting for",
        reach: Reach::Store,
    },
    Operation {
        name: "mongo.profile.reset",
        effect: Effect::Disruptive,
        summary: "put a database's profiler back to what it was before it was set",
        reach: Reach::Store,
    },
    Operation {
        name: "mongo.profile.set",
        effect: Effect::Disruptive,
        summary: "change what a database's profiler records, and what the server's log calls slow",
        reach: Reach::Store,
    },
    reads("mongo.profile.show", "show what the profilers record"),
    reads("mongo.slow", "show slow operations grouped by the shape of their queries"),
    reads("mongo.stats", "show what collections and their indexes take"),
    reads("mongo.ttl", "show what expires, and how far behind the server is"),
    reads("pg.activity", "show what the sessions of a server do now"),
    Operation {
        name: "pg.activity.cancel",
        effect: Effect::Disruptive,
        summary: "end a statement that a client is waiting for",
        reach: Reach::Store,
    },
    Operation {
        name: "pg.activity.terminate",
        effect: Effect::Disruptive,
        summary: "end a client's connection and undo its transaction",
        reach: Reach::Store,
    },
    reads("pg.bloat", "show tables with dead rows and empty pages"),
    reads("pg.blockers", "show who blocks whom"),
    Operation {
        name: "pg.reset",
        effect: Effect::Destructive,
        summary: "wipe a development database and make it anew",
        reach: Reach::Store,
    },
    reads("pg.slots", "show replication slots and how much WAL they retain"),
    reads("pg.slow", "show the statements that cost most"),
    reads("pg.wal", "show how WAL flows and whether it is archived"),
    reads("plan.show", "show a plan file and its hash"),
    reads("redis.acl", "print users for the program's own work, each with the least that it takes"),
    reads("redis.flushes", "list commands in the captured stream after which a whole lot was gone"),
    reads("redis.info", "show how a server of keys is doing"),
    reads("redis.keys", "show what keys there are by prefix, from a server at work or from a database file"),
    reads("redis.memory", "show what memory is taken by and how it grows"),
    Operation {
        name: "redis.policy.apply",
        effect: Effect::Disruptive,
        summary: "change how a server of keys persists and evicts",
        reach: Reach::Store,
    },
    Operation {
        name: "redis.policy.apply.evict",
        effect: Effect::Destructive,
        summary: "change how a server of keys evicts, so that keys go at once",
        reach: Reach::Store,
    },
    reads("redis.policy.drift", "compare how a server of keys persists and evicts with what is declared"),
    reads("redis.policy.plan", "decide how to change a server of keys to what is declared"),
    Operation {
        name: "redis.purge",
        effect: Effect::Destructive,
        summary: "remove the keys whose names match a pattern",
        reach: Reach::Store,
    },
    reads("redis.slowlog", "show slow commands and what each command costs"),
    adds("redis.undo", "bring back keys as they were before a database was emptied"),
    Operation {
        name: "redis.undo.replace",
        effect: Effect::Destructive,
        summary: "bring back keys as they were before a database was emptied, in the place of those written since",
        reach: Reach::Store,
    },
    Operation {
        name: "restore.abandon",
        effect: Effect::Disruptive,
        summary: "give up an interrupted restore and remove what it was loading beside the old data",
        reach: Reach::Store,
    },
    Operation {
        name: "restore.apply.drop",
        effect: Effect::Destructive,
        summary: "replace existing collections by those of a backup set",
        reach: Reach::Store,
    },
    Operation {
        name: "restore.apply.merge",
        effect: Effect::Destructive,
        summary: "load a backup set's documents, users or roles into what exists",
        reach: Reach::Store,
    },
    adds("restore.apply.new", "restore a backup set under names that do not exist yet"),
    reads("restore.list", "list restores that were begun and have not ended"),
    reads("restore.plan", "decide a restore and show it"),
    // It adds a name to the log, which no data depends on, and may be part of a release at night.
    keeps("restore.point.create", "give a place in the WAL of PostgreSQL a name, and keep that"),
    reads("restore.point.list", "list named restore points with their positions"),
    adds("sql.apply", "apply SQL migrations that only add"),
    Operation {
        name: "sql.apply.change",
        effect: Effect::Disruptive,
        summary: "apply SQL migrations that change or take away what is no data",
        reach: Reach::Store,
    },
    Operation {
        name: "sql.apply.destroy",
        effect: Effect::Destructive,
        summary: "apply SQL migrations that drop, overwrite or rewrite data",
        reach: Reach::Store,
    },
    Operation {
        name: "sql.baseline",
        effect: Effect::Disruptive,
        summary: "say of all SQL migrations up to one that they are applied, and run nothing",
        reach: Reach::Store,
    },
    // A shadow is a database of its own, which goes with its run; and a rehearsal may be part of a build at night.
    keeps(
        "sql.drift",
        "compare a database with what its applied migrations make, in a shadow database of its own",
    ),
    reads("sql.lint", "look for what is dangerous in migrations before they run"),
    Operation {
        name: "sql.mark-applied",
        effect: Effect::Disruptive,
        summary: "say of SQL migrations that they are applied, and run nothing",
        reach: Reach::Store,
    },
    keeps(
        "sql.rehearse",
        "run pending migrations in a shadow database of its own and measure what they lock and rewrite",
    ),
    Operation {
        name: "sql.rehearse.live",
        effect: Effect::Disruptive,
        summary: "run pending migrations in the live database for a moment, and take them back",
        reach: Reach::Store,
    },
    Operation {
        name: "sql.repair",
        effect: Effect::Disruptive,
        summary: "correct rows of the table that says which SQL migrations are applied",
        reach: Reach::Store,
    },
    reads("sql.status", "compare a folder of SQL migrations with what a database says of them"),
    reads("sql.verify", "find SQL migrations that are skipped, edited, repeated or half applied"),
    reads("status", "show the stores at a glance"),
    reads("wal.fetch", "write a file of captured WAL for a server that recovers"),
    keeps("wal.import", "bring the WAL of an archive into the repository; the archive is only read"),
];

const fn reads(name: &'static str, summary: &'static str) -> Operation {
    Operation { name, effect: Effect::Read, summary, reach: Reach::Repository }
}

const fn adds(name: &'static str, summary: &'static str) -> Operation {
    Operation { name, effect: Effect::Additive, summary, reach: Reach::Store }
}

const fn keeps(name: &'static str, summary: &'static str) -> Operation {
    Operation { name, effect: Effect::Additive, summary, reach: Reach::Repository }
}

/// The operation registered as `name`.
pub fn operation(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_documented() {
        assert!(
            OPERATIONS.windows(2).all(|pair| pair[0].name < pair[1].name),
            "sorted, so that none is there twice"
        );
        for entry in OPERATIONS {
            let lower = |text: &str| text.starts_with(|first: char| first.is_ascii_lowercase());
            let well_formed = entry.name.split('.').all(|part| {
                lower(part) && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            });
            assert!(well_formed, "{}", entry.name);
            assert!(entry.summary.len() > 10 && lower(entry.summary), "{} has no summary", entry.name);
            assert!(!entry.summary.ends_with('.'), "{}: a bare action has no full stop", entry.name);
            assert_eq!(operation(entry.name), Some(entry));
        }
        assert_eq!(operation("restore.apply"), None);
    }

    #[test]
    fn what_destroys_says_so() {
        let effect = |name| operation(name).map(|operation| operation.effect);
        for name in ["restore.apply.drop", "restore.apply.merge"] {
            assert_eq!(effect(name), Some(Effect::Destructive));
        }
        assert_eq!(effect("environment.mark"), Some(Effect::Disruptive));
        assert_eq!(effect("backup.create"), Some(Effect::Additive));
        assert_eq!(effect("status"), Some(Effect::Read));
    }
}
