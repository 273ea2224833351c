//! What a statement of origin says (a C2PA manifest), as plain values.
//!
//! It names the program, what was done, the references by their hashes, the watermark, how the result
//! was made and which safeguards were on. It holds no picture, no name of a file, and the text of a prompt
//! only if a policy says so. Its bytes and signatures are the business of `sealer`.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// A result of a network, by the vocabulary of the IPTC.
pub const SOURCE_TYPE: &str =
    "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
/// How watermarks are called: patterns, and what networks of the user's put in. They are in no
/// public list.
pub const MARKS: [&str; 2] = ["org.anyid-rt.tile-ss.1", "org.anyid-rt.videoseal.1"];
/// The assertion that says how a result was made.
pub const RECIPE: &str = "org.anyid-rt.recipe";
/// The assertion that says which safeguards were on.
pub const POLICY: &str = "org.anyid-rt.policy";

/// A reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// SHA-256 of its bytes in hexadecimal.
    pub sha256: String,
    /// Its format, such as `image/png`.
    pub format: String,
}

/// What is stated about a result.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Version of the program.
    pub version: String,
    /// The references, the primary one first.
    pub references: Vec<Reference>,
    /// The key of salted hashes.
    pub salt: Option<[u8; 32]>,
    /// The watermark, as it is called in [`MARKS`], and its id.
    pub mark: Option<(&'static str, String)>,
    /// How the result was made.
    pub recipe: Value,
    /// The safeguards of the run.
    pub policy: Value,
}

/// What is said of a reference: its hash, or with a salt HMAC-SHA-256 (RFC 2104) of that text.
pub fn description(sha256: &str, salt: Option<&[u8; 32]>) -> String {
    let Some(salt) = salt else { return format!("sha256:{sha256}") };
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(salt).for_each(|(block, salt)| *block ^= salt);
        block
    };
    let digest = |pad: [u8; 64], text: &[u8]| Sha256::new().chain_update(pad).chain_update(text);
    let inner = digest(pad(0x36), sha256.as_bytes()).finalize();
    let outer = digest(pad(0x5c), &inner).finalize();
    format!("hmac-sha256:{}", anyid_guard::hex(&outer))
}

impl Claims {
    /// The manifest in the JSON that the crate `c2pa` takes, but for the soft binding.
    pub fn definition(&self) -> Value {
        let agent = json!({ "name": "anyid-rt", "version": self.version });
        let label = |at: usize| format!("ref-{at}");
        let mut created = Map::new();
        created.insert("action".to_owned(), json!("c2pa.created"));
        created.insert("digitalSourceType".to_owned(), json!(SOURCE_TYPE));
        created.insert("softwareAgent".to_owned(), agent.clone());
        if !self.references.is_empty() {
            let labels: Vec<String> = (0..self.references.len()).map(label).collect();
            created.insert("parameters".to_owned(), json!({ "ingredientIds": labels }));
        }
        let mut actions = vec![Value::Object(created)];
        if self.mark.is_some() {
            let marked = json!({ "action": "c2pa.watermarked.bound", "softwareAgent": agent });
            actions.push(marked);
        }
        let ingredients = self.references.iter().enumerate().map(|(at, reference)| {
            let primary = if at == 0 { " (primary)" } else { "" };
            json!({
                "title": format!("reference {}{primary}", at + 1),
                "format": reference.format,
                "relationship": "inputTo",
                "label": label(at),
                "description": description(&reference.sha256, self.salt.as_ref()),
            })
        });
        let assertion =
            |label: &str, data: &Value| json!({ "label": label, "data": data, "created": true });
        json!({
            "claim_generator_info": [agent],
            "ingredients": ingredients.collect::<Vec<_>>(),
            "assertions": [
                assertion("c2pa.actions.v2", &json!({ "actions": actions })),
                assertion(RECIPE, &self.recipe),
                assertion(POLICY, &self.policy),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_references_by_hashes_alone() {
        let reference =
            |byte: &str| Reference { sha256: byte.repeat(32), format: "image/png".to_owned() };
        let mut claims = Claims {
            version: "1".to_owned(),
            references: vec![reference("ab"), reference("cd")],
            salt: None,
            mark: Some((MARKS[0], "9c1f00a5".to_owned())),
            recipe: json!({ "steps": 1 }),
            policy: json!({}),
        };
        let made = claims.definition();
        assert_eq!(made["ingredients"][0]["title"], "reference 1 (primary)");
        assert_eq!(made["ingredients"][1]["title"], "reference 2");
        let hash = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(made["ingredients"][0]["description"], hash.as_str());
        let actions = &made["assertions"][0]["data"]["actions"];
        assert_eq!(actions[0]["parameters"]["ingredientIds"], json!(["ref-0", "ref-1"]));
        assert_eq!(actions[1]["action"], "c2pa.watermarked.bound");
        claims.salt = Some([1; 32]);
        assert!(!claims.definition().to_string().contains(&"ab".repeat(32)));
        (claims.mark, claims.references) = (None, Vec::new());
        let made = claims.definition();
        assert_eq!(made["assertions"][0]["data"]["actions"].as_array().unwrap().len(), 1);
        assert!(!made.to_string().contains("ingredientIds"));
    }

    #[test]
    fn salted_hashes_are_hmac() {
        // The first case of RFC 4231 has a key of 20 bytes, which zeros extend.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(description("Hi There", Some(&key)), format!("hmac-sha256:{expected}"));
    }
}
