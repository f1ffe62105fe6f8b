//! What a node of a cluster holds, by its own word.
//!
//! `CLUSTER NODES` has a line for each node: its id, its `address:port@bus`, its flags, the id of its primary, and from the ninth word on its
//! slots. What is on its way between two nodes stands in brackets, and still counts for the one that has the slot. Source: Redis documentation,
//! CLUSTER NODES; Redis 6 to 8.

use mainstay_engine::{ServerPart, SlotRange};
use mainstay_model::{Result, ResultExt};
use redis::cmd;

use crate::info::Info;
use crate::session::Session;

/// Whether the server is a node of a cluster.
pub(crate) fn is_cluster(info: &Info) -> bool {
    info.get("redis_mode") == Some("cluster")
}

/// What the server that sent `info` holds of a cluster; `None` when it is of none. A user who may not ask is told that it is some part.
///
/// # Errors
/// The server's.
pub(crate) async fn part(session: &mut Session<'_>, info: &Info) -> Result<Option<ServerPart>> {
    if !is_cluster(info) {
        return Ok(None);
    }
    let nodes: Option<String> =
        session.ask_if_allowed(cmd("CLUSTER").arg("NODES")).await.context("list nodes of the cluster")?;
    Ok(Some(nodes.map_or_else(ServerPart::default, |nodes| read(&nodes))))
}

/// One line.
struct Node<'a> {
    id: &'a str,
    place: &'a str,
    flags: Vec<&'a str>,
    primary: &'a str,
    slots: Vec<SlotRange>,
}

impl<'a> Node<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (id, place) = (words.next()?, words.next()?);
        let flags = words.next()?.split(',').collect();
        let primary = words.next()?;
        let slots = words.skip(4).filter_map(slots).collect();
        Some(Self { id, place: place.split(['@', ',']).next().unwrap_or_default(), flags, primary, slots })
    }

    fn is(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}

/// `0-5460`, or one alone.
fn slots(word: &str) -> Option<SlotRange> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some(SlotRange { first: first.parse().ok()?, last: last.parse().ok()? })
}

fn read(nodes: &str) -> ServerPart {
    let nodes: Vec<Node<'_>> = nodes.lines().filter_map(Node::of).collect();
    let Some(own) = nodes.iter().find(|node| node.is("myself")) else { return ServerPart::default() };
    // A replica holds what its primary does.
    let holder = nodes.iter().find(|node| node.id == own.primary).unwrap_or(own);
    let is_other = |node: &&Node<'_>| node.is("master") && node.id != holder.id && !node.slots.is_empty();
    ServerPart {
        slots: holder.slots.clone(),
        others: nodes.iter().filter(is_other).map(|node| bracketed(node.place)).collect(),
    }
}

/// A place as a URL has it, which an address of IPv6 is not by itself. It goes into commands that people type, so that nothing is left in it
/// that a terminal or a shell would take for more than a name.
pub(crate) fn bracketed(place: &str) -> String {
    let is_of_place = |one: &char| one.is_ascii_alphanumeric() || "-_.:[]%".contains(*one);
    let place: String = place.chars().filter(is_of_place).collect();
    match place.rsplit_once(':') {
        Some((host, port)) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
        _ => place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "a1 10.0.0.1:6379@16379,host myself,master - 0 0 1 connected 0-5460\n\
                         b2 10.0.0.2:6379@16379 master - 0 1 2 connected 5461-10922 10924 [93-<-a1]\n\
                         c3 10.0.0.3:6379@16379 slave b2 0 1 2 connected\n\
                         e5 fd00::5:6379@16379 master,fail - 0 1 2 disconnected 10923\n\
                         d4 :0@0 master,fail,noaddr - 0 1 3 disconnected\n";

    #[test]
    fn a_node_holds_its_slots_and_others_the_rest() {
        let told = read(NODES);
        assert_eq!(told.slots, [SlotRange { first: 0, last: 5_460 }]);
        assert_eq!(told.others, ["10.0.0.2:6379", "[fd00::5]:6379"]);

        let of_replica = NODES.replace("myself,", "").replace("slave b2", "myself,slave b2");
        let told = read(&of_replica);
        assert_eq!(
            told.slots,
            [SlotRange { first: 5_461, last: 10_922 }, SlotRange { first: 10_924, last: 10_924 }]
        );
        assert_eq!(told.others, ["10.0.0.1:6379", "[fd00::5]:6379"]);
    }

    #[test]
    fn a_place_is_a_name_and_nothing_that_runs() {
        for (told, shown) in [
            ("shop-redis_1.internal:6379", "shop-redis_1.internal:6379"),
            ("fe80::1%eth0:6379", "[fe80::1%eth0]:6379"),
            ("[::1]:6379", "[::1]:6379"),
            ("h`id`;$(id)\u{1b}[2J:1", "hidid[2J:1"),
        ] {
            assert_eq!(bracketed(told), shown);
        }
    }

    #[test]
    fn what_is_no_list_of_nodes_tells_nothing() {
        for odd in [
            "",
            "\n",
            "a1",
            "a1 h:1@2 master - 0 0 1 connected 0-5460",
            "a h:1 myself,master - 0 0 1 up 70000 x-y",
        ] {
            assert_eq!(read(odd), ServerPart::default(), "{odd:?}");
        }
    }
}
