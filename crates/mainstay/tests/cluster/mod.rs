//! What tests of PostgreSQL's backups share: a project, the server's own tools, the binary while it runs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mainstay_testkit::Postgres;
use mainstay_testkit::engines::{EngineKind, locate};
pub(crate) use mainstay_testkit::wait_for;
use serde_json::Value;

use crate::binary::Place;

/// A project whose PostgreSQL is at `url` and whose repository is a folder in it.
pub(crate) fn project(url: &str) -> Place {
    let place = Place::new().variable("MAINSTAY_REPOSITORY_URL", "file:./repository");
    configure(&place, url);
    place
}

pub(crate) fn configure(place: &Place, url: &str) {
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"tests\"\nclass = \"development\"\n\n[postgres]\nurl = \"{url}\"\n\n[repository]\nlease_ttl = \"2s\"\n"
        ),
    );
}

pub(crate) fn backup(place: &Place) -> Value {
    place.run(&["backup", "create", "--store", "postgres", "--json"]).expect(0).json()
}

pub(crate) fn sets(place: &Place) -> usize {
    place.run(&["backup", "list", "--json"]).json()["sets"].as_array().unwrap().len()
}

/// Gives what is below `folder` to the user of `server`.
pub(crate) fn give(folder: &Path, server: &Postgres) {
    let owner = fs::metadata(server.dir()).unwrap();
    let owner = format!("{}:{}", owner.uid(), owner.gid());
    assert!(Command::new("chown").args(["-R", &owner]).arg(folder).status().unwrap().success());
}

/// One of the server's client programs.
pub(crate) fn tool(name: &str) -> Command {
    Command::new(locate(EngineKind::PgClient).unwrap().tool(name))
}

#[track_caller]
pub(crate) fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Looks at every relation of every database with the server's own tool.
pub(crate) fn check_relations(server: &Postgres) {
    let port = server.port().to_string();
    let arguments =
        ["--install-missing", "--all", "--host", "127.0.0.1", "--username", "postgres", "--port", &port];
    succeeds(tool("pg_amcheck").args(arguments).arg("--heapallindexed"));
}

/// The binary, running; killed when dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(place: &Place, arguments: &[&str]) -> Self {
        Self(place.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
