//! `VirtualServer` and `Route`: what is made of servers.

use super::access::{decode_caller, decode_pattern_map, encode_caller, encode_pattern_map};
use super::choice;
use super::read::{Read, at, list, map, optional_count, optional_list, optional_text, optional_texts, text};
use super::write::{number, optional_strings, string, string_map};
use super::{decode_meta, pb};
use crate::resource::kinds::{
    Member, Mirror, MirroredCalls, Route, RouteMatch, RouteRule, VirtualServer, WeightedServer,
};
use crate::wire::Object;

pub(super) fn encode_virtual_server(meta: Option<pb::Meta>, it: &VirtualServer) -> pb::VirtualServer {
    let VirtualServer { members, prefix, separator, mode, audience, instructions } = it;
    pb::VirtualServer {
        meta,
        members: members.iter().map(encode_member).collect(),
        prefix: choice::prefixing::encode(*prefix),
        separator: string(separator),
        mode: choice::list_mode::encode(*mode),
        r#for: audience.iter().flatten().map(encode_caller).collect(),
        instructions: string(instructions),
    }
}

pub(super) fn decode_virtual_server(message: pb::VirtualServer) -> Read<Object<VirtualServer>> {
    let pb::VirtualServer { meta, members, prefix, separator, mode, r#for: audience, instructions } = message;
    let meta = decode_meta(meta)?;
    let spec = VirtualServer {
        members: at("members", list(members, decode_member))?,
        prefix: at("prefix", choice::prefixing::decode(prefix))?,
        separator: at("separator", optional_text(&separator))?,
        mode: at("mode", choice::list_mode::decode(mode))?,
        audience: at("for", optional_list(audience, decode_caller))?,
        instructions: at("instructions", optional_text(&instructions))?,
    };
    Ok(Object { meta, spec })
}

fn encode_member(member: &Member) -> pb::Member {
    let Member { server, prefix, priority, tools, rename } = member;
    pb::Member {
        server: server.to_string(),
        prefix: string(prefix),
        priority: *priority,
        tools: optional_strings(tools.as_deref()),
        rename: string_map(rename),
    }
}

fn decode_member(message: pb::Member) -> Read<Member> {
    let pb::Member { server, prefix, priority, tools, rename } = message;
    Ok(Member {
        server: at("server", text(&server))?,
        prefix: at("prefix", optional_text(&prefix))?,
        priority,
        tools: at("tools", optional_texts(tools))?,
        rename: at("rename", map(rename, |shown| text(&shown)))?,
    })
}

pub(super) fn encode_route(meta: Option<pb::Meta>, route: &Route) -> pb::Route {
    let Route { server, rules } = route;
    pb::Route { meta, server: server.to_string(), rules: rules.iter().map(encode_rule).collect() }
}

pub(super) fn decode_route(message: pb::Route) -> Read<Object<Route>> {
    let pb::Route { meta, server, rules } = message;
    let meta = decode_meta(meta)?;
    let spec = Route { server: at("server", text(&server))?, rules: at("rules", list(rules, decode_rule))? };
    Ok(Object { meta, spec })
}

fn encode_rule(rule: &RouteRule) -> pb::RouteRule {
    let RouteRule { matches, to, mirror, fallback } = rule;
    let to = to.iter().map(|WeightedServer { server, weight }| pb::WeightedServer {
        server: server.to_string(),
        weight: number(*weight),
    });
    let mirror = mirror.as_ref().map(|Mirror { server, percent, calls }| pb::Mirror {
        server: server.to_string(),
        percent: number(*percent),
        all_calls: *calls == MirroredCalls::All,
    });
    pb::RouteRule {
        r#match: matches.as_ref().map(encode_match),
        to: to.collect(),
        mirror,
        fallback: optional_strings(fallback.as_deref()),
    }
}

fn decode_rule(message: pb::RouteRule) -> Read<RouteRule> {
    let pb::RouteRule { r#match: matches, to, mirror, fallback } = message;
    let weighted = |message| {
        let pb::WeightedServer { server, weight } = message;
        Ok(WeightedServer {
            server: at("server", text(&server))?,
            weight: at("weight", optional_count(weight))?,
        })
    };
    let copy = |message| {
        let pb::Mirror { server, percent, all_calls } = message;
        Ok(Mirror {
            server: at("server", text(&server))?,
            percent: at("percent", optional_count(percent))?,
            calls: if all_calls { MirroredCalls::All } else { MirroredCalls::ReadOnly },
        })
    };
    Ok(RouteRule {
        matches: at("match", matches.map(decode_match).transpose())?,
        to: at("to", list(to, weighted))?,
        mirror: at("mirror", mirror.map(copy).transpose())?,
        fallback: at("fallback", optional_texts(fallback))?,
    })
}

fn encode_match(matches: &RouteMatch) -> pb::RouteMatch {
    let RouteMatch { headers, claims, methods, tools } = matches;
    pb::RouteMatch {
        headers: encode_pattern_map(headers),
        claims: encode_pattern_map(claims),
        methods: optional_strings(methods.as_deref()),
        tools: optional_strings(tools.as_deref()),
    }
}

fn decode_match(message: pb::RouteMatch) -> Read<RouteMatch> {
    let pb::RouteMatch { headers, claims, methods, tools } = message;
    Ok(RouteMatch {
        headers: at("headers", decode_pattern_map(headers))?,
        claims: at("claims", decode_pattern_map(claims))?,
        methods: at("methods", optional_texts(methods))?,
        tools: at("tools", optional_texts(tools))?,
    })
}
