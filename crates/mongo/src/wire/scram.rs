//! SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677), the client's half.
//!
//! The server must prove that it knows the password too: its signature is compared in constant time. Iteration counts outside 4,096 to
//! 1,000,000 are refused, so that neither a weak hash of the password is given away nor a hostile server keeps the client busy. Passwords
//! for SHA-256 are prepared with SASLprep; what it prohibits (control characters, unassigned code points) is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use mainstay_model::Secret;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::error::WireError;

/// The iteration counts accepted.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4_096..=1_000_000;

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scram {
    Sha1,
    Sha256,
}

impl Scram {
    /// The mechanism's name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SCRAM-SHA-1",
            Self::Sha256 => "SCRAM-SHA-256",
        }
    }

    /// What is hashed in place of the password. MongoDB's SHA-1 variant hashes user and password with MD5 first.
    fn prepared(self, username: &str, password: &Secret) -> Result<Secret, WireError> {
        match self {
            Self::Sha1 => {
                let digest = Md5::digest(format!("{username}:mongo:{}", password.expose()));
                Ok(Secret::new(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
            }
            Self::Sha256 if password.expose().bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
                Ok(password.clone())
            }
            Self::Sha256 => {
                stringprep::saslprep(password.expose()).map(|text| Secret::new(text.into_owned())).map_err(
                    |_| WireError::Login("the password holds characters that SASLprep prohibits".to_owned()),
                )
            }
        }
    }

    fn salted(self, prepared: &Secret, salt: &[u8], iterations: u32) -> Vec<u8> {
        let password = prepared.expose().as_bytes();
        match self {
            Self::Sha1 => pbkdf2::pbkdf2_hmac_array::<Sha1, 20>(password, salt, iterations).to_vec(),
            Self::Sha256 => pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations).to_vec(),
        }
    }

    fn hash(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(bytes).to_vec(),
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
        }
    }

    fn sign(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        const ANY_KEY: &str = "HMAC takes keys of any length";
        match self {
            Self::Sha1 => Hmac::<Sha1>::new_from_slice(key)
                .expect(ANY_KEY)
                .chain_update(text)
                .finalize()
                .into_bytes()
                .to_vec(),
            Self::Sha256 => Hmac::<Sha256>::new_from_slice(key)
                .expect(ANY_KEY)
                .chain_update(text)
                .finalize()
                .into_bytes()
                .to_vec(),
        }
    }

    /// Compares in constant time whether `signature` signs `text`.
    fn verify(self, key: &[u8], text: &[u8], signature: &[u8]) -> bool {
        const ANY_KEY: &str = "HMAC takes keys of any length";
        match self {
            Self::Sha1 => Hmac::<Sha1>::new_from_slice(key)
                .expect(ANY_KEY)
                .chain_update(text)
                .verify_slice(signature)
                .is_ok(),
            Self::Sha256 => Hmac::<Sha256>::new_from_slice(key)
                .expect(ANY_KEY)
                .chain_update(text)
                .verify_slice(signature)
                .is_ok(),
        }
    }
}

/// A conversation that has sent its first message.
pub(crate) struct Begun {
    scram: Scram,
    nonce: String,
    first_bare: String,
}

/// A conversation that has sent its proof and waits for the server's.
pub(crate) struct Proving {
    scram: Scram,
    server_key: Vec<u8>,
    auth_message: String,
}

impl Begun {
    /// Begins for `username` with a nonce of 24 random bytes.
    pub(crate) fn new(scram: Scram, username: &str) -> Self {
        Self::with_nonce(scram, username, BASE64.encode(rand::random::<[u8; 24]>()))
    }

    /// Begins with a nonce that somebody knows.
    pub(crate) fn with_nonce(scram: Scram, username: &str, nonce: String) -> Self {
        let escaped = username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={escaped},r={nonce}");
        Self { scram, nonce, first_bare }
    }

    /// The first message.
    pub(crate) fn first_message(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// Answers the server's first message with the proof.
    pub(crate) fn prove(
        self,
        server_first: &[u8],
        username: &str,
        password: &Secret,
    ) -> Result<(Proving, String), WireError> {
        let refuse = |what: &str| WireError::Login(format!("the server's SCRAM challenge {what}"));
        let server_first = std::str::from_utf8(server_first).map_err(|_| refuse("is not text"))?;
        let field = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name));
        let nonce = field("r=").ok_or_else(|| refuse("has no nonce"))?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(refuse("has a nonce that does not extend ours"));
        }
        let salt =
            field("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or_else(|| refuse("has no salt"))?;
        let iterations = field("i=")
            .and_then(|count| count.parse().ok())
            .ok_or_else(|| refuse("has no iteration count"))?;
        if !ITERATIONS.contains(&iterations) {
            return Err(refuse(&format!("asks for {iterations} iterations, outside 4,096 to 1,000,000")));
        }
        let scram = self.scram;
        let salted = scram.salted(&scram.prepared(username, password)?, &salt, iterations);
        let client_key = scram.sign(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={nonce}");
        let auth_message = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = scram.sign(&scram.hash(&client_key), auth_message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, mask)| key ^ mask).collect();
        let server_key = scram.sign(&salted, b"Server Key");
        let message = format!("{without_proof},p={}", BASE64.encode(proof));
        Ok((Proving { scram, server_key, auth_message }, message))
    }
}

impl Proving {
    /// Checks the server's proof.
    pub(crate) fn verify(&self, server_final: &[u8]) -> Result<(), WireError> {
        let signature = std::str::from_utf8(server_final)
            .ok()
            .and_then(|text| text.split(',').find_map(|part| part.strip_prefix("v=")))
            .and_then(|signature| BASE64.decode(signature).ok());
        match signature {
            Some(signature)
                if self.scram.verify(&self.server_key, self.auth_message.as_bytes(), &signature) =>
            {
                Ok(())
            }
            _ => Err(WireError::Login("the server did not prove that it knows the password".to_owned())),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn begun() -> Begun {
        Begun::with_nonce(Scram::Sha256, "user", "rOprNGfwEbeRWgbNEkqO".to_owned())
    }

    #[test]
    fn the_example_of_the_rfc() {
        let begun = begun();
        assert_eq!(begun.first_message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (proving, message) =
            begun.prove(SERVER_FIRST.as_bytes(), "user", &Secret::new("pencil")).unwrap();
        assert_eq!(
            message,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        proving.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        assert!(proving.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
        assert!(proving.verify(b"v=").is_err());
        assert!(proving.verify(b"e=invalid-proof").is_err());
    }

    #[test]
    fn hostile_challenges_are_refused() {
        for challenge in [
            SERVER_FIRST.replace("i=4096", "i=4095"),
            SERVER_FIRST.replace("i=4096", "i=4000000000"),
            SERVER_FIRST.replace("i=4096", "i=x"),
            SERVER_FIRST.replace("r=rOpr", "r=xOpr"),
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".to_owned(),
            SERVER_FIRST.replace("s=W", "s=*"),
            String::new(),
        ] {
            assert!(
                begun().prove(challenge.as_bytes(), "user", &Secret::new("pencil")).is_err(),
                "{challenge}"
            );
        }
        assert!(begun().prove(&[0xFF], "user", &Secret::new("pencil")).is_err());
    }

    #[test]
    fn passwords_are_prepared() {
        let prepared = |password: &str| {
            Scram::Sha256.prepared("u", &Secret::new(password)).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(prepared("p=a,ss").unwrap(), "p=a,ss");
        assert_eq!(prepared("\u{2168}").unwrap(), "IX");
        assert!(prepared("bell\u{7}").is_err());
        assert_eq!(
            Begun::with_nonce(Scram::Sha1, "a=b,c", "n".to_owned()).first_message(),
            "n,,n=a=3Db=2Cc,r=n"
        );
    }
}
