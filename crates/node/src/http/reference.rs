//! Paths that name a content: `CONTENT_ID` or `PUBLISHER/CONTENT_ID`, and what follows.

use std::sync::Arc;

use lavant_proto::ids::{ContentId, PublisherKey};

use super::error::ApiError;
use crate::store::{Catalog, Content};

/// A named content, and the rest of the path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    pub(super) publisher: Option<PublisherKey>,
    pub(super) content_id: ContentId,
    pub(super) rest: Vec<&'a str>,
}

impl<'a> Reference<'a> {
    /// Splits a percent-decoded path.
    pub(super) fn parse(path: &'a str) -> Result<Self, ApiError> {
        // No content_id has the form of a publisher, so the first part tells which of the two it
        // is.
        let mut parts = path.split('/').peekable();
        let publisher =
            match parts.next_if(|part| PublisherKey::is_form(part)) {
                Some(key) => Some(key.parse().map_err(|_| {
                    ApiError::bad_request(format!("{key} is not a publisher's key"))
                })?),
                None => None,
            };
        let id = parts.next().unwrap_or_default();
        let content_id =
            ContentId::new(id).map_err(|error| ApiError::bad_request(error.to_string()))?;
        Ok(Self {
            publisher,
            content_id,
            rest: parts.collect(),
        })
    }

    /// The content that is meant: the given version, or the current one.
    pub(super) fn find(
        &self,
        catalog: &Catalog,
        version: Option<u32>,
    ) -> Result<Arc<Content>, ApiError> {
        catalog
            .find(self.publisher.as_ref(), &self.content_id, version)
            .cloned()
            .ok_or_else(|| {
                let id = self.content_id.as_str();
                ApiError::not_found(match version {
                    Some(version) => format!("version {version} of content {id:?} is not here"),
                    None => format!("content {id:?} is not here; /catalog lists what is"),
                })
            })
    }

    /// Refuses a path that goes on.
    pub(super) fn end(&self) -> Result<(), ApiError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(ApiError::not_found(
            "there is nothing below a content at this path",
        ))
    }
}

#[cfg(test)]
mod tests {
    use lavant_proto::ids::SigningKey;

    use super::*;

    #[test]
    fn a_publisher_in_front_is_told_from_an_id() {
        let key = SigningKey::from_seed(&[3; 32]).publisher();
        let path = format!("{key}/film/1/main/0.ts");
        let reference = Reference::parse(&path).unwrap();
        assert_eq!(reference.publisher, Some(key));
        assert_eq!(reference.content_id.as_str(), "film");
        assert_eq!(reference.rest, ["1", "main", "0.ts"]);
        let plain = Reference::parse("film").unwrap();
        assert_eq!((plain.publisher, plain.rest.len()), (None, 0));
        for bad in ["", "..", "../x", "a b"] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }
}
