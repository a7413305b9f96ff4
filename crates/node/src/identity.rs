//! Secret keys and tokens, and the files that hold them.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lavant_proto::ids::{Root, SigningKey};
use rustix::fs::{CWD, RenameFlags};

/// Characters that a token has at least.
pub const TOKEN_MIN: usize = 16;

/// Why a key or token file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// Not a key.
    #[error("{0} does not hold a secret key: 64 hexadecimal digits on one line are expected")]
    NotAKey(PathBuf),
    /// Others can read it.
    #[error("{path} can be read by other users (mode {mode:o}); run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// No token is in it.
    #[error(
        "{0} holds no token: write one of at least {TOKEN_MIN} characters into it, or remove it \
         and a node makes a new one at its start"
    )]
    NoToken(PathBuf),
    /// It is there already.
    #[error("{0} exists already; a key is never overwritten: move it away first")]
    Exists(PathBuf),
}

/// Reads a secret key that only its owner can read.
pub fn read_key(path: &Path) -> Result<SigningKey, IdentityError> {
    let text = read_secret(path)?;
    parse_key(&text).ok_or_else(|| IdentityError::NotAKey(path.to_owned()))
}

/// Reads a file that only its owner can read.
fn read_secret(path: &Path) -> Result<String, IdentityError> {
    let failed = |source| IdentityError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    // Of the open file, and not of its path, which may lead to another one by now.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// A secret key from its text form, 64 hex digits.
#[must_use]
pub fn parse_key(text: &str) -> Option<SigningKey> {
    let seed: Root = text.trim().parse().ok()?;
    Some(SigningKey::from_seed(&seed.0))
}

/// The text form of a secret key.
#[must_use]
pub fn key_text(key: &SigningKey) -> String {
    Root(key.seed()).to_string()
}

/// Writes a secret key to a new file of mode 0600.
pub fn write_key(path: &Path, key: &SigningKey) -> Result<(), IdentityError> {
    write_secret(path, &key_text(key))
}

/// A fresh key.
pub fn new_key() -> Result<SigningKey, IdentityError> {
    Ok(SigningKey::from_seed(&random()?))
}

/// Reads the key at `path`, or makes one there.
pub fn key_at(path: &Path) -> Result<SigningKey, IdentityError> {
    // Only where there is no file: a key that cannot be read is still the node's, and another one
    // would make it another node.
    match read_key(path) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    // The folder of keys is for its owner alone, too.
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    let key = new_key()?;
    match write_key(path, &key) {
        // Another process was faster: both must go on with one key.
        Err(IdentityError::Exists(_)) => read_key(path),
        written => written.map(|()| key),
    }
}

/// Makes a folder, with those above it, that only its owner can look into, unless it is there.
pub fn private_folder(folder: &Path) -> Result<(), IdentityError> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(|source| IdentityError::Io {
        path: folder.to_owned(),
        source,
    })
}

/// Reads a token from a file that only its owner can read.
pub fn read_token(path: &Path) -> Result<String, IdentityError> {
    let token = read_secret(path)?.trim().to_owned();
    if token.len() < TOKEN_MIN {
        return Err(IdentityError::NoToken(path.to_owned()));
    }
    Ok(token)
}

/// Reads the API token at `path`, or makes one there.
pub fn token_at(path: &Path) -> Result<String, IdentityError> {
    match read_token(path) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let token = Root(random()?).to_string();
    match write_secret(path, &token) {
        // Another one was quicker; all are to have the same.
        Err(IdentityError::Exists(_)) => read_token(path),
        written => written.map(|()| token),
    }
}

/// 32 hex digits that nobody can guess.
pub fn random_id() -> Result<String, IdentityError> {
    let mut id = Root(random()?).to_string();
    // 128 bits are more than can be guessed.
    id.truncate(32);
    Ok(id)
}

fn random() -> Result<[u8; 32], IdentityError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| IdentityError::Io {
        path: PathBuf::from("the system's random generator"),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

/// Writes a secret to a new file that only its owner can read.
fn write_secret(path: &Path, text: &str) -> Result<(), IdentityError> {
    // Under another name until it is whole: an empty file of that name would end each start from
    // then on. What a start leaves that is killed here is never looked at.
    let mut other = path.as_os_str().to_owned();
    other.push(format!(".{}.new", random_id()?));
    let other = PathBuf::from(other);
    let written = (|| {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            // From the start, and not by a change afterwards: nobody can open it in between.
            .mode(0o600)
            .open(&other)?;
        writeln!(file, "{text}")?;
        // A key that is used before it is on the disk could be another one after a power cut.
        file.sync_all()?;
        put(&other, path)
    })();
    // Also after a failure. It has gone already where files cannot have two names.
    let _ = fs::remove_file(&other);
    let durable = written.and_then(|()| match path.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    });
    durable.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => IdentityError::Exists(path.to_owned()),
        _ => IdentityError::Io {
            path: path.to_owned(),
            source,
        },
    })
}

/// Gives a file its name, unless there is one of that name: a key that exists is never overwritten,
/// as what it signed could not be continued.
fn put(file: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(file, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // A stick to which a key is copied may have no links.
            let flags = RenameFlags::NOREPLACE;
            Ok(rustix::fs::renameat_with(CWD, file, CWD, path, flags)?)
        }
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/node.key");
        let key = key_at(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(key_at(&path).unwrap().publisher(), key.publisher());
        assert!(matches!(
            write_key(&path, &key),
            Err(IdentityError::Exists(_))
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let text = key_at(&path).unwrap_err().to_string();
        assert!(text.contains("chmod 600"), "{text}");
    }

    #[test]
    fn starts_at_the_same_moment_agree_on_one_key() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("node.key");
            // What a start left that was killed.
            fs::write(folder.path().join("node.key.0123.new"), "").unwrap();
            let keys = std::thread::scope(|scope| {
                let starts: [_; 8] = std::array::from_fn(|_| scope.spawn(|| key_at(&path)));
                starts.map(|start| start.join().unwrap().unwrap().publisher())
            });
            let key = read_key(&path).unwrap().publisher();
            assert_eq!(keys, [key; 8]);
            let left = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 2, "the key, and what was there before");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        write_secret(&path, "not a key").unwrap();
        assert!(matches!(key_at(&path), Err(IdentityError::NotAKey(_))));
    }

    #[test]
    fn a_token_stays_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = token_at(&path).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(token_at(&path).unwrap(), token);
    }

    #[test]
    fn a_token_that_others_can_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let allow = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        token_at(&path).unwrap();
        for mode in [0o644, 0o640, 0o606] {
            allow(mode);
            let text = token_at(&path).unwrap_err().to_string();
            assert!(text.contains("run: chmod 600"), "{text}");
        }
        allow(0o600);
        for none in ["", " \n", "too short"] {
            fs::write(&path, none).unwrap();
            let text = token_at(&path).unwrap_err().to_string();
            assert!(
                text.contains("holds no token: write one of at least 16"),
                "{text}"
            );
        }
        // Nothing is made in the place of a token that a user was told to keep elsewhere.
        fs::remove_file(&path).unwrap();
        assert!(matches!(read_token(&path), Err(IdentityError::Io { .. })));
        assert!(!path.exists());
    }
}
