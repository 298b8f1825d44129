//! `Server` and `Endpoints`.

use super::read::{
    Read, at, list, map, nonzero, optional_count, optional_list, optional_span, optional_text, required,
    rule, text, texts,
};
use super::write::{self, optional_duration, string, string_map, strings, unless_default};
use super::{choice, decode_meta, pb, stdio};
use crate::name::ServerName;
use crate::resource::kinds::raw::{RawServer, some_labels};
use crate::resource::kinds::{
    CircuitBreaker, External, HealthCheck, InFlight, LoadBalancing, Location, McpServer, OutlierEjection,
    Retries, StaticEndpoint, Timeouts, WorkloadInstances,
};
use crate::wire::{Endpoint, Endpoints, Object};

pub(super) fn encode(meta: Option<pb::Meta>, server: &McpServer) -> pb::Server {
    let McpServer {
        location,
        service_account,
        aliases,
        path,
        protocol,
        eras,
        timeouts,
        in_flight,
        load_balancing,
        outlier_ejection,
        circuit_breaker,
        retries,
        health_check,
    } = server;
    let eras = eras.iter().flat_map(|eras| eras.iter());
    pb::Server {
        meta,
        location: Some(encode_location(location)),
        service_account: string(service_account),
        aliases: strings(aliases),
        path: string(path),
        protocol: choice::protocol::encode(*protocol),
        eras: eras.map(|era| choice::era::encode(*era)).collect(),
        timeouts: unless_default(timeouts, encode_timeouts),
        in_flight: unless_default(in_flight, encode_in_flight),
        load_balancing: unless_default(load_balancing, encode_load_balancing),
        outlier_ejection: outlier_ejection.as_ref().map(encode_outlier_ejection),
        circuit_breaker: circuit_breaker.as_ref().map(encode_circuit_breaker),
        retries: retries.as_ref().map(encode_retries),
        health_check: health_check.as_ref().map(encode_health_check),
    }
}

pub(super) fn decode(message: pb::Server) -> Read<Object<McpServer>> {
    let pb::Server {
        meta,
        location,
        service_account,
        aliases,
        path,
        protocol,
        eras,
        timeouts,
        in_flight,
        load_balancing,
        outlier_ejection,
        circuit_breaker,
        retries,
        health_check,
    } = message;
    let meta = decode_meta(meta)?;
    let (mut workload, mut endpoints, mut external, mut stdio) = (None, None, None, None);
    match at("location", required(location))? {
        pb::server::Location::Workload(it) => workload = Some(at("workload", decode_workload(it))?),
        pb::server::Location::Endpoints(pb::StaticLocation { endpoints: given }) => {
            endpoints = Some(at("endpoints.endpoints", list(given, decode_static_endpoint))?);
        }
        pb::server::Location::External(pb::ExternalLocation { url }) => {
            external = Some(External { url: at("external.url", text(&url))? });
        }
        pb::server::Location::Stdio(it) => stdio = Some(at("stdio", stdio::decode(it))?),
    }
    let spec = RawServer {
        workload,
        endpoints,
        external,
        stdio,
        service_account: at("service_account", optional_text(&service_account))?,
        aliases: at("aliases", texts(aliases))?,
        path: at("path", optional_text(&path))?,
        protocol: at("protocol", choice::protocol::decode(protocol))?,
        eras: at("eras", optional_list(eras, choice::era::decode))?,
        timeouts: at("timeouts", decode_timeouts(timeouts.unwrap_or_default()))?,
        in_flight: at("in_flight", decode_in_flight(in_flight.unwrap_or_default()))?,
        load_balancing: at("load_balancing", decode_load_balancing(load_balancing))?,
        outlier_ejection: at("outlier_ejection", outlier_ejection.map(decode_outlier_ejection).transpose())?,
        circuit_breaker: at("circuit_breaker", circuit_breaker.map(decode_circuit_breaker).transpose())?,
        retries: at("retries", retries.map(decode_retries).transpose())?,
        health_check: at("health_check", health_check.map(decode_health_check).transpose())?,
    };
    Ok(Object { meta, spec: rule(McpServer::try_from(spec))? })
}

fn encode_location(location: &Location) -> pb::server::Location {
    match location {
        Location::Workload(WorkloadInstances { labels, port, unix_socket }) => {
            pb::server::Location::Workload(pb::WorkloadLocation {
                labels: string_map(labels),
                port: write::nonzero(*port),
                unix_socket: string(unix_socket),
            })
        }
        Location::Endpoints(endpoints) => pb::server::Location::Endpoints(pb::StaticLocation {
            endpoints: endpoints.iter().map(encode_static_endpoint).collect(),
        }),
        Location::External(External { url }) => {
            pb::server::Location::External(pb::ExternalLocation { url: url.to_string() })
        }
        Location::Stdio(it) => pb::server::Location::Stdio(stdio::encode(it)),
    }
}

fn decode_workload(message: pb::WorkloadLocation) -> Read<WorkloadInstances> {
    let pb::WorkloadLocation { labels, port, unix_socket } = message;
    let labels = map(labels, |value| text(&value)).and_then(|labels| rule(some_labels(labels)));
    Ok(WorkloadInstances {
        labels: at("labels", labels)?,
        port: at("port", nonzero(port))?,
        unix_socket: at("unix_socket", optional_text(&unix_socket))?,
    })
}

fn encode_static_endpoint(endpoint: &StaticEndpoint) -> pb::StaticEndpoint {
    let StaticEndpoint { address, weight, locality } = endpoint;
    pb::StaticEndpoint {
        address: address.to_string(),
        weight: write::nonzero(*weight),
        locality: string(locality),
    }
}

fn decode_static_endpoint(message: pb::StaticEndpoint) -> Read<StaticEndpoint> {
    let pb::StaticEndpoint { address, weight, locality } = message;
    Ok(StaticEndpoint {
        address: at("address", text(&address))?,
        weight: at("weight", nonzero(weight))?,
        locality: at("locality", optional_text(&locality))?,
    })
}

fn encode_timeouts(timeouts: &Timeouts) -> pb::Timeouts {
    let Timeouts { connect, call, idle } = *timeouts;
    pb::Timeouts {
        connect: optional_duration(connect),
        call: optional_duration(call),
        idle: optional_duration(idle),
    }
}

fn decode_timeouts(message: pb::Timeouts) -> Read<Timeouts> {
    let pb::Timeouts { connect, call, idle } = message;
    Ok(Timeouts {
        connect: at("connect", optional_span(connect))?,
        call: at("call", optional_span(call))?,
        idle: at("idle", optional_span(idle))?,
    })
}

fn encode_in_flight(in_flight: &InFlight) -> pb::InFlight {
    let InFlight { max, queue_max } = *in_flight;
    pb::InFlight { max: write::nonzero(max), queue_max: write::number(queue_max) }
}

fn decode_in_flight(message: pb::InFlight) -> Read<InFlight> {
    let pb::InFlight { max, queue_max } = message;
    Ok(InFlight { max: at("max", nonzero(max))?, queue_max: at("queue_max", optional_count(queue_max))? })
}

fn encode_load_balancing(load_balancing: &LoadBalancing) -> pb::LoadBalancing {
    let LoadBalancing { policy, prefer_local, slow_start } = *load_balancing;
    let slow_start = optional_duration(slow_start);
    pb::LoadBalancing { policy: choice::balancer::encode(policy), prefer_local, slow_start }
}

fn decode_load_balancing(message: Option<pb::LoadBalancing>) -> Read<LoadBalancing> {
    let Some(pb::LoadBalancing { policy, prefer_local, slow_start }) = message else {
        return Ok(LoadBalancing::default());
    };
    Ok(LoadBalancing {
        policy: at("policy", choice::balancer::decode(policy))?,
        prefer_local,
        slow_start: at("slow_start", optional_span(slow_start))?,
    })
}

fn encode_outlier_ejection(it: &OutlierEjection) -> pb::OutlierEjection {
    let OutlierEjection { consecutive_failures, interval, ejection_time, ejected_percent_max } = *it;
    pb::OutlierEjection {
        consecutive_failures: write::nonzero(consecutive_failures),
        interval: optional_duration(interval),
        ejection_time: optional_duration(ejection_time),
        ejected_percent_max: write::number(ejected_percent_max),
    }
}

fn decode_outlier_ejection(message: pb::OutlierEjection) -> Read<OutlierEjection> {
    let pb::OutlierEjection { consecutive_failures, interval, ejection_time, ejected_percent_max } = message;
    Ok(OutlierEjection {
        consecutive_failures: at("consecutive_failures", nonzero(consecutive_failures))?,
        interval: at("interval", optional_span(interval))?,
        ejection_time: at("ejection_time", optional_span(ejection_time))?,
        ejected_percent_max: at("ejected_percent_max", optional_count(ejected_percent_max))?,
    })
}

fn encode_circuit_breaker(it: &CircuitBreaker) -> pb::CircuitBreaker {
    let CircuitBreaker { connections_max, pending_max, tool_failures, tool_pause } = *it;
    pb::CircuitBreaker {
        connections_max: write::nonzero(connections_max),
        pending_max: write::number(pending_max),
        tool_failures: write::nonzero(tool_failures),
        tool_pause: optional_duration(tool_pause),
    }
}

fn decode_circuit_breaker(message: pb::CircuitBreaker) -> Read<CircuitBreaker> {
    let pb::CircuitBreaker { connections_max, pending_max, tool_failures, tool_pause } = message;
    Ok(CircuitBreaker {
        connections_max: at("connections_max", nonzero(connections_max))?,
        pending_max: at("pending_max", optional_count(pending_max))?,
        tool_failures: at("tool_failures", nonzero(tool_failures))?,
        tool_pause: at("tool_pause", optional_span(tool_pause))?,
    })
}

fn encode_retries(it: &Retries) -> pb::Retries {
    let Retries { attempts, per_try_timeout, budget_percent } = *it;
    pb::Retries {
        attempts: write::number(attempts),
        per_try_timeout: optional_duration(per_try_timeout),
        budget_percent: write::number(budget_percent),
    }
}

fn decode_retries(message: pb::Retries) -> Read<Retries> {
    let pb::Retries { attempts, per_try_timeout, budget_percent } = message;
    Ok(Retries {
        attempts: at("attempts", optional_count(attempts))?,
        per_try_timeout: at("per_try_timeout", optional_span(per_try_timeout))?,
        budget_percent: at("budget_percent", optional_count(budget_percent))?,
    })
}

fn encode_health_check(it: &HealthCheck) -> pb::HealthCheck {
    let HealthCheck { interval, timeout, healthy_threshold, unhealthy_threshold, by_callers } = *it;
    pb::HealthCheck {
        interval: optional_duration(interval),
        timeout: optional_duration(timeout),
        healthy_threshold: write::nonzero(healthy_threshold),
        unhealthy_threshold: write::nonzero(unhealthy_threshold),
        by_callers,
    }
}

fn decode_health_check(message: pb::HealthCheck) -> Read<HealthCheck> {
    let pb::HealthCheck { interval, timeout, healthy_threshold, unhealthy_threshold, by_callers } = message;
    Ok(HealthCheck {
        interval: at("interval", optional_span(interval))?,
        timeout: at("timeout", optional_span(timeout))?,
        healthy_threshold: at("healthy_threshold", nonzero(healthy_threshold))?,
        unhealthy_threshold: at("unhealthy_threshold", nonzero(unhealthy_threshold))?,
        by_callers,
    })
}

pub(super) fn encode_endpoints(server: &ServerName, endpoints: &[Endpoint]) -> pb::Endpoints {
    let mut endpoints: Vec<&Endpoint> = endpoints.iter().collect();
    endpoints.sort();
    let endpoints = endpoints.into_iter().map(|endpoint| {
        let Endpoint { address, node, weight, locality, identity } = endpoint;
        pb::Endpoint {
            address: address.to_string(),
            weight: write::nonzero(*weight),
            locality: string(locality),
            spiffe_id: string(identity),
            node_id: string(node),
        }
    });
    pb::Endpoints { server: server.to_string(), endpoints: endpoints.collect() }
}

pub(super) fn decode_endpoints(message: pb::Endpoints) -> Read<Endpoints> {
    let pb::Endpoints { server, endpoints } = message;
    let endpoint = |message| {
        let pb::Endpoint { address, weight, locality, spiffe_id, node_id } = message;
        Ok(Endpoint {
            address: at("address", text(&address))?,
            node: at("node_id", optional_text(&node_id))?,
            weight: at("weight", nonzero(weight))?,
            locality: at("locality", optional_text(&locality))?,
            identity: at("spiffe_id", optional_text(&spiffe_id))?,
        })
    };
    let endpoints = list::<_, _, { Endpoints::ENDPOINTS_MAX }, 0>(endpoints, endpoint);
    Ok(Endpoints {
        server: at("server", text(&server))?,
        endpoints: at("endpoints", endpoints)?.iter().cloned().collect(),
    })
}
