//! Documents in files, made into the parts that a control plane would send.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use weft_certs::bundle::{Bundle, Bundles};
use weft_certs::pem;
use weft_proto::name::{Namespace, SpiffeId, TrustDomain, Workload};
use weft_proto::resource::kinds::{FederatedDomain, Location, McpServer, StaticEndpoint, Trust};
use weft_proto::resource::{self, INPUT_BYTES_MAX, Key, ROOT_NAMESPACE, Resource, Spec};
use weft_proto::wire::{Endpoint, Endpoints, Mesh, Meta, Object, Part, TrustBundle};

use super::identity::numbered;
use super::{Error, read_limited};
use crate::control::session::hex;

/// Most files.
const FILES_MAX: usize = 1000;
/// Deepest folder within folders.
const DEPTH_MAX: usize = 8;
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A file and what it holds.
pub(super) type File = (PathBuf, String);

/// What the documents say.
pub(super) struct Read {
    pub(super) parts: Vec<Part>,
    /// The documents in the one form that equality is judged by, in their order: the earlier is the older.
    pub(super) content: Vec<String>,
    /// Other trust domains.
    pub(super) federated: Vec<Bundle>,
}

/// Every file of resources at a path, in the order of their names.
pub(super) fn read(path: &Path) -> Result<Vec<File>, Error> {
    let mut paths = Vec::new();
    list(path, 0, &mut paths, &mut BTreeSet::new())?;
    let mut left = INPUT_BYTES_MAX as u64;
    let mut files = Vec::new();
    for path in paths {
        let bytes = read_limited(&path, left)?;
        left -= bytes.len() as u64;
        let text = String::from_utf8(bytes).map_err(|_| Error::NotText { path: path.clone() })?;
        files.push((path, text));
    }
    Ok(files)
}

/// The folders that files of resources are in.
pub(super) fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    // What cannot be listed is told when it is read.
    let _ = list(path, 0, &mut Vec::new(), &mut folders);
    folders
}

/// Hidden files are passed over: editors and Kubernetes keep theirs there.
fn list(
    path: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
    folders: &mut BTreeSet<PathBuf>,
) -> Result<(), Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        files.push(path.to_owned());
        return if files.len() > FILES_MAX { Err(Error::TooMany(path.to_owned())) } else { Ok(()) };
    }
    if depth == DEPTH_MAX {
        return Err(Error::TooMany(path.to_owned()));
    }
    folders.insert(path.to_owned());
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
    let mut paths: Vec<_> = entries.iter().map(std::fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|it| it.to_str());
        let known = extension.is_some_and(|it| EXTENSIONS.contains(&it));
        if !hidden && (path.is_dir() || known) {
            list(&path, depth + 1, files, folders)?;
        }
    }
    Ok(())
}

pub(super) fn digest(files: &[File]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for (path, text) in files {
        for bytes in [path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        }
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// Reads every document, so that one answer names every mistake.
pub(super) fn parse(
    files: &[File],
    own: &TrustDomain,
    now: SystemTime,
    held: &Bundles,
) -> Result<Read, Error> {
    let mut mistakes = Vec::new();
    let mut places: BTreeMap<Key, String> = BTreeMap::new();
    let mut all: Vec<Resource> = Vec::new();
    for (path, text) in files {
        let file = path.display().to_string();
        match resource::parse(&file, text) {
            Ok(parsed) => {
                for (resource, line) in parsed {
                    let (key, place) = (resource.key(), format!("{file}:{line}"));
                    if let Some(first) = places.insert(key.clone(), place.clone()) {
                        mistakes.push(format!("{place}: {key} is given already at {first}"));
                    }
                    all.push(resource);
                }
            }
            Err(errors) => mistakes.extend(errors.iter().map(ToString::to_string)),
        }
    }
    let trust = all.iter().find_map(|resource| match &resource.spec {
        Spec::Trust(trust) => Some(trust.clone()),
        _ => None,
    });
    let mesh = mesh(trust.as_ref(), own);
    let mut federated = Vec::new();
    for domain in trust.iter().flat_map(|trust| trust.federated.iter()) {
        match bundle(domain, now, held) {
            Ok(bundle) => federated.push(bundle),
            Err(problem) => {
                mistakes.push(format!("the federated trust domain {}: {problem}", domain.trust_domain))
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(Error::Mistakes(mistakes));
    }
    let trust_domain = mesh.trust_domain.clone();
    let mut parts = vec![Part::Mesh(Arc::new(mesh))];
    let content = all.iter().map(Resource::canonical).collect();
    for (index, resource) in (1..).zip(all) {
        parts.extend(endpoints(&resource, &trust_domain));
        parts.extend(part(resource, index));
    }
    Ok(Read { parts, content, federated })
}

/// What holds where nothing is said, as a control plane has it.
fn mesh(trust: Option<&Trust>, own: &TrustDomain) -> Mesh {
    let lifetime = trust.and_then(|trust| trust.svid_lifetime);
    Mesh {
        trust_domain: trust.map_or_else(|| own.clone(), |trust| trust.trust_domain.clone()),
        default_action: trust.map(|trust| trust.default_action).unwrap_or_default(),
        svid_lifetime: lifetime.unwrap_or(Trust::SVID_LIFETIME_DEFAULT),
        root_namespace: Namespace::parse(ROOT_NAMESPACE).expect("the root namespace is a namespace"),
        gateways: trust.map(|trust| trust.gateways.clone()).unwrap_or_default(),
        // Files of a gateway need not say what stands in those beside the servers.
        gateways_are_told: false,
    }
}

/// An object as it would arrive. Whoever stands earlier in the files is older.
fn part(resource: Resource, index: u64) -> Option<Part> {
    let meta = Meta::new(&resource.metadata, index);
    Some(match resource.spec {
        Spec::McpServer(spec) => Part::Server(Arc::new(Object { meta, spec })),
        Spec::VirtualServer(spec) => Part::VirtualServer(Arc::new(Object { meta, spec })),
        Spec::Route(spec) => Part::Route(Arc::new(Object { meta, spec })),
        Spec::AccessPolicy(spec) => Part::AccessPolicy(Arc::new(Object { meta, spec })),
        Spec::QuotaPolicy(spec) => Part::QuotaPolicy(Arc::new(Object { meta, spec })),
        Spec::ToolPolicy(spec) => Part::ToolPolicy(Arc::new(Object { meta, spec })),
        Spec::Authentication(spec) => Part::Authentication(Arc::new(Object { meta, spec })),
        Spec::Telemetry(spec) => Part::Telemetry(Arc::new(Object { meta, spec })),
        Spec::Trust(_) => return None,
    })
}

/// The instances that a server's spec names; nobody is there to observe others.
fn endpoints(resource: &Resource, trust_domain: &TrustDomain) -> Option<Part> {
    let Spec::McpServer(McpServer { location: Location::Endpoints(given), service_account, .. }) =
        &resource.spec
    else {
        return None;
    };
    let server = Meta::new(&resource.metadata, 0).full_name();
    let identity = service_account.clone().map(|account| {
        Workload { trust_domain: trust_domain.clone(), namespace: server.namespace.clone(), account }.id()
    });
    let endpoint = |it: &StaticEndpoint| Endpoint {
        address: it.address.clone(),
        node: None,
        weight: it.weight,
        locality: it.locality.clone(),
        identity: Option::<SpiffeId>::clone(&identity),
    };
    let endpoints = given.iter().map(endpoint).collect();
    Some(Part::Endpoints(Arc::new(Endpoints { server, endpoints })))
}

fn bundle(domain: &FederatedDomain, now: SystemTime, held: &Bundles) -> Result<Bundle, String> {
    let roots = pem::certificates(domain.roots.as_str()).map_err(|error| error.to_string())?;
    numbered(domain.trust_domain.clone(), roots, held, now).map_err(|error| error.to_string())
}

/// Everyone who is trusted, as parts.
pub(super) fn trust_parts(bundles: &Bundles) -> Vec<Part> {
    let part = |bundle: &Arc<Bundle>| {
        Part::TrustBundle(Arc::new(TrustBundle {
            trust_domain: bundle.trust_domain().clone(),
            roots: bundle.roots().iter().map(|root| root.to_vec()).collect(),
            sequence: bundle.sequence(),
            revoked_serials: bundle.revoked().iter().map(ToString::to_string).collect(),
            renew_unless_root: Vec::new(),
        }))
    };
    bundles.iter().map(part).collect()
}

/// Digest of the content, in hex. The time at which roots were read is no content.
pub(super) fn version(content: &[String], trust_domain: &TrustDomain, bundles: &Bundles) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    content.iter().for_each(|document| add(document.as_bytes()));
    add(trust_domain.as_str().as_bytes());
    for bundle in bundles.iter() {
        add(bundle.trust_domain().as_str().as_bytes());
        bundle.roots().iter().for_each(|root| add(root));
    }
    hex(context.finish().as_ref())
}
