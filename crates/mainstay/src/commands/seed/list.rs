//! `seed list`: the declared seeds, compared with what is there.

use clap::Args;
use mainstay_engine::SeedStanding;
use mainstay_model::{Count, ExitStatus, Result, StoreKind};
use mainstay_ops::seed::{self, Seed, SeedClass, SeedStatus};
use serde_json::{Map, Value, json};

use super::manifest;
use crate::printer::shown::plain;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `seed list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// These seeds alone
    #[arg(value_name = "SEED")]
    seeds: Vec<String>,
}

/// Compares and shows.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: &ListArgs, session: &Session) -> Result<ExitStatus> {
    let manifest = manifest(session)?;
    let chosen = manifest.chosen(&args.seeds)?;
    let seeds = chosen.into_iter().map(|declared| manifest.load(declared)).collect::<Result<Vec<_>>>()?;
    let mut listed = Vec::new();
    for kind in [StoreKind::Mongo, StoreKind::Postgres] {
        let of_store: Vec<&Seed> = seeds.iter().filter(|seed| seed.declared.store == kind).collect();
        if of_store.is_empty() {
            continue;
        }
        let store = session.seeds(kind).await?;
        let probe = session.probe(kind).await?;
        let target = session.target(probe.as_ref()).await?;
        let status = seed::status(store.as_ref(), &target, &of_store).await?;
        listed.extend(status.into_iter().map(|status| Line { store: kind, status }));
    }
    Ok(session.printer.report(&Listed(listed)))
}

struct Line {
    store: StoreKind,
    status: SeedStatus,
}

struct Listed(Vec<Line>);

impl Report for Listed {
    fn json(&self) -> Map<String, Value> {
        let seeds = self.0.iter().map(|line| {
            let mut fields = json!(line.status);
            fields["store"] = json!(line.store);
            fields
        });
        Map::from_iter([("seeds".to_owned(), seeds.collect())])
    }

    fn text(&self, look: &Look) -> String {
        if self.0.is_empty() {
            return "no seed is declared\n".to_owned();
        }
        let mut table = Table::new(&["SEED", "CLASS", "STORE", "INTO", "ROWS", "STANDS", "HERE"]);
        for Line { store, status } in &self.0 {
            let here = match &status.refused {
                Some(_) => Cell::new("never").tone(Tone::Bad),
                None => Cell::new("allowed").tone(Tone::Good),
            };
            table.row(vec![
                Cell::new(status.seed.id.clone()),
                Cell::new(status.seed.class.to_string()),
                Cell::new(store.to_string()),
                Cell::new(status.seed.place.into.clone()),
                Cell::right(Count(status.seed.rows).to_string()),
                Cell::new(stands(status)),
                here,
            ]);
        }
        let mut text = table.render(look);
        for status in self.0.iter().map(|line| &line.status) {
            for why in status.refused.iter().chain(&status.fault) {
                text.push_str(&format!("{}\n", look.paint(Tone::Faint, &plain(why, usize::MAX))));
            }
        }
        text
    }
}

fn stands(status: &SeedStatus) -> String {
    if status.fault.is_some() {
        return "not comparable".to_owned();
    }
    let SeedStanding { held, absent, different } = status.seed.standing;
    match status.seed.class {
        SeedClass::Destructive => format!("{} there", Count(held)),
        _ if absent + different == 0 => "all there".to_owned(),
        _ if different == 0 => format!("{} absent", Count(absent)),
        _ => format!("{} absent, {} different", Count(absent), Count(different)),
    }
}
