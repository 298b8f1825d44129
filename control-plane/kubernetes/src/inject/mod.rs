//! Sidecars put into pods, and taken out again. Pure: a pod goes in, a pod or a reason comes out.
//!
//! One code path for the webhook and for `weft inject`. A pod is a JSON value and stays one, so that fields which this
//! version knows nothing of stay as they are. Not here: how the API server asks (`admission`).

pub mod annotations;
mod bootstrap;
mod choose;
pub mod documents;
mod edit;
mod parts;
mod pod;
mod probes;
pub mod quantity;
pub mod settings;
pub mod skip;
mod stdio;
#[cfg(test)]
mod tests;
pub mod workload;

use std::hash::Hasher as _;

use serde_json::Value;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use annotations::{SIDECAR, STATUS, Wishes};
pub use bootstrap::TEXT_BYTES_MAX;
pub use choose::{Door, Facts, SYSTEM_NAMESPACES};
pub use edit::Record;
pub(crate) use edit::escaped;
use edit::{Edit, End, Misshapen};
use pod::Pod;
pub use settings::Settings;
pub use skip::{Skip, Weight};

pub const SIDECAR_CONTAINER: &str = "weft-sidecar";
pub const COPY_CONTAINER: &str = "weft-copy";
pub const CAPTURE_CONTAINER: &str = "weft-capture";
const IDENTITY_VOLUME: &str = "weft-identity";
const STATE_VOLUME: &str = "weft-state";
const BINARY_VOLUME: &str = "weft-binary";
/// An empty one, over the folder in which a container finds the account's token for the API server: a sidecar has no
/// business there, and would be given it unless something else is there.
const NOTHING_VOLUME: &str = "weft-nothing";
const VOLUMES: [&str; 4] = [IDENTITY_VOLUME, STATE_VOLUME, NOTHING_VOLUME, BINARY_VOLUME];
const API_TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const IDENTITY_FOLDER: &str = "/var/run/weft";
const STATE_FOLDER: &str = "/var/lib/weft";
const BINARY_FOLDER: &str = "/weft/bin";
const BINARY: &str = "/weft/bin/weft-sidecar";
/// The ConfigMap of the mesh's roots, in every namespace with sidecars.
pub const ROOTS: &str = "weft-roots";
/// The user and group that a sidecar runs as.
pub const SIDECAR_USER: i64 = 7443;
/// For how long a service account token is good; Kubernetes adds seven seconds to tell these apart.
const TOKEN_SECS: u32 = 3607;

/// Where other sidecars connect.
pub const INBOUND_PORT: u16 = 7443;
/// Where the kubelet asks, and metrics are.
pub const HEALTH_PORT: u16 = 7401;
/// Every port that a sidecar listens on: for agents, health, administration, and other sidecars.
pub const OWN_PORTS: [u16; 4] = [7400, HEALTH_PORT, 7402, INBOUND_PORT];

/// Annotations of others that a pod with a sidecar needs, unless it has them.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Without it, a pod with local storage keeps its node from being scaled away.
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// Most bytes of all annotations of an object in Kubernetes.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// A pod with its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    pub pod: Value,
    /// What whoever creates the pod should know.
    pub warnings: Vec<String>,
    pub record: Record,
}

impl From<Misshapen> for Skip {
    fn from(_: Misshapen) -> Self {
        Self::Malformed("it has not the form of a pod")
    }
}

/// Whether a pod asks for a sidecar, as far as its labels and those of its namespace tell.
pub fn is_asked(pod: &Value, facts: &Facts<'_>, settings: &Settings) -> bool {
    choose::asked(pod, facts, settings).is_ok()
}

/// Puts a sidecar into a pod.
pub fn inject(pod: &Value, facts: &Facts<'_>, settings: &Settings) -> Result<Injected, Skip> {
    choose::asked(pod, facts, settings)?;
    let read = Pod::read(pod)?;
    choose::possible(&read, facts)?;
    let (wishes, mut warnings) = Wishes::read(read.annotations(), settings).map_err(Skip::Mistakes)?;
    choose::possible_as_wished(&read, &wishes)?;
    clashes(&read)?;
    if read.has("shareProcessNamespace") && wishes.stdio.is_none() {
        warnings
            .push("its containers share their processes: those of root may look into the sidecar".to_owned());
    }
    if !wishes.native && read.containers().any(|container| container.list == pod::INIT_CONTAINERS) {
        warnings.push("its init containers run before the sidecar, which is no native one here".to_owned());
    }
    let mut edit = Edit::new(pod.clone());
    let probes = match wishes.rewrite_probes {
        true => probes::rewrite(&mut edit, &read, &mut warnings)?,
        false => probes::Probes::new(),
    };
    let labels = read.labels().collect();
    let grace_secs = read.spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64);
    let file = bootstrap::text(bootstrap::Parts { settings, wishes: &wishes, labels, probes, grace_secs })?;
    put(&mut edit, &read, settings, &wishes, file)?;
    sign(&mut edit, &read, settings)?;
    Ok(Injected { pod: edit.pod, warnings, record: edit.record })
}

/// Volumes of the sidecar's names would be taken for the sidecar's.
fn clashes(pod: &Pod<'_>) -> Result<(), Skip> {
    match pod.volumes().find(|name| VOLUMES.contains(name)) {
        Some(name) => Err(Skip::Clash { what: "a volume", name: name.to_owned() }),
        None => Ok(()),
    }
}

fn put(
    edit: &mut Edit,
    pod: &Pod<'_>,
    settings: &Settings,
    wishes: &Wishes,
    file: String,
) -> Result<(), Skip> {
    let volumes = parts::volumes(settings, wishes.stdio.is_some());
    let mut digest = digest(settings, &volumes);
    let mut first = Vec::new();
    if wishes.capture {
        first.push(parts::capture(wishes));
    }
    match &wishes.stdio {
        Some(container) => {
            first.push(parts::copy(wishes));
            digest.write(file.as_bytes());
            stdio::take_over(edit, pod, container, wishes, file)?;
        }
        None => {
            let sidecar = parts::sidecar(wishes, file);
            digest.write(sidecar.to_string().as_bytes());
            match wishes.native {
                true => first.push(sidecar),
                false => edit.add("/spec/containers", End::Front, vec![sidecar])?,
            }
        }
    }
    if !first.is_empty() {
        edit.add("/spec/initContainers", End::Front, first)?;
    }
    edit.add("/spec/volumes", End::Back, volumes)?;
    edit.record.digest = format!("{:032x}", digest.finish128().as_u128());
    Ok(())
}

/// Tells one sidecar from another; proves nothing.
fn digest(settings: &Settings, volumes: &[Value]) -> SipHasher13 {
    let mut digest = SipHasher13::new();
    digest.write(settings.revision.as_str().as_bytes());
    volumes.iter().for_each(|volume| digest.write(volume.to_string().as_bytes()));
    digest
}

/// Labels and annotations, the record last.
fn sign(edit: &mut Edit, pod: &Pod<'_>, settings: &Settings) -> Result<(), Skip> {
    const ANNOTATIONS: &str = "/metadata/annotations";
    edit.entry("/metadata/labels", SIDECAR, settings.revision.as_str().to_owned())?;
    if let Some(first) = pod.first().filter(|_| pod.annotation(DEFAULT_CONTAINER).is_none()) {
        edit.entry(ANNOTATIONS, DEFAULT_CONTAINER, first.name.to_owned())?;
    }
    if pod.annotation(SAFE_TO_EVICT).is_none() {
        let volumes: Vec<&str> = edit
            .record
            .added
            .get("/spec/volumes")
            .into_iter()
            .flatten()
            .map(String::as_str)
            .filter(|it| *it != IDENTITY_VOLUME)
            .collect();
        edit.entry(ANNOTATIONS, SAFE_TO_EVICT, volumes.join(","))?;
    }
    settings.revision.as_str().clone_into(&mut edit.record.revision);
    env!("CARGO_PKG_VERSION").clone_into(&mut edit.record.version);
    // One that stands there without a sidecar is a leftover.
    edit.entry(ANNOTATIONS, STATUS, String::new())?;
    edit.record.replaced.remove(&format!("{ANNOTATIONS}/{}", escaped(STATUS)));
    let added = edit.record.added.entry(ANNOTATIONS.to_owned()).or_default();
    if !added.iter().any(|key| key == STATUS) {
        added.push(STATUS.to_owned());
    }
    let record = serde_json::to_string(&edit.record).map_err(|_| Misshapen)?;
    let others: usize = pod.annotations().map(|(key, value)| key.len() + value.len()).sum();
    let bytes = others + record.len() + 1024;
    if bytes > ANNOTATIONS_BYTES_MAX {
        return Err(Skip::TooLarge { bytes, max: ANNOTATIONS_BYTES_MAX });
    }
    edit.pod["metadata"]["annotations"][STATUS] = Value::String(record);
    Ok(())
}

/// Whether a pod has a sidecar: a container of its own, or one that another container was given.
fn is_in(pod: &Pod<'_>) -> bool {
    pod.containers().any(|container| {
        container.name == SIDECAR_CONTAINER
            || container.names_of("volumeMounts").any(|name| name == BINARY_VOLUME)
    })
}

/// Why a sidecar cannot be taken out of a pod.
#[derive(Debug, thiserror::Error)]
pub enum NotOut {
    #[error("it has no sidecar")]
    NotInjected,
    #[error("its annotation weft.dev/status is no record of what was put in: {0}")]
    Record(serde_json::Error),
}

/// Takes the sidecar out of a pod: what comes out is what went in, unless it was changed since.
pub fn uninject(pod: &Value) -> Result<Value, NotOut> {
    let text = pod.get("metadata").and_then(|it| it.get("annotations")?.get(STATUS)?.as_str());
    let record: Record = serde_json::from_str(text.ok_or(NotOut::NotInjected)?).map_err(NotOut::Record)?;
    let mut pod = pod.clone();
    edit::undo(&mut pod, &record);
    Ok(pod)
}
