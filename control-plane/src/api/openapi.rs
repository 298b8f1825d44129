//! The OpenAPI 3.1 document, made from the table of operations.

use std::sync::Arc;

use axum::response::Response;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::call::{Call, Content, json as answer};
use super::operations::{Answer, OPERATIONS, Operation};
use super::{Api, Error, Problem};

/// The document.
pub fn document() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|it| it.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let described = described(operation, &mut generator);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.word()] = described;
    }
    let problem = generator.subschema_for::<Problem>();
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weft operator API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Objects of a mesh and their history, its sidecars, trust, join tokens, keys and audit trail.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "https://127.0.0.1:7501" }],
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "The admin token or an API key." },
            },
            "responses": {
                "Problem": {
                    "description": "Why the request was not answered as it asked; docs/errors.md explains each code.",
                    "headers": { "weft-request-id": { "schema": { "type": "string" } } },
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
        },
    })
}

fn described(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters(operation, generator),
        "responses": responses(operation, generator),
    });
    match operation.scope {
        Some(scope) => described["x-weft-scope"] = scope.word().into(),
        None => described["security"] = json!([]),
    }
    if let Some(schema) = operation.body {
        let schema = schema(generator);
        let content = match operation.content {
            Content::Documents => json!({
                "application/yaml": { "schema": schema },
                "application/json": { "schema": schema },
            }),
            Content::Json | Content::Nothing => json!({ "application/json": { "schema": schema } }),
        };
        described["requestBody"] = json!({ "required": true, "content": content });
    }
    described
}

fn parameters(operation: &Operation, generator: &mut SchemaGenerator) -> Vec<Value> {
    let in_path = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<_> = in_path
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    let Some(query) = operation.query else { return parameters };
    // A query is a flat object: its fields are the parameters, and its definition is of no use by itself.
    let named = query(generator);
    let name = named.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let definition = name.and_then(|name| generator.definitions_mut().remove(name)).unwrap_or_default();
    for (name, schema) in definition["properties"].as_object().into_iter().flatten() {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({ "name": name, "in": "query", "schema": schema });
        if let Some(description) = description {
            parameter["description"] = description;
        }
        parameters.push(parameter);
    }
    parameters
}

fn responses(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let content = |media: &str, schema: Value| {
        let mut content = Map::new();
        content.insert(media.to_owned(), json!({ "schema": schema }));
        Value::Object(content)
    };
    let json_of = |schema: Value| content("application/json", schema);
    let (status, description, content) = match operation.answer {
        Answer::Ok(schema) => ("200", "Done.", Some(json_of(schema(generator).into()))),
        Answer::Created(schema) => ("201", "Made.", Some(json_of(schema(generator).into()))),
        Answer::Events(schema) => {
            ("200", "Events.", Some(content("text/event-stream", schema(generator).into())))
        }
        Answer::As(media, schema) => ("200", "Done.", Some(content(media, schema(generator).into()))),
        Answer::NoContent => ("204", "Done.", None),
        Answer::Free => ("200", "Done.", Some(json_of(json!({})))),
    };
    let mut response = json!({ "description": description });
    if let Some(content) = content {
        response["content"] = content;
    }
    let mut responses = json!({ "default": { "$ref": "#/components/responses/Problem" } });
    responses[status] = response;
    responses
}

pub(super) async fn show(_: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    Ok(answer(&document()))
}
