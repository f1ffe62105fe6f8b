//! What kind of deployment answers, read from its `hello`.

use bson::{Document, Timestamp};
use mainstay_model::OpTime;

/// The wire version of MongoDB 5.0, the first with snapshot reads outside transactions.
const WIRE_VERSION_5_0: i32 = 13;

/// What kind of deployment this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One server, no oplog.
    Standalone,
    /// A member of a replica set.
    ReplicaSet { name: String, primary: bool },
    /// A router in front of shards.
    Mongos,
}

impl Topology {
    /// The topology that a `hello` tells.
    pub(crate) fn of(hello: &Document) -> Self {
        match hello.get_str("setName") {
            Ok(name) => Self::ReplicaSet {
                name: name.to_owned(),
                primary: hello
                    .get_bool("isWritablePrimary")
                    .or_else(|_| hello.get_bool("ismaster"))
                    .unwrap_or(false),
            },
            Err(_) if matches!(hello.get_str("msg"), Ok("isdbgrid")) => Self::Mongos,
            Err(_) => Self::Standalone,
        }
    }

    /// `standalone`, `replica set rs0`, `sharded cluster`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Standalone => "standalone".to_owned(),
            Self::ReplicaSet { name, .. } => format!("replica set {name}"),
            Self::Mongos => "sharded cluster".to_owned(),
        }
    }

    /// `standalone`, `primary of rs0`, `mongos of a sharded cluster`.
    pub(crate) fn role(&self) -> String {
        match self {
            Self::Standalone => "standalone".to_owned(),
            Self::ReplicaSet { name, primary: true } => format!("primary of {name}"),
            Self::ReplicaSet { name, primary: false } => format!("secondary of {name}"),
            Self::Mongos => "mongos of a sharded cluster".to_owned(),
        }
    }

    /// True when one cursor walks one server's storage or index in order, so that it can be continued from where it was. A mongos merges
    /// the cursors of its shards in no order.
    pub(crate) fn keeps_order(&self) -> bool {
        *self != Self::Mongos
    }

    /// Whether it is made of members that each have a storage of their own, one of which takes writes.
    pub(crate) fn has_members(&self) -> bool {
        matches!(self, Self::ReplicaSet { .. })
    }

    /// A position of the deployment's change log that everything acknowledged so far lies before; none where there is no log, or one for
    /// each shard: a cluster's time is a position in neither of them.
    pub(crate) fn log_position(&self, hello: &Document) -> Option<Timestamp> {
        self.has_members().then(|| self.moment(hello).ok()).flatten()
    }

    /// A moment that everything acknowledged so far belongs to, or why there is none.
    ///
    /// A member of a replica set tells the newest operation it has applied (`lastWrite.opTime`), which is not yet committed by a majority. A mongos tells the cluster time.
    pub(crate) fn moment(&self, hello: &Document) -> Result<Timestamp, String> {
        if *self == Self::Standalone {
            return Err("it is a standalone server, which keeps no history".to_owned());
        }
        if hello.get_i32("maxWireVersion").unwrap_or(0) < WIRE_VERSION_5_0 {
            return Err("servers before 5.0 read at one cluster time in transactions only".to_owned());
        }
        let last_write = hello.get_document("lastWrite").and_then(|last| last.get_document("opTime"));
        let cluster_time =
            || hello.get_document("$clusterTime").and_then(|time| time.get_timestamp("clusterTime"));
        last_write
            .and_then(|optime| optime.get_timestamp("ts"))
            .or_else(|_| cluster_time())
            .map_err(|_| "the server tells no operation time".to_owned())
    }
}

/// The newest operation that a member knows to be committed by a majority.
pub(crate) fn majority_moment(hello: &Document) -> Option<Timestamp> {
    let last_write = hello.get_document("lastWrite").ok()?;
    last_write.get_document("majorityOpTime").ok()?.get_timestamp("ts").ok()
}

/// The server's timestamp as a position.
pub(crate) fn optime(at: Timestamp) -> OpTime {
    OpTime { seconds: at.time, increment: at.increment }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_hello_tells_what_it_is() {
        let time = Timestamp { time: 5, increment: 1 };
        let set = doc! { "setName": "rs0", "isWritablePrimary": true, "maxWireVersion": 17, "lastWrite": { "opTime": { "ts": time } } };
        let topology = Topology::of(&set);
        assert_eq!((topology.role().as_str(), topology.moment(&set)), ("primary of rs0", Ok(time)));
        let mongos =
            doc! { "msg": "isdbgrid", "maxWireVersion": 17, "$clusterTime": { "clusterTime": time } };
        assert_eq!(
            (Topology::of(&mongos), Topology::of(&mongos).moment(&mongos)),
            (Topology::Mongos, Ok(time))
        );
        assert_eq!((Topology::Mongos.log_position(&mongos), topology.log_position(&set)), (None, Some(time)));
        assert!(Topology::of(&doc! { "maxWireVersion": 17 }).moment(&set).is_err());
        let old = doc! { "setName": "rs0", "maxWireVersion": 9, "lastWrite": { "opTime": { "ts": time } } };
        assert!(Topology::of(&old).moment(&old).is_err());
    }
}
