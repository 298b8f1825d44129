//! `Telemetry`.

use super::access::{decode_selector, encode_selector};
use super::choice;
use super::read::{Read, Wrong, at, optional_text, texts};
use super::write::{string, strings};
use super::{decode_meta, pb};
use crate::resource::kinds::{AccessLog, Telemetry, Tracing};
use crate::resource::units::Ratio;
use crate::wire::Object;

pub(super) fn encode(meta: Option<pb::Meta>, telemetry: &Telemetry) -> pb::Telemetry {
    let Telemetry { servers, tracing, access_log, audit, metric_dimensions } = telemetry;
    let tracing = tracing.as_ref().map(|Tracing { sampling, endpoint, protocol, keep_failures, content }| {
        pb::Tracing {
            sampled_per_million: sampling.map(Ratio::per_million),
            endpoint: string(endpoint),
            protocol: choice::otlp_protocol::encode(*protocol),
            keep_failures: *keep_failures,
            content: content.map_or(0, choice::traced_content::encode),
        }
    });
    let access_log = access_log.as_ref().map(|AccessLog { off, format, filter, sample }| pb::AccessLog {
        off: *off,
        format: choice::log_format::encode(*format),
        filter: string(filter),
        sampled_per_million: sample.map(Ratio::per_million),
    });
    pb::Telemetry {
        meta,
        servers: encode_selector(servers),
        tracing,
        access_log,
        audit: audit.map_or(0, choice::audit_detail::encode),
        metric_dimensions: strings(metric_dimensions),
    }
}

pub(super) fn decode(message: pb::Telemetry) -> Read<Object<Telemetry>> {
    let pb::Telemetry { meta, servers, tracing, access_log, audit, metric_dimensions } = message;
    let meta = decode_meta(meta)?;
    let audit = match audit {
        0 => None,
        number => Some(at("audit", choice::audit_detail::decode(number))?),
    };
    let spec = Telemetry {
        servers: at("servers", decode_selector(servers))?,
        tracing: at("tracing", tracing.map(decode_tracing).transpose())?,
        access_log: at("access_log", access_log.map(decode_access_log).transpose())?,
        audit,
        metric_dimensions: at("metric_dimensions", texts(metric_dimensions))?,
    };
    Ok(Object { meta, spec })
}

fn decode_tracing(message: pb::Tracing) -> Read<Tracing> {
    let pb::Tracing { sampled_per_million, endpoint, protocol, keep_failures, content } = message;
    let content = match content {
        0 => None,
        number => Some(at("content", choice::traced_content::decode(number))?),
    };
    Ok(Tracing {
        sampling: at("sampled_per_million", sampled_per_million.map(ratio).transpose())?,
        endpoint: at("endpoint", optional_text(&endpoint))?,
        protocol: at("protocol", choice::otlp_protocol::decode(protocol))?,
        keep_failures,
        content,
    })
}

fn decode_access_log(message: pb::AccessLog) -> Read<AccessLog> {
    let pb::AccessLog { off, format, filter, sampled_per_million } = message;
    Ok(AccessLog {
        off,
        format: at("format", choice::log_format::decode(format))?,
        filter: at("filter", optional_text(&filter))?,
        sample: at("sampled_per_million", sampled_per_million.map(ratio).transpose())?,
    })
}

fn ratio(number: u32) -> Read<Ratio> {
    let problem = || Wrong::new(format_args!("{number} is out of range; expected at most a million"));
    Ratio::from_per_million(number).ok_or_else(problem)
}
