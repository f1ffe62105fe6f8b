//! `cargo xtask soak redis`: a random history of Redis, captured while it goes on, with captures that are killed
//! and a server that takes over on the way; then random moments of it, restored by offset and by time, and compared.
//!
//! The server itself sums up what it holds after each act (`DEBUG DIGEST`), in one transaction with its offset; a restored server is asked for
//! the same.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mainstay_testkit::Redis;
use mainstay_testkit::history::Random;
use mainstay_testkit::keys::{Client, KeyHistory, KeyMoment};

use crate::Outcome;
use crate::programs::{build, must, plan_hash, target_folder};

/// How long a replica may take to catch up.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(30);

/// How long after an act nothing else happens, where its time is to be restored: longer than the tenth of a second by which bytes may come late untold.
const PAUSE: Duration = Duration::from_millis(120);

/// What may be said after `cargo xtask soak redis`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Moments to restore.
    #[arg(long, default_value_t = 50)]
    moments: usize,
    /// Acts of the writer.
    #[arg(long, default_value_t = 3000)]
    acts: usize,
    /// The same seed gives the same acts; the present time otherwise.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) * 1_000_003);
    println!("seed {seed}: `--seed {seed}` repeats the acts");
    let mut soak = Soak::set_up(seed)?;
    let began = Instant::now();
    soak.write(arguments.acts, seed)?;
    println!(
        "{} acts in {:.1} s, {} captures killed",
        soak.moments.len(),
        began.elapsed().as_secs_f64(),
        soak.killed
    );
    let mut seconds = Vec::new();
    for number in 1..=arguments.moments {
        let took = soak.restore(number)?;
        println!("{number}/{}: equal, {took:.2} s", arguments.moments);
        seconds.push(took);
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "{} of {} moments equal; {:.2} s each at the median, {:.2} s at most",
        seconds.len(),
        arguments.moments,
        seconds.get(seconds.len() / 2).copied().unwrap_or_default(),
        seconds.last().copied().unwrap_or_default()
    );
    Ok(())
}

struct Soak {
    primary: Redis,
    standby: Redis,
    folder: PathBuf,
    program: PathBuf,
    random: Random,
    moments: Vec<KeyMoment>,
    killed: usize,
    /// Whether the standby has taken over.
    taken_over: bool,
}

impl Drop for Soak {
    fn drop(&mut self) {
        // What remains is in the folder of builds.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Soak {
    fn set_up(seed: u64) -> Result<Self, Box<dyn std::error::Error>> {
        let [program] = build(["mainstay"], false)?;
        // Captures that are killed again and again wait for leases meanwhile: what the server keeps must last for that.
        let options =
            || Redis::options().setting("repl-diskless-sync-delay", "0").setting("repl-backlog-size", "64mb");
        let (primary, standby) = (options().start()?, options().start()?);
        let folder = target_folder().join(format!("soak-redis-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let port = primary.port().to_string();
        Client::connect(standby.address(), None).must(&["REPLICAOF", "127.0.0.1", &port]);
        let random = Random::new(seed ^ 0x5EED);
        let (moments, killed, taken_over) = (Vec::new(), 0, false);
        let soak = Self { primary, standby, folder, program, random, moments, killed, taken_over };
        soak.configure(&soak.primary.uri())?;
        Ok(soak)
    }

    fn configure(&self, uri: &str) -> std::io::Result<()> {
        let configuration = format!(
            "[environment]\nname = \"soak\"\nclass = \"development\"\n[redis]\nurl = \"{uri}\"\n[repository]\nurl = \"file:./repository\"\nlease_ttl = \"2s\"\n"
        );
        fs::write(self.folder.join("mainstay.toml"), configuration)
    }

    /// Lets the history go on while it is captured.
    fn write(&mut self, acts: usize, seed: u64) -> Outcome {
        self.must(&["capture", "redis", "--once"])?;
        let mut capture = self.capture()?;
        let mut history = KeyHistory::begin(self.primary.address(), seed);
        for number in 1..=acts {
            let moment = history.act();
            self.moments.push(moment);
            if number == acts / 3 {
                self.must(&["backup", "create", "--store", "redis"])?;
            }
            if number == acts / 2 {
                println!("the standby takes over");
                self.followed(self.moments.last().map_or(0, |moment| moment.offset))?;
                capture.kill()?;
                capture.wait()?;
                self.take_over()?;
                history = KeyHistory::begin(self.address(), seed + 1);
                capture = self.capture()?;
            }
            if self.random.one_in(120) {
                capture.kill()?;
                capture.wait()?;
                self.killed += 1;
                capture = self.capture()?;
            }
            if self.random.one_in(25) {
                thread::sleep(PAUSE * 3);
            }
        }
        capture.kill()?;
        capture.wait()?;
        // It waits for the lease of the one that was killed.
        self.must(&["capture", "redis", "--once"])?;
        self.must(&["backup", "verify", "--store", "redis", "--log"])?;
        Ok(())
    }

    fn address(&self) -> SocketAddr {
        if self.taken_over { self.standby.address() } else { self.primary.address() }
    }

    /// Waits until the standby has everything up to `offset`.
    fn followed(&self, offset: u64) -> Outcome {
        let mut standby = Client::connect(self.standby.address(), None);
        let deadline = Instant::now() + CATCH_UP_TIME_MAX;
        while standby.info("slave_repl_offset").parse::<u64>()? < offset {
            if Instant::now() > deadline {
                return Err("the standby does not follow".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn take_over(&mut self) -> Outcome {
        // What the primary had beyond the last act is a ping; the standby must have that, too, or a new history begins.
        let offset = Client::connect(self.primary.address(), None).info("master_repl_offset").parse()?;
        self.followed(offset)?;
        self.primary.kill9();
        Client::connect(self.standby.address(), None).must(&["REPLICAOF", "NO", "ONE"]);
        self.taken_over = true;
        self.configure(&self.standby.uri())?;
        Ok(())
    }

    fn capture(&self) -> std::io::Result<Child> {
        let arguments = ["capture", "redis", "--slice-age", "200ms", "--quiet"];
        self.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }

    /// Restores a moment into a server of its own and compares; gives how many seconds that took.
    fn restore(&mut self, number: usize) -> Result<f64, Box<dyn std::error::Error>> {
        let index = self.random.below(self.moments.len());
        let by_time = self.random.one_in(3);
        // A time is one moment only where nothing else happened around it: the capture's clock counts, and a busy machine lets it wait.
        let is_alone = |index: usize| {
            let at = |index: usize| self.moments.get(index).map(|moment: &KeyMoment| moment.at_ms);
            let apart = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX) * 2;
            at(index + 1).is_some_and(|next| at(index).is_some_and(|own| own + apart < next))
        };
        let index = match by_time {
            true => (index..self.moments.len()).find(|&index| is_alone(index)).unwrap_or(index),
            false => index,
        };
        let moment = self.moments[index].clone();
        let mut target = match by_time && is_alone(index) {
            true => {
                let time = Timestamp::from_millisecond(i64::try_from(moment.at_ms)?)?;
                (time + PAUSE).to_string()
            }
            false => moment.offset.to_string(),
        };
        let ttl = self.random.pick(&["keep", "shift"]);
        let began = Instant::now();
        let into = Redis::start()?;
        let uri = into.uri();
        let redis = ["--redis-url", &uri, "restore"];
        let decide = |target: &str, plan: &str| {
            let wish = ["plan", "--store", "redis", "--to", target, "--ttl", ttl, "--output", plan];
            self.must(&[&redis[..], &wish].concat())
        };
        let mut plan = format!("plan{number}.json");
        decide(&target, &plan)?;
        // Where a capture had been killed, the plan says that a time is not exact.
        if fs::read_to_string(self.folder.join(&plan))?.contains("leave out what came late") {
            target = moment.offset.to_string();
            plan = format!("plan{number}-by-offset.json");
            decide(&target, &plan)?;
        }
        let hash = plan_hash(self.command(&[]), &plan)?;
        self.must(&[&redis[..], &["apply", &plan, "--approve", &hash]].concat())?;
        let found = Client::connect(into.address(), None).digest();
        if found != moment.digest {
            let KeyMoment { offset, digest, act, .. } = moment;
            return Err(format!("{target} (offset {offset}), after `{act}`: {digest} was, {found} is").into());
        }
        println!("  {target} after `{}`, --ttl {ttl}", moment.act);
        Ok(began.elapsed().as_secs_f64())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn must(&self, arguments: &[&str]) -> Result<Output, Box<dyn std::error::Error>> {
        must(&mut self.command(arguments))
    }
}
