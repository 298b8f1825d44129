//! What holds for every pod, of whatever form.

use proptest::prelude::*;
use serde_json::Map;

use super::*;

/// A list that is there, empty, null or missing.
fn optional(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(Value::Null)), 3 => value.prop_map(Some)].boxed()
}

fn object(fields: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    values
        .prop_map(move |values| {
            let fields = names.iter().zip(values);
            Value::Object(fields.filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect())
        })
        .boxed()
}

fn any_value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z/~.$-]{0,8}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
    .boxed()
}

fn probe() -> BoxedStrategy<Value> {
    let port = prop_oneof![(-1_i64..70_000).prop_map(Value::from), "[a-z0-9]{0,4}".prop_map(Value::from)];
    let handler = object(vec![
        ("port", optional(port)),
        ("path", optional("/[a-z$]{0,5}".prop_map(Value::from))),
        ("host", optional(prop_oneof![Just(json!("")), Just(json!("h"))])),
        ("service", optional("[a-z]{0,3}".prop_map(Value::from))),
        ("httpHeaders", optional(any_value())),
    ]);
    let kind = prop_oneof![Just("httpGet"), Just("tcpSocket"), Just("grpc"), Just("exec")];
    (kind, handler, 0_i64..9)
        .prop_map(|(kind, handler, timeout)| json!({ kind: handler, "timeoutSeconds": timeout }))
        .boxed()
}

fn container(index: usize) -> BoxedStrategy<Value> {
    let words = || optional(prop::collection::vec("[a-z$]{1,6}", 0..3).prop_map(Value::from));
    let named = |field: &'static str| {
        optional(prop::collection::vec("[a-z]{1,4}", 0..3).prop_map(move |names| {
            names
                .into_iter()
                .enumerate()
                .map(|(n, name)| json!({ "name": format!("{name}{n}"), field: 1000 + n }))
                .collect()
        }))
    };
    let fields = vec![
        ("command", words()),
        ("args", words()),
        ("env", named("value")),
        ("ports", named("containerPort")),
        ("volumeMounts", named("mountPath")),
        ("livenessProbe", optional(probe())),
        ("readinessProbe", optional(probe())),
        ("startupProbe", optional(probe())),
        ("lifecycle", optional(any_value())),
    ];
    object(fields)
        .prop_map(move |mut container| {
            container["name"] = json!(format!("c{index}"));
            container
        })
        .boxed()
}

fn containers(from: usize, least: usize) -> BoxedStrategy<Value> {
    (least..4_usize)
        .prop_flat_map(move |count| (from..from + count).map(container).collect::<Vec<_>>())
        .prop_map(Value::from)
        .boxed()
}

fn any_pod() -> BoxedStrategy<Value> {
    let texts = || prop::collection::btree_map("[a-z]{1,3}(/[a-z~]{1,3})?", "\\PC{0,10}", 0..3);
    let annotations = (texts(), 0_usize..6, any::<bool>()).prop_map(|(mut texts, kind, rewrite)| {
        let chosen: &[(&str, &str)] = match kind {
            1 => {
                &[("weft.dev/servers", "a"), ("weft.dev/stdio", "c0"), ("weft.dev/stdio-command", "[\"x\"]")]
            }
            2 => &[("weft.dev/servers", "a,b"), ("weft.dev/port", "a=9000"), ("weft.dev/capture", "enabled")],
            3 => &[("weft.dev/native", "disabled")],
            4 => &[("weft.dev/cpu-limit", "2"), (DEFAULT_CONTAINER, "c0")],
            _ => &[],
        };
        texts.extend(chosen.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        if !rewrite && kind != 2 {
            texts.insert("weft.dev/rewrite-probes".to_owned(), "disabled".to_owned());
        }
        json!(texts)
    });
    let metadata = object(vec![
        ("labels", optional(texts().prop_map(|texts| json!(texts)))),
        ("annotations", optional(annotations)),
        ("name", optional(Just(json!("p")))),
    ]);
    let volumes = prop::collection::vec("[a-z]{1,4}", 0..3)
        .prop_map(|names| names.into_iter().map(|name| json!({ "name": name })).collect::<Value>());
    let spec = object(vec![
        ("containers", containers(0, 1).prop_map(Some).boxed()),
        ("initContainers", optional(containers(10, 0))),
        ("volumes", optional(volumes)),
        ("shareProcessNamespace", optional(any::<bool>().prop_map(Value::from))),
        ("terminationGracePeriodSeconds", optional((0_u64..100).prop_map(Value::from))),
        ("whatever", optional(any_value())),
    ]);
    object(vec![
        ("metadata", optional(metadata)),
        ("spec", spec.prop_map(Some).boxed()),
        ("status", optional(any_value())),
    ])
}

const FILE: Facts<'static> = Facts { door: Door::File, namespace: None, labels: None };

/// Changes one value somewhere in a pod.
fn broken(pod: &Value, at: usize, with: Value) -> Value {
    fn walk(value: &mut Value, left: &mut usize, with: &Value) -> bool {
        if *left == 0 {
            *value = with.clone();
            return true;
        }
        *left -= 1;
        match value {
            Value::Array(items) => items.iter_mut().any(|item| walk(item, left, with)),
            Value::Object(fields) => fields.values_mut().any(|field| walk(field, left, with)),
            _ => false,
        }
    }
    let (mut pod, mut left) = (pod.clone(), at);
    walk(&mut pod, &mut left, &with);
    pod
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_taken_out_is_what_was_put_into(pod in any_pod()) {
        let injected = inject(&pod, &FILE, &settings()).map_err(|skip| TestCaseError::fail(format!("{skip}: {pod}")))?;
        prop_assert_eq!(uninject(&injected.pod).unwrap(), pod);
        prop_assert_eq!(inject(&injected.pod, &FILE, &settings()), Err(Skip::AlreadyInjected));
    }

    #[test]
    fn nothing_of_a_pod_is_lost_but_what_is_replaced(pod in any_pod()) {
        let injected = inject(&pod, &FILE, &settings()).unwrap().pod;
        for list in ["containers", "initContainers", "volumes"] {
            let before = pod["spec"][list].as_array().cloned().unwrap_or_default();
            let after = injected["spec"][list].as_array().cloned().unwrap_or_default();
            let names = |items: &[Value]| items.iter().map(|it| it["name"].to_string()).filter(|it| !it.contains("weft-")).collect::<Vec<_>>();
            prop_assert_eq!(names(&before), names(&after));
        }
        prop_assert_eq!(pod["spec"].get("whatever"), injected["spec"].get("whatever"));
        prop_assert_eq!(pod.get("status"), injected.get("status"));
    }

    /// However a pod is broken, it comes out whole or with a reason.
    #[test]
    fn a_broken_pod_is_put_into_or_told_of(pod in any_pod(), at in 0_usize..80, value in any_value()) {
        let broken = broken(&pod, at, value);
        if let Ok(injected) = inject(&broken, &FILE, &settings()) {
            prop_assert_eq!(&uninject(&injected.pod).unwrap(), &broken);
        }
        let _ = uninject(&broken);
    }

    #[test]
    fn anything_in_an_annotation_is_read_or_told_of(name in "[a-z-]{0,16}", text in "\\PC{0,40}") {
        let mut annotations = Map::new();
        annotations.insert(format!("weft.dev/{name}"), json!(text));
        let _ = inject(&annotated(pod(), Value::Object(annotations)), &FILE, &settings());
    }

    #[test]
    fn every_annotation_takes_or_refuses_any_text(index in 0_usize..16, text in "[\\PC$,=\"\\[\\]{}:0-9a-zMm]{0,24}") {
        let names = ["servers", "port", "stdio", "stdio-command", "capture", "rewrite-probes", "native", "image",
            "image-pull-policy", "cpu-request", "memory-request", "cpu-limit", "memory-limit", "log-level", "access-log", "drain"];
        let pod = annotated(pod(), json!({ format!("weft.dev/{}", names[index]): text }));
        if let Ok(injected) = inject(&pod, &FILE, &settings()) {
            prop_assert_eq!(uninject(&injected.pod).unwrap(), pod);
        }
    }
}
