//! Certificates for servers that speak TLS: an authority made for the occasion and one certificate for 127.0.0.1.
//!
//! Relies on `rcgen`. Refuses nothing: these keys protect nothing and go with the server's folder.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::process::User;

/// The files of one server's TLS set-up, PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate: what a client is to trust.
    pub authority: PathBuf,
    /// The server's certificate, valid for `127.0.0.1` and `localhost`.
    pub certificate: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
    /// Certificate and key in one file, as mongod wants it.
    pub certificate_and_key: PathBuf,
}

impl Certificates {
    /// Writes a new authority and server certificate into the folder, readable by `user` alone.
    pub(super) fn create(folder: &Path, user: Option<User>) -> io::Result<Self> {
        let (authority, certificate, key) = issue().map_err(io::Error::other)?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            if let Some(user) = user {
                chown(&path, Some(user.uid), Some(user.gid))?;
            }
            Ok::<_, io::Error>(path)
        };
        Ok(Self {
            authority: write("authority.pem", &authority)?,
            certificate: write("certificate.pem", &certificate)?,
            key: write("key.pem", &key)?,
            certificate_and_key: write("certificate-and-key.pem", &format!("{certificate}{key}"))?,
        })
    }
}

fn issue() -> Result<(String, String, String), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "mainstay test authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    let certificate = params.signed_by(&key, &authority)?;
    Ok((authority.pem(), certificate.pem(), key.serialize_pem()))
}
