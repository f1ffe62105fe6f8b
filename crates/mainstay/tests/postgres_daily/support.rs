//! What the tests share: a project on a server, sessions of real clients, waiting for conditions.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use mainstay_testkit::Postgres;
use mainstay_testkit::engines::{EngineKind, locate};
pub(crate) use mainstay_testkit::wait_for;
use serde_json::Value;

use crate::binary::{Place, Seen};

/// A project whose PostgreSQL is at `url` and whose repository is a folder in it.
pub(crate) fn project(url: &str) -> Place {
    let place = Place::new().variable("MAINSTAY_REPOSITORY_URL", "file:./repository");
    configure(&place, url, "");
    place
}

/// Points the project at `url`; `more` are lines of its section `[postgres]`.
pub(crate) fn configure(place: &Place, url: &str, more: &str) {
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"tests\"\nclass = \"development\"\n\n[postgres]\nurl = \"{url}\"\n{more}\n\n[repository]\nlease_ttl = \"2s\"\n"
        ),
    );
}

/// Marks the project's PostgreSQL with the configured environment.
#[track_caller]
pub(crate) fn mark(place: &Place) {
    let planned =
        place.run(&["environment", "mark", "--store", "postgres", "--output", "mark.json", "--json"]);
    let planned = planned.expect(0).json();
    apply(place, "mark.json", &planned["plans"][0]["plan_hash"]).expect(0);
    std::fs::remove_file(place.path("mark.json")).unwrap();
}

/// Carries out a plan file that is approved by `hash`.
#[track_caller]
pub(crate) fn apply(place: &Place, file: &str, hash: &Value) -> Seen {
    place.run(&["apply", file, "--approve", hash.as_str().unwrap(), "--json"])
}

/// The url of `role` on `server`.
pub(crate) fn url_of(server: &Postgres, role: &str, database: &str) -> String {
    server.uri_of(database).replace("//postgres", &format!("//{role}"))
}

/// A server of its own making: those of the test kit are copies of one, and share its number.
pub(crate) fn another_server(beside: &Postgres) -> Postgres {
    let folder = beside.make_folder("another");
    let owner = std::fs::metadata(&folder).unwrap();
    let mut initdb = Command::new(locate(EngineKind::Postgres).unwrap().tool("initdb"));
    initdb.args([
        "--username",
        "postgres",
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
        "--no-sync",
    ]);
    initdb.arg("--pgdata").arg(folder.join("data")).current_dir("/").uid(owner.uid()).gid(owner.gid());
    let made = initdb.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Postgres::options().in_folder(folder).start().unwrap()
}

/// One of the server's own client programs.
pub(crate) fn tool(name: &str) -> Command {
    Command::new(locate(EngineKind::PgClient).unwrap().tool(name))
}
