//! The TLS 1.3 record layer of an open TCP link.
//!
//! rustls' own buffered connection copies every byte twice more and locks both directions
//! together. Here each direction has its keys for itself: frames are encrypted from where they
//! are, and decrypted where they were read. The cipher, the nonces and the check of a record are
//! rustls'; this module only counts records, finds their ends and changes the keys.

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
        Ok(Self {
            writer: RecordWriter {
                suite,
                sequence: secrets.tx.0,
                cipher: encrypter(suite, secrets.tx.1)?,
                next: Arc::clone(&next),
                most: RECORDS_MAX,
            },
            reader: RecordReader {
                suite,
                sequence: secrets.rx.0,
                cipher: decrypter(suite, secrets.rx.1)?,
                next,
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
            if self.sequence >= self.most {
                put(self.record(ContentType::Handshake, OutboundChunks::Single(&KEY_UPDATE))?);
                let (sequence, secrets) = next_secrets(&self.next, Secrets::Ours)?;
                self.cipher = encrypter(self.suite, secrets)?;
                self.sequence = sequence;
            }
            let (head, tail) = rest.split_at(rest.len().min(PLAIN_MAX));
            put(self.record(ContentType::ApplicationData, head)?);
            rest = tail;
        }
        Ok(())
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
        let message = self
            .cipher
            .decrypt(message, self.sequence)
            .map_err(|_| "a record was changed on its way".to_owned())?;
        self.sequence += 1;
        match (message.typ, message.payload) {
            (ContentType::ApplicationData, payload) => plain.extend_from_slice(payload),
            (ContentType::Alert, [_, 0]) => return Ok(Reading::Ended),
            (ContentType::Handshake, payload) if payload == KEY_UPDATE => {
                let (sequence, secrets) =
                    next_secrets(&self.next, Secrets::Theirs).map_err(|e| e.to_string())?;
                self.cipher = decrypter(self.suite, secrets).map_err(|e| e.to_string())?;
                self.sequence = sequence;
            }
            (typ, _) => return Err(format!("a TLS message that no node sends ({typ:?})")),
        }
        Ok(Reading::Open)
    }
}
