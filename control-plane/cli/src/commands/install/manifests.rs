//! Manifests of a mesh in a cluster: those that the chart was rendered to, with a few words of them replaced. Pure.
//!
//! That a word stands only where it is meant is held by a test of Kubernetes' tier, which has Helm say the same.

use std::str::FromStr;

use weft_proto::name::{Namespace, TrustDomain};

use crate::commands::version::CLIENT;

const MAIN: &str = include_str!("../../../../../deploy/kubernetes/weft.yaml");
const MAIN_HA: &str = include_str!("../../../../../deploy/kubernetes/weft-ha.yaml");
const BESIDE: &str = include_str!("../../../../../deploy/kubernetes/weft-canary.yaml");
const BESIDE_HA: &str = include_str!("../../../../../deploy/kubernetes/weft-ha-canary.yaml");

/// The images, as manifests name them.
const CONTROL_PLANE: &str = "weft-control-plane";
const SIDECAR: &str = "weft-sidecar";
/// What stands between two documents.
const BETWEEN: &str = "\n---\n";

/// A mesh as it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Mesh {
    pub(super) ha: bool,
    pub(super) namespace: Namespace,
    pub(super) trust_domain: TrustDomain,
    pub(super) hub: Option<Hub>,
    pub(super) tag: Tag,
    pub(super) revision: Option<Revision>,
}

/// Why a word of the command line is none that may stand in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("expected a registry and perhaps a folder, such as registry.corp.example:5000/weft")]
    Hub,
    #[error(
        "expected letters, digits, '_', '.' and '-', at most 128 of them, beginning with a letter, digit or '_'"
    )]
    Tag,
    #[error(
        "expected a small letter, then small letters, digits and '-', at most 30 in all, and not `default`"
    )]
    Revision,
}

/// Where images are: a registry, and perhaps a folder in it.
#[derive(Clone, Debug)]
pub(crate) struct Hub(String);

impl FromStr for Hub {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let (registry, folder) = text.split_once('/').unwrap_or((text, "folder"));
        let (host, port) = registry.split_once(':').unwrap_or((registry, "443"));
        let is_word = |word: &str, extra: &str| {
            word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        let is_folder = |word: &str| is_word(word, "._-") && !word.contains(|c: char| c.is_ascii_uppercase());
        let good = text.len() <= 200
            && is_word(host, ".-")
            && port.parse::<u16>().is_ok()
            && folder.split('/').all(is_folder);
        good.then(|| Self(text.to_owned())).ok_or(Error::Hub)
    }
}

/// Which version of the images.
#[derive(Clone, Debug)]
pub(crate) struct Tag(String);

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let good = (1..=128).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        good.then(|| Self(text.to_owned())).ok_or(Error::Tag)
    }
}

/// What a control plane beside the main one is called: the end of its objects' names.
#[derive(Clone, Debug)]
pub(crate) struct Revision(String);

impl FromStr for Revision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let good = text.len() <= 30
            && text != "default"
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        good.then(|| Self(text.to_owned())).ok_or(Error::Revision)
    }
}

/// What `kubectl apply` is given: definitions first, for whatever else there is may need them.
pub(super) fn to_apply(mesh: &Mesh, definitions: &[String]) -> String {
    let mesh = replaced(mesh);
    joined(definitions.iter().map(String::as_str).chain(documents(&mesh)))
}

/// What `kubectl delete` is given, in this order: the webhooks, whatever else is not the namespace, the namespace, and
/// what is to go of the definitions.
pub(super) fn to_delete(mesh: &Mesh, definitions: &[String]) -> String {
    let mesh = replaced(mesh);
    let turn = |document: &&str| match kind(document) {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => 0,
        "Namespace" => 2,
        _ => 1,
    };
    let mut all: Vec<&str> = documents(&mesh).collect();
    all.sort_by_key(turn);
    joined(all.into_iter().chain(definitions.iter().map(String::as_str)))
}

fn replaced(mesh: &Mesh) -> String {
    let template = match (mesh.revision.is_some(), mesh.ha) {
        (false, false) => MAIN,
        (false, true) => MAIN_HA,
        (true, false) => BESIDE,
        (true, true) => BESIDE_HA,
    };
    let hub = mesh.hub.as_ref().map(|hub| format!("{}/", hub.0)).unwrap_or_default();
    let image = |name: &str| format!("{hub}{name}:{}", mesh.tag.0);
    let images = [CONTROL_PLANE, SIDECAR].map(|name| (format!("{name}:{CLIENT}"), image(name)));
    let names = [("weft-system", mesh.namespace.to_string()), ("weft.local", mesh.trust_domain.to_string())];
    let revision = mesh.revision.iter().map(|it| ("canary".to_owned(), it.0.clone()));
    let names = names.into_iter().map(|(word, by)| (word.to_owned(), by));
    replace(template, &images.into_iter().chain(names).chain(revision).collect::<Vec<_>>())
}

/// Replaces words in one pass, so that what was put in is not looked at again.
fn replace(text: &str, words: &[(String, String)]) -> String {
    let mut said = String::with_capacity(text.len() * 2);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match words.iter().find(|(word, _)| rest.starts_with(word.as_str())) {
            Some((word, by)) => {
                said.push_str(by);
                rest = &rest[word.len()..];
            }
            None => {
                said.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    said
}

/// The documents of a manifest, without what is only a comment.
fn documents(manifest: &str) -> impl Iterator<Item = &str> {
    manifest.split(BETWEEN).filter(|document| !kind(document).is_empty())
}

fn kind(document: &str) -> &str {
    document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_default()
}

fn joined<'a>(documents: impl Iterator<Item = &'a str>) -> String {
    let documents: Vec<_> = documents.map(str::trim_end).collect();
    documents.join(BETWEEN) + "\n"
}
