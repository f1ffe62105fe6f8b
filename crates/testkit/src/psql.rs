//! A session of PostgreSQL's own client, which stays open while a test looks at what it holds up.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::engines::{EngineKind, locate};
use crate::seen::wait_for;
use crate::servers::Postgres;

/// A session that calls itself by a name; ended when dropped.
pub struct Psql {
    child: Child,
    input: ChildStdin,
}

impl Psql {
    /// A session in `database` of `server`, whose `application_name` is `name`.
    ///
    /// # Panics
    /// When there is no `psql`: run `cargo xtask engines`.
    pub fn open(server: &Postgres, database: &str, name: &str) -> Self {
        let url = format!("{}?application_name={name}", server.uri_of(database));
        let client = locate(EngineKind::PgClient).expect("`cargo xtask engines` installs the client");
        let mut command = Command::new(client.tool("psql"));
        command.args(["--no-psqlrc", "--quiet", "--dbname", &url]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the client begins");
        let input = child.stdin.take().expect("it was asked for a pipe");
        Self { child, input }
    }

    /// Sends statements, and does not wait for what comes of them.
    ///
    /// # Panics
    /// When the session has ended.
    pub fn send(&mut self, statements: &str) {
        let sent = writeln!(self.input, "{statements}").and_then(|()| self.input.flush());
        sent.expect("the session is there");
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Postgres {
    /// The process of a session that calls itself `name`, in whatever database, once it is as `condition` (on `pg_stat_activity`) says.
    ///
    /// # Panics
    /// When there is none for a minute.
    #[track_caller]
    pub fn process_when(&self, name: &str, condition: &str) -> String {
        let query = format!(
            "SELECT pid::text FROM pg_stat_activity WHERE application_name = '{name}' AND {condition}"
        );
        let mut found = Vec::new();
        wait_for(&format!("{name}: {condition}"), || {
            found = self.texts("postgres", &query);
            !found.is_empty()
        });
        found.remove(0)
    }
}
