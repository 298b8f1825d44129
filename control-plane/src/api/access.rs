//! Who gets in: join tokens for workloads, keys for operators, and the audit trail of what both did.

use std::sync::Arc;

use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use weft_proto::resource::units::Span;

use super::call::{Call, created, json, no_content};
use super::objects::limit;
use super::{
    Api, AuditItem, AuditList, Error, Identity, KeyCreated, KeyItem, KeyList, KeyRequest, TokenCreated,
    TokenItem, TokenList, TokenRequest, TokenState,
};
use crate::auth::{self, timestamp};
use crate::store::audit;
use crate::tokens::{self, State, Token};

const TOKEN_LIFE_DEFAULT: Span = Span::from_secs(3600);
const AUDIT_LIMIT_DEFAULT: usize = 100;
/// Most records that one request looks at.
const AUDIT_SCANNED_MAX: usize = 10_000;

pub(super) async fn create_token(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let TokenRequest { identity, uses, expires_in, description } = call.json()?;
    let wanted = tokens::Wanted {
        namespace: identity.namespace,
        account: identity.service_account,
        uses,
        expires_in: expires_in.unwrap_or(TOKEN_LIFE_DEFAULT).duration(),
        description,
    };
    let root = api.deps.trust.join_root().await?;
    let (token, item) = api.deps.tokens.create(&wanted, root, &call.actor(), api.now()).await?;
    Ok(created(&TokenCreated { token: token.to_string(), item: token_item(item) }))
}

pub(super) async fn list_tokens(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let tokens = api.deps.tokens.list(api.now()).await?;
    Ok(json(&TokenList { items: tokens.into_iter().map(token_item).collect() }))
}

pub(super) async fn revoke_token(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let id: String = call.part("id")?;
    api.deps.tokens.revoke(&id, &call.actor()).await?;
    Ok(no_content())
}

fn token_item(token: Token) -> TokenItem {
    TokenItem {
        id: token.id,
        identity: Identity { namespace: token.namespace, service_account: token.account },
        uses: token.uses,
        uses_left: token.uses_left,
        expires_at: token.expires_at,
        created_at: token.created_at,
        created_by: token.created_by,
        description: token.description,
        state: match token.state {
            State::Active => TokenState::Active,
            State::Expired => TokenState::Expired,
            State::Used => TokenState::Used,
            State::Revoked => TokenState::Revoked,
        },
    }
}

pub(super) async fn create_key(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let KeyRequest { name, scope, expires_in } = call.json()?;
    let wanted = auth::Wanted { name, scope, expires_in: expires_in.map(Span::duration) };
    let (secret, key) = api.deps.keys.create(&wanted, &call.actor(), api.now()).await?;
    Ok(created(&KeyCreated { key: secret.to_string(), item: key_item(&api, key) }))
}

pub(super) async fn list_keys(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let keys = api.deps.keys.list().await?;
    Ok(json(&KeyList { items: keys.into_iter().map(|key| key_item(&api, key)).collect() }))
}

pub(super) async fn revoke_key(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let id: String = call.part("id")?;
    api.deps.keys.revoke(&id, &call.actor(), api.now()).await?;
    Ok(no_content())
}

fn key_item(api: &Api, key: auth::Key) -> KeyItem {
    let auth::Key { id, name, scope, created_at, created_by, expires_at, last_used_at } = key;
    let expired = expires_at.is_some_and(|at| at <= timestamp(api.now()));
    KeyItem { id, name, scope, created_at, created_by, expires_at, last_used_at, expired }
}

/// Which records are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Most records in the answer; 100 if not given, at most 1000.
    limit: Option<usize>,
    /// Only records before this one.
    before: Option<u64>,
    /// Only what this identity did.
    who: Option<String>,
    /// Only this action, such as `apply`; with a `.` at its end, all that begin so.
    action: Option<String>,
}

pub(super) async fn audit(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let AuditQuery { limit: given, before, who, action } = call.query()?;
    let limit = limit(given, AUDIT_LIMIT_DEFAULT)?;
    let wanted = |record: &audit::Record| {
        action.as_ref().is_none_or(|wanted| match wanted.ends_with('.') {
            true => record.action.starts_with(wanted),
            false => record.action == *wanted,
        })
    };
    let mut found = AuditList { items: Vec::new(), next: before };
    let mut scanned = 0;
    let batch = if action.is_some() { crate::store::limits::PAGE_ENTRIES_MAX } else { limit };
    loop {
        let filter =
            audit::Filter { who: who.clone(), before: found.next, limit: batch, ..audit::Filter::default() };
        let entries = api.deps.store.audit(filter).await?;
        if entries.is_empty() {
            found.next = None;
            return Ok(json(&found));
        }
        for entry in entries {
            if found.items.len() == limit || scanned == AUDIT_SCANNED_MAX {
                return Ok(json(&found));
            }
            scanned += 1;
            found.next = Some(entry.sequence);
            if wanted(&entry.record) {
                found.items.push(audit_item(entry));
            }
        }
    }
}

fn audit_item(entry: audit::Entry) -> AuditItem {
    let audit::Entry { sequence, at, revision, record } = entry;
    AuditItem {
        sequence,
        at,
        who: record.who,
        from: record.from.map(|from| from.to_string()),
        action: record.action,
        object: record.object,
        outcome: record.outcome.name().to_owned(),
        detail: record.reason,
        revision: revision.map(|revision| revision.0),
    }
}
