//! Receipts: a node of a group says that it has all of a content. What every node of the group has
//! is carried for nobody any more, and goes first when a store is full.

use crate::content::record::write_content_key;
use crate::ids::{ContentKey, KeyError, PublisherKey, Signature, SigningKey};
use crate::wire::Writer;

const DOMAIN: &[u8] = b"lavant receipt 1\0";

/// A node's signed word that it has all of a finished content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The node.
    pub node: PublisherKey,
    /// Its signature over the content's name and the hash of its manifest.
    pub signature: Signature,
}

impl Receipt {
    /// Signs that the node with this key has all of a content.
    #[must_use]
    pub fn sign(key: &SigningKey, content: &ContentKey, manifest: &[u8; 32]) -> Self {
        Self {
            node: key.publisher(),
            signature: key.sign(DOMAIN, &statement(content, manifest)),
        }
    }

    /// Checks the node's signature.
    pub fn verify(&self, content: &ContentKey, manifest: &[u8; 32]) -> Result<(), KeyError> {
        self.node
            .verify(DOMAIN, &statement(content, manifest), &self.signature)
    }
}

fn statement(content: &ContentKey, manifest: &[u8; 32]) -> Vec<u8> {
    let mut w = Writer::new();
    write_content_key(&mut w, content);
    // With the manifest: a receipt must not be good for what is published under the name later.
    w.bytes(manifest);
    w.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ContentId;

    #[test]
    fn a_receipt_holds_for_one_content_in_one_version() {
        let key = SigningKey::from_seed(&[1; 32]);
        let mut content = ContentKey {
            publisher: SigningKey::from_seed(&[2; 32]).publisher(),
            content_id: ContentId::new("film").unwrap(),
            version: 1,
        };
        let receipt = Receipt::sign(&key, &content, &[3; 32]);
        assert_eq!(receipt.verify(&content, &[3; 32]), Ok(()));
        assert!(receipt.verify(&content, &[4; 32]).is_err());
        content.version = 2;
        assert!(receipt.verify(&content, &[3; 32]).is_err());
    }
}
