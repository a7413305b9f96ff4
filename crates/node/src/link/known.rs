//! Which key a host had when it was first dialled: a file of lines `HOST:PORT KEY`.
//!
//! A node that is dialled without its key is trusted at first, and must have the same key
//! afterwards. The file is written anew as a whole, so a crash leaves the old or the new one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lavant_proto::ids::PublisherKey;

use super::KnownPeersError;

/// Lines of a file: a node is dialled by a few hosts, not by thousands.
const LINES_MAX: usize = 4096;
/// Bytes of a file: [`LINES_MAX`] lines of a host name (253), a port (6) and a key (65).
const FILE_BYTES_MAX: u64 = 4096 * 324;

/// The remembered keys.
#[derive(Debug)]
pub struct KnownPeers {
    file: PathBuf,
    // One change at a time; the file itself is what is known.
    change: Mutex<()>,
}

impl KnownPeers {
    /// In this file, which need not exist yet.
    #[must_use]
    pub fn at(file: PathBuf) -> Self {
        Self {
            file,
            change: Mutex::new(()),
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The key of a host, written `HOST:PORT`.
    pub fn key_of(&self, host: &str) -> Result<Option<PublisherKey>, KnownPeersError> {
        find(&self.file, &self.read()?, host)
    }

    /// Remembers the key of a host that has none yet; returns the one it has now.
    pub fn remember(
        &self,
        host: &str,
        key: &PublisherKey,
    ) -> Result<PublisherKey, KnownPeersError> {
        // Held from reading to writing: of two dials at once, the second one finds the key of the
        // first.
        let _one = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = self.read()?;
        // Never replaced: that is for the operator, who knows why it has changed.
        if let Some(before) = find(&self.file, &text, host)? {
            return Ok(before);
        }
        // People edit the file; without this, two lines would become one.
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{host} {key}\n"));
        if text.lines().count() > LINES_MAX || text.len() as u64 > FILE_BYTES_MAX {
            return Err(KnownPeersError::Full(self.file.clone()));
        }
        self.write(&text).map_err(|error| self.failed(error))?;
        Ok(*key)
    }

    fn read(&self) -> Result<String, KnownPeersError> {
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut text = String::new();
        // One byte more, to tell a full file from one that is too long.
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|error| self.failed(error))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(KnownPeersError::Full(self.file.clone()));
        }
        Ok(text)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        // Flushed, then renamed, then the folder flushed: a crash at any point leaves one whole
        // file.
        let mut name = self.file.clone().into_os_string();
        name.push(".new");
        let fresh = PathBuf::from(name);
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &self.file)?;
        match self.file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: io::Error) -> KnownPeersError {
        KnownPeersError::Io {
            file: self.file.clone(),
            source: error,
        }
    }
}

/// The key on the line of `host`. A damaged line is an error, as it could be the host's own.
fn find(file: &Path, text: &str, host: &str) -> Result<Option<PublisherKey>, KnownPeersError> {
    let mut found = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let damaged = || KnownPeersError::Line {
            file: file.to_owned(),
            line: number + 1,
        };
        let (name, key) = line.split_once(char::is_whitespace).ok_or_else(damaged)?;
        let key: PublisherKey = key.trim().parse().map_err(|_| damaged())?;
        if name == host {
            // The first line counts, and the rest is read on only to find damage.
            found.get_or_insert(key);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PublisherKey {
        lavant_proto::ids::SigningKey::from_seed(&[seed; 32]).publisher()
    }

    #[test]
    fn a_key_is_remembered_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownPeers::at(folder.path().join("known_peers"));
        assert_eq!(known.key_of("a:1").unwrap(), None);
        assert_eq!(known.remember("a:1", &key(1)).unwrap(), key(1));
        assert_eq!(known.remember("[::1]:2", &key(2)).unwrap(), key(2));
        assert_eq!(known.remember("a:1", &key(3)).unwrap(), key(1));
        let again = KnownPeers::at(known.file().to_owned());
        assert_eq!(again.key_of("a:1").unwrap(), Some(key(1)));
        assert_eq!(again.key_of("[::1]:2").unwrap(), Some(key(2)));
        assert_eq!(again.key_of("a:2").unwrap(), None);
        let text = fs::read_to_string(known.file()).unwrap();
        assert_eq!(text, format!("a:1 {}\n[::1]:2 {}\n", key(1), key(2)));
    }

    #[test]
    fn people_can_write_the_file_and_are_told_where_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownPeers::at(folder.path().join("known_peers"));
        let text = format!("# mine\n\n  a:1\t{}", key(1));
        fs::write(known.file(), &text).unwrap();
        assert_eq!(known.key_of("a:1").unwrap(), Some(key(1)));
        known.remember("b:1", &key(2)).unwrap();
        let now = fs::read_to_string(known.file()).unwrap();
        assert_eq!(now, format!("{text}\nb:1 {}\n", key(2)));
        fs::write(known.file(), "a:1 zz\n").unwrap();
        let error = known.key_of("b:1").unwrap_err().to_string();
        assert!(error.contains("known_peers, line 1:"), "{error}");
        assert!(known.remember("b:1", &key(2)).is_err());
    }

    #[test]
    fn the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownPeers::at(folder.path().join("known_peers"));
        fs::write(known.file(), "#\n".repeat(LINES_MAX)).unwrap();
        let full = known.remember("a:1", &key(1)).unwrap_err();
        assert!(matches!(full, KnownPeersError::Full(_)), "{full}");
    }
}
