//! `cargo xtask soak postgres --outage SECONDS`: a capture under write load whose store is slow for a while, then answers errors for as long as
//! was asked, and which is killed again and again after that.
//!
//! How old the recovery point becomes is measured from outside: where the server's log was when, against what is told as stored. At the end every
//! segment that was captured is fetched and compared with the server's own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mainstay_testkit::engines::{EngineKind, locate};
use mainstay_testkit::history::Random;
use mainstay_testkit::s3::S3Fault;
use mainstay_testkit::{Postgres, S3Server};
use serde_json::Value;

use crate::Outcome;
use crate::programs::{build, must};
use crate::soak_postgres::place;

/// How old the recovery point may be while nothing is wrong: the slice age, which is not changed here, and a second.
const AGE_MAX: Duration = Duration::from_secs(6);
/// How long nothing is wrong, before and after.
const CALM: Duration = Duration::from_secs(30);
/// How long each request waits while the store is slow.
const SLOW: Duration = Duration::from_millis(1_500);
/// How often a capture is killed.
const KILLS: usize = 8;
/// How long a store that is back may take to be caught up with.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(120);
const SEGMENT_BYTES: u64 = 16 << 20;

type Fault = Box<dyn std::error::Error>;

pub(crate) fn run(outage: Duration, seed: u64) -> Outcome {
    let [built] = build(["mainstay"], false)?;
    let server =
        Postgres::options().parameter("wal_keep_size", "8GB").parameter("max_wal_size", "16GB").start()?;
    let (s3, program, folder) = (S3Server::start(), place(&server, &built)?, server.make_folder("project"));
    let configuration = format!(
        "[environment]\nname = \"soak\"\nclass = \"development\"\n[postgres]\nurl = \"{}\"\n[repository]\nurl = \"s3://{}/soak\"\nlease_ttl = \"10s\"\n\
         [repository.s3]\nendpoint = \"{}\"\nregion = \"{}\"\naccess_key_id = \"{}\"\nallow_http = true\n",
        server.uri(),
        s3.bucket(),
        s3.endpoint(),
        s3.region(),
        s3.access_key()
    );
    fs::write(folder.join("mainstay.toml"), configuration)?;
    let soak = Soak { server, s3, program, folder };
    let writer = soak.writer()?;
    let sampler = Sampler::begin(&soak.server);
    let lived = soak.live(outage, seed, &sampler);
    sampler.end();
    soak.server.execute("postgres", "INSERT INTO stop DEFAULT VALUES")?;
    let mut writer = writer;
    writer.wait()?;
    lived?;
    soak.compare()
}

struct Soak {
    server: Postgres,
    s3: S3Server,
    program: PathBuf,
    folder: PathBuf,
}

impl Soak {
    fn live(&self, outage: Duration, seed: u64, sampler: &Sampler) -> Outcome {
        let mut capture = self.capture()?;
        let calm = capture.oldest(CALM, sampler)?;
        println!("nothing wrong, {CALM:?}: the recovery point was {calm:.1?} old at most");
        self.s3.set_fault(S3Fault::Slow(SLOW));
        let slow = capture.oldest(outage / 2, sampler)?;
        println!("each request takes {SLOW:?}, {:?}: {slow:.1?} old at most", outage / 2);
        self.s3.set_fault(S3Fault::Failing);
        let begun = Instant::now();
        while begun.elapsed() < outage {
            capture.event(outage.saturating_sub(begun.elapsed()));
        }
        let (back, behind) = (Instant::now(), sampler.position() - capture.stored);
        self.s3.set_fault(S3Fault::None);
        let wanted = sampler.position();
        while capture.stored < wanted {
            capture.event(Duration::from_secs(1));
            if back.elapsed() > CATCH_UP_TIME_MAX {
                return Err("the store is back, and what the server has is not stored".into());
            }
        }
        println!(
            "the store down for {outage:?}: {} MiB behind, caught up in {:.1?}",
            behind >> 20,
            back.elapsed()
        );
        let mut random = Random::new(seed);
        for _ in 0..KILLS {
            let until = Instant::now() + Duration::from_millis(random.below(2_500) as u64);
            while Instant::now() < until {
                capture.event(until.saturating_duration_since(Instant::now()));
            }
            let told = capture.kill()?;
            let kept = position(
                &self.server.texts(
                    "postgres",
                    "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'mainstay_soak'",
                )[0],
            )?;
            capture = self.capture()?;
            capture.resumed_at(told.max(kept))?;
        }
        println!(
            "killed {KILLS} times: each went on at or behind what had been told, and what the server may forget"
        );
        // What came while it was away is stored first.
        let wanted = sampler.position();
        while capture.stored < wanted {
            capture.event(Duration::from_secs(1));
        }
        let again = capture.oldest(CALM, sampler)?;
        println!("nothing wrong, {CALM:?}: {again:.1?} old at most");
        capture.kill()?;
        match calm.max(again) {
            oldest if oldest > AGE_MAX => {
                Err(format!("the recovery point was {oldest:?} old, more than {AGE_MAX:?}").into())
            }
            _ => Ok(()),
        }
    }

    /// Fetches what was captured and compares it with what the server has.
    fn compare(&self) -> Outcome {
        self.must(&["capture", "postgres", "--once"])?;
        let listed = self.must(&["backup", "list", "--json"])?;
        let listed: Value = serde_json::from_slice(&listed)?;
        let timeline = &listed["wal"][0]["timelines"][0];
        if timeline["gaps"] != serde_json::json!([]) {
            return Err(format!("there are gaps: {timeline}").into());
        }
        let part = &timeline["without_set"][0];
        let at = |name: &str| position(part[name].as_str().unwrap_or_default());
        let (from, through) = (at("from")?, at("through")?);
        for number in from / SEGMENT_BYTES..through / SEGMENT_BYTES {
            let name = format!("00000001{:08X}{:08X}", number / 256, number % 256);
            self.must(&["wal", "fetch", "--prefetch", "8", &name, "fetched"])?;
            if fs::read(self.folder.join("fetched"))?
                != fs::read(self.server.dir().join("data/pg_wal").join(&name))?
            {
                return Err(format!("{name} is not what the server has").into());
            }
        }
        println!("one chain without a gap; {} segments fetched and equal", (through - from) / SEGMENT_BYTES);
        Ok(())
    }

    fn writer(&self) -> Result<Child, Fault> {
        self.server.execute("postgres", "CREATE TABLE written (n serial, pad text); CREATE TABLE stop ()")?;
        let write = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM stop) LOOP \
                     INSERT INTO written (pad) SELECT md5(i::text) FROM generate_series(1, 100) AS i; COMMIT; \
                     PERFORM pg_sleep(0.01); END LOOP; END $$";
        let psql = locate(EngineKind::PgClient)?.tool("psql");
        let mut client = Command::new(psql);
        client.args(["--no-psqlrc", "--quiet", "--command", write, &self.server.uri()]);
        Ok(client.stdin(Stdio::null()).spawn()?)
    }

    fn capture(&self) -> Result<Capture, Fault> {
        let mut command = self.command(&["capture", "postgres", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = child.stdout.take().ok_or("a capture without output")?;
        let (tell, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if tell.send(event).is_err() {
                    break;
                }
            }
        });
        Ok(Capture { child, events, stored: 0 })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null()).env("HOME", &self.folder);
        command.env("MAINSTAY_S3_SECRET_ACCESS_KEY", self.s3.secret_key());
        if let Ok(owner) = fs::metadata(&self.folder) {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command
    }

    fn must(&self, arguments: &[&str]) -> Result<Vec<u8>, Fault> {
        Ok(must(&mut self.command(arguments))?.stdout)
    }
}

/// A running capture, killed on drop.
struct Capture {
    child: Child,
    events: Receiver<Value>,
    /// Up to where it has told that it stored.
    stored: u64,
}

impl Capture {
    /// The next event, if one comes in time.
    fn event(&mut self, patience: Duration) -> Option<Value> {
        let event = self.events.recv_timeout(patience).ok()?;
        if event["event"] == "slice_stored" {
            self.stored = position(event["through"].as_str().unwrap_or_default()).unwrap_or(self.stored);
        }
        Some(event)
    }

    /// How old the recovery point becomes within `time`. It is oldest right before a slice is stored: what came behind the one before is missing.
    fn oldest(&mut self, time: Duration, sampler: &Sampler) -> Result<Duration, Fault> {
        let (begun, mut oldest) = (Instant::now(), Duration::ZERO);
        while begun.elapsed() < time {
            let before = self.stored;
            self.event(time.saturating_sub(begun.elapsed()).min(Duration::from_millis(200)));
            if before > 0 {
                oldest = oldest.max(sampler.age(before));
            }
        }
        match self.child.try_wait()? {
            None => Ok(oldest),
            Some(status) => Err(format!("the capture ended with {status}").into()),
        }
    }

    /// Waits until it goes on, which must not be before `position`.
    fn resumed_at(&mut self, wanted: u64) -> Outcome {
        loop {
            let event =
                self.event(Duration::from_secs(30)).ok_or("a capture that was killed does not go on")?;
            if event["event"] == "chain_begun" {
                return Err(format!("a chain was begun anew: {event}").into());
            }
            if event["event"] == "chain_resumed" {
                self.stored = position(event["at"].as_str().unwrap_or_default())?;
                return match self.stored < wanted {
                    true => Err(format!("it goes on at {}, told was {wanted}", self.stored).into()),
                    false => Ok(()),
                };
            }
        }
    }

    /// Kills it; gives up to where it had told that it stored.
    fn kill(mut self) -> Result<u64, Fault> {
        self.child.kill()?;
        self.child.wait()?;
        while self.event(Duration::from_millis(100)).is_some() {}
        Ok(self.stored)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where the server's log was when.
struct Sampler {
    samples: Arc<Mutex<Vec<(Instant, u64)>>>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sampler {
    fn begin(server: &Postgres) -> Self {
        let (samples, stopped) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let (into, stop, uri) = (Arc::clone(&samples), Arc::clone(&stopped), server.uri());
        let ask = "SELECT pg_current_wal_flush_lsn() FROM pg_sleep(0.05)\n\\watch interval=0.001\n";
        let thread = thread::spawn(move || {
            let Ok(client) = locate(EngineKind::PgClient) else { return };
            let mut command = Command::new(client.tool("psql"));
            command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", &uri]);
            let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else { return };
            if let Some(mut input) = child.stdin.take() {
                drop(std::io::Write::write_all(&mut input, ask.as_bytes()));
                for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
                    if let Ok(at) = line.map_err(Fault::from).and_then(|line| position(&line)) {
                        into.lock().expect("no holder panics").push((Instant::now(), at));
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            drop(child.kill());
            drop(child.wait());
        });
        Self { samples, stopped, thread }
    }

    /// How long ago the server was seen to be past `position` for the first time; nothing when it was not.
    fn age(&self, position: u64) -> Duration {
        let samples = self.samples.lock().expect("no holder panics");
        let index = samples.partition_point(|(_, seen)| *seen <= position);
        samples.get(index).map_or(Duration::ZERO, |(at, _)| at.elapsed())
    }

    /// Where the server was at last.
    fn position(&self) -> u64 {
        self.samples.lock().expect("no holder panics").last().map_or(0, |(_, at)| *at)
    }

    fn end(self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(self.thread.join());
    }
}

/// An LSN as the server writes it.
fn position(text: &str) -> Result<u64, Fault> {
    let (high, low) = text.trim().split_once('/').ok_or_else(|| format!("`{text}` is no position"))?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}
