//! Seals of audit trails: signed with a workload's key, and checked against who may be believed.
//!
//! A certificate lasts a day and a trail lasts longer, so it is checked as of when the seal says it was made; that this
//! is true, only somebody who heard of the seal then can say. Not here: what a seal says.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use weft_proto::audit::{Seal, Statement};
use weft_proto::name::{SpiffeId, TrustDomain};

use crate::bundle::Bundles;
use crate::svid::Leaf;
use crate::tls::Identity;
use crate::verifier::{self, Role};

/// Why a seal is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("its certificates cannot be read")]
    Certificates,
    #[error("its signature cannot be read")]
    Form,
    #[error("its signer is not believed: {0}")]
    Signer(#[from] verifier::Error),
    #[error("{signer} signs for {node}, which is of another namespace")]
    Namespace { signer: SpiffeId, node: String },
    #[error("its signature is not of what it says")]
    Signature,
}

/// Signs a statement. None if the key cannot.
pub fn sign(identity: &Identity, statement: &Statement) -> Option<String> {
    let signer = identity.key().choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])?;
    let signature = signer.sign(statement.to_string().as_bytes()).ok()?;
    Some(STANDARD.encode(signature))
}

/// The certificates of an identity, as a trail names them.
pub fn certificates(identity: &Identity) -> Vec<String> {
    identity.chain().iter().map(|der| STANDARD.encode(der)).collect()
}

/// The trust domain that certificates speak of, whether or not they are believed.
pub fn trust_domain(certificates: &[String]) -> Result<TrustDomain, Error> {
    let leaf = certificates.first().and_then(|text| STANDARD.decode(text).ok()).ok_or(Error::Certificates)?;
    let leaf = Leaf::inspect(&CertificateDer::from(leaf)).map_err(|_| Error::Certificates)?;
    Ok(leaf.spiffe_id.trust_domain().clone())
}

/// Believes a seal or says why not; answers with who signed it.
pub fn check(
    statement: &Statement,
    seal: &Seal,
    certificates: &[String],
    bundles: &Bundles,
) -> Result<SpiffeId, Error> {
    let der = |text: &String| STANDARD.decode(text).map(CertificateDer::from);
    let chain: Vec<_> =
        certificates.iter().map(der).collect::<Result<_, _>>().map_err(|_| Error::Certificates)?;
    let [leaf, above @ ..] = chain.as_slice() else { return Err(Error::Certificates) };
    let signature = STANDARD.decode(&seal.signature).map_err(|_| Error::Form)?;
    let facts = verifier::verify(leaf, above, bundles, Role::Client, SystemTime::from(statement.at))?;
    let signer = facts.spiffe_id;
    let namespace = statement.node.split('/').next().unwrap_or_default();
    if signer.workload().is_none_or(|it| it.namespace.as_str() != namespace) {
        return Err(Error::Namespace { signer, node: statement.node.clone() });
    }
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| Error::Certificates)?;
    let message = statement.to_string();
    leaf.verify_signature(webpki::aws_lc_rs::ECDSA_P256_SHA256, message.as_bytes(), &signature)
        .map_err(|_| Error::Signature)?;
    Ok(signer)
}

#[cfg(test)]
mod tests {
    use weft_proto::audit::{Digest, Trail};

    use super::*;
    use crate::testing::{self, Mesh};

    fn statement(node: &str, at: SystemTime) -> Statement {
        Statement {
            node: node.to_owned(),
            trail: Trail::from_random(1),
            segment: 1,
            count: 3,
            last: 3,
            head: Digest::of(b"line"),
            before: Digest::NONE,
            at: at.try_into().unwrap(),
            closes: false,
        }
    }

    fn sealed(statement: &Statement, identity: &Identity) -> Seal {
        Seal {
            segment: statement.segment,
            count: statement.count,
            before: statement.before,
            closes: statement.closes,
            signature: sign(identity, statement).unwrap(),
        }
    }

    #[test]
    fn a_seal_holds_for_what_was_signed_by_whom_and_when_and_for_nothing_else() {
        let mesh = Mesh::new("corp.example");
        let identity = mesh.identity("spiffe://corp.example/ns/research/sa/files");
        let chain = certificates(&identity);
        let said = statement("research/files-1", testing::now());
        let seal = sealed(&said, &identity);
        let signer = check(&said, &seal, &chain, &mesh.bundles()).unwrap();
        assert_eq!(signer, identity.leaf().spiffe_id);
        let more = Statement { count: 4, ..said.clone() };
        assert_eq!(check(&more, &seal, &chain, &mesh.bundles()), Err(Error::Signature));
        let other = Mesh::new("corp.example");
        let refused = check(&said, &seal, &chain, &other.bundles()).unwrap_err();
        assert!(matches!(refused, Error::Signer(_)), "{refused}");
        let late = statement("research/files-1", testing::now() + 3 * testing::DAY);
        let refused = check(&late, &sealed(&late, &identity), &chain, &mesh.bundles()).unwrap_err();
        assert!(matches!(refused, Error::Signer(verifier::Error::Expired { .. })), "{refused}");
        let foreign = statement("payments/files-1", testing::now());
        let refused = check(&foreign, &sealed(&foreign, &identity), &chain, &mesh.bundles()).unwrap_err();
        assert!(matches!(refused, Error::Namespace { .. }), "{refused}");
        assert_eq!(check(&said, &seal, &["!".to_owned()], &mesh.bundles()), Err(Error::Certificates));
    }
}
