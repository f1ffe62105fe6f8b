//! What the tests share: a declared project, plans applied by hash, and runs that are killed behind each record.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::{Place, Seen};

pub(crate) use mainstay_testkit::CANARY;

/// A development project with these lines of configuration.
pub(crate) fn project(place: &Place, lines: &str) {
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"tests\"\nclass = \"development\"\n\n{lines}\n[repository]\nurl = \"file:./repository\"\nlease_ttl = \"1s\"\n"
        ),
    );
}

/// Plans `store` into a new file, with further arguments, and gives the plan.
#[track_caller]
pub(crate) fn plan(place: &Place, store: &str, more: &[&str], status: i32) -> Value {
    let _ = fs::remove_file(place.path("plan.json"));
    let arguments =
        [&["init", "plan", "--store", store, "--output", "plan.json", "--json"][..], more].concat();
    place.run(&arguments).expect(status).json()["plans"][0].clone()
}

/// The steps of a plan with this mark.
pub(crate) fn marked(plan: &Value, mark: &str) -> Vec<String> {
    let steps = plan["plan"]["steps"].as_array().unwrap();
    let named = steps.iter().filter(|step| step["mark"] == mark);
    named.map(|step| step["name"].as_str().unwrap().to_owned()).collect()
}

/// The summary of a step.
pub(crate) fn summary(plan: &Value, name: &str) -> String {
    let steps = plan["plan"]["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["name"] == name);
    step.unwrap_or_else(|| panic!("{name}: {plan}"))["summary"].as_str().unwrap().to_owned()
}

/// The hash of the plan file.
pub(crate) fn hash(place: &Place) -> String {
    place.run(&["plan", "show", "plan.json", "--json"]).json()["plan_hash"].as_str().unwrap().to_owned()
}

/// Applies the plan file, approved.
#[track_caller]
pub(crate) fn apply(place: &Place) -> Seen {
    place.run(&["init", "apply", "plan.json", "--approve", &hash(place), "--json"])
}

/// The steps of an applied plan that did something.
pub(crate) fn done(applied: &Value) -> Vec<String> {
    let steps = applied["applied"][0]["steps"].as_array().unwrap();
    let done = steps.iter().filter(|step| step["was_there"] == false);
    done.map(|step| step["name"].as_str().unwrap().to_owned()).collect()
}

fn records(place: &Place, store: &str) -> Vec<PathBuf> {
    let Ok(servers) = fs::read_dir(place.path(&format!("repository/{store}/init"))) else {
        return Vec::new();
    };
    let of_server =
        |server: fs::DirEntry| fs::read_dir(server.path()).unwrap().map(|file| file.unwrap().path());
    let is_record = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "json");
    servers.map(Result::unwrap).flat_map(of_server).filter(is_record).collect()
}

/// Applies the plan file and kills the process as soon as `count` records are there. `false` when it ended before.
pub(crate) fn apply_killed_at(place: &Place, store: &str, count: usize) -> bool {
    let hash = hash(place);
    let mut command = place.command(&["init", "apply", "plan.json", "--approve", &hash]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Any user of the machine reads what a process was started with.
    let line = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains(CANARY));
    let deadline = Instant::now() + Duration::from_secs(60);
    while records(place, store).len() < count {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "record {count} does not come");
        thread::sleep(Duration::from_millis(1));
    }
    let is_killed = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.wait().unwrap();
    is_killed
}

/// Applies a plan again until whoever was killed no longer holds the lease.
#[track_caller]
pub(crate) fn apply_when_free(place: &Place) -> Seen {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = apply(place);
        if seen.status != 10 || Instant::now() > deadline {
            return seen;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Nothing below `folder` holds a declared password.
#[track_caller]
pub(crate) fn holds_no_password(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            holds_no_password(&path);
        } else if let Ok(bytes) = fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(CANARY), "{} holds a password", path.display());
        }
    }
}

/// Until the lease of a process that was killed has run out.
pub(crate) fn wait_for_lease() {
    thread::sleep(Duration::from_millis(1_050));
}
