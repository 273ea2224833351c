//! Chains of certificates (X.509, RFC 5280) for keys that no authority has vouched for.
//!
//! A chain is an authority of its own and the certificate that it gives to the signing key, both
//! Ed25519, with what C2PA asks of a signer's certificate: version 3, a usage for signatures alone,
//! and an extended usage. Whoever reads them finds a name that says that they mean nothing beyond the
//! machine they were made on. They do not expire: nothing proves when a file was signed, and a file
//! must not turn bad by itself. Certificates are written here and never read.

use anyid_files::error::{Error, Result};
use anyid_guard::audit::moment;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime};

/// A key with the certificates that go with it, in PEM.
pub struct Chain {
    /// That of the key, then that of its authority.
    pub certificates: String,
    /// The key (PKCS #8).
    pub key: String,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTETS: u8 = 0x04;
const BITS: u8 = 0x03;
const INTEGER: u8 = 0x02;
const OBJECT: u8 = 0x06;
const UTF8: u8 = 0x0c;

/// Object identifiers, as they are encoded.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];
const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 0x0e];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];
const EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// Protection of mail, which C2PA takes for signing documents.
const MAIL: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x04];

/// One element: tag, length, contents.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match contents.len() {
        short @ 0..=127 => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
            out.push(0x80 | (bytes.len() - from) as u8);
            out.extend_from_slice(&bytes[from..]);
        }
    }
    out.extend_from_slice(contents);
    out
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    element(BITS, &[&[0], bytes].concat())
}

fn algorithm() -> Vec<u8> {
    sequence(&[element(OBJECT, ED25519)])
}

fn name(common: &str) -> Vec<u8> {
    let part = |kind: &[u8], text: &str| {
        element(SET, &sequence(&[element(OBJECT, kind), element(UTF8, text.as_bytes())]))
    };
    sequence(&[part(COMMON_NAME, common), part(ORGANISATION, "anyid-rt LOCAL USE ONLY")])
}

fn extension(kind: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { vec![0x01, 0x01, 0xff] } else { Vec::new() };
    sequence(&[element(OBJECT, kind), critical, element(OCTETS, value)])
}

/// What keys are told apart by (RFC 7093, method 1).
fn key_id(key: &SigningKey) -> Vec<u8> {
    Sha256::digest(key.verifying_key().as_bytes())[..20].to_vec()
}

/// From yesterday on, as clocks differ, and without an end (RFC 5280 §4.1.2.5).
fn validity(now: SystemTime) -> Vec<u8> {
    const GENERALIZED_TIME: u8 = 0x18;
    const UTC_TIME: u8 = 0x17;
    let begin = now.checked_sub(Duration::from_secs(86_400)).unwrap_or(now);
    let digits: String = moment(begin).chars().filter(|c| c.is_ascii_digit()).collect();
    let begin = match digits.as_str() {
        // The form with two digits of the year belongs to years before 2050.
        before if before < "2050" => element(UTC_TIME, format!("{}Z", &before[2..]).as_bytes()),
        after => element(GENERALIZED_TIME, format!("{after}Z").as_bytes()),
    };
    sequence(&[begin, element(GENERALIZED_TIME, b"99991231235959Z")])
}

/// A certificate for `subject`'s key, signed by `issuer`'s.
fn certificate(
    serial: [u8; 8],
    (issuer_name, issuer): (&str, &SigningKey),
    (subject_name, subject): (&str, &SigningKey),
    now: SystemTime,
    usage: Vec<Vec<u8>>,
) -> Vec<u8> {
    let version = element(0xa0, &element(INTEGER, &[2]));
    let key = sequence(&[algorithm(), bits(subject.verifying_key().as_bytes())]);
    let mut extensions = usage;
    extensions.push(extension(SUBJECT_KEY, false, &element(OCTETS, &key_id(subject))));
    let authority = sequence(&[element(0x80, &key_id(issuer))]);
    extensions.push(extension(AUTHORITY_KEY, false, &authority));
    let signed = sequence(&[
        version,
        element(INTEGER, &serial),
        algorithm(),
        name(issuer_name),
        validity(now),
        name(subject_name),
        key,
        element(0xa3, &sequence(&extensions)),
    ]);
    let signature = issuer.sign(&signed);
    sequence(&[signed, algorithm(), bits(&signature.to_bytes())])
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in BASE64_STANDARD.encode(der).as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

impl Chain {
    /// A new key whose certificate says `subject`.
    ///
    /// # Errors
    /// E1107 the system has no random numbers.
    pub fn make(subject: &str, now: SystemTime) -> Result<Self> {
        let mut drawn = [0u8; 80];
        getrandom::fill(&mut drawn).map_err(|fault| {
            Error::input("E1107", format!("the system gives no random numbers: {fault}"))
        })?;
        let secret =
            |at: usize| SigningKey::from_bytes(&drawn[at..at + 32].try_into().expect("32 bytes"));
        let serial = |at: usize| {
            let mut serial: [u8; 8] = drawn[at..at + 8].try_into().expect("8 bytes");
            // Positive, and as short as DER wants it.
            serial[0] = serial[0] & 0x3f | 0x40;
            serial
        };
        let (authority, signer) = (secret(0), secret(32));
        let authority_name = format!("{subject} authority");
        // Signatures on certificates and on lists of revoked ones; those on documents.
        let usage =
            |byte: u8, unused: u8| extension(KEY_USAGE, true, &element(BITS, &[unused, byte]));
        let constraints = |is_authority: bool| {
            let flag = if is_authority { vec![0x01, 0x01, 0xff] } else { Vec::new() };
            extension(BASIC_CONSTRAINTS, true, &element(SEQUENCE, &flag))
        };
        let top = certificate(
            serial(64),
            (&authority_name, &authority),
            (&authority_name, &authority),
            now,
            vec![constraints(true), usage(0x06, 1)],
        );
        let mail = sequence(&[element(OBJECT, MAIL)]);
        let own = certificate(
            serial(72),
            (&authority_name, &authority),
            (subject, &signer),
            now,
            vec![constraints(false), usage(0x80, 7), extension(EXTENDED_USAGE, false, &mail)],
        );
        let key = sequence(&[
            element(INTEGER, &[0]),
            algorithm(),
            element(OCTETS, &element(OCTETS, signer.as_bytes())),
        ]);
        let certificates = pem("CERTIFICATE", &own) + &pem("CERTIFICATE", &top);
        Ok(Self { certificates, key: pem("PRIVATE KEY", &key) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn lengths_and_texts_are_those_of_der_and_pem() {
        assert_eq!(element(OCTETS, &[1; 127])[..2], [4, 127]);
        assert_eq!(element(OCTETS, &[1; 128])[..3], [4, 0x81, 128]);
        assert_eq!(element(OCTETS, &[1; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(pem("X", &[0; 3]), "-----BEGIN X-----\nAAAA\n-----END X-----\n");
        let later = validity(SystemTime::UNIX_EPOCH + Duration::from_secs(3_000_000_000));
        assert!(later.windows(15).any(|part| part == b"20650123052000Z"), "{later:x?}");
    }

    /// Another implementation reads the chain and finds it signed.
    #[test]
    fn openssl_accepts_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let chain = Chain::make("tests", SystemTime::now()).unwrap();
        let again = Chain::make("tests", SystemTime::now()).unwrap();
        assert!(chain.key != again.key && chain.certificates != again.certificates);
        let (own, top) =
            chain.certificates.split_at(chain.certificates.rfind("-----BEGIN").unwrap());
        for (name, text) in [("own.pem", own), ("top.pem", top), ("key.pem", &chain.key)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let openssl = |words: &str| {
            let mut command = Command::new("openssl");
            let output = command.args(words.split(' ')).current_dir(folder.path()).output().ok()?;
            Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
        };
        let Some((fine, said)) = openssl("verify -x509_strict -CAfile top.pem own.pem") else {
            eprintln!("skipped: no openssl program");
            return;
        };
        assert!(fine, "{said}");
        let (_, said) = openssl("x509 -in own.pem -noout -text").unwrap();
        for words in ["LOCAL USE ONLY", "Digital Signature", "E-mail Protection", "9999"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let public = |words: &str| openssl(words).unwrap();
        assert_eq!(public("x509 -in own.pem -noout -pubkey"), public("pkey -in key.pem -pubout"));
    }
}
