//! What an API server asks when a pod is created, and what a pod may hold.

use serde_json::Value;
use weft_kubernetes::admission::mutate::{self, Labels};
use weft_kubernetes::inject::annotations::STATUS;
use weft_kubernetes::inject::settings::Image;
use weft_kubernetes::inject::{Door, Facts, Settings, inject, uninject};
use weft_proto::name::{HostPort, TrustDomain};
use weft_sidecar::bootstrap::Bootstrap;

/// Whatever is asked is answered with JSON. Whatever pod a sidecar is put into comes out of it whole again, gets no second
/// one, and gives its sidecar a file that a sidecar reads.
pub fn injection(data: &[u8]) {
    let settings = settings();
    let asks = |_: &str| Some(Labels::from([("weft.dev/inject".to_owned(), "enabled".to_owned())]));
    let answered = mutate::answer(data, &settings, asks);
    assert!(serde_json::from_slice::<Value>(&answered.body).is_ok(), "an answer is no JSON");
    let Ok(read) = serde_json::from_slice::<Value>(data) else { return };
    let pod = read.pointer("/request/object").unwrap_or(&read);
    let facts = Facts { door: Door::File, namespace: None, labels: None };
    let _ = uninject(pod);
    let Ok(injected) = inject(pod, &facts, &settings) else { return };
    // What is left of another injection is written over, as it says nothing that holds.
    if pod.pointer("/metadata/annotations").and_then(|it| it.get(STATUS)).is_none() {
        assert_eq!(&uninject(&injected.pod).expect("it has a sidecar"), pod);
    }
    assert!(inject(&injected.pod, &facts, &settings).is_err(), "a pod got a second sidecar");
    let text = expanded(file_of(&injected.pod).expect("a sidecar has its file"));
    if let Err(error) = serde_saphyr::from_str::<Bootstrap>(&text) {
        panic!("no sidecar would read this: {error}: {text}");
    }
}

fn settings() -> Settings {
    let domain = TrustDomain::parse("mesh.test").expect("the name is good");
    let control_plane = HostPort::parse("control.test:7500").expect("the address is good");
    Settings::new(domain, control_plane, Image::parse("weft-sidecar:1").expect("the image is good"))
}

/// The last such variable, which is ours: a container may have one of its own before it is taken over.
fn file_of(pod: &Value) -> Option<&str> {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    let containers = lists.into_iter().flatten().flatten();
    let ours =
        containers.filter(|it| it["name"] == "weft-sidecar" || it["command"][0] == "/weft/bin/weft-sidecar");
    let variables = ours.filter_map(|it| it["env"].as_array()).flatten();
    variables.filter(|it| it["name"] == "WEFT_SIDECAR_YAML").filter_map(|it| it["value"].as_str()).next_back()
}

/// The text as a cluster would give it to the container.
fn expanded(text: &str) -> String {
    let values =
        [("(WEFT_POD_NAME)", "files-0"), ("(WEFT_POD_NAMESPACE)", "research"), ("(WEFT_POD_IP)", "10.0.0.5")];
    let (mut given, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('$') {
        given.push_str(before);
        let known = values.iter().find_map(|(name, value)| Some((after.strip_prefix(name)?, *value)));
        let (left, value) = known.or_else(|| Some((after.strip_prefix('$')?, "$"))).unwrap_or((after, "$"));
        given.push_str(value);
        rest = left;
    }
    given + rest
}
