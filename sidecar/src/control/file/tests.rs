use std::fs;

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use weft_certs::bundle::{Bundles, TrustStore};
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::tls::LiveIdentity;
use weft_proto::name::SpiffeId;
use weft_proto::resource::kinds::DefaultAction;
use weft_proto::wire::ResourceType;

use super::*;
use crate::session_id::{Key, Ring};
use crate::state::Live;

const SERVER: &str = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: { namespace: agents, name: files }\n\
    spec: { stdio: { command: x } }\n---\n";
const POLICY: &str = "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: agents, name: p }\n\
    spec: { rules: [{ action: allow }] }\n---\n";

struct Story {
    folder: tempfile::TempDir,
    deps: Deps,
}

impl Story {
    fn new() -> Self {
        let deps = Deps {
            live: Live::empty(),
            identity: LiveIdentity::empty(),
            trust: TrustStore::new(Bundles::default()),
            address: None,
            servers: None,
            losses: None,
            quotas: None,
            audit: None,
            about: None,
            ring: Ring::own(&Key::random()),
            cancel: CancellationToken::new(),
        };
        Self { folder: tempfile::tempdir().unwrap(), deps }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    async fn start(&self, standalone: serde_json::Value) -> Result<Handle, Error> {
        let settings = Settings { poll_every: Duration::from_millis(20), ..Settings::default() };
        start(&serde_json::from_value(standalone).unwrap(), self.deps.clone(), settings).await
    }

    async fn plain(&self, resources: &str) -> Result<Handle, Error> {
        self.start(json!({ "resources": self.folder.path().join(resources) })).await
    }

    /// An authority that lives in the folder, too.
    fn authority(&self) -> Ca {
        let kek = Kek::open_or_create(&self.folder.path().join("kek")).unwrap();
        let domain = TrustDomain::parse("files.test").unwrap();
        Ca::open_or_create(&self.folder.path().join("ca"), kek, domain, Limits::default(), clock::now())
            .unwrap()
    }

    fn write_identity(&self, ca: &Ca) {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let id = SpiffeId::parse("spiffe://files.test/ns/agents/sa/files").unwrap();
        let issued = ca.issue(request.der(), &id, &[], Duration::from_secs(3600), clock::now()).unwrap();
        self.write("id/tls.crt", &pem::encode(&issued.chain));
        self.write("id/tls.key", &key.serialize_pem());
        self.write("id/ca.crt", &pem::encode(ca.bundle().roots()));
    }

    fn with_identity(&self) -> serde_json::Value {
        let path = |name: &str| self.folder.path().join(name);
        let identity = json!({ "certificate": path("id/tls.crt"), "key": path("id/tls.key"), "roots": path("id/ca.crt") });
        json!({ "resources": path("r"), "identity": identity })
    }

    fn servers(&self) -> usize {
        self.deps.live.load().snapshot.servers.len()
    }
}

async fn eventually(handle: &Handle, what: &str, holds: impl Fn(&State) -> bool) {
    let mut state = handle.state.clone();
    let waited = tokio::time::timeout(Duration::from_secs(20), state.wait_for(|state| holds(state)));
    assert!(waited.await.is_ok_and(|outcome| outcome.is_ok()), "{what}");
}

#[tokio::test]
async fn a_folder_is_read_whole_and_followed() {
    let story = Story::new();
    story.write("r/a.yaml", SERVER);
    story.write("r/deeper/p.yaml", POLICY);
    story.write("r/.hidden.yaml", "nonsense");
    story.write("r/readme.txt", "nonsense");
    let handle = story.plain("r").await.unwrap();
    let first = story.deps.live.load();
    assert_eq!(first.origin, Origin::File);
    assert!(handle.state.borrow().ready);
    let entry = first.snapshot.servers.values().next().unwrap();
    assert_eq!(entry.access.len(), 1);
    let mesh = first.snapshot.mesh.as_ref().unwrap();
    assert_eq!((mesh.trust_domain.as_str(), mesh.default_action), (TRUST_DOMAIN, DefaultAction::Allow));
    story.write("r/b.yaml", &SERVER.replace("name: files", "name: more"));
    eventually(&handle, "the new file is read", |state| state.swaps == 2).await;
    assert_eq!(story.servers(), 2);
    assert_ne!(story.deps.live.load().version, first.version);
    fs::remove_file(story.folder.path().join("r/b.yaml")).unwrap();
    eventually(&handle, "its end is noticed", |state| state.swaps == 3).await;
    assert_eq!(story.deps.live.load().version, first.version);
}

#[tokio::test]
async fn a_mistake_is_told_with_its_place_and_leaves_the_last_good_configuration() {
    let story = Story::new();
    story.write("r.yaml", SERVER);
    let handle = story.plain("r.yaml").await.unwrap();
    story.write("r.yaml", &SERVER.replace("command", "comand"));
    eventually(&handle, "the mistake is told", |state| state.last_error.is_some()).await;
    let told = handle.state.borrow().last_error.clone().unwrap().message;
    assert!(told.contains("r.yaml:4:") && told.contains("did you mean \"command\""), "{told}");
    assert_eq!(story.servers(), 1);
    story.write("r.yaml", &(SERVER.to_owned() + POLICY));
    eventually(&handle, "the file is good again", |state| state.swaps == 2 && state.last_error.is_none())
        .await;
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_an_error() {
    let story = Story::new();
    let refused = async |story: &Story, why: &str| {
        let error = story.plain("r").await.unwrap_err().to_string();
        assert!(error.contains(why), "{error:?} should contain {why:?}");
    };
    refused(&story, "cannot be read").await;
    story.write("r/a.yaml", SERVER);
    story.write("r/b.yaml", SERVER);
    refused(&story, "mcpservers/agents/files is given already at").await;
    story.write("r/b.yaml", &SERVER.replace("kind: McpServer", "kind: McpSever"));
    story.write("r/c.yaml", "nonsense");
    refused(&story, "c.yaml").await;
    refused(&story, "b.yaml:2:").await;
    assert_eq!(story.deps.live.load().origin, Origin::Nothing);
}

#[tokio::test]
async fn a_trust_object_says_the_domain_the_default_and_whom_else_to_trust() {
    let story = Story::new();
    let root = pem::encode(story.authority().bundle().roots()).replace('\n', "\n        ");
    let trust = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Trust\nmetadata: {{ namespace: weft-system, name: mesh }}\nspec:\n  \
         trustDomain: here.test\n  defaultAction: deny\n  federated:\n    - trustDomain: files.test\n      roots: |\n        {root}"
    );
    let located = SERVER
        .replace("stdio: { command: x }", "serviceAccount: files, endpoints: [{ address: '10.0.0.1:1' }]");
    story.write("r.yaml", &(located + &trust));
    let handle = story.plain("r.yaml").await.unwrap();
    let snapshot = story.deps.live.load();
    assert_eq!(snapshot.snapshot.default_action(), DefaultAction::Deny);
    let domain = TrustDomain::parse("files.test").unwrap();
    assert!(story.deps.trust.load().get(&domain).is_some());
    assert!(snapshot.snapshot.trust.contains_key(&domain));
    let endpoint = &snapshot.snapshot.servers.values().next().unwrap().endpoints[0];
    assert_eq!(endpoint.identity.as_ref().unwrap().as_str(), "spiffe://here.test/ns/agents/sa/files");
    story.write("r.yaml", SERVER);
    eventually(&handle, "the change is read", |state| state.swaps == 2).await;
    assert!(story.deps.trust.load().is_empty(), "who is not named any more is not trusted any more");
}

#[tokio::test]
async fn an_identity_is_taken_from_its_files_and_exchanged_with_them() {
    let story = Story::new();
    story.write("r/a.yaml", SERVER);
    let ca = story.authority();
    story.write_identity(&ca);
    let handle = story.start(story.with_identity()).await.unwrap();
    let first = story.deps.identity.leaf().unwrap();
    assert_eq!(story.deps.live.load().snapshot.mesh.as_ref().unwrap().trust_domain.as_str(), "files.test");
    assert!(handle.state.borrow().certificate.expires.is_some());
    story.write("id/tls.key", &KeyPair::generate().unwrap().serialize_pem());
    eventually(&handle, "another key is no key", |state| state.last_error.is_some()).await;
    assert_eq!(story.deps.identity.leaf(), Some(first.clone()), "what holds stays");
    story.write_identity(&ca);
    eventually(&handle, "the new identity is taken", |state| {
        state.last_error.is_none() && story.deps.identity.leaf().as_ref() != Some(&first)
    })
    .await;
}

#[tokio::test]
async fn an_identity_that_its_own_roots_do_not_believe_is_refused() {
    let story = Story::new();
    story.write("r/a.yaml", SERVER);
    story.write_identity(&story.authority());
    let other = Story::new();
    story.write("id/ca.crt", &pem::encode(other.authority().bundle().roots()));
    let error = story.start(story.with_identity()).await.unwrap_err();
    assert!(matches!(error, Error::Chain(_)), "{error}");
    assert!(story.deps.identity.leaf().is_none());
}

#[tokio::test]
async fn every_type_is_counted() {
    let story = Story::new();
    story.write("r.yaml", &(SERVER.to_owned() + POLICY));
    let handle = story.plain("r.yaml").await.unwrap();
    let count = |ty| handle.state.borrow().types[&ty].resources;
    assert_eq!(
        (count(ResourceType::Mesh), count(ResourceType::Server), count(ResourceType::AccessPolicy)),
        (1, 1, 1)
    );
}
