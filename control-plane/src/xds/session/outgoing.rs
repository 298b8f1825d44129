//! What is sent: responses, and the pieces that they are cut into.

use std::sync::Arc;

use weft_proto::pb::envoy::config::core::v3::ControlPlane;
use weft_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource, ResourceError, ResourceName,
};
use weft_proto::pb::google::rpc::Status;
use weft_proto::wire::ResourceType;

use super::{PERMISSION_DENIED, RESPONSE_BYTES_MAX, RESPONSE_RESOURCES_MAX};
use crate::plan::Published;

/// A response. Its resources are shared with every other client until the moment it is sent, so that a client that
/// takes nothing costs nothing.
#[derive(Debug)]
pub(in crate::xds) struct Outgoing {
    pub(in crate::xds) ty: Option<ResourceType>,
    pub(super) type_url: String,
    pub(super) identifier: Arc<str>,
    pub(super) revision: u64,
    pub(super) nonce: String,
    pub(super) resources: Vec<Arc<Published>>,
    pub(super) removed: Vec<Arc<str>>,
    pub(super) refused: Vec<(Arc<str>, i32)>,
}

impl Outgoing {
    /// Names that the client asked for and may not see.
    pub(in crate::xds) fn denied(&self) -> impl Iterator<Item = &str> {
        self.refused.iter().filter(|(_, code)| *code == PERMISSION_DENIED).map(|(name, _)| &**name)
    }

    pub(in crate::xds) fn resource_bytes(&self) -> usize {
        self.resources.iter().map(|published| published.bytes.len()).sum()
    }

    pub(in crate::xds) fn into_message(self) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            system_version_info: self.revision.to_string(),
            resources: self.resources.iter().map(|published| resource(published)).collect(),
            type_url: self.type_url,
            nonce: self.nonce,
            removed_resources: self.removed.iter().map(|name| name.to_string()).collect(),
            control_plane: Some(ControlPlane { identifier: self.identifier.to_string() }),
            removed_resource_names: Vec::new(),
            resource_errors: self.refused.iter().map(|(name, code)| resource_error(name, *code)).collect(),
        }
    }
}

/// Resources in groups of bounded number and size.
pub(super) fn in_pieces(all: Vec<Arc<Published>>) -> Vec<Vec<Arc<Published>>> {
    let mut pieces: Vec<Vec<Arc<Published>>> = Vec::new();
    let mut bytes = 0;
    for published in all {
        let size = published.bytes.len();
        match pieces.last_mut() {
            Some(piece) if piece.len() < RESPONSE_RESOURCES_MAX && bytes + size <= RESPONSE_BYTES_MAX => {
                piece.push(published);
                bytes += size;
            }
            _ => {
                pieces.push(vec![published]);
                bytes = size;
            }
        }
    }
    pieces
}

fn resource(published: &Published) -> Resource {
    Resource {
        version: published.version.to_string(),
        resource: Some(prost_types::Any {
            type_url: published.ty.type_url().to_owned(),
            value: published.bytes.clone(),
        }),
        name: published.name.to_string(),
        aliases: published.aliases.iter().map(ToString::to_string).collect(),
        // The last good configuration holds until there is a better one, so nothing carries a time to live.
        ..Resource::default()
    }
}

fn resource_error(name: &str, code: i32) -> ResourceError {
    let message = match code {
        PERMISSION_DENIED => "this identity may not see the resource",
        _ => "there is no such resource",
    };
    ResourceError {
        resource_name: Some(ResourceName { name: name.to_owned() }),
        error_detail: Some(Status { code, message: message.to_owned(), details: Vec::new() }),
    }
}
