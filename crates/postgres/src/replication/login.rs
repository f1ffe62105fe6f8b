//! Proving who we are, and with SCRAM that the server knows the password, too.
//!
//! Over TLS the proof is bound to the server's certificate (channel binding) where the server can, so that it is of no use to who stands between;
//! `channel_binding=require` refuses a login without. Iteration counts beyond [`ITERATION_COUNT_MAX`] are refused, so that a hostile server
//! cannot keep the client busy.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::config::ChannelBinding as Wanted;

use super::connection::Connection;
use super::error::{WireError, malformed};
use super::message::Incoming;
use crate::config::Settings;

/// The most iterations of a password's hash that are done for a server.
pub(crate) const ITERATION_COUNT_MAX: u64 = 1_000_000;

/// The stream that a login happens in.
pub(super) struct Channel {
    /// Whether nobody can read along.
    pub(super) private: bool,
    /// What the login can be bound to.
    pub(super) end_point: Option<Vec<u8>>,
}

/// Logs in as `settings` say.
pub(super) async fn log_in(
    connection: &mut Connection,
    settings: &Settings,
    channel: Channel,
) -> Result<(), WireError> {
    let must_bind = settings.driver.get_channel_binding() == Wanted::Require;
    match connection.receive().await? {
        Incoming::Other(Message::AuthenticationSasl(body)) => {
            scram(connection, settings, channel.end_point, &body).await?;
        }
        _ if must_bind => {
            return Err(unbound("the server asks for no proof that could be bound to the connection"));
        }
        Incoming::Other(Message::AuthenticationOk) => return Ok(()),
        Incoming::Other(Message::AuthenticationCleartextPassword) if channel.private => {
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

fn unbound(why: &str) -> WireError {
    WireError::Login(format!("channel_binding=require, and {why}"))
}

/// Which mechanism is spoken, and what it is bound to: `offered` tells whether the server offers SCRAM, and SCRAM with binding.
fn choose(
    wanted: Wanted,
    end_point: Option<Vec<u8>>,
    offered: (bool, bool),
) -> Result<(&'static str, ChannelBinding), WireError> {
    match (offered, end_point, wanted) {
        ((_, true), Some(end_point), Wanted::Prefer | Wanted::Require) => {
            Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point)))
        }
        (_, None, Wanted::Require) => Err(unbound("the connection has nothing to bind to")),
        (_, Some(_), Wanted::Require) => Err(unbound("the server does not offer it")),
        // Says that we could: a server that could, too, sees that somebody has hidden its offer.
        ((true, false), Some(_), Wanted::Prefer) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        ((true, _), _, _) => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        ((false, _), _, _) => Err(WireError::Login("the server does not offer SCRAM-SHA-256".to_owned())),
    }
}

async fn scram(
    connection: &mut Connection,
    settings: &Settings,
    end_point: Option<Vec<u8>>,
    offered: &AuthenticationSaslBody,
) -> Result<(), WireError> {
    let mut mechanisms = offered.mechanisms();
    let (mut plain, mut bound) = (false, false);
    while let Some(mechanism) = mechanisms.next().map_err(malformed)? {
        plain |= mechanism == SCRAM_SHA_256;
        bound |= mechanism == SCRAM_SHA_256_PLUS;
    }
    let wanted = settings.driver.get_channel_binding();
    let (mechanism, binding) = choose(wanted, end_point, (plain, bound))?;
    let mut scram = ScramSha256::new(password(settings)?, binding);
    let first = |buffer: &mut BytesMut| {
        frontend::sasl_initial_response(mechanism, scram.message(), buffer).map_err(malformed)
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_bound_where_both_sides_can_and_never_less_than_wanted() {
        let chosen = |wanted, end_point: Option<Vec<u8>>, offered| {
            choose(wanted, end_point, offered).map(|(mechanism, binding)| {
                let scram = ScramSha256::new(b"x", binding);
                let header = String::from_utf8(scram.message()[..2].to_vec()).unwrap();
                (mechanism, header)
            })
        };
        let point = || Some(vec![1; 32]);
        let told = |mechanism, header: &str| (mechanism, header.to_owned());
        let bound = told(SCRAM_SHA_256_PLUS, "p=");
        for wanted in [Wanted::Prefer, Wanted::Require] {
            assert_eq!(chosen(wanted, point(), (true, true)).unwrap(), bound);
        }
        assert_eq!(chosen(Wanted::Prefer, point(), (true, false)).unwrap(), told(SCRAM_SHA_256, "y,"));
        assert_eq!(chosen(Wanted::Prefer, None, (true, true)).unwrap(), told(SCRAM_SHA_256, "n,"));
        assert_eq!(chosen(Wanted::Disable, point(), (true, true)).unwrap(), told(SCRAM_SHA_256, "n,"));
        for (end_point, offered) in [(None, (true, true)), (point(), (true, false))] {
            let error = chosen(Wanted::Require, end_point, offered).unwrap_err();
            assert!(error.to_string().contains("channel_binding=require"), "{error}");
        }
        assert!(chosen(Wanted::Prefer, None, (false, true)).is_err());
    }
}
