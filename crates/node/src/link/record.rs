//! The TLS 1.3 record layer of an open TCP link.
//!
//! rustls' own buffered connection copies every byte twice more and locks both directions
//! together. Here each direction has its keys for itself: frames are encrypted from where they
//! are, and decrypted where they were read. The cipher, the nonces and the check of a record are
//! rustls'; this module only counts records, finds their ends and changes the keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

/// Bytes of a record's header.
const RECORD_HEADER: usize = 5;
/// Most bytes said in one record (RFC 8446 section 5.1).
const PLAIN_MAX: usize = 16_384;
/// Most bytes of a record after its header (RFC 8446 section 5.2).
const RECORD_MAX: usize = PLAIN_MAX + 256;
/// A message that says that the next record has new keys, and asks for none in return.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// The same, and the other side is to take new keys as well (RFC 8446 section 4.6.3).
const KEY_UPDATE_BOTH: [u8; 5] = [24, 0, 0, 1, 1];
/// The first byte of a ticket for a later handshake, which no node needs.
const NEW_SESSION_TICKET: u8 = 4;
/// Records in a row that say nothing to us: each costs work, and none is needed.
const IDLE_MAX: u32 = 32;
/// Records by one key: half of what AES-GCM may have (RFC 8446 section 5.5 allows 2^24.5).
const RECORDS_MAX: u64 = 1 << 23;

/// Whose secrets are to be replaced.
pub(super) enum Secrets {
    /// Those we encrypt with.
    Ours,
    /// Those the other side encrypts with.
    Theirs,
}

/// Gives the next secrets of a direction and the number of its first record.
pub(super) type NextSecrets =
    Box<dyn FnMut(Secrets) -> Result<(u64, ConnectionTrafficSecrets), Error> + Send>;

type SharedSecrets = Arc<Mutex<NextSecrets>>;

/// Both directions of a link.
pub(super) struct RecordKeys {
    pub(super) writer: RecordWriter,
    pub(super) reader: RecordReader,
}

impl RecordKeys {
    pub(super) fn new(
        suite: SupportedCipherSuite,
        secrets: ExtractedSecrets,
        next: NextSecrets,
    ) -> Result<Self, Error> {
        let suite = suite
            .tls13()
            .ok_or_else(|| Error::General("TLS 1.3 is needed".to_owned()))?;
        let next: SharedSecrets = Arc::new(Mutex::new(next));
        let asked = Arc::<AtomicBool>::default();
        Ok(Self {
            writer: RecordWriter {
                suite,
                sequence: secrets.tx.0,
                cipher: encrypter(suite, secrets.tx.1)?,
                next: Arc::clone(&next),
                most: RECORDS_MAX,
                asked: Arc::clone(&asked),
            },
            reader: RecordReader {
                suite,
                sequence: secrets.rx.0,
                cipher: decrypter(suite, secrets.rx.1)?,
                next,
                asked,
                idle: 0,
            },
        })
    }
}

fn encrypter(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageEncrypter>, Error> {
    let (key, iv) = key_and_iv(secrets)?;
    Ok(suite.aead_alg.encrypter(key, iv))
}

fn decrypter(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, Error> {
    let (key, iv) = key_and_iv(secrets)?;
    Ok(suite.aead_alg.decrypter(key, iv))
}

fn key_and_iv(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    match secrets {
        Aes128Gcm { key, iv } | Aes256Gcm { key, iv } | Chacha20Poly1305 { key, iv } => {
            Ok((key, iv))
        }
        _ => Err(Error::General("a cipher that is not known".to_owned())),
    }
}

fn next_secrets(
    next: &SharedSecrets,
    which: Secrets,
) -> Result<(u64, ConnectionTrafficSecrets), Error> {
    (next.lock().unwrap_or_else(PoisonError::into_inner))(which)
}

/// Makes records of what we say.
pub(super) struct RecordWriter {
    suite: &'static Tls13CipherSuite,
    sequence: u64,
    cipher: Box<dyn MessageEncrypter>,
    next: SharedSecrets,
    most: u64,
    // Whether the other side wants us to take new keys.
    asked: Arc<AtomicBool>,
}

impl RecordWriter {
    /// Hands the records of these pieces, one after the other, to `put`.
    pub(super) fn write(
        &mut self,
        pieces: &[&[u8]],
        mut put: impl FnMut(Vec<u8>),
    ) -> Result<(), Error> {
        let mut rest = OutboundChunks::new(pieces);
        while !rest.is_empty() {
            // Before the next data, as the other side expects (RFC 8446 section 4.6.3); keys are
            // also changed before they have sealed too much.
            if self.asked.swap(false, Ordering::AcqRel) || self.sequence >= self.most {
                put(self.take_new_keys(&KEY_UPDATE)?);
            }
            let (head, tail) = rest.split_at(rest.len().min(PLAIN_MAX));
            put(self.record(ContentType::ApplicationData, head)?);
            rest = tail;
        }
        Ok(())
    }

    /// The record that says so, and new keys from the next one on.
    fn take_new_keys(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        // Still with the old keys, by which the other side reads it.
        let record = self.record(ContentType::Handshake, OutboundChunks::Single(message))?;
        let (sequence, secrets) = next_secrets(&self.next, Secrets::Ours)?;
        self.cipher = encrypter(self.suite, secrets)?;
        self.sequence = sequence;
        Ok(record)
    }

    /// The record by which both sides are to take new keys.
    #[cfg(test)]
    pub(super) fn ask_for_new_keys(&mut self) -> Vec<u8> {
        self.take_new_keys(&KEY_UPDATE_BOTH).unwrap()
    }

    /// A record of any kind.
    #[cfg(test)]
    pub(super) fn any(&mut self, typ: ContentType, bytes: &[u8]) -> Vec<u8> {
        self.record(typ, OutboundChunks::Single(bytes)).unwrap()
    }

    /// Replaces the keys after this many records.
    #[cfg(test)]
    pub(super) fn replace_keys_after(&mut self, most: u64) {
        self.most = most;
    }

    /// The record that ends our direction.
    pub(super) fn close_notify(&mut self) -> Result<Vec<u8>, Error> {
        self.record(ContentType::Alert, OutboundChunks::Single(&[1, 0]))
    }

    fn record(&mut self, typ: ContentType, payload: OutboundChunks<'_>) -> Result<Vec<u8>, Error> {
        let message = OutboundPlainMessage {
            typ,
            // The version that stands in a header of TLS 1.3 (RFC 8446 section 5.2).
            version: ProtocolVersion::TLSv1_2,
            payload,
        };
        let record = self.cipher.encrypt(message, self.sequence)?.encode();
        self.sequence += 1;
        Ok(record)
    }
}

/// Reads records.
pub(super) struct RecordReader {
    suite: &'static Tls13CipherSuite,
    sequence: u64,
    cipher: Box<dyn MessageDecrypter>,
    next: SharedSecrets,
    asked: Arc<AtomicBool>,
    // Records since the last one that said something.
    idle: u32,
}

/// What [`RecordReader::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// More bytes are needed.
    Open,
    /// The other side has ended its direction in order.
    Ended,
}

impl RecordReader {
    /// Appends what is said in the whole records of `incoming` to `plain`; returns how many bytes
    /// are used up. What came before an error is appended too.
    pub(super) fn read(
        &mut self,
        incoming: &mut [u8],
        plain: &mut BytesMut,
    ) -> (usize, Result<Reading, String>) {
        let mut used = 0;
        while let Some(&[kind, _, _, high, low]) = incoming[used..].first_chunk() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            // Each byte of a record is accounted for before the record is there.
            if kind != 23 || length > RECORD_MAX {
                return (used, Err("what came is no TLS record".to_owned()));
            }
            let end = used + RECORD_HEADER + length;
            if end > incoming.len() {
                break;
            }
            let sealed = &mut incoming[used + RECORD_HEADER..end];
            used = end;
            match self.open(sealed, plain) {
                Ok(Reading::Open) => {}
                other => return (used, other),
            }
        }
        (used, Ok(Reading::Open))
    }

    fn open(&mut self, sealed: &mut [u8], plain: &mut BytesMut) -> Result<Reading, String> {
        let message = InboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            sealed,
        );
        // Any fault ends the link (RFC 8446 section 5.2): bytes were lost, changed or sent again.
        let message = self
            .cipher
            .decrypt(message, self.sequence)
            .map_err(|_| "a record was changed on its way".to_owned())?;
        self.sequence += 1;
        let payload = message.payload;
        match message.typ {
            ContentType::ApplicationData if !payload.is_empty() => {
                plain.extend_from_slice(payload);
                self.idle = 0;
                return Ok(Reading::Open);
            }
            // Empty records are allowed, and counted below.
            ContentType::ApplicationData => {}
            ContentType::Alert if matches!(*payload, [_, 0]) => return Ok(Reading::Ended),
            ContentType::Handshake if *payload == KEY_UPDATE => self.take_new_keys()?,
            ContentType::Handshake if *payload == KEY_UPDATE_BOTH => {
                self.take_new_keys()?;
                // The writer belongs to another task, which sees it before its next record.
                self.asked.store(true, Ordering::Release);
            }
            ContentType::Handshake if payload.first() == Some(&NEW_SESSION_TICKET) => {}
            typ => return Err(format!("a TLS message that no node sends ({typ:?})")),
        }
        self.idle += 1;
        if self.idle > IDLE_MAX {
            return Err("too many TLS records that say nothing".to_owned());
        }
        Ok(Reading::Open)
    }

    fn take_new_keys(&mut self) -> Result<(), String> {
        let next = next_secrets(&self.next, Secrets::Theirs);
        let (sequence, secrets) = next.map_err(|error| error.to_string())?;
        self.cipher = decrypter(self.suite, secrets).map_err(|error| error.to_string())?;
        self.sequence = sequence;
        Ok(())
    }

    /// Records by the keys of now.
    #[cfg(test)]
    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }
}
