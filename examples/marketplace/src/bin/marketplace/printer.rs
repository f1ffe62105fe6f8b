//! Everything the program prints: results on standard output, progress and errors on standard error.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this module is the printer of a program of its own"
)]

use bson::Document;
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use marketplace::keys::{KeyFamily, key_count};
use marketplace::{Collection, LoadReport, Phase, Progress, Sample, Snapshot, View};
use std::sync::Mutex;

/// A progress bar, drawn on a terminal only.
pub(crate) struct Bar {
    bar: ProgressBar,
    phase: Mutex<Option<Phase>>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        let style = ProgressStyle::with_template("{prefix:<9} [{bar:30}] {percent:>3} %  {msg}");
        let style = style.expect("the template is valid").progress_chars("█▌ ");
        Bar { bar: ProgressBar::new(0).with_style(style), phase: Mutex::new(None) }
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn report(&self, snapshot: &Snapshot) {
        let mut phase = self.phase.lock().expect("nobody panics while drawing");
        let (name, unit) = match snapshot.phase {
            Phase::Documents => ("documents", "documents"),
            Phase::Indexes => ("indexes", "collections"),
            Phase::Keys => ("keys", "keys"),
        };
        if *phase != Some(snapshot.phase) {
            *phase = Some(snapshot.phase);
            self.bar.set_prefix(name);
            self.bar.set_length(snapshot.total);
        }
        self.bar.set_position(snapshot.done);
        let mut message = format!("{} of {} {unit}", HumanCount(snapshot.done), HumanCount(snapshot.total));
        if snapshot.bytes_total > 0 {
            let rate = snapshot.bytes_per_second() as u64;
            message.push_str(&format!(", {}, {}/s", HumanBytes(snapshot.bytes), HumanBytes(rate)));
        }
        if let Some(eta) = snapshot.eta() {
            message.push_str(&format!(", {} left", HumanDuration(eta)));
        }
        self.bar.set_message(message);
    }
}

pub(crate) fn report(report: &LoadReport) {
    for load in &report.collections {
        println!(
            "{:<20} {:>12} documents {:>12}",
            load.collection.name(),
            count(load.documents),
            bytes(load.bytes)
        );
    }
    for skipped in &report.skipped {
        println!("{:<20} left out: {}", skipped.collection.name(), skipped.reason);
    }
    if !report.collections.is_empty() {
        let seconds = report.documents_took.as_secs_f64();
        let rate = report.bytes() as f64 / 1e6 / seconds.max(0.001);
        println!(
            "{} documents, {} in {seconds:.1} s ({rate:.0} MB/s); indexes in {:.1} s",
            count(report.documents()),
            bytes(report.bytes()),
            report.indexes_took.as_secs_f64()
        );
    }
    if report.key_count > 0 {
        println!("{} Redis keys in {:.1} s", count(report.key_count), report.keys_took.as_secs_f64());
    }
}

pub(crate) fn description(sample: &Sample) {
    println!("seed {}, scale {}", sample.seed(), sample.scale());
    println!("\n{:<20} {:>10} {:>12}  indexes beside _id", "collection", "documents", "about bytes");
    for collection in Collection::ALL {
        let documents = sample.count(collection);
        let size = sample.estimated_bytes(collection, documents);
        let indexes = collection.indexes().iter().map(describe_index).collect::<Vec<_>>();
        println!(
            "{:<20} {:>10} {:>12}  {}",
            collection.name(),
            count(documents),
            bytes(size),
            indexes.join(", ")
        );
        let options = collection.creation_options();
        if !options.is_empty() {
            println!("{:<44}  created with {}", "", options.keys().cloned().collect::<Vec<_>>().join(", "));
        }
    }
    for view in View::all() {
        println!("{:<20} {:>10} {:>12}  view on {}", view.name, "", "", view.on.name());
    }
    println!("{:<20} {:>10}", "all", count(sample.document_count()));
    println!("\n{:<20} {:>10}", "Redis keys", "keys");
    for family in KeyFamily::ALL {
        println!("{:<20} {:>10}", format!("{}*", family.prefix()), count(family.count(sample)));
    }
    println!("{:<20} {:>10}", "all", count(key_count(sample)));
}

fn describe_index(index: &Document) -> String {
    let name = index.get_str("name").unwrap_or("?");
    let options = index.iter().filter(|(option, _)| !matches!(option.as_str(), "name" | "key")).map(
        |(option, value)| {
            if value.as_bool() == Some(true) { option.clone() } else { format!("{option}={value}") }
        },
    );
    let options = options.collect::<Vec<_>>();
    if options.is_empty() { name.to_owned() } else { format!("{name} ({})", options.join(", ")) }
}

pub(crate) fn error(message: &str, hint: &str) {
    eprintln!("error: {message}\nhint: {hint}");
}

fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

fn bytes(number: u64) -> String {
    HumanBytes(number).to_string()
}
