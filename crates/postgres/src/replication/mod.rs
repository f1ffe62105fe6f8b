//! The replication protocol, physical half: what a standby and a base backup speak with a server.
//!
//! Neither libpq's tools nor the driver under this crate are used for it: the driver knows no copy in both directions. [`Connection`] frames
//! messages, logs in and runs commands; `command` spells them and reads their rows; `copy` reads what flows inside a copy, `inflate` unpacks
//! it; `base_backup` and `wal` are what the operations see of it. Source:
//! manual (18), "Streaming Replication Protocol", "Message Formats", "SASL Authentication".
//!
//! Relies on PostgreSQL 15 or newer, whose `BASE_BACKUP` takes options in parentheses and streams archives inside one copy. Memory is
//! bounded by [`MESSAGE_BYTES_MAX`] whatever a server claims; bytes that are no message, or one out of its turn, are errors, and end the
//! connection. Refuses to send a password in clear without TLS, and to log in to a server that cannot prove that it knows the password
//! where it was asked for such a proof.

pub(crate) mod base_backup;
mod channel;
mod command;
mod connection;
mod copy;
mod error;
mod inflate;
mod login;
mod message;
mod transport;
mod wal;

use bytes::Bytes;
use fallible_iterator::FallibleIterator as _;
use mainstay_model::Lsn;
use postgres_protocol::message::backend::Message;

use command::Row;
pub(crate) use connection::Connection;
use copy::{BackupPiece, WalMessage};
use error::ServerError;
pub(crate) use error::WireError;
pub(crate) use message::{Incoming, MESSAGE_BYTES_MAX};

/// Reads whatever is in a message, for the fuzzer.
pub(crate) fn exercise(message: Incoming) {
    match message {
        Incoming::Copy(piece) => exercise_copy(&piece),
        Incoming::Other(Message::ErrorResponse(body)) => drop(ServerError::read(body.fields())),
        Incoming::Other(Message::NoticeResponse(body)) => drop(ServerError::read(body.fields())),
        Incoming::Other(Message::DataRow(body)) => {
            let names = ["recptr".to_owned(), "tli".to_owned()];
            if let Ok(row) = Row::read(&names, &body) {
                drop(row.parsed::<Lsn>("recptr"));
            }
        }
        Incoming::Other(Message::RowDescription(body)) => {
            let mut fields = body.fields();
            while let Ok(Some(field)) = fields.next() {
                let _ = field.name();
            }
        }
        Incoming::Other(Message::AuthenticationSasl(body)) => {
            let mut mechanisms = body.mechanisms();
            while let Ok(Some(_)) = mechanisms.next() {}
        }
        Incoming::CopyBoth | Incoming::Other(_) => {}
    }
}

/// Reads a piece of a copy in every way, for the fuzzer.
pub(crate) fn exercise_copy(piece: &Bytes) {
    drop(BackupPiece::read(piece.clone()));
    drop(WalMessage::read(piece.clone()));
    drop(login::check_iterations(piece));
    drop(channel::end_point(piece));
}
