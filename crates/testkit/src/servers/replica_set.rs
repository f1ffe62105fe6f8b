//! A replica set of several mongods on loopback, for elections, rollbacks and members that are killed.
//!
//! Elections are quick: a primary that is not heard of for two seconds is replaced. Relies on [`Mongod`] for each member.

use std::time::{Duration, Instant};

use bson::{Document, doc};

use super::mongod::Mongod;
use super::process::StartError;

/// Longer than any election takes.
const ELECTION_MAX: Duration = Duration::from_secs(60);

/// A running replica set named `rs0`, ended on drop.
#[derive(Debug)]
pub struct ReplicaSet {
    members: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts `count` members and waits for a primary.
    ///
    /// # Errors
    /// As [`super::MongodOptions::start`]; no primary in time.
    pub fn start(count: usize) -> Result<Self, StartError> {
        let starting: Vec<_> =
            (0..count).map(|_| std::thread::spawn(|| Mongod::options().member().start())).collect();
        let members = starting
            .into_iter()
            .map(|member| member.join().expect("starting a member does not panic"))
            .collect::<Result<Vec<_>, _>>()?;
        let set = Self { members };
        let listed: Vec<Document> = (0_i32..)
            .zip(&set.members)
            .map(|(id, member)| doc! { "_id": id, "host": member.address().to_string() })
            .collect();
        let settings = doc! { "electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 500 };
        set.members[0].initiate(doc! { "_id": "rs0", "members": listed, "settings": settings })?;
        set.primary()?;
        Ok(set)
    }

    /// A connection string of all members.
    pub fn uri(&self) -> String {
        let hosts: Vec<_> = self.members.iter().map(|member| member.address().to_string()).collect();
        format!("mongodb://{}/?replicaSet=rs0", hosts.join(","))
    }

    /// The index of the primary, waited for.
    ///
    /// # Errors
    /// No primary in time.
    pub fn primary(&self) -> Result<usize, StartError> {
        let deadline = Instant::now() + ELECTION_MAX;
        loop {
            if let Some(index) = self.members.iter().position(Mongod::is_primary) {
                return Ok(index);
            }
            if Instant::now() > deadline {
                return Err(StartError::prepare("replica set", "no member became primary".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One member.
    pub fn member(&mut self, index: usize) -> &mut Mongod {
        &mut self.members[index]
    }

    /// A client of the official driver for the whole set.
    pub async fn oracle(&self) -> mongodb::Client {
        mongodb::Client::with_uri_str(self.uri()).await.expect("the test kit's own connection string")
    }
}
