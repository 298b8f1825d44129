//! How far sidecars are with each object: whom it concerns, who holds it, and who refuses it.

use std::collections::HashMap;
use std::sync::Arc;

use weft_proto::name::NodeId;
use weft_proto::wire::{MESH_NAME, ResourceType};

use super::{Client, Hub, lock};
use crate::xds::status::{ClientStatus, TypeStatus};

/// Most refusals of one object that are told word by word.
const REFUSALS_TOLD_MAX: usize = 3;
/// Longest refusal that is told, in bytes.
const REFUSAL_BYTES_MAX: usize = 300;

/// How far the sidecars are that one object concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub concerned: usize,
    /// Those that hold it as it is published now.
    pub holding: usize,
    pub refusing: usize,
    /// The first of those that refuse it, in order of their names, with what they say.
    pub refusals: Vec<(NodeId, Arc<str>)>,
}

/// Objects by how they are published: their type and their name.
pub type HeldObjects = HashMap<(ResourceType, Arc<str>), Held>;

/// What one client said last about one type.
enum Said {
    Holds,
    Waits,
    Refuses(Arc<str>),
}

impl Hub {
    /// How far the connected sidecars are with every object that concerns any of them. It looks at each object once for
    /// each sidecar that it concerns, and lets the planner go on between sidecars.
    pub fn held(&self) -> HeldObjects {
        let mut clients: Vec<_> = lock(&self.clients).by_id.values().cloned().collect();
        clients.sort_by(|a, b| a.viewer.node.cmp(&b.viewer.node));
        let mut held = HeldObjects::new();
        for client in clients {
            self.count(&client, &mut held);
        }
        held
    }

    fn count(&self, client: &Client, held: &mut HeldObjects) {
        let status = lock(&client.status).clone();
        let world = self.world();
        for (ty, of_type) in &status.types {
            let said = said(&status, of_type);
            let mut note = |name: &Arc<str>| {
                let of_object = held.entry((*ty, Arc::clone(name))).or_default();
                of_object.note(&client.viewer.node, &said, name);
            };
            match ty {
                // Everybody's, and made from the one Trust object.
                ResourceType::Mesh => note(&MESH_NAME.into()),
                ResourceType::TrustBundle | ResourceType::Endpoints | ResourceType::Offer => {}
                _ => {
                    let concerning = world.concerning(&client.viewer, &status.serves, *ty);
                    concerning.iter().for_each(|object| note(&object.name));
                }
            }
        }
    }
}

impl Held {
    fn note(&mut self, node: &NodeId, said: &Said, name: &str) {
        self.concerned += 1;
        let refusal = match said {
            Said::Waits => return,
            Said::Holds => None,
            Said::Refuses(message) => refusal(message, name),
        };
        // Of what comes together the good is taken; a refusal names what is not.
        let Some(refusal) = refusal else {
            self.holding += 1;
            return;
        };
        self.refusing += 1;
        if self.refusals.len() < REFUSALS_TOLD_MAX {
            self.refusals.push((node.clone(), clip(refusal, REFUSAL_BYTES_MAX).into()));
        }
    }
}

/// What a refusal says of one object: a sidecar gives a reason for each, `<name>: <reason>`, one after the other.
fn refusal<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    let begins = |at: &usize| message[*at..].strip_prefix(name).is_some_and(|rest| rest.starts_with(": "));
    let starts = std::iter::once(0).chain(message.match_indices("; ").map(|(at, gap)| at + gap.len()));
    starts.into_iter().find(begins).map(|at| &message[at..])
}

/// At most so many bytes of a text.
fn clip(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn said(status: &ClientStatus, of_type: &TypeStatus) -> Said {
    match &of_type.nack {
        // What it was not compared with yet, it cannot hold.
        _ if status.seen_revision < status.told_revision || of_type.waiting > 0 => Said::Waits,
        Some(nack) => Said::Refuses(nack.message.as_str().into()),
        None => Said::Holds,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use tokio_util::sync::CancellationToken;
    use weft_proto::name::{SpiffeId, TrustDomain};
    use weft_proto::resource::parse_one;

    use super::*;
    use crate::metrics::Metrics;
    use crate::plan::{Change, Stances, Update, Viewer, World};
    use crate::xds::{NackStatus, Settings};

    #[test]
    fn a_refusal_is_of_the_object_that_it_names() {
        let check = |message, name, expected| assert_eq!(refusal(message, name), expected, "{message}");
        check("a/b: bad", "a/b", Some("a/b: bad"));
        check("a/bc: bad; a/b: worse", "a/b", Some("a/b: worse"));
        check("a/b-2: bad", "a/b", None);
        check("x/a/b: bad", "a/b", None);
        check("", "a/b", None);
    }

    fn status(serves: &str, waiting: usize, nack: Option<&str>) -> ClientStatus {
        let nack = nack.map(|message| NackStatus { at: SystemTime::UNIX_EPOCH, message: message.to_owned() });
        let of_type = TypeStatus { waiting, nack, ..TypeStatus::default() };
        ClientStatus {
            node: NodeId::parse("a/one").unwrap(),
            identity: SpiffeId::parse("spiffe://corp.example/ns/a/sa/x").unwrap(),
            version: String::new(),
            peer: String::new(),
            connected: true,
            connected_at: SystemTime::UNIX_EPOCH,
            disconnected_at: None,
            serves: vec![serves.parse().unwrap()],
            seen_revision: 7,
            told_revision: 7,
            types: BTreeMap::from([(ResourceType::AccessPolicy, of_type)]),
            certificate_serial: String::new(),
            certificate_expires: SystemTime::UNIX_EPOCH,
            certificate_root: String::new(),
            trust_bundle: None,
            report: None,
            tools: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn an_object_counts_the_sidecars_that_it_concerns_and_what_each_says() {
        let domain = TrustDomain::parse("corp.example").unwrap();
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::start(Settings::default(), World::new(domain), metrics, CancellationToken::new());
        let put = |kind: &str, name: &str, spec: &str| {
            let text = format!(
                "{{apiVersion: weft.dev/v1alpha1, kind: {kind}, metadata: {{namespace: a, name: {name}}}, spec: {spec}}}"
            );
            Change::Put { resource: Box::new(parse_one("test", &text).unwrap()), created_revision: 1 }
        };
        let changes = vec![
            put("McpServer", "files", "{workload: {labels: {app: files}}}"),
            put("AccessPolicy", "mine", "{servers: {names: [files]}, rules: [{action: deny}]}"),
            put("AccessPolicy", "other", "{servers: {names: [mail]}, rules: [{action: deny}]}"),
        ];
        hub.apply(vec![Update { revision: 7, changes }]);
        let says = [(0, None), (1, None), (0, Some("a/mine: bad")), (0, Some("a/else: bad"))];
        for (number, (waiting, nack)) in says.into_iter().enumerate() {
            let status = status("a/files", waiting, nack);
            let viewer = Viewer {
                identity: status.identity.workload().unwrap(),
                node: NodeId::parse(&format!("a/n{number}")).unwrap(),
                labels: BTreeMap::from([("app".to_owned(), "files".to_owned())]),
                claims: Vec::new(),
                stances: Stances::default(),
            };
            hub.register(viewer, None, status).unwrap();
        }
        let held = hub.held();
        let refusals = vec![(NodeId::parse("a/n2").unwrap(), "a/mine: bad".into())];
        let expected = Held { concerned: 4, holding: 2, refusing: 1, refusals };
        assert_eq!(held.get(&(ResourceType::AccessPolicy, "a/mine".into())), Some(&expected));
        assert_eq!(held.len(), 1, "{held:?}");
    }
}
