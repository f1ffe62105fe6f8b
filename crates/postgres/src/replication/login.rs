//! Proving who we are, and with SCRAM that the server knows the password, too.
//!
//! Channel binding is not spoken: the server is known by its certificate, where that is checked, and otherwise not. Iteration counts beyond
//! [`ITERATION_COUNT_MAX`] are refused, so that a hostile server cannot keep the client busy.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::connection::Connection;
use super::error::{WireError, malformed};
use super::message::Incoming;
use crate::config::Settings;

/// The most iterations of a password's hash that are done for a server.
pub(crate) const ITERATION_COUNT_MAX: u64 = 1_000_000;

/// Logs in as `settings` say; `private` when nobody can read along.
pub(super) async fn log_in(
    connection: &mut Connection,
    settings: &Settings,
    private: bool,
) -> Result<(), WireError> {
    match connection.receive().await? {
        Incoming::Other(Message::AuthenticationOk) => return Ok(()),
        Incoming::Other(Message::AuthenticationCleartextPassword) if private => {
            connection
                .send(|buffer| frontend::password_message(password(settings)?, buffer).map_err(malformed))
                .await?;
        }
        Incoming::Other(Message::AuthenticationCleartextPassword) => {
            return Err(WireError::Login(
                "the server asks for the password in clear, and the connection has no TLS".to_owned(),
            ));
        }
        Incoming::Other(Message::AuthenticationMd5Password(body)) => {
            let hash = md5_hash(settings.user().as_bytes(), password(settings)?, body.salt());
            connection
                .send(|buffer| frontend::password_message(hash.as_bytes(), buffer).map_err(malformed))
                .await?;
        }
        Incoming::Other(Message::AuthenticationSasl(body)) => scram(connection, settings, &body).await?,
        Incoming::Other(
            Message::AuthenticationGss | Message::AuthenticationSspi | Message::AuthenticationKerberosV5,
        ) => return Err(WireError::Login("the server asks for Kerberos, which is not spoken".to_owned())),
        other => return Err(connection.out_of_turn(&other)),
    }
    match connection.receive().await? {
        Incoming::Other(Message::AuthenticationOk) => Ok(()),
        other => Err(connection.out_of_turn(&other)),
    }
}

fn password(settings: &Settings) -> Result<&[u8], WireError> {
    settings
        .driver
        .get_password()
        .ok_or_else(|| WireError::Login("the server asks for a password and none is configured".to_owned()))
}

async fn scram(
    connection: &mut Connection,
    settings: &Settings,
    offered: &AuthenticationSaslBody,
) -> Result<(), WireError> {
    let mut mechanisms = offered.mechanisms();
    let mut found = false;
    while let Some(mechanism) = mechanisms.next().map_err(malformed)? {
        found |= mechanism == SCRAM_SHA_256;
    }
    if !found {
        return Err(WireError::Login("the server does not offer SCRAM-SHA-256".to_owned()));
    }
    let mut scram = ScramSha256::new(password(settings)?, ChannelBinding::unsupported());
    let first = |buffer: &mut BytesMut| {
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), buffer).map_err(malformed)
    };
    connection.send(first).await?;
    match connection.receive().await? {
        Incoming::Other(Message::AuthenticationSaslContinue(body)) => {
            check_iterations(body.data())?;
            scram.update(body.data()).map_err(|error| WireError::Login(error.to_string()))?;
        }
        other => return Err(connection.out_of_turn(&other)),
    }
    connection.send(|buffer| frontend::sasl_response(scram.message(), buffer).map_err(malformed)).await?;
    match connection.receive().await? {
        Incoming::Other(Message::AuthenticationSaslFinal(body)) => {
            scram.finish(body.data()).map_err(|error| WireError::Login(error.to_string()))
        }
        other => Err(connection.out_of_turn(&other)),
    }
}

/// Refuses a server's first SCRAM message that asks for too much work.
pub(crate) fn check_iterations(first: &[u8]) -> Result<(), WireError> {
    let text = std::str::from_utf8(first)
        .map_err(|_| WireError::Protocol("a SCRAM message that is not text".to_owned()))?;
    let count = text.split(',').filter_map(|part| part.strip_prefix("i=")).next_back();
    match count.and_then(|count| count.parse::<u64>().ok()) {
        Some(1..=ITERATION_COUNT_MAX) => Ok(()),
        _ => Err(WireError::Login("the server asks for an iteration count that is not sane".to_owned())),
    }
}
