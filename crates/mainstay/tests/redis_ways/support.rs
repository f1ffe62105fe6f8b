//! What these tests share: a place that is configured for a server, and what is expected of a run.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use mainstay_testkit::Redis;
use mainstay_testkit::keys::Client;
use serde_json::Value;

use crate::binary::{Place, Seen};

/// A connection to a server without a password.
pub(crate) fn client(server: &Redis) -> Client {
    Client::connect(server.address(), None)
}

/// A place of this class that is configured for the server behind `url`; `more` goes into [redis].
pub(crate) fn place(url: &str, class: &str, more: &str) -> Place {
    let place = Place::new();
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop\"\nclass = \"{class}\"\n[redis]\nurl = \"{url}\"\n{more}\n\
             [repository]\nurl = \"file:./backups\"\nlease_ttl = \"2s\"\n"
        ),
    );
    place
}

/// Writes the environment's name and class into the server, which counts as production before.
pub(crate) fn mark(place: &Place) {
    expect(place.run(&["environment", "mark", "--store", "redis", "--output", "mark.json"]), 0);
    let shown = json(&expect(place.run(&["plan", "show", "mark.json", "--json"]), 0));
    let hash = shown["plan_hash"].as_str().unwrap().to_owned();
    expect(place.run(&["apply", "mark.json", "--approve", &hash]), 0);
}

/// That a run ended with this status.
pub(crate) fn expect(seen: Seen, status: i32) -> Seen {
    assert_eq!(seen.status, status, "{}", seen.both());
    seen
}

/// The one object that a run printed.
pub(crate) fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

/// Waits for a condition.
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A capture that goes on.
pub(crate) struct Capture {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it has told so far.
    told: Vec<Value>,
}

impl Capture {
    pub(crate) fn of(place: &Place, age: &str) -> Self {
        let mut command = place.command(&["capture", "redis", "--slice-age", age, "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, told: Vec::new() }
    }

    pub(crate) fn until(&mut self, is_meant: impl Fn(&Value) -> bool) -> Value {
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            self.told.push(event.clone());
            if is_meant(&event) {
                return event;
            }
        }
        panic!("it ended before that");
    }

    pub(crate) fn until_event(&mut self, name: &str) -> Value {
        self.until(|event| event["event"] == name)
    }

    /// Such an event, whether it was told before or is still to come.
    pub(crate) fn told(&mut self, name: &str) -> Value {
        let before = self.told.iter().find(|event| event["event"] == name).cloned();
        before.unwrap_or_else(|| self.until_event(name))
    }

    /// Asks it to stop; gives what it did.
    pub(crate) fn stop(mut self) -> Value {
        terminate(&self.child);
        let ended = self.until_event("ended");
        assert!(self.child.wait().unwrap().success());
        ended
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As Ctrl-C does.
pub(crate) fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}
