//! What ties a login to the TLS connection that it happens in: a proof with it is worth nothing to who stands between.
//!
//! `tls-server-end-point` of RFC 5929: the hash of the server's certificate, by the hash function of the certificate's signature, where MD5 and
//! SHA-1 count as SHA-256. Certificates whose signature names no single hash function (Ed25519, RSASSA-PSS) have none; nor has PostgreSQL.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// RSA with PKCS #1, without the last number.
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
/// ECDSA with SHA-2, without the last number; and with SHA-1.
const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03];
const ECDSA_SHA1: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01];

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// What the connection to the server with this certificate, in DER, is told apart by; `None` when nobody has said by what.
pub(crate) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    match hash_of(signature_algorithm(certificate)?)? {
        Hash::Sha256 => Some(Sha256::digest(certificate).to_vec()),
        Hash::Sha384 => Some(Sha384::digest(certificate).to_vec()),
        Hash::Sha512 => Some(Sha512::digest(certificate).to_vec()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// The hash function of a signature algorithm.
fn hash_of(algorithm: &[u8]) -> Option<Hash> {
    let (last, family) = algorithm.split_last()?;
    match (family, last) {
        _ if algorithm == ECDSA_SHA1 => Some(Hash::Sha256),
        (RSA, 4 | 5 | 11) | (ECDSA, 2) => Some(Hash::Sha256),
        (RSA, 12) | (ECDSA, 3) => Some(Hash::Sha384),
        (RSA, 13) | (ECDSA, 4) => Some(Hash::Sha512),
        _ => None,
    }
}

/// The number of the algorithm that a certificate is signed with: `SEQUENCE { tbsCertificate, SEQUENCE { OBJECT IDENTIFIER, … }, … }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (_, behind_body) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(behind_body, SEQUENCE)?;
    Some(element(algorithm, OBJECT_IDENTIFIER)?.0)
}

/// The content of the element at the front, which must have this tag, and what lies behind it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = bytes else { return None };
    if *found != tag {
        return None;
    }
    let (length, rest) = match usize::from(*length) {
        short @ 0..0x80 => (short, rest),
        long => {
            let (digits, rest) =
                rest.split_at_checked(long - 0x80).filter(|(digits, _)| digits.len() <= 4)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let head = match length {
            0..0x80 => vec![tag, length as u8],
            _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        };
        [&head[..], content].concat()
    }

    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let algorithm = der(SEQUENCE, &der(OBJECT_IDENTIFIER, algorithm));
        der(SEQUENCE, &[der(SEQUENCE, &[7; 300]), algorithm, vec![3, 1, 0]].concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let bytes =
            |family: &[u8], last: u8| end_point(&certificate(&[family, &[last]].concat())).map(|it| it.len());
        for (last, length) in
            [(4, Some(32)), (5, Some(32)), (10, None), (11, Some(32)), (12, Some(48)), (13, Some(64))]
        {
            assert_eq!(bytes(RSA, last), length, "RSA {last}");
        }
        for (last, length) in [(1, None), (2, Some(32)), (3, Some(48)), (4, Some(64))] {
            assert_eq!(bytes(ECDSA, last), length, "ECDSA {last}");
        }
        assert_eq!(end_point(&certificate(ECDSA_SHA1)).unwrap().len(), 32);
        assert_eq!(end_point(&certificate(&[0x2B, 0x65, 0x70])), None, "Ed25519");
        let whole = certificate(&[ECDSA, &[2]].concat());
        for length in 0..whole.len() - 3 {
            assert_eq!(end_point(&whole[..length]), None, "cut at {length}");
        }
    }
}
