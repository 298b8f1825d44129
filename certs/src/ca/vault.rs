//! Private keys at rest: AES-256-GCM under one key-encryption key, with a random nonce each time.
//!
//! A sealed file is bound to its kind and to the certificate whose key it holds, so files cannot be exchanged for one
//! another. Layout: `WEFTSEAL`, version (1 byte), id of the key-encryption key (8), nonce (12), ciphertext, tag (16).
//! Not here: where the key-encryption key comes from, beyond reading it from a file or a text.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::bundle::Fingerprint;

const MAGIC: &[u8; 8] = b"WEFTSEAL";
const VERSION: u8 = 1;
const ID_LEN: usize = 8;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = MAGIC.len() + 1 + ID_LEN + NONCE_LEN;
const KEK_LEN: usize = 32;
/// Longest text of a key-encryption key, in its file.
const KEK_FILE_BYTES_MAX: u64 = 256;
/// Longest sealed file.
pub(crate) const SEALED_BYTES_MAX: usize = 16 * 1024;

/// Why a key was not sealed or opened. Never says what the key was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("key-encryption key file {path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "key-encryption key file {path} can be read by others than its owner (mode {mode:o}); run chmod 600 on it"
    )]
    Permissions { path: PathBuf, mode: u32 },
    #[error("key-encryption key is not 32 bytes, raw, in hexadecimal or in base64")]
    Form,
    #[error("sealed key is truncated")]
    Truncated,
    #[error("sealed key is longer than {SEALED_BYTES_MAX} bytes")]
    TooLong,
    #[error("file is not a sealed key")]
    NotSealed,
    #[error("sealed key has the format version {0}, which is newer than this program")]
    Version(u8),
    #[error("sealed key was sealed under another key-encryption key")]
    WrongKek,
    #[error("sealed key was altered, or belongs to another certificate")]
    Altered,
    #[error("the key could not be sealed")]
    Seal,
}

/// What a sealed file holds; part of what its seal covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Root,
    Intermediate,
}

impl Kind {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Root => b"weft root key",
            Self::Intermediate => b"weft intermediate key",
        }
    }
}

/// The key-encryption key.
#[derive(Clone)]
pub struct Kek(Zeroizing<[u8; KEK_LEN]>);

impl Kek {
    /// From a file that only its owner can read: 32 raw bytes, or their hexadecimal or base64 form.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(io)?;
        // Asked of the open file, not of the path, which may point elsewhere by then.
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::Permissions { path: path.to_owned(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEK_LEN * 4));
        file.take(KEK_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
        if let Ok(raw) = <[u8; KEK_LEN]>::try_from(bytes.as_slice()) {
            return Ok(Self(Zeroizing::new(raw)));
        }
        std::str::from_utf8(&bytes).map_err(|_| Error::Form).and_then(Self::from_text)
    }

    /// From a text, such as the value of an environment variable: hexadecimal or base64.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.len() == KEK_LEN * 2 {
            return crate::hex::decode(text).map(|key| Self(Zeroizing::new(key))).ok_or(Error::Form);
        }
        let engines: [&GeneralPurpose; 4] = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
        let decoded = engines.iter().find_map(|engine| engine.decode(text).ok().map(Zeroizing::new));
        let decoded = decoded.ok_or(Error::Form)?;
        <[u8; KEK_LEN]>::try_from(decoded.as_slice())
            .map(|key| Self(Zeroizing::new(key)))
            .map_err(|_| Error::Form)
    }

    /// Reads the file, or makes it with a random key if there is none.
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut key = Zeroizing::new([0; KEK_LEN]);
        aws_lc_rs::rand::fill(&mut *key).map_err(|_| Error::Seal)?;
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let text = Zeroizing::new(crate::hex::encode(&*key) + "\n");
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
                Ok(Self(key))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::from_file(path),
            Err(error) => Err(io(error)),
        }
    }

    pub(crate) fn seal(&self, kind: Kind, certificate: Fingerprint, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, &*self.0).map_err(|_| Error::Seal)?;
        let mut body = Zeroizing::new(Vec::with_capacity(secret.len() + TAG_LEN));
        body.extend_from_slice(secret);
        let nonce = key
            .seal_in_place_append_tag(Aad::from(aad(kind, certificate)), &mut *body)
            .map_err(|_| Error::Seal)?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + body.len());
        sealed.extend_from_slice(MAGIC);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.id());
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    pub(crate) fn open(
        &self,
        kind: Kind,
        certificate: Fingerprint,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        if sealed.len() > SEALED_BYTES_MAX {
            return Err(Error::TooLong);
        }
        if sealed.len() < HEADER_LEN + TAG_LEN {
            let begun = &sealed[..sealed.len().min(MAGIC.len())];
            return Err(if MAGIC.starts_with(begun) { Error::Truncated } else { Error::NotSealed });
        }
        let (header, body) = sealed.split_at(HEADER_LEN);
        let (magic, rest) = header.split_at(MAGIC.len());
        let (version, rest) = rest.split_at(1);
        let (id, nonce) = rest.split_at(ID_LEN);
        if magic != MAGIC {
            return Err(Error::NotSealed);
        }
        if version != [VERSION] {
            return Err(Error::Version(version[0]));
        }
        if id != self.id() {
            return Err(Error::WrongKek);
        }
        let key = RandomizedNonceKey::new(&AES_256_GCM, &*self.0).map_err(|_| Error::Altered)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Altered)?;
        let mut body = Zeroizing::new(body.to_vec());
        let len = key
            .open_in_place(nonce, Aad::from(aad(kind, certificate)), &mut body)
            .map_err(|_| Error::Altered)?
            .len();
        body.truncate(len);
        Ok(body)
    }

    /// Tells keys apart without telling them: what makes "the wrong key" a clear answer.
    fn id(&self) -> [u8; ID_LEN] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"weft key-encryption key id");
        context.update(&*self.0);
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&context.finish().as_ref()[..ID_LEN]);
        id
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek")
    }
}

fn aad(kind: Kind, certificate: Fingerprint) -> Vec<u8> {
    [kind.label(), &[0, VERSION], certificate.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
