//! Who may ship which audit trail to the control plane.

use tonic::{Code, Status};
use weft_proto::audit::Trail;
use weft_proto::pb::weft::audit::v1::audit_client::AuditClient;
use weft_proto::pb::weft::audit::v1::{Receipt, Shipment};
use weft_tests::link::Channel;

use crate::mesh::Mesh;

/// Opens a trail of a node, and answers with the first receipt.
async fn ship(channel: Channel, node: &str) -> Result<Receipt, Status> {
    let trail = Trail::from_random(7).to_string();
    let first = Shipment { node: node.to_owned(), trail, ..Shipment::default() };
    let receipts = AuditClient::new(channel).ship(tokio_stream::once(first)).await?;
    let receipt = receipts.into_inner().message().await?;
    receipt.ok_or_else(|| Status::cancelled("the stream ended"))
}

#[tokio::test]
async fn a_sidecar_writes_its_own_trails_and_never_the_control_planes() {
    let mesh = Mesh::start().await;
    let of = async |namespace: &str, node: &str| {
        let workload = mesh.workload(namespace, "files").await;
        ship(mesh.connect(&workload).await.unwrap(), node).await
    };
    assert_eq!(of("research", "research/files-1").await.unwrap().next, 1);
    let check = async |namespace: &str, node: &str, why: &str| {
        let refused = of(namespace, node).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    };
    check("research", "other/files-1", "not in the namespace of the certificate").await;
    check("research", "weft-system/control-plane", "no sidecar writes the trail of the control plane").await;
    // Not even one that is of that namespace.
    check("weft-system", "weft-system/control-plane", "no sidecar writes the trail of the control plane")
        .await;
    assert!(of("weft-system", "weft-system/files-1").await.is_ok());
}
