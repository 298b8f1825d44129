//! The files in `deploy/crds`, made from the types that read the documents. `WEFT_BLESS=1` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use weft_kubernetes::events::{self, Reason};
use weft_kubernetes::{crds, source, uninjected};
use weft_proto::resource::Kind;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds")
}

#[test]
fn the_files_are_what_the_types_say() {
    let files = crds::files().unwrap();
    if std::env::var_os("WEFT_BLESS").is_some() {
        fs::create_dir_all(folder()).unwrap();
        for (name, text) in &files {
            fs::write(folder().join(name), text).unwrap();
        }
    }
    let found: BTreeSet<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, files.iter().map(|(name, _)| name.clone()).collect());
    for (name, text) in files {
        let kept = fs::read_to_string(folder().join(&name)).unwrap();
        assert!(kept == text, "deploy/crds/{name} is not what the types say; WEFT_BLESS=1 writes it anew");
    }
}

/// What an API server asks of a structural schema.
fn check(path: &str, schema: &JSONSchemaProps) {
    assert!(schema.ref_path.is_none() && schema.definitions.is_none(), "{path}: a reference");
    assert!(schema.type_.is_some(), "{path}: without a type");
    let forbidden = schema.any_of.is_some() || schema.one_of.is_some() || schema.all_of.is_some();
    assert!(!forbidden && schema.pattern_properties.is_none(), "{path}: a choice of schemas");
    assert!(schema.nullable.is_none() && schema.unique_items.is_none(), "{path}");
    assert!(
        !(schema.properties.is_some() && schema.additional_properties.is_some()),
        "{path}: both forms of a map"
    );
    for (name, field) in schema.properties.iter().flatten() {
        check(&format!("{path}.{name}"), field);
    }
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => {
            check(&format!("{path}[]"), items);
            assert!(schema.max_items.is_some(), "{path}: a list without end");
        }
        Some(JSONSchemaPropsOrArray::Schemas(_)) => panic!("{path}: a tuple"),
        None => assert_ne!(schema.type_.as_deref(), Some("array"), "{path}: a list of anything"),
    }
    match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(values)) => {
            check(&format!("{path}.*"), values);
            assert!(schema.max_properties.is_some(), "{path}: a map without end");
        }
        Some(JSONSchemaPropsOrBool::Bool(_)) => panic!("{path}: a map of anything"),
        None => {}
    }
}

#[test]
fn every_schema_is_structural_and_bounded() {
    for kind in Kind::ALL {
        let definition: CustomResourceDefinition =
            serde_json::from_value(crds::definition(*kind).unwrap()).unwrap();
        let [version] = definition.spec.versions.as_slice() else { panic!("{kind}: not one version") };
        let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        check(kind.name(), schema);
        assert_eq!(definition.metadata.name, Some(format!("{}.weft.dev", kind.plural())));
        let spec = schema.properties.as_ref().unwrap()["spec"].properties.as_ref().unwrap();
        for column in version.additional_printer_columns.as_ref().unwrap() {
            let field = column.json_path.strip_prefix(".spec.");
            assert!(field.is_none_or(|field| spec.contains_key(field)), "{kind}: {column:?} shows nothing");
        }
    }
}

#[test]
fn no_two_kinds_share_a_name_nor_take_one_of_kubernetes() {
    // `kubectl api-resources` of 1.34, without our own.
    let built_in = [
        "cm",
        "cs",
        "ep",
        "ev",
        "limits",
        "ns",
        "no",
        "pvc",
        "pv",
        "po",
        "rc",
        "quota",
        "sa",
        "svc",
        "crd",
        "crds",
        "ds",
        "deploy",
        "rs",
        "sts",
        "hpa",
        "cj",
        "csr",
        "ing",
        "netpol",
        "pdb",
        "pc",
        "sc",
        "ip",
        "servers.policy",
    ];
    let mut seen: BTreeSet<String> = built_in.iter().map(|name| (*name).to_owned()).collect();
    for kind in Kind::ALL {
        let definition: CustomResourceDefinition =
            serde_json::from_value(crds::definition(*kind).unwrap()).unwrap();
        let names = definition.spec.names;
        let all = names.short_names.into_iter().flatten().chain([names.plural, names.singular.unwrap()]);
        for name in all {
            assert!(seen.insert(name.clone()), "{kind}: {name} is taken");
        }
    }
}

#[test]
fn the_page_about_objects_has_every_limit_of_following_them() {
    let page = include_str!("../../docs/objects.md");
    for (what, max) in source::limits() {
        assert!(page.contains(&format!("| {what} | {max} |")), "{what}: {max}");
    }
}

#[test]
fn the_page_about_control_planes_has_every_limit_and_every_reason_of_what_is_told_of_pods() {
    let page = include_str!("../../docs/kubernetes.md");
    for (what, max) in events::limits().into_iter().chain(uninjected::limits()) {
        assert!(page.contains(&format!("| {what} | {max} |")), "{what}: {max}");
    }
    for reason in Reason::ALL {
        assert!(page.contains(&format!("| `{}` |", reason.word())), "{reason:?}");
    }
}
