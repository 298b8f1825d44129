//! What a caller of the modern era wants to be told of, and whether a notification is among it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use weft_proto::mcp::{self, Notification, Params, edit, method};

use crate::exchange::Introduction;
use crate::refusal::Refusal;

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// Resources, and tasks, that one stream tells about.
pub(super) const ITEMS_MAX: usize = 256;

/// The part of `subscriptions/listen` that says what to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Interest {
    #[serde(skip_serializing_if = "is_false")]
    pub(super) tools_list_changed: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) prompts_list_changed: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) resources_list_changed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) resource_subscriptions: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) task_ids: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a server says that it can tell.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Introduced {
    capabilities: Capabilities,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Capabilities {
    tools: Option<Capability>,
    prompts: Option<Capability>,
    resources: Option<Capability>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Capability {
    list_changed: bool,
    subscribe: bool,
}

impl Interest {
    pub(super) fn every_list() -> Self {
        Self {
            tools_list_changed: true,
            prompts_list_changed: true,
            resources_list_changed: true,
            ..Self::default()
        }
    }

    pub(super) fn parse(params: &Params<'_>) -> Result<Self, Refusal> {
        let raw = params.notifications.ok_or_else(|| bad("is missing"))?;
        serde_json::from_str(raw.get()).map_err(|_| bad("is malformed"))
    }

    /// As much of it as the server can tell, by what it said of itself.
    pub(super) fn within(mut self, introduction: &Introduction) -> Self {
        let introduced: Introduced = serde_json::from_slice(&introduction.result).unwrap_or_default();
        let Capabilities { tools, prompts, resources } = introduced.capabilities;
        let lists = |capability: Option<Capability>| capability.is_some_and(|it| it.list_changed);
        self.tools_list_changed &= lists(tools);
        self.prompts_list_changed &= lists(prompts);
        self.resources_list_changed &= lists(resources);
        if !resources.is_some_and(|it| it.subscribe) {
            self.resource_subscriptions.clear();
        }
        for items in [&mut self.resource_subscriptions, &mut self.task_ids] {
            items.sort_unstable();
            items.dedup();
            items.truncate(ITEMS_MAX);
        }
        self
    }

    /// The part about single resources and tasks, which has to be asked for by name.
    pub(super) fn items(&self) -> Self {
        Self {
            resource_subscriptions: self.resource_subscriptions.clone(),
            task_ids: self.task_ids.clone(),
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn wants(&self, notification: &Notification<'_>) -> bool {
        let params = &notification.params;
        let among = |items: &[String], item: &Option<Cow<'_, str>>| {
            item.as_deref().is_some_and(|item| items.iter().any(|it| it == item))
        };
        match &*notification.method {
            method::TOOLS_LIST_CHANGED => self.tools_list_changed,
            method::PROMPTS_LIST_CHANGED => self.prompts_list_changed,
            method::RESOURCES_LIST_CHANGED => self.resources_list_changed,
            method::RESOURCES_UPDATED => among(&self.resource_subscriptions, &params.uri),
            method::TASKS => among(&self.task_ids, &params.task_id),
            _ => false,
        }
    }

    /// The lists of which changes are told.
    pub(super) fn lists(&self) -> impl Iterator<Item = &'static str> {
        let lists = [
            (self.tools_list_changed, method::TOOLS_LIST_CHANGED),
            (self.prompts_list_changed, method::PROMPTS_LIST_CHANGED),
            (self.resources_list_changed, method::RESOURCES_LIST_CHANGED),
        ];
        lists.into_iter().filter(|(wanted, _)| *wanted).map(|(_, method)| method)
    }
}

fn bad(how: &str) -> Refusal {
    Refusal::BadMeta(format!("`params.notifications` {how}"))
}

/// Two notifications with the same key say the same; the later one is enough.
pub(super) fn key(notification: &Notification<'_>) -> String {
    let item = notification.params.uri.as_deref().or(notification.params.task_id.as_deref());
    format!("{} {}", notification.method, item.unwrap_or_default())
}

/// The first message on a stream: what will be told.
pub(super) fn acknowledgement(id: &RawValue, interest: &Interest) -> Vec<u8> {
    let interest = serde_json::to_string(interest).expect("strings and flags are JSON");
    own(id, method::SUBSCRIPTIONS_ACKNOWLEDGED, &format!(r#","notifications":{interest}"#))
}

/// The last message on a stream that ends in good order.
pub(super) fn completion(id: &RawValue) -> Vec<u8> {
    let result = format!(r#"{{"resultType":"complete","_meta":{{"{SUBSCRIPTION_ID}":{id}}}}}"#);
    let result = RawValue::from_string(result).expect("the id is JSON");
    edit::result(id.get(), &result)
}

/// That a list changed, in our words.
pub(super) fn list_changed(id: &RawValue, method: &str) -> Vec<u8> {
    own(id, method, "")
}

/// That a resource changed, in our words.
pub(super) fn updated(id: &RawValue, uri: &str) -> Vec<u8> {
    let uri = serde_json::to_string(uri).expect("a string is JSON");
    own(id, method::RESOURCES_UPDATED, &format!(r#","uri":{uri}"#))
}

/// A notification of our own, with these members of its parameters besides `_meta`.
fn own(id: &RawValue, method: &str, more: &str) -> Vec<u8> {
    let params = format!(r#"{{"_meta":{{"{SUBSCRIPTION_ID}":{id}}}{more}}}"#);
    let params = RawValue::from_string(params).expect("the parts are JSON");
    edit::notification(method, Some(&params))
}

/// A notification with the subscription that it is told for, and otherwise as it was.
pub(super) fn told_for(id: &RawValue, message: &[u8], notification: &Notification<'_>) -> Vec<u8> {
    let params = &notification.params;
    let member = format!(r#""{SUBSCRIPTION_ID}":{id}"#);
    let (object, member) = match (params.meta.subscription_id, params.meta.raw, params.raw) {
        (Some(old), ..) => {
            return mcp::splice(message, vec![(mcp::span(message, old.get()), id.get().into())]);
        }
        (None, Some(meta), _) => (meta, member),
        (None, None, Some(params)) => (params, format!(r#""_meta":{{{member}}}"#)),
        (None, None, None) => return list_changed(id, &notification.method),
    };
    let at = mcp::span(message, object.get()).start + 1;
    let is_empty = object.get()[1..].trim_start().starts_with('}');
    let separator = if is_empty { "" } else { "," };
    mcp::splice(message, vec![(at..at, format!("{member}{separator}").into())])
}

#[cfg(test)]
mod tests {
    use weft_proto::mcp::{Body, Bounds, Message};
    use weft_proto::resource::kinds::Era;

    use super::*;

    const BOUNDS: Bounds = Bounds { depth_max: 16, batch_max: 1 };

    fn introduction(result: &str) -> Introduction {
        Introduction { era: Era::Legacy, revision: "2025-11-25".to_owned(), result: result.to_owned().into() }
    }

    fn interest(json: &str) -> Interest {
        serde_json::from_str(json).unwrap()
    }

    #[track_caller]
    fn notification(json: &str, with: impl FnOnce(&Notification<'_>)) {
        match mcp::parse(json.as_bytes(), BOUNDS).unwrap() {
            Body::One(Message::Notification(notification)) => with(&notification),
            other => panic!("{other:?} is no notification"),
        }
    }

    #[test]
    fn only_what_the_server_can_tell_is_promised() {
        let all =
            r#"{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["b","a","b"]}"#;
        let check = |result: &str, expected: &str| {
            assert_eq!(interest(all).within(&introduction(result)), interest(expected));
        };
        check(r#"{"capabilities":{}}"#, "{}");
        check("{}", "{}");
        check(r#"{"capabilities":{"tools":{"listChanged":true}}}"#, r#"{"toolsListChanged":true}"#);
        check(
            r#"{"capabilities":{"tools":{},"resources":{"subscribe":true}}}"#,
            r#"{"resourceSubscriptions":["a","b"]}"#,
        );
    }

    #[test]
    fn only_what_was_asked_for_is_told() {
        let interest = interest(r#"{"toolsListChanged":true,"resourceSubscriptions":["a"]}"#);
        let check = |json: &str, expected: bool| {
            notification(json, |it| assert_eq!(interest.wants(it), expected, "{json}"));
        };
        check(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#, true);
        check(r#"{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}"#, false);
        check(r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a"}}"#, true);
        check(r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"b"}}"#, false);
        check(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#, false);
    }

    #[test]
    fn a_notification_is_told_for_its_subscription_and_otherwise_as_it_was() {
        let id = RawValue::from_string("7".to_owned()).unwrap();
        let check = |json: &str, expected: &str| {
            notification(json, |it| {
                let told = told_for(&id, json.as_bytes(), it);
                assert_eq!(String::from_utf8(told).unwrap(), expected);
            });
        };
        check(
            r#"{"jsonrpc":"2.0","method":"m","params":{"uri":"a" }}"#,
            r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7},"uri":"a" }}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{ },"uri":"a"}}"#,
            r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7 },"uri":"a"}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"x"}}}"#,
            r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","method":"m"}"#,
            r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#,
        );
    }
}
