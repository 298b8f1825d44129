//! `Mesh` and `TrustBundle`, which the control plane makes itself.

use super::choice;
use super::pb;
use super::read::{Read, Wrong, at, list, required, rule, span, text, texts};
use super::write::{duration, strings};
use crate::name::{Namespace, TrustDomain};
use crate::resource::kinds::raw::checked_svid_lifetime;
use crate::resource::kinds::{DefaultAction, Trust};
use crate::wire::{Mesh, TrustBundle};

pub(super) fn encode_mesh(trust_domain: &TrustDomain, trust: Option<&Trust>, root: &Namespace) -> pb::Mesh {
    let lifetime = trust.and_then(|trust| trust.svid_lifetime).unwrap_or(Trust::SVID_LIFETIME_DEFAULT);
    let default_action = trust.map_or_else(DefaultAction::default, |trust| trust.default_action);
    pb::Mesh {
        trust_domain: trust_domain.to_string(),
        default_action: choice::default_action::encode(default_action),
        svid_lifetime: Some(duration(lifetime)),
        root_namespace: root.to_string(),
        gateways: trust.map(|trust| strings(&trust.gateways)).unwrap_or_default(),
        gateways_are_told: true,
    }
}

pub(super) fn decode_mesh(message: pb::Mesh) -> Read<Mesh> {
    let pb::Mesh { trust_domain, default_action, svid_lifetime, root_namespace, gateways, gateways_are_told } =
        message;
    let lifetime = required(svid_lifetime).and_then(span).and_then(|span| rule(checked_svid_lifetime(span)));
    Ok(Mesh {
        trust_domain: at("trust_domain", text(&trust_domain))?,
        default_action: at("default_action", choice::default_action::decode(default_action))?,
        svid_lifetime: at("svid_lifetime", lifetime)?,
        root_namespace: at("root_namespace", text(&root_namespace))?,
        gateways: at("gateways", texts(gateways))?,
        gateways_are_told,
    })
}

pub(super) fn encode_trust_bundle(
    trust_domain: &TrustDomain,
    roots: Vec<Vec<u8>>,
    sequence: u64,
    revoked_serials: &[String],
    renew_unless_root: &[String],
) -> pb::TrustBundle {
    pb::TrustBundle {
        trust_domain: trust_domain.to_string(),
        roots,
        sequence,
        revoked_serials: sorted(revoked_serials),
        renew_unless_root: sorted(renew_unless_root),
    }
}

fn sorted(set: &[String]) -> Vec<String> {
    let mut set = set.to_vec();
    set.sort();
    set.dedup();
    set
}

pub(super) fn decode_trust_bundle(message: pb::TrustBundle) -> Read<TrustBundle> {
    let pb::TrustBundle { trust_domain, roots, sequence, revoked_serials, renew_unless_root } = message;
    let roots = list::<_, _, { TrustBundle::ROOTS_MAX }, 0>(roots, root);
    let revoked = list::<_, _, { TrustBundle::REVOKED_MAX }, 0>(revoked_serials, serial);
    let renew = list::<_, _, { TrustBundle::ROOTS_MAX }, 0>(renew_unless_root, fingerprint);
    Ok(TrustBundle {
        trust_domain: at("trust_domain", text(&trust_domain))?,
        roots: at("roots", roots)?.to_vec(),
        sequence,
        revoked_serials: at("revoked_serials", revoked)?.to_vec(),
        renew_unless_root: at("renew_unless_root", renew)?.to_vec(),
    })
}

/// Whether it is a certificate is found out by whoever verifies with it.
fn root(der: Vec<u8>) -> Read<Vec<u8>> {
    match der.len() {
        0 => Err(Wrong::new("is empty")),
        len if len > TrustBundle::ROOT_BYTES_MAX => Err(Wrong::new(format_args!(
            "is {len} bytes long; at most {} are allowed",
            TrustBundle::ROOT_BYTES_MAX
        ))),
        _ => Ok(der),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// One spelling for each number, or a revoked certificate could be missed. X.509 allows 20 bytes.
fn serial(text: String) -> Read<String> {
    match is_hex(&text) && (1..=40).contains(&text.len()) && !text.starts_with('0') {
        true => Ok(text),
        false => Err(Wrong::new("is not a serial number in lower-case hex without leading zeros")),
    }
}

fn fingerprint(text: String) -> Read<String> {
    match is_hex(&text) && text.len() == 64 {
        true => Ok(text),
        false => Err(Wrong::new("is not a SHA-256 fingerprint in lower-case hex")),
    }
}
