//! A message on a link's control channel: a way, a kind, a body (docs/protocol.md, "Messages").

use crate::contact::hello::Way;
use crate::contact::message::ContactMessage;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::piece::message::PieceMessage;
use crate::relay::message::RelayMessage;
use crate::wire::{DecodeError, Reader, Writer};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Of the contact itself.
    Contact(ContactMessage),
    /// Of requests.
    Piece(PieceMessage),
    /// Of contents.
    Relay(RelayMessage),
    /// Of a way, or of a kind, that this version does not know. It is counted and passed over: a
    /// later version may say it to whoever listens.
    Unknown {
        /// The way.
        way: u8,
        /// The kind.
        kind: u8,
    },
}

impl Message {
    /// The message as it crosses a link.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Contact(message) => message.write(w.byte(Way::Contact.code())),
            Self::Piece(message) => message.write(w.byte(Way::Piece.code())),
            Self::Relay(message) => message.write(w.byte(Way::Relay.code())),
            Self::Unknown { way, kind } => {
                w.byte(*way).byte(*kind);
            }
        }
        w.finish()
    }

    /// The inverse of [`Message::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        // Lists grow as their entries are read, so this bounds all that one message can make a
        // decoder allocate.
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::Limit("message"));
        }
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let (way, kind) = (r.byte("way")?, r.byte("kind")?);
        let message = match way {
            0 => ContactMessage::read(kind, r)?.map(Self::Contact),
            1 => PieceMessage::read(kind, r)?.map(Self::Piece),
            2 => RelayMessage::read(kind, r)?.map(Self::Relay),
            _ => None,
        };
        // Only a later version knows how what follows is to be read.
        let Some(message) = message else {
            return Ok(Self::Unknown { way, kind });
        };
        // What goes on behind its end would be a second encoding of the same message.
        reader.end()?;
        Ok(message)
    }

    /// The way that it belongs to.
    #[must_use]
    pub const fn way(&self) -> u8 {
        match self {
            Self::Contact(_) => Way::Contact.code(),
            Self::Piece(_) => Way::Piece.code(),
            Self::Relay(_) => Way::Relay.code(),
            Self::Unknown { way, .. } => *way,
        }
    }
}

impl From<ContactMessage> for Message {
    fn from(message: ContactMessage) -> Self {
        Self::Contact(message)
    }
}

impl From<PieceMessage> for Message {
    fn from(message: PieceMessage) -> Self {
        Self::Piece(message)
    }
}

impl From<RelayMessage> for Message {
    fn from(message: RelayMessage) -> Self {
        Self::Relay(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contact::hello::{Hello, Interest};
    use crate::numbers::RequestNo;

    #[test]
    fn messages_of_contacts_and_requests_round_trip() {
        let hello = Hello::new("ship".into(), Interest::everything(), Some([1; 32]));
        let messages: [Message; 5] = [
            ContactMessage::Hello(hello).into(),
            ContactMessage::Ping(8).into(),
            ContactMessage::Pong(8).into(),
            PieceMessage::Gone(RequestNo(9)).into(),
            PieceMessage::Cancel(RequestNo(9)).into(),
        ];
        for message in messages {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err());
            }
        }
    }

    #[test]
    fn ways_and_kinds_of_a_later_version_are_passed_over() {
        for (way, kind) in [(9, 0), (0, 77), (1, 77), (2, 200)] {
            let decoded = Message::decode(&[way, kind, 1, 2, 3]);
            assert_eq!(decoded, Ok(Message::Unknown { way, kind }));
        }
    }

    #[test]
    fn the_first_version_is_known_when_it_is_heard() {
        // Version 1: kind 0, version 1, name "old", no interest, no proof.
        let hello = [0, 1, 3, b'o', b'l', b'd', 1, 0, 0, 0];
        assert_eq!(Message::decode(&hello), Ok(ContactMessage::TooOld.into()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert!(message.encode().len() <= bytes.len() + 64);
            }
        }
    }
}
