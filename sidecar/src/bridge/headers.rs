//! The headers with which a request of the modern era goes over HTTP, all told by its body.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use weft_proto::mcp::{Request, Target, header, span, splice};

use crate::refusal::Refusal;

use super::object::Object;

/// The annotation of a property whose value is told in a header too.
const ANNOTATION: &str = "x-mcp-header";

/// Properties within each other that are looked into.
const DEPTH_MAX: usize = 16;

/// Headers of one tool.
const HEADERS_MAX: usize = 32;

/// The headers for a request. What a tool's arguments are told as must have been learnt before.
pub fn modern_headers(request: &Request<'_>, params: &HeaderParams) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    let meta = &request.params.meta;
    let version = meta.protocol_version.as_deref();
    let version =
        version.ok_or_else(|| Refusal::BadMeta("the request does not say its revision".to_owned()))?;
    headers.insert(header::PROTOCOL_VERSION, value(version)?);
    headers.insert(header::METHOD, value(&request.method)?);
    if let Some(name) = header::named(request) {
        headers.insert(header::NAME, value(&header::encode(name))?);
    }
    if let (Some(Target::Tool(tool)), Some(arguments)) = (request.target(), request.params.arguments) {
        for (name, told) in params.told(tool, arguments.value()) {
            headers.insert(name, value(&header::encode(&told))?);
        }
    }
    Ok(headers)
}

fn value(text: &str) -> Result<HeaderValue, Refusal> {
    let invalid = |_| Refusal::Invalid("a name in the request cannot be told in a header".to_owned());
    HeaderValue::from_str(text).map_err(invalid)
}

/// Which arguments of which tools are told in headers, as far as lists of tools passed by.
#[derive(Clone, Debug)]
pub struct HeaderParams {
    tools_max: usize,
    tools: HashMap<Arc<str>, Vec<Told>>,
    /// The tools in the order in which they were learnt, so that the oldest make room.
    learnt: VecDeque<Arc<str>>,
}

/// One argument that is told in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    header: HeaderName,
    path: Vec<String>,
}

#[derive(Deserialize)]
struct ToolsList<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool {
    name: String,
    #[serde(default)]
    input_schema: Value,
}

impl HeaderParams {
    /// No more than so many tools are remembered; those without such arguments need not be.
    pub fn new(tools_max: usize) -> Self {
        Self { tools_max, tools: HashMap::new(), learnt: VecDeque::new() }
    }

    /// Learns from a result of `tools/list`. Gives back the names of tools whose annotations break the rules, which
    /// a client over HTTP must not use.
    pub fn learn(&mut self, result: &RawValue) -> Vec<String> {
        let Ok(list) = serde_json::from_str::<ToolsList<'_>>(result.get()) else { return Vec::new() };
        let mut broken = Vec::new();
        for raw in list.tools {
            let is_annotated = memchr::memmem::find(raw.get().as_bytes(), ANNOTATION.as_bytes()).is_some();
            if !is_annotated && self.tools.is_empty() {
                continue;
            }
            let Ok(tool) = serde_json::from_str::<Tool>(raw.get()) else { continue };
            match annotations(&tool.input_schema) {
                Some(told) => self.remember(&tool.name, told),
                None => {
                    self.remember(&tool.name, Vec::new());
                    broken.push(tool.name);
                }
            }
        }
        broken
    }

    fn remember(&mut self, tool: &str, told: Vec<Told>) {
        if told.is_empty() {
            if self.tools.remove(tool).is_some() {
                self.learnt.retain(|learnt| **learnt != *tool);
            }
            return;
        }
        if let Some(known) = self.tools.get_mut(tool) {
            *known = told;
            return;
        }
        while self.tools.len() >= self.tools_max {
            let Some(oldest) = self.learnt.pop_front() else { return };
            self.tools.remove(&oldest);
        }
        let tool: Arc<str> = tool.into();
        self.learnt.push_back(Arc::clone(&tool));
        self.tools.insert(tool, told);
    }

    /// Header and value of each argument of a call that is told in one; absent ones and `null` are not.
    fn told(&self, tool: &str, arguments: &RawValue) -> Vec<(HeaderName, String)> {
        let Some(told) = self.tools.get(tool) else { return Vec::new() };
        let Ok(arguments) = serde_json::from_str::<Value>(arguments.get()) else { return Vec::new() };
        let found = told.iter().filter_map(|told| {
            let argument = told.path.iter().try_fold(&arguments, |value, key| value.get(key))?;
            Some((told.header.clone(), text(argument)?))
        });
        found.collect()
    }
}

/// The response to `tools/list` without these tools.
pub fn without_tools(message: &Bytes, result: &RawValue, away: &[String]) -> Bytes {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let Some(tools) = Object::parse(result).and_then(|result| result.value("tools")) else {
        return message.clone();
    };
    let Ok(all) = serde_json::from_str::<Vec<&RawValue>>(tools.get()) else { return message.clone() };
    let stays = |tool: &&RawValue| {
        let named = serde_json::from_str::<Named>(tool.get());
        named.is_ok_and(|tool| !away.contains(&tool.name))
    };
    let kept: Vec<_> = all.into_iter().filter(stays).map(RawValue::get).collect();
    let at = span(message, tools.get());
    splice(message, vec![(at, format!("[{}]", kept.join(",")).into_bytes())]).into()
}

fn text(argument: &Value) -> Option<String> {
    match argument {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(integer(number).unwrap_or_else(|| number.to_string())),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Some(argument.to_string()),
    }
}

/// Integers are written in decimal, also where the argument is written as `42.0`.
fn integer(number: &serde_json::Number) -> Option<String> {
    const EXACT_MAX: f64 = 9_007_199_254_740_991.0;
    let float = number.as_f64().filter(|_| !number.is_i64() && !number.is_u64())?;
    (float.fract() == 0.0 && float.abs() <= EXACT_MAX).then(|| format!("{float:.0}"))
}

/// What a schema says is told in headers; none if it breaks the rules for saying so.
fn annotations(schema: &Value) -> Option<Vec<Told>> {
    let mut told = Vec::new();
    collect(schema, &mut Vec::new(), &mut told)?;
    let everywhere = occurrences(schema, false, 0);
    let mut names: Vec<_> = told.iter().map(|it| it.header.as_str()).collect();
    names.sort_unstable();
    let are_unique = names.windows(2).all(|pair| pair[0] != pair[1]);
    (everywhere == told.len() && are_unique && told.len() <= HEADERS_MAX).then_some(told)
}

/// The annotations of the properties that are reached by `properties` alone.
fn collect(schema: &Value, path: &mut Vec<String>, told: &mut Vec<Told>) -> Option<()> {
    let properties = schema.get("properties").and_then(Value::as_object);
    if path.len() >= DEPTH_MAX {
        return Some(());
    }
    for (name, property) in properties.into_iter().flatten() {
        path.push(name.clone());
        if let Some(annotation) = property.get(ANNOTATION) {
            let is_simple = matches!(
                property.get("type").and_then(Value::as_str),
                Some("string" | "integer" | "boolean")
            );
            let header = annotation.as_str().filter(|it| is_simple && !it.is_empty())?;
            let header = format!("{}{header}", header::PARAM_PREFIX);
            let header = HeaderName::from_bytes(header.as_bytes()).ok()?;
            told.push(Told { header, path: path.clone() });
        }
        collect(property, path, told)?;
        path.pop();
    }
    Some(())
}

/// How often the annotation stands anywhere, so that it is noticed where it must not.
fn occurrences(value: &Value, names_properties: bool, depth: usize) -> usize {
    if depth > 4 * DEPTH_MAX {
        return 0;
    }
    match value {
        Value::Object(members) => {
            let own = usize::from(!names_properties && members.contains_key(ANNOTATION));
            let within = members.iter().map(|(key, member)| {
                occurrences(member, !names_properties && key == "properties", depth + 1)
            });
            own + within.sum::<usize>()
        }
        Value::Array(items) => items.iter().map(|item| occurrences(item, false, depth + 1)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_proto::mcp::{self, Body, Bounds, Message};

    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn list(tools: &[(&str, Value)]) -> Box<RawValue> {
        let tools: Vec<_> =
            tools.iter().map(|(name, schema)| json!({"name": name, "inputSchema": schema})).collect();
        raw(&json!({ "tools": tools }))
    }

    fn region(name: &str) -> Value {
        json!({"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": name}}})
    }

    #[track_caller]
    fn headers(message: &Value, params: &HeaderParams) -> Vec<(String, String)> {
        let message = message.to_string();
        let bounds = Bounds { depth_max: 16, batch_max: 1 };
        let Body::One(Message::Request(request)) = mcp::parse(message.as_bytes(), bounds).unwrap() else {
            panic!("no request: {message}")
        };
        let headers = modern_headers(&request, params).unwrap();
        header::agree(&headers, &request).unwrap();
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.as_str().to_owned(), value.to_str().unwrap().to_owned())
        };
        headers.iter().map(text).collect()
    }

    fn call(tool: &str, arguments: &Value) -> Value {
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": tool, "arguments": arguments, "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}}}})
    }

    fn params_told(params: &HeaderParams, tool: &str, arguments: &Value) -> Vec<String> {
        let all = headers(&call(tool, arguments), params);
        all.into_iter()
            .filter_map(|(name, value)| Some(format!("{}={value}", name.strip_prefix("mcp-param-")?)))
            .collect()
    }

    #[test]
    fn a_request_is_told_by_its_headers() {
        let params = HeaderParams::new(1);
        let mut expected = vec![
            ("mcp-protocol-version".to_owned(), "2026-07-28".to_owned()),
            ("mcp-method".to_owned(), "tools/call".to_owned()),
            ("mcp-name".to_owned(), "=?base64?w7xiZXI=?=".to_owned()),
        ];
        assert_eq!(headers(&call("über", &json!({})), &params), expected);
        expected.pop();
        expected[1].1 = "tools/list".to_owned();
        let mut list = call("x", &json!({}));
        list["method"] = json!("tools/list");
        assert_eq!(headers(&list, &params), expected);
    }

    #[test]
    fn arguments_are_told_as_their_tool_wants() {
        let mut params = HeaderParams::new(8);
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "limits": {"type": "object", "properties": {"rows": {"type": "integer", "x-mcp-header": "Rows"}}},
            "dry": {"type": "boolean", "x-mcp-header": "Dry"},
            "x-mcp-header": {"type": "string"},
            "other": {"type": "string"}}});
        assert!(params.learn(&list(&[("query", schema), ("plain", json!({"type": "object"}))])).is_empty());
        let mut told = params_told(
            &params,
            "query",
            &json!({"region": "é", "limits": {"rows": 42.0}, "dry": false, "other": "x"}),
        );
        told.sort();
        assert_eq!(told, ["dry=false", "region==?base64?w6k=?=", "rows=42"]);
        let told = params_told(&params, "query", &json!({"region": null, "limits": {}}));
        assert!(told.is_empty());
        assert!(params_told(&params, "plain", &json!({"region": "x"})).is_empty());
        assert!(params_told(&params, "unheard", &json!({"region": "x"})).is_empty());
        assert_eq!(params_told(&params, "query", &json!({"region": ""})), ["region="]);
    }

    #[test]
    fn annotations_that_break_the_rules_are_not_followed() {
        let property = |property: Value| json!({"properties": {"a": property}});
        for schema in [
            region(""),
            region("two words"),
            property(json!({"type": "number", "x-mcp-header": "A"})),
            property(json!({"x-mcp-header": "A"})),
            property(json!({"type": "array", "items": {"type": "string", "x-mcp-header": "A"}})),
            json!({"oneOf": [region("A")]}),
            json!({"properties": {
                "a": {"type": "string", "x-mcp-header": "Same"},
                "b": {"type": "string", "x-mcp-header": "same"}}}),
        ] {
            let mut params = HeaderParams::new(8);
            assert_eq!(params.learn(&list(&[("t", schema.clone())])), ["t"], "{schema}");
            assert!(params_told(&params, "t", &json!({"a": "x", "region": "x"})).is_empty());
        }
    }

    #[test]
    fn the_latest_list_counts_and_the_oldest_tools_make_room() {
        let mut params = HeaderParams::new(2);
        params.learn(&list(&[("a", region("A")), ("b", region("B"))]));
        params.learn(&list(&[("a", region("New"))]));
        assert_eq!(params_told(&params, "a", &json!({"region": "x"})), ["new=x"]);
        params.learn(&list(&[("c", region("C"))]));
        assert!(params_told(&params, "a", &json!({"region": "x"})).is_empty());
        assert_eq!(params_told(&params, "b", &json!({"region": "x"})), ["b=x"]);
        params.learn(&list(&[("b", json!({}))]));
        assert!(params_told(&params, "b", &json!({"region": "x"})).is_empty());
        assert_eq!((params.tools.len(), params.learnt.len()), (1, 1));
    }

    #[test]
    fn tools_are_taken_out_of_a_list_and_the_others_stay_as_they_are() {
        let list = |tools: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":{tools},"nextCursor":"x"}}}}"#)
        };
        let check = |tools: &str, expected: &str| {
            let message = Bytes::from(list(tools));
            let parsed: HashMap<&str, &RawValue> = serde_json::from_slice(&message).unwrap();
            let without = without_tools(&message, parsed["result"], &["bad".to_owned()]);
            assert_eq!(without, list(expected));
        };
        check(
            r#"[ {"name":"bad"}, {"n": 1.0,"name":"a"} ,{"name":"b"}]"#,
            r#"[{"n": 1.0,"name":"a"},{"name":"b"}]"#,
        );
        check(r#"[{"name":"bad"}]"#, "[]");
        check("null", "null");
    }

    #[test]
    fn what_is_no_list_teaches_nothing() {
        let mut params = HeaderParams::new(2);
        for other in [json!({}), json!({"tools": 1}), json!([]), json!({"tools": [1, {"name": 2}]})] {
            assert!(params.learn(&raw(&other)).is_empty());
        }
    }
}
