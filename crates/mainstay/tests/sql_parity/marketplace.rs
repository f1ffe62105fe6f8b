//! The marketplace's migrations, by stock Drizzle of either line and by us: nobody can tell who applied them, and either goes on where the other
//! ended.

use std::path::{Path, PathBuf};

use mainstay_testkit::engines::Drizzle;

use crate::support::{Migrations, Project};

const MIGRATION_COUNT: usize = 9;

fn folder(line: Drizzle) -> PathBuf {
    let name = match line {
        Drizzle::Zero => "drizzle",
        Drizzle::One => "drizzle-v1",
    };
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/marketplace/drizzle")
        .join(name)
        .canonicalize()
        .unwrap()
}

/// All of it, applied by the stock migrator alone.
fn applied_by_stock(line: Drizzle) -> Project {
    let project = Project::new(&folder(line));
    assert_eq!(project.stock(line).run().status, 0);
    assert_eq!(project.row_count(), MIGRATION_COUNT);
    project
}

fn whole(line: Drizzle) {
    let (theirs, ours) = (applied_by_stock(line), Project::new(&folder(line)));
    ours.apply();
    let left = theirs.left();
    assert_eq!(ours.left(), left);
    // Each takes what the other did for done.
    assert_eq!(ours.stock(line).run().status, 0);
    assert_eq!(ours.left(), left);
    theirs.sql(&["verify"]).expect(0);
    theirs.apply();
    assert_eq!(theirs.left(), left);
}

fn in_turns(line: Drizzle) {
    let left = applied_by_stock(line).left();
    let folder = folder(line);
    let half = Migrations::first(5, &folder, line);

    let begun_by_stock = Project::new(&folder);
    assert_eq!(
        line.migrate(half.path(), &begun_by_stock.server.uri_of(&begun_by_stock.database)).run().status,
        0
    );
    assert_eq!(begun_by_stock.row_count(), 5);
    begun_by_stock.apply();
    assert_eq!(begun_by_stock.left(), left);

    let begun_by_us = Project::new(half.path());
    begun_by_us.apply();
    assert_eq!(begun_by_us.row_count(), 5);
    assert_eq!(line.migrate(&folder, &begun_by_us.server.uri_of(&begun_by_us.database)).run().status, 0);
    assert_eq!(begun_by_us.left(), left);
}

#[test]
fn the_stable_line_cannot_tell_us_from_itself() {
    whole(Drizzle::Zero);
}

#[test]
fn the_coming_line_cannot_tell_us_from_itself() {
    whole(Drizzle::One);
}

#[test]
fn either_goes_on_where_the_other_ended() {
    for line in Drizzle::ALL {
        in_turns(line);
    }
}

#[test]
fn both_formats_lead_to_one_schema() {
    let [zero, one] = Drizzle::ALL.map(|line| applied_by_stock(line).left());
    assert_eq!(zero.schema(), one.schema());
}

#[test]
fn a_table_that_the_coming_line_took_over_is_applied_to_as_before() {
    // Applied by the stable line, taken over by the coming one while it applied nothing.
    let theirs = applied_by_stock(Drizzle::Zero);
    let half = Migrations::first(5, &folder(Drizzle::Zero), Drizzle::Zero);
    let begun = Project::new(half.path());
    assert_eq!(begun.stock(Drizzle::Zero).run().status, 0);
    let half_of_folders = Migrations::first(5, &folder(Drizzle::One), Drizzle::One);
    let uri = begun.server.uri_of(&begun.database);
    assert_eq!(Drizzle::One.migrate(half_of_folders.path(), &uri).run().status, 0);

    let (stock, ours) = (
        Project::copy_of(&begun.database, &folder(Drizzle::One)),
        Project::copy_of(&begun.database, &folder(Drizzle::One)),
    );
    assert_eq!(stock.stock(Drizzle::One).run().status, 0);
    ours.apply();
    assert_eq!(ours.left(), stock.left());
    assert_eq!(ours.left().schema(), theirs.left().schema());
}
