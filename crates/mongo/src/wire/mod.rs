//! Our own client of the wire protocol: OP_MSG over one TCP or TLS connection.
//!
//! The data paths use it because they want replies as bytes and requests made of bytes they already hold; administration goes through
//! the official driver. Request and reply are strictly in turn, but sending and receiving are separate calls, so that a reader may ask
//! for the next batch before it hands on the present one. Relies on servers from wire version 8 (MongoDB 4.2) on. Refuses compression,
//! checksums, exhaust cursors and replies larger than the protocol allows.

mod connection;
pub(crate) mod message;
pub(crate) mod scram;

pub(crate) use connection::{Connection, Endpoint, Login, Mechanism, WireOptions};
pub(crate) use message::{MESSAGE_BYTES_MAX, Reply, Sequence};
