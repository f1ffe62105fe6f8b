//! `cargo xtask soak postgres`: a random history of PostgreSQL, captured and backed up while it goes on, with captures that are killed, a crash
//! of the server and a new timeline on the way; then random moments of it, restored by time, position, transaction or name, and compared.
//!
//! The server itself sums up what it holds after each act, by a function that is part of the history; a restored server is asked for the
//! same. The program runs as the server's user, because the server that recovers runs it, too.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mainstay_testkit::Postgres;
use mainstay_testkit::history::Random;

use crate::Outcome;
use crate::programs::{build, must, plan_hash};
use crate::soak_outage;

/// How long a server may take to recover.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(120);

/// What the database holds: tables with the number and the sum of their rows, indexes, large objects. Of tables that are not logged no rows,
/// which no recovery brings back.
const SUM_UP: &str = "CREATE FUNCTION sum_up() RETURNS text LANGUAGE plpgsql AS $$
DECLARE one record; part text; whole text := '';
BEGIN
    FOR one IN SELECT relname, relpersistence FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname LOOP
        part := one.relpersistence;
        IF one.relpersistence = 'p' THEN
            EXECUTE format('SELECT count(*) || '':'' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM %I AS t', one.relname)
                INTO part;
        END IF;
        whole := whole || one.relname || '=' || part || E'\\n';
    END LOOP;
    SELECT whole || coalesce(string_agg(indexdef, E'\\n' ORDER BY indexname), '') INTO whole FROM pg_indexes WHERE schemaname = 'public';
    SELECT whole || count(*) || ':' || coalesce(md5(string_agg(md5(lo_get(oid)), ',' ORDER BY oid)), '')
        INTO whole FROM pg_largeobject_metadata;
    RETURN whole;
END $$";

/// What may be said after `cargo xtask soak postgres`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Moments to restore.
    #[arg(long, default_value_t = 50)]
    moments: usize,
    /// Acts of the writer.
    #[arg(long, default_value_t = 300)]
    acts: usize,
    /// The same seed gives the same acts; the present time otherwise.
    #[arg(long)]
    seed: Option<u64>,
    /// Restore nothing; capture through a store that is slow for half as many seconds, then down for so many, then killed again and again.
    #[arg(long, value_name = "SECONDS")]
    outage: Option<u64>,
}

/// A moment of the history.
struct Moment {
    act: String,
    /// The last transaction of the act, when it had only one.
    xid: Option<String>,
    lsn: String,
    time: String,
    /// The restore point that was made of it, if one was.
    point: Option<String>,
    state: String,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) * 1_000_003);
    println!("seed {seed}: `--seed {seed}` repeats the acts");
    if let Some(seconds) = arguments.outage {
        return soak_outage::run(Duration::from_secs(seconds), seed);
    }
    let mut soak = Soak::set_up(seed)?;
    let began = Instant::now();
    soak.write(arguments.acts)?;
    println!("{} acts in {:.1} s", soak.moments.len(), began.elapsed().as_secs_f64());
    let mut seconds = Vec::new();
    for number in 1..=arguments.moments {
        let index = soak.random.below(soak.moments.len());
        let took = soak.restore(number, index)?;
        println!("{number}/{}: equal, {took:.1} s", arguments.moments);
        seconds.push(took);
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "{} moments restored and equal; {:.2} s each at the median, {:.2} s at most, the recovery included",
        seconds.len(),
        seconds.get(seconds.len() / 2).copied().unwrap_or_default(),
        seconds.last().copied().unwrap_or_default()
    );
    Ok(())
}

struct Soak {
    server: Postgres,
    folder: PathBuf,
    program: PathBuf,
    places: Vec<PathBuf>,
    random: Random,
    moments: Vec<Moment>,
    tables: Vec<String>,
    /// For names that are new.
    next: usize,
}

impl Soak {
    fn set_up(seed: u64) -> Result<Self, Box<dyn std::error::Error>> {
        let [built] = build(["mainstay"], false)?;
        let server = Postgres::options().parameter("max_prepared_transactions", "5").start()?;
        let program = place(&server, &built)?;
        let folder = server.make_folder("project");
        let configuration = format!(
            "[environment]\nname = \"soak\"\nclass = \"development\"\n[postgres]\nurl = \"{}\"\n[repository]\nurl = \"file:./repository\"\nlease_ttl = \"2s\"\n",
            server.uri()
        );
        fs::write(folder.join("mainstay.toml"), configuration)?;
        let places = ["one", "two"].map(|name| server.make_folder(name)).to_vec();
        for (number, place) in places.iter().enumerate() {
            server.execute(
                "postgres",
                &format!("CREATE TABLESPACE place{number} LOCATION '{}'", place.display()),
            )?;
        }
        server.execute("postgres", SUM_UP)?;
        let random = Random::new(seed);
        Ok(Self { server, folder, program, places, random, moments: Vec::new(), tables: Vec::new(), next: 0 })
    }

    /// Lets the history go on while it is captured and backed up.
    fn write(&mut self, acts: usize) -> Outcome {
        self.must(&["capture", "postgres", "--once"])?;
        let mut capture = self.capture()?;
        self.must(&["backup", "create", "--store", "postgres"])?;
        for number in 1..=acts {
            self.act()?;
            if number == acts / 3 {
                println!("the server crashes");
                self.server.kill9();
                self.server.restart()?;
            }
            if number == acts / 2 {
                self.must(&["backup", "create", "--store", "postgres"])?;
            }
            if number == acts / 3 * 2 {
                println!("the server begins a new timeline");
                self.server.stop();
                fs::write(self.server.dir().join("data/standby.signal"), "")?;
                self.server.restart()?;
                self.server.execute("postgres", "SELECT pg_promote()")?;
                takes_writes(&self.server)?;
            }
            if self.random.one_in(20) {
                capture.kill()?;
                capture.wait()?;
                capture = self.capture()?;
            }
        }
        // Behind the last moment there is a commit, at which a recovery to its time stops.
        self.server.execute("postgres", "CREATE TABLE the_end ()")?;
        capture.kill()?;
        capture.wait()?;
        // It waits for the lease of the one that was killed; a new timeline takes it two rounds.
        self.must(&["capture", "postgres", "--once"])?;
        self.must(&["backup", "verify", "--store", "postgres", "--log"])?;
        Ok(())
    }

    fn capture(&self) -> std::io::Result<Child> {
        let arguments = ["capture", "postgres", "--slice-age", "300ms", "--quiet"];
        self.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }

    /// Does something, and remembers what is there then.
    fn act(&mut self) -> Outcome {
        let act = self.next_act();
        for statement in &act.alone {
            self.server.execute("postgres", statement)?;
        }
        let mut xid = None;
        if let Some(statement) = &act.transaction {
            let ask = format!("BEGIN; {statement}; SELECT pg_current_xact_id()::text; COMMIT");
            xid = self.server.texts("postgres", &ask).pop();
        }
        let now = self.server.texts(
            "postgres",
            "SELECT pg_current_wal_insert_lsn()::text UNION ALL \
             SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        );
        let [lsn, time] = now.try_into().map_err(|_| "the server tells no position")?;
        let state = self.server.texts("postgres", "SELECT sum_up()").concat();
        let point = self.random.one_in(4).then(|| format!("point-{}", self.next));
        if let Some(name) = &point {
            self.must(&["restore", "point", "create", name])?;
        }
        let told = act.transaction.or_else(|| act.alone.last().cloned()).unwrap_or_default();
        self.moments.push(Moment { act: told, xid, lsn, time, point, state });
        Ok(())
    }

    fn next_act(&mut self) -> Act {
        self.next += 1;
        let number = self.next;
        if self.tables.is_empty() || self.random.one_in(12) {
            let name = format!("t{number}");
            self.tables.push(name.clone());
            let (kind, place) = (
                self.random.pick(&["", "", "UNLOGGED "]),
                self.random.pick(&["pg_default", "place0", "place1"]),
            );
            return Act::transaction(format!(
                "CREATE {kind}TABLE {name} (i int, pad text) TABLESPACE {place}"
            ));
        }
        let table = self.random.pick(&self.tables);
        let rows = 1 + self.random.below(400);
        match self.random.below(12) {
            0 => {
                self.tables.retain(|name| *name != table);
                Act::transaction(format!("DROP TABLE {table}"))
            }
            1 => Act::transaction(format!("TRUNCATE {table}")),
            2 => Act::transaction(format!("ALTER TABLE {table} ADD COLUMN c{number} int DEFAULT {number}")),
            3 => Act::alone(format!("CREATE INDEX CONCURRENTLY x{number} ON {table} (pad)")),
            4 => Act::alone(format!("VACUUM {table}")),
            5 => Act::transaction(format!(
                "SELECT lo_from_bytea({number}, convert_to(repeat('{number} ', {rows}), 'UTF8'))"
            )),
            6 => Act::transaction(format!("UPDATE {table} SET pad = pad || '{number}' WHERE i % 3 = 0")),
            7 => Act::transaction(format!("DELETE FROM {table} WHERE i % 5 = 0")),
            8 => Act::transaction(format!(
                "SAVEPOINT s; DELETE FROM {table}; ROLLBACK TO s; INSERT INTO {table} (i, pad) VALUES ({number}, 'kept')"
            )),
            9 => Act::alone("SELECT pg_switch_wal()".to_owned()),
            _ => Act::transaction(format!(
                "INSERT INTO {table} (i, pad) SELECT i, md5(i::text) FROM generate_series(1, {rows}) AS i"
            )),
        }
    }

    /// Restores a moment, starts a server from it and compares; gives how many seconds that took.
    fn restore(&mut self, number: usize, index: usize) -> Result<f64, Box<dyn std::error::Error>> {
        let moment = &self.moments[index];
        let target = match (&moment.point, self.random.below(3), &moment.xid) {
            (Some(name), ..) => name.clone(),
            (None, 0, Some(xid)) => xid.clone(),
            (None, 1, _) => moment.lsn.clone(),
            _ => moment.time.clone(),
        };
        let began = Instant::now();
        let into = self.folder.join(format!("restored{number}"));
        fs::create_dir(&into)?;
        give(&into, &self.folder)?;
        let (data, plan) = (into.join("data"), format!("plan{number}.json"));
        let data_shown = data.display().to_string();
        let mapped: Vec<String> = self
            .places
            .iter()
            .enumerate()
            .map(|(number, place)| {
                format!("{}={}", place.display(), into.join(format!("place{number}")).display())
            })
            .collect();
        let mut arguments = vec![
            "restore",
            "plan",
            "--store",
            "postgres",
            "--into",
            &data_shown,
            "--to",
            &target,
            "--output",
            &plan,
        ];
        for mapping in &mapped {
            arguments.extend(["--tablespace", mapping]);
        }
        let planned = self.command(&arguments).output()?;
        let said = String::from_utf8_lossy(&planned.stderr).into_owned();
        if !planned.status.success() {
            // The very first moments lie before the first backup is consistent, the very last behind the last record.
            return Err(format!("{target}, after `{}`, cannot be planned: {said}", moment.act).into());
        }
        let hash = plan_hash(self.command(&[]), &plan)?;
        self.must(&["restore", "apply", &plan, "--approve", &hash])?;
        let restored =
            Postgres::options().in_folder(&into).parameter("max_prepared_transactions", "5").start()?;
        takes_writes(&restored)?;
        let found = restored.texts("postgres", "SELECT sum_up()").concat();
        if found != moment.state {
            return Err(format!(
                "{target}, after `{}`, differs:\n{}\n-- found:\n{found}",
                moment.act, moment.state
            )
            .into());
        }
        println!("  {target} after `{}`", moment.act);
        drop(restored);
        fs::remove_dir_all(&into)?;
        Ok(began.elapsed().as_secs_f64())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null()).env("HOME", &self.folder);
        if let Ok(owner) = fs::metadata(&self.folder) {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command
    }

    fn must(&self, arguments: &[&str]) -> Result<Output, Box<dyn std::error::Error>> {
        must(&mut self.command(arguments))
    }
}

/// Something that is done to the database.
struct Act {
    /// Statements that want no transaction around them.
    alone: Vec<String>,
    transaction: Option<String>,
}

impl Act {
    fn alone(statement: String) -> Self {
        Self { alone: vec![statement], transaction: None }
    }

    fn transaction(statement: String) -> Self {
        Self { alone: Vec::new(), transaction: Some(statement) }
    }
}

fn takes_writes(server: &Postgres) -> Outcome {
    let deadline = Instant::now() + RECOVERY_TIME_MAX;
    while server.texts("postgres", "SELECT pg_is_in_recovery()") != ["f"] {
        if Instant::now() >= deadline {
            return Err("the server does not end its recovery".into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Puts the program where the server's user can run it: the folder of builds may be closed to it.
pub(crate) fn place(server: &Postgres, built: &Path) -> std::io::Result<PathBuf> {
    let program = server.make_folder("bin").join("mainstay");
    fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop))?;
    Ok(program)
}

/// Gives `folder` to whom `like` belongs.
fn give(folder: &Path, like: &Path) -> std::io::Result<()> {
    let owner = fs::metadata(like)?;
    std::os::unix::fs::chown(folder, Some(owner.uid()), Some(owner.gid()))
}
