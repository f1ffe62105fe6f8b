//! TLS for our own connections: rustls with the ring provider.
//!
//! Trusts the authority file that is configured, else the Mozilla roots; shows a client certificate when one is configured. Certificate
//! checking can be turned off for tests only, in the open: the option is named so. Refuses encrypted private keys.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::WireError;

/// The configuration of every TLS connection to one deployment; made once and shared.
pub(crate) fn client_config(
    ca_file: Option<&Path>,
    certificate_key_file: Option<&Path>,
    allow_invalid_certificates: bool,
) -> Result<Arc<ClientConfig>, WireError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| WireError::TlsSetup(error.to_string()))?
        .with_root_certificates(roots(ca_file)?);
    let mut config = match certificate_key_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let certificates = certificates(path)?;
            let key = PrivateKeyDer::from_pem_file(path)
                .map_err(|error| unreadable("private key", path, &error))?;
            builder
                .with_client_auth_cert(certificates, key)
                .map_err(|error| unreadable("certificate and key", path, &error))?
        }
    };
    if allow_invalid_certificates {
        config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(provider)));
    }
    Ok(Arc::new(config))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, WireError> {
    let mut store = RootCertStore::empty();
    let Some(path) = ca_file else {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(store);
    };
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| unreadable("authority certificate", path, &error))?;
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable("certificate", path, &error))?;
    if certificates.is_empty() {
        return Err(WireError::TlsSetup(format!("{} holds no certificate", path.display())));
    }
    Ok(certificates)
}

fn unreadable(what: &str, path: &Path, error: &dyn std::fmt::Display) -> WireError {
    WireError::TlsSetup(format!("{what} in {} cannot be used: {error}", path.display()))
}

/// Accepts whatever certificate the server shows; signatures are still checked.
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
