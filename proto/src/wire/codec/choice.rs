//! Enums both ways. On the wire every choice is written out, defaults too: zero is never a choice, so that a field left
//! out and a field set are told apart.

use super::read::{Read, Wrong};
use crate::mcp::lists;
use crate::pb::weft::config::v1 as pb;
use crate::resource::{kinds, units};

macro_rules! choices {
    ($($name:ident: $model:ty = $message:ty { $($here:ident = $there:ident),* })*) => {$(
        pub(super) mod $name {
            use super::*;

            pub(in super::super) fn encode(choice: $model) -> i32 {
                let there = match choice {
                    $(<$model>::$here => <$message>::$there,)*
                };
                there.into()
            }

            pub(in super::super) fn decode(number: i32) -> Read<$model> {
                match <$message>::try_from(number) {
                    $(Ok(<$message>::$there) => Ok(<$model>::$here),)*
                    Ok(<$message>::Unspecified) => Err(Wrong::new("is not given")),
                    Err(_) => Err(Wrong::new(format_args!("{number} is not a value that is known"))),
                }
            }
        }
    )*};
}

choices! {
    default_action: kinds::DefaultAction = pb::DefaultAction { Allow = Allow, Audit = Audit, Deny = Deny }
    protocol: kinds::Protocol = pb::Protocol { Auto = Auto, StreamableHttp = StreamableHttp, HttpSse = HttpSse }
    era: kinds::Era = pb::Era { Legacy = Legacy, Modern = Modern }
    balancer: kinds::Balancer = pb::Balancer {
        LeastRequest = LeastRequest, RoundRobin = RoundRobin, Random = Random, ConsistentHash = ConsistentHash,
        PeakEwma = PeakEwma
    }
    sharing: kinds::Sharing = pb::Sharing { Shared = Shared, PerSession = PerSession }
    action: kinds::Action = pb::AccessAction { Allow = Allow, Deny = Deny, Audit = Audit }
    calendar_window: units::CalendarWindow = pb::CalendarWindow { Day = Day, Month = Month }
    limit_scope: kinds::LimitScope = pb::LimitScope { Instance = Instance, Mesh = Mesh }
    unavailable: kinds::raw::Unavailable = pb::WhenUnavailable { Floor = Floor, Deny = Deny, Reuse = Reuse }
    strictness: kinds::Strictness = pb::Strictness { Off = Off, Warn = Warn, Enforce = Enforce }
    cache_scope: kinds::CacheScope = pb::CacheScope { Caller = Caller, Shared = Shared }
    retry_class: kinds::RetryClass = pb::RetryClass { Never = Never, ReadOnly = ReadOnly, Idempotent = Idempotent }
    prefixing: kinds::Prefixing = pb::Prefixing { Always = Always, OnConflict = OnConflict, Never = Never }
    list_mode: kinds::ListMode = pb::ListMode { Full = Full, Search = Search }
    otlp_protocol: kinds::OtlpProtocol = pb::OtlpProtocol { Grpc = Grpc, Http = Http }
    traced_content: kinds::TracedContent = pb::TracedContent { Arguments = Arguments, Full = Full }
    log_format: kinds::LogFormat = pb::LogFormat { Json = Json, Text = Text }
    audit_detail: kinds::AuditDetail = pb::AuditDetail {
        None = None, Metadata = Metadata, Digests = Digests, Full = Full
    }
    offered_kind: lists::Listed = pb::OfferedKind {
        Tool = Tool, Prompt = Prompt, Resource = Resource, ResourceTemplate = ResourceTemplate
    }
}
