//! What it costs to keep a request for another instance: every allocation of this thread is counted, those of the server
//! included, which runs on it as well.

use allocation_counter::measure;
use http::{HeaderName, HeaderValue};

use super::*;

const BEFORE: u32 = 50;
const CALLS: u32 = 200;

/// As many headers as usual, none of them known by its name alone.
fn usual() -> Call<'static> {
    let mut request = post("/", "{}");
    let headers = Arc::make_mut(&mut request).headers_mut();
    for n in 0..12 {
        let name = HeaderName::try_from(format!("x-header-{n}")).unwrap();
        headers.insert(name, HeaderValue::try_from(format!("the value of the header {n}")).unwrap());
    }
    Call::new(request, Affinity::Any)
}

/// Allocations of a call to a server, in the mean.
fn allocations(spec: &str, instances: usize) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (servers, outbound) = runtime.block_on(async {
        let mesh = Mesh::new(spec);
        let mut servers = Vec::new();
        for _ in 0..instances {
            servers.push(mesh.instance(named("one")).await);
        }
        let outbound = mesh.outbound(servers.iter().map(Endpoint::from));
        (servers, outbound)
    });
    let ask_often = |times: u32| {
        runtime.block_on(async {
            for _ in 0..times {
                ask(&outbound, usual()).await.unwrap();
            }
        });
    };
    ask_often(BEFORE);
    let counted = measure(|| ask_often(CALLS)).count_total;
    drop(servers);
    counted / u64::from(CALLS)
}

#[test]
fn to_keep_a_call_for_another_instance_allocates_nothing_worth_mentioning() {
    let (kept, not_kept) = (allocations("", 2), allocations("retries: {attempts: 0}", 2));
    let call = usual();
    let copied = measure(|| drop(Request::clone(&call.request))).count_total;
    assert!(copied > 2, "else a copy would not be noticed: {copied}");
    assert!(kept <= not_kept + 2, "{kept} against {not_kept}");
}
