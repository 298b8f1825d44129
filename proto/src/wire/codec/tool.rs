//! `ToolPolicy`.

use super::access::{decode_selector, encode_selector};
use super::choice;
use super::read::{Read, at, map, optional_span, optional_texts, required, size, span, text, texts};
use super::write::{duration, optional_duration, optional_strings, string_map, strings};
use super::{decode_meta, pb};
use crate::resource::kinds::{ResponseCache, ToolPolicy};
use crate::resource::units::{ByteSize, Delay};
use crate::wire::Object;

pub(super) fn encode(meta: Option<pb::Meta>, policy: &ToolPolicy) -> pb::ToolPolicy {
    let ToolPolicy {
        servers,
        tools,
        timeout,
        validate_arguments,
        pin,
        approved,
        result_max,
        cache,
        retry,
        hedge_after,
        trust_hints,
        redact,
        shadow,
    } = policy;
    let cache = cache.map(|ResponseCache { ttl, scope }| pb::ResponseCache {
        ttl: Some(duration(ttl)),
        scope: choice::cache_scope::encode(scope),
    });
    pb::ToolPolicy {
        meta,
        servers: encode_selector(servers),
        tools: optional_strings(tools.as_deref()),
        timeout: optional_duration(*timeout),
        validate_arguments: choice::strictness::encode(*validate_arguments),
        pin: choice::strictness::encode(*pin),
        approved: string_map(approved),
        result_bytes_max: result_max.map(ByteSize::bytes),
        cache,
        retry: choice::retry_class::encode(*retry),
        hedge_after: match hedge_after {
            Some(Delay::Given(span)) => Some(duration(*span)),
            Some(Delay::P95) | None => None,
        },
        hedge_after_p95: *hedge_after == Some(Delay::P95),
        trust_hints: *trust_hints,
        redact: strings(redact),
        shadow: *shadow,
    }
}

pub(super) fn decode(message: pb::ToolPolicy) -> Read<Object<ToolPolicy>> {
    let pb::ToolPolicy {
        meta,
        servers,
        tools,
        timeout,
        validate_arguments,
        pin,
        approved,
        result_bytes_max,
        cache,
        retry,
        hedge_after,
        hedge_after_p95,
        trust_hints,
        redact,
        shadow,
    } = message;
    let meta = decode_meta(meta)?;
    let spec = ToolPolicy {
        servers: at("servers", decode_selector(servers))?,
        tools: at("tools", optional_texts(tools))?,
        timeout: at("timeout", optional_span(timeout))?,
        validate_arguments: at("validate_arguments", choice::strictness::decode(validate_arguments))?,
        pin: at("pin", choice::strictness::decode(pin))?,
        approved: at("approved", map(approved, |digest| text(&digest)))?,
        result_max: at("result_bytes_max", result_bytes_max.map(size).transpose())?,
        cache: at("cache", cache.map(decode_cache).transpose())?,
        retry: at("retry", choice::retry_class::decode(retry))?,
        hedge_after: match hedge_after_p95 {
            true => Some(Delay::P95),
            false => at("hedge_after", optional_span(hedge_after))?.map(Delay::Given),
        },
        trust_hints,
        redact: at("redact", texts(redact))?,
        shadow,
    };
    Ok(Object { meta, spec })
}

fn decode_cache(message: pb::ResponseCache) -> Read<ResponseCache> {
    let pb::ResponseCache { ttl, scope } = message;
    Ok(ResponseCache {
        ttl: at("ttl", required(ttl).and_then(span))?,
        scope: at("scope", choice::cache_scope::decode(scope))?,
    })
}
