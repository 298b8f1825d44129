//! Generated wire types. Nothing is written by hand here except where the modules are.

#![allow(
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    reason = "generated code"
)]

/// The file descriptors that these types were generated from, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
    }
}

pub mod opentelemetry {
    pub mod proto {
        pub mod common {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.common.v1");
            }
        }
        pub mod resource {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.resource.v1");
            }
        }
        pub mod trace {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.trace.v1");
            }
        }
        pub mod metrics {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.metrics.v1");
            }
        }
        pub mod logs {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.logs.v1");
            }
        }
        pub mod collector {
            pub mod metrics {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.collector.metrics.v1");
                }
            }
            pub mod logs {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.collector.logs.v1");
                }
            }
            pub mod trace {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
                }
            }
        }
    }
}

pub mod weft {
    pub mod config {
        pub mod v1 {
            tonic::include_proto!("weft.config.v1");
        }
    }
    pub mod identity {
        pub mod v1 {
            tonic::include_proto!("weft.identity.v1");
        }
    }
    pub mod quota {
        pub mod v1 {
            tonic::include_proto!("weft.quota.v1");
        }
    }
    pub mod catalog {
        pub mod v1 {
            tonic::include_proto!("weft.catalog.v1");
        }
    }
    pub mod ask {
        pub mod v1 {
            tonic::include_proto!("weft.ask.v1");
        }
    }
    pub mod audit {
        pub mod v1 {
            tonic::include_proto!("weft.audit.v1");
        }
    }
    pub mod replica {
        pub mod v1 {
            tonic::include_proto!("weft.replica.v1");
        }
    }
    pub mod status {
        pub mod v1 {
            tonic::include_proto!("weft.status.v1");
        }
    }
}
