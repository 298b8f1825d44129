//! Certificates as text, for files and for people.
//!
//! Private keys are never written as text: at rest they are encrypted (`ca::vault`), elsewhere they stay in memory.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Most certificates in one text.
pub const CERTIFICATES_MAX: usize = 64;
const LINE: usize = 64;

/// Why a text holds no certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("text is not well-formed PEM")]
    Malformed,
    #[error("text holds no certificate")]
    Empty,
    #[error("text holds more than {CERTIFICATES_MAX} certificates")]
    TooMany,
}

/// The certificates in a text, in their order; whatever else it holds is passed over.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if found.len() == CERTIFICATES_MAX {
            return Err(Error::TooMany);
        }
        found.push(certificate.map_err(|_| Error::Malformed)?);
    }
    match found.is_empty() {
        true => Err(Error::Empty),
        false => Ok(found),
    }
}

/// Certificates as PEM.
pub fn encode<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let base64 = STANDARD.encode(certificate);
        for line in base64.as_bytes().chunks(LINE) {
            let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let all = [CertificateDer::from(vec![1; 100]), CertificateDer::from(vec![2; 3])];
        let text = format!("a note\n{}", encode(&all));
        assert_eq!(certificates(&text).unwrap(), all);
        assert!(text.lines().all(|line| line.len() <= LINE));
    }

    #[test]
    fn texts_without_certificates_are_refused_with_the_reason() {
        assert_eq!(certificates(""), Err(Error::Empty));
        assert_eq!(
            certificates("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"),
            Err(Error::Malformed)
        );
        let one = encode(&[CertificateDer::from(vec![1])]);
        assert_eq!(certificates(&one.repeat(CERTIFICATES_MAX + 1)), Err(Error::TooMany));
    }
}
