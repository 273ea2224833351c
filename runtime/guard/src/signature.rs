//! Signatures (Ed25519) over canonical JSON (RFC 8785), and the files that keys live in.
//!
//! A secret is 32 bytes in hexadecimal in a file that only its owner may read. Secrets are never
//! settings themselves, and never printed.

use anyid_files::error::{Error, Result, unreadable};
use anyid_files::input;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde_json::Value;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::Path;

const PREFIX: &str = "ed25519:";
const SECRET_BYTES: u64 = 256;

/// A private key that signs.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// Only what everybody may know.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public())
    }
}

impl SecretKey {
    /// The key of 32 secret bytes.
    pub fn of(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// As [`read_secret`].
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::of(&read_secret(path)?))
    }

    /// The public key, `ed25519:` and base64.
    pub fn public(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(self.0.verifying_key().as_bytes()))
    }

    /// The signature of `value` without its `sig`, in base64.
    ///
    /// # Errors
    /// E1106 for numbers that have no canonical form here.
    pub fn sign(&self, value: &Value) -> Result<String> {
        Ok(BASE64_STANDARD.encode(self.0.sign(&signed_bytes(value)?).to_bytes()))
    }
}

/// Whether `value`, an object with `sig`, was signed with the key of this public text.
///
/// # Errors
/// E1106 for numbers that have no canonical form here.
pub fn is_signed(value: &Value, public: &str) -> Result<bool> {
    let key = public
        .strip_prefix(PREFIX)
        .and_then(|text| BASE64_STANDARD.decode(text).ok())
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
    let signature = value["sig"]
        .as_str()
        .and_then(|text| BASE64_STANDARD.decode(text).ok())
        .and_then(|bytes| Signature::from_slice(&bytes).ok());
    let (Some(key), Some(signature)) = (key, signature) else { return Ok(false) };
    Ok(key.verify_strict(&signed_bytes(value)?, &signature).is_ok())
}

/// The secret of a key file.
///
/// # Errors
/// E1107 if it is missing, may be read by others, or is not 32 bytes in hexadecimal.
pub fn read_secret(path: &Path) -> Result<[u8; 32]> {
    let bad = |what: &str| {
        Error::input("E1107", what).at(path.display()).help(
            "make one with `anyid-rt watermark key -o FILE` or `anyid-rt consent key -o FILE`",
        )
    };
    if !path.exists() {
        return Err(bad("there is no such key file"));
    }
    check_private(path)?;
    let large = |_| bad("this is no key file: it is too large");
    let bytes = input::read(path, SECRET_BYTES)
        .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    crate::unhex(text.trim())
        .ok_or_else(|| bad("this is no key file: 64 hexadecimal digits belong there"))
}

/// Checks that nobody but its owner may use a key file.
///
/// # Errors
/// E1107 if others may, E0911 if nothing is known of it.
#[cfg(unix)]
pub fn check_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let about = std::fs::metadata(path).map_err(|fault| unreadable(path, fault))?;
    match about.permissions().mode() & 0o077 {
        0 => Ok(()),
        mode => {
            Err(Error::input("E1107", format!("others may use this key file (mode {mode:03o})"))
                .at(path.display())
                .help(format!("chmod 600 {}", path.display())))
        }
    }
}

/// Whether others may use a key file does not show here.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn check_private(_: &Path) -> Result<()> {
    Ok(())
}

/// Draws a key and writes its file, which must not exist and which only its owner may read.
///
/// # Errors
/// E1016 something is there already, E1010–E1013 it cannot be written, E1107 the system has no
/// random numbers.
pub fn make_secret(path: &Path) -> Result<[u8; 32]> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|fault| {
        Error::input("E1107", format!("the system gives no random numbers: {fault}"))
    })?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|fault| match fault.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::input("E1016", "there is a file of this name already")
                .at(path.display())
                .help("choose another name: a key that is lost cannot be made again")
        }
        _ => anyid_files::output::write_error(path, fault),
    })?;
    let written = writeln!(file, "{}", crate::hex(&secret)).and_then(|()| file.sync_all());
    written.map_err(|fault| anyid_files::output::write_error(path, fault))?;
    Ok(secret)
}

/// The bytes that a signature or a hash of `value` is about: all of it but `sig` and `hash`.
pub fn signed_bytes(value: &Value) -> Result<Vec<u8>> {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        object.shift_remove("sig");
        object.shift_remove("hash");
    }
    let mut out = String::new();
    canonical(&value, &mut out)?;
    Ok(out.into_bytes())
}

/// Canonical JSON (RFC 8785).
fn canonical(value: &Value, out: &mut String) -> Result<()> {
    match value {
        Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
        Value::Number(number) => match number.as_f64() {
            _ if number.is_i64() || number.is_u64() => out.push_str(&number.to_string()),
            Some(0.0) => out.push('0'),
            // Within these bounds the shortest decimal is written as JavaScript writes it.
            Some(float) if (1e-6..1e15).contains(&float.abs()) => {
                let _ = write!(out, "{float}");
            }
            _ => {
                let what =
                    format!("the number {number} has no canonical form that is offered here");
                return Err(Error::input("E1106", what).help("write it as a text"));
            }
        },
        // serde_json escapes what RFC 8785 wants to be escaped, in the same way.
        Value::String(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                canonical(item, out)?;
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (at, key) in keys.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                canonical(&members[key], out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn form(value: &Value) -> String {
        let mut out = String::new();
        canonical(value, &mut out).unwrap();
        out
    }

    #[test]
    fn canonical_json_is_that_of_rfc_8785() {
        // The examples of its sections 3.2.2 and 3.2.3.
        let text = r#"{"numbers":[333333333.33333329,4.50,2e-3,0.0,1.0],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let expected = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,4.5,0.002,0,1],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(form(&value), expected);
        let sorted = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let value: Value = serde_json::from_str(sorted).unwrap();
        let order = ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"];
        let text = form(&value);
        let places: Vec<usize> = order.iter().map(|word| text.find(word).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
        let error = canonical(&json!(1e300), &mut String::new()).unwrap_err();
        assert_eq!(error.code(), "E1106");
    }

    #[test]
    fn signatures_are_those_of_rfc_8032_and_notice_changes() {
        // The key of the first test of section 7.1.
        let secret =
            crate::unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = SecretKey::of(&secret.unwrap());
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let expected = crate::unhex::<32>(public).unwrap();
        assert_eq!(key.public(), format!("{PREFIX}{}", BASE64_STANDARD.encode(expected)));
        let mut value = json!({ "b": 1, "a": "x" });
        value["sig"] = json!(key.sign(&value).unwrap());
        assert!(is_signed(&value, &key.public()).unwrap());
        value["b"] = json!(2);
        assert!(!is_signed(&value, &key.public()).unwrap());
        value["b"] = json!(1);
        assert!(!is_signed(&value, &SecretKey::of(&[1; 32]).public()).unwrap());
        for public in ["", "ed25519:", "ed25519:AAAA", "rsa:x"] {
            assert!(!is_signed(&value, public).unwrap(), "{public}");
        }
        value["sig"] = json!("no");
        assert!(!is_signed(&value, &key.public()).unwrap());
    }

    #[test]
    fn key_files_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let secret = make_secret(&path).unwrap();
        assert_eq!(read_secret(&path).unwrap(), secret);
        assert_eq!(make_secret(&path).unwrap_err().code(), "E1016");
        assert_eq!(make_secret(&folder.path().join("a/b")).unwrap_err().code(), "E1010");
        let missing = read_secret(&folder.path().join("none")).unwrap_err();
        assert_eq!(missing.code(), "E1107");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            let error = read_secret(&path).unwrap_err();
            assert!(error.code() == "E1107" && error.message().contains("044"), "{error}");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        for text in ["", "zz", &"0".repeat(63), &"0".repeat(4000)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_secret(&path).unwrap_err().code(), "E1107");
        }
    }
}
