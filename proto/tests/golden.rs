//! Compiled snapshots as text: documents in, through the codec as they would travel, and the whole result compared.
//! `WEFT_BLESS=1` writes the results anew; read the difference before it is kept.
//!
//! Lines that begin with `#!` tell what operators do not write:
//!
//! - `created <plural>/<namespace>/<name> <revision>`; otherwise an object was created at its place in the file
//! - `endpoint <server> <address> [as <identity>] [on <node>] [in <locality>] [weight <number>]`
//! - `roots <trust domain> <sequence> <number of roots> [revoked <serial>…] [renew-unless <fingerprint>…]`

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use weft_proto::compile::{Parts, compile};
use weft_proto::name::{Namespace, ServerName, TrustDomain};
use weft_proto::resource::bounded::Count;
use weft_proto::resource::{ROOT_NAMESPACE, Spec, parse};
use weft_proto::wire::{self, Endpoint, ResourceType};

/// What the `#!` lines of a file say.
#[derive(Default)]
struct Header {
    created: BTreeMap<String, u64>,
    endpoints: BTreeMap<ServerName, Vec<Endpoint>>,
    bundles: Vec<Vec<u8>>,
}

impl Header {
    fn read(text: &str) -> Self {
        let mut header = Self::default();
        for line in text.lines().filter_map(|line| line.strip_prefix("#! ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["created", key, revision] => {
                    header.created.insert(key.to_owned(), revision.parse().unwrap());
                }
                ["endpoint", server, address, ref rest @ ..] => {
                    let endpoints = header.endpoints.entry(server.parse().unwrap()).or_default();
                    endpoints.push(endpoint(address, rest));
                }
                ["roots", domain, sequence, roots, ref rest @ ..] => {
                    header.bundles.push(bundle(domain, sequence, roots, rest));
                }
                _ => panic!("{line:?} says nothing that is known"),
            }
        }
        header
    }
}

fn endpoint(address: &str, rest: &[&str]) -> Endpoint {
    let mut endpoint = Endpoint {
        address: address.parse().unwrap(),
        node: None,
        weight: None,
        locality: None,
        identity: None,
    };
    for pair in rest.chunks(2) {
        match pair {
            ["as", identity] => endpoint.identity = Some(identity.parse().unwrap()),
            ["on", node] => endpoint.node = Some(node.parse().unwrap()),
            ["in", locality] => endpoint.locality = Some(locality.parse().unwrap()),
            ["weight", number] => endpoint.weight = Count::new(number.parse().unwrap()),
            _ => panic!("{pair:?} says nothing about an endpoint"),
        }
    }
    endpoint
}

fn bundle(domain: &str, sequence: &str, roots: &str, rest: &[&str]) -> Vec<u8> {
    let roots: Vec<_> = (0..roots.parse().unwrap()).map(|number: u32| format!("root {number}")).collect();
    let (mut revoked, mut renew) = (Vec::new(), Vec::new());
    for pair in rest.chunks(2) {
        match pair {
            ["revoked", serial] => revoked.push((*serial).to_owned()),
            ["renew-unless", fingerprint] => renew.push((*fingerprint).to_owned()),
            _ => panic!("{pair:?} says nothing about a trust bundle"),
        }
    }
    wire::encode_trust_bundle(&domain.parse().unwrap(), &roots, sequence.parse().unwrap(), &revoked, &renew)
}

/// What a sidecar would hold that was sent everything.
fn snapshot(file: &str, text: &str) -> String {
    let header = Header::read(text);
    let resources = parse(file, text).unwrap_or_else(|errors| panic!("{file}: {errors:#?}"));
    let root = Namespace::parse(ROOT_NAMESPACE).unwrap();
    let domain = TrustDomain::parse("corp.example").unwrap();
    let mut mesh = wire::encode_mesh(&domain, None, &root);
    let mut messages = Vec::new();
    for ((resource, _), place) in resources.iter().zip(1..) {
        let created = header.created.get(&resource.key().to_string()).copied().unwrap_or(place);
        if let Spec::Trust(trust) = &resource.spec {
            mesh = wire::encode_mesh(&trust.trust_domain, Some(trust), &root);
        }
        messages.extend(wire::encode(resource, created).map(|encoded| (encoded.ty, encoded.bytes)));
    }
    messages.push((ResourceType::Mesh, mesh));
    messages.extend(header.bundles.into_iter().map(|bytes| (ResourceType::TrustBundle, bytes)));
    let endpoints = header.endpoints.iter();
    let endpoints = endpoints.map(|(server, endpoints)| wire::encode_endpoints(server, endpoints));
    messages.extend(endpoints.map(|bytes| (ResourceType::Endpoints, bytes)));
    let parts: Parts = messages.iter().map(|(ty, bytes)| wire::decode(*ty, bytes).unwrap()).collect();
    compile(&parts).to_string()
}

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut inputs: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    inputs.sort();
    inputs
}

#[test]
fn every_example_compiles_to_the_snapshot_beside_it() {
    let mut different = Vec::new();
    for input in inputs() {
        let name = input.file_name().unwrap().to_string_lossy().into_owned();
        let found = snapshot(&name, &fs::read_to_string(&input).unwrap());
        let golden = input.with_extension("snapshot.txt");
        if std::env::var_os("WEFT_BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            different.push(format!("{name} compiles to\n{found}\ninstead of\n{expected}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

#[test]
fn no_snapshot_prints_a_secret() {
    for input in inputs() {
        let text = fs::read_to_string(&input).unwrap();
        assert!(!snapshot("f", &text).contains("SECRET"), "{}", input.display());
    }
}
