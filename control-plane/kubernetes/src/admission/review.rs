//! AdmissionReview of `admission.k8s.io/v1`: what the API server asks, and what it is answered. Pure, and bounded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::patch::Op;

/// Largest question, in bytes. An object of Kubernetes has at most 1.5 MiB, and an update brings two.
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// Longest text that the API server gives out as a warning, in bytes; longer ones it cuts.
pub const WARNING_BYTES_MAX: usize = 256;
/// Warnings of one answer.
pub const WARNINGS_MAX: usize = 16;
/// Longest message of an answer, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Why a question cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the review is {0} bytes long; at most {BODY_BYTES_MAX} are read")]
    TooLong(usize),
    /// Also if it nests deeper than 128.
    #[error("the review is no JSON of the form of an AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the review is a {kind:?} of {version:?}, not an {KIND} of {VERSION}")]
    Version { version: String, kind: String },
    #[error("the review asks nothing")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    request: Option<Request>,
}

/// What the API server asks. Fields that nobody here looks at are passed over without being kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// Of this question; the answer repeats it.
    pub uid: String,
    pub kind: Kind,
    /// Such as `ephemeralcontainers`; empty for an object itself.
    #[serde(deserialize_with = "or_empty")]
    pub sub_resource: String,
    pub operation: String,
    /// Where the object is to be. The object itself need not say it yet.
    #[serde(deserialize_with = "or_empty")]
    pub namespace: String,
    /// Empty if the API server is to make one.
    #[serde(deserialize_with = "or_empty")]
    pub name: String,
    pub object: Value,
    /// Nothing is to come of it but the answer.
    #[serde(deserialize_with = "or_false")]
    pub dry_run: bool,
}

/// What kind of object is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn or_false<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Request {
    pub fn read(body: &[u8]) -> Result<Self, Error> {
        if body.len() > BODY_BYTES_MAX {
            return Err(Error::TooLong(body.len()));
        }
        let Review { api_version, kind, request } = serde_json::from_slice(body)?;
        if api_version != VERSION || kind != KIND {
            return Err(Error::Version { version: clip(&api_version, 64), kind: clip(&kind, 64) });
        }
        request.ok_or(Error::NoRequest)
    }
}

/// A question as it is, with its uid: for those who judge all of it.
pub fn whole(body: &[u8]) -> Result<(String, Value), Error> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Error::TooLong(body.len()));
    }
    let mut review: Value = serde_json::from_slice(body)?;
    let text = |field: &str| review.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != VERSION || kind != KIND {
        return Err(Error::Version { version: clip(version, 64), kind: clip(kind, 64) });
    }
    let request = review.get_mut("request").map(Value::take).filter(Value::is_object);
    let request = request.ok_or(Error::NoRequest)?;
    let uid = request.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((uid, request))
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Why the object is not to be created, and the HTTP status that says so; none if it is.
    pub refused: Option<(u16, String)>,
    pub patch: Vec<Op>,
    /// For whoever creates the object.
    pub warnings: Vec<String>,
}

impl Answer {
    pub fn allowed() -> Self {
        Self::default()
    }

    pub fn refused(status: u16, message: impl Into<String>) -> Self {
        Self { refused: Some((status, message.into())), ..Self::default() }
    }

    /// The review that goes back.
    pub fn written(self, uid: &str) -> Vec<u8> {
        let Self { refused, patch, warnings } = self;
        let mut response = json!({ "uid": uid, "allowed": refused.is_none() });
        if let Some((code, message)) = refused {
            response["status"] = json!({ "code": code, "message": clip(&message, MESSAGE_BYTES_MAX) });
        } else if !patch.is_empty() {
            let ops: Value = patch.into_iter().map(Op::into_value).collect();
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(ops.to_string()));
        }
        if !warnings.is_empty() {
            let kept = warnings.iter().take(WARNINGS_MAX);
            response["warnings"] = kept.map(|it| Value::String(clip(it, WARNING_BYTES_MAX))).collect();
        }
        json!({ "apiVersion": VERSION, "kind": KIND, "response": response }).to_string().into_bytes()
    }
}

/// The beginning of a text, without control characters: it ends up in terminals and headers.
pub(crate) fn clip(text: &str, bytes_max: usize) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match plain.len() <= bytes_max {
        true => plain,
        false => {
            format!("{}…", &plain[..plain.floor_char_boundary(bytes_max.saturating_sub('…'.len_utf8()))])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(review: &Value) -> Result<Request, Error> {
        Request::read(review.to_string().as_bytes())
    }

    #[test]
    fn a_question_is_read_and_what_is_null_is_nothing() {
        let request = read(&json!({ "apiVersion": VERSION, "kind": KIND, "request": {
            "uid": "u", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "operation": "CREATE", "namespace": "n",
            "name": null, "subResource": null, "dryRun": null, "object": { "a": 1 }, "oldObject": null, "userInfo": { "x": [] },
        } }))
        .unwrap();
        assert_eq!((request.uid.as_str(), request.namespace.as_str(), request.name.as_str()), ("u", "n", ""));
        assert_eq!(
            (request.kind.kind.as_str(), &request.object, request.dry_run),
            ("Pod", &json!({ "a": 1 }), false)
        );
    }

    #[test]
    fn what_is_no_question_is_told() {
        assert!(matches!(Request::read(b""), Err(Error::Json(_))));
        assert!(matches!(Request::read(b"\xff"), Err(Error::Json(_))));
        assert!(matches!(Request::read(&vec![b' '; BODY_BYTES_MAX + 1]), Err(Error::TooLong(_))));
        let deep = format!("{{\"request\":{{\"object\":{}", "[".repeat(10_000));
        assert!(matches!(Request::read(deep.as_bytes()), Err(Error::Json(_))));
        assert!(matches!(read(&json!({})), Err(Error::Version { .. })));
        let old = json!({ "apiVersion": "admission.k8s.io/v1beta1", "kind": KIND, "request": {} });
        assert!(matches!(read(&old), Err(Error::Version { .. })));
        let empty = json!({ "apiVersion": VERSION, "kind": KIND });
        assert!(matches!(read(&empty), Err(Error::NoRequest)));
    }

    #[test]
    fn a_whole_question_is_held_to_the_same() {
        let good = json!({ "apiVersion": VERSION, "kind": KIND, "request": { "uid": "u", "oldObject": 1 } });
        let (uid, request) = whole(good.to_string().as_bytes()).unwrap();
        assert_eq!((uid.as_str(), &request), ("u", &good["request"]));
        assert!(matches!(whole(b"[]"), Err(Error::Version { .. })));
        assert!(matches!(whole(b"{"), Err(Error::Json(_))));
        let empty = json!({ "apiVersion": VERSION, "kind": KIND, "request": null });
        assert!(matches!(whole(empty.to_string().as_bytes()), Err(Error::NoRequest)));
    }

    #[test]
    fn an_answer_is_short_and_plain_whatever_it_repeats() {
        let answer = Answer {
            warnings: vec!["ä\u{1b}[31m".repeat(200); 50],
            ..Answer::refused(400, "x\n".repeat(5000))
        };
        let written: Value = serde_json::from_slice(&answer.written("u")).unwrap();
        let response = &written["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u"), &json!(false)));
        assert!(response["status"]["message"].as_str().unwrap().len() <= MESSAGE_BYTES_MAX);
        let warnings = response["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), WARNINGS_MAX);
        for warning in warnings {
            let warning = warning.as_str().unwrap();
            assert!(warning.len() <= WARNING_BYTES_MAX && !warning.contains('\u{1b}'), "{warning}");
        }
    }
}
