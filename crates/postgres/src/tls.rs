//! TLS for connections to PostgreSQL: how much is asked of the server, by [`TlsMode`].

use mainstay_model::Result;
use mainstay_tls::{TlsSettings, Verification, client_config};
use rustls::ClientConfig;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Settings, TlsMode};

/// The driver's connector for these settings.
pub(crate) fn connector(settings: &Settings) -> Result<MakeRustlsConnect> {
    client(settings).map(MakeRustlsConnect::new)
}

/// The configuration of TLS for these settings. A CA file makes the certificate checked in every mode.
pub(crate) fn client(settings: &Settings) -> Result<ClientConfig> {
    let verification = match (&settings.ca_file, settings.tls_mode) {
        (Some(_), _) | (None, TlsMode::VerifyFull) => Verification::Full,
        (None, TlsMode::Disable | TlsMode::Prefer | TlsMode::Require) => Verification::KeyOnly,
    };
    let ca_file = settings.ca_file.as_deref();
    client_config(&TlsSettings { ca_file, verification, ..TlsSettings::default() })
}
