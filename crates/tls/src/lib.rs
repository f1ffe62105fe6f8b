//! TLS for connections that adapters open themselves: rustls with the ring provider, whom to believe, whom to be.
//!
//! Trusts the given authorities, else the public ones (the Mozilla roots). Not checking the server's name and authority is possible and must
//! be asked for by name; that the server holds the key of its certificate is checked even then. Refuses files that hold no certificate, and
//! encrypted private keys.

use std::path::Path;
use std::sync::Arc;

use mainstay_model::{Error, ErrorKind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// How much is asked of the server's certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verification {
    /// Authority, validity and host name.
    #[default]
    Full,
    /// None of these: the connection is encrypted, the server is not known. Protects against nobody who can change what is sent.
    KeyOnly,
}

/// What a connection needs to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsSettings<'a> {
    /// PEM file of the authorities to trust instead of the public ones.
    pub ca_file: Option<&'a Path>,
    /// PEM file with the client's certificate and its key.
    pub certificate_key_file: Option<&'a Path>,
    /// How much is asked of the server's certificate.
    pub verification: Verification,
}

/// The rustls configuration for `settings`.
///
/// # Errors
/// [`ErrorKind::Config`] naming the file that cannot be used, and why.
pub fn client_config(settings: &TlsSettings<'_>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::new(ErrorKind::Internal, "TLS cannot be set up").with_source(source))?
        .with_root_certificates(roots(settings.ca_file)?);
    let mut config = match settings.certificate_key_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let key =
                PrivateKeyDer::from_pem_file(file).map_err(|error| unusable("private key", file, &error))?;
            builder
                .with_client_auth_cert(certificates("client certificate", file)?, key)
                .map_err(|error| unusable("client certificate and key", file, &error))?
        }
    };
    if settings.verification == Verification::KeyOnly {
        config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(provider)));
    }
    Ok(config)
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore> {
    let Some(file) = ca_file else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA", file)? {
        roots.add(certificate).map_err(|error| unusable("CA", file, &error))?;
    }
    Ok(roots)
}

fn certificates(what: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(what, file, &error))?;
    if certificates.is_empty() {
        Err(unusable(what, file, &"it holds no certificate"))
    } else {
        Ok(certificates)
    }
}

fn unusable(what: &str, file: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("the {what} file {} cannot be used: {why}", file.display()))
}

/// Believes every certificate; the handshake's signatures are still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
