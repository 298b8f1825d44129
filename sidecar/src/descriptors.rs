//! File descriptors, of which a process has so many and no more. Out of them, a sidecar could neither answer who asks
//! whether it is ready nor connect to a server; so connections that callers open take only a part, and so do those that
//! streams hold open to servers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes as many descriptors as the process may have. The lower, soft limit is a default of old that means nobody.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        tracing::warn!(%error, soft = limit.current, "the limit of open files stays as it is");
    }
}

/// How many of what each takes a descriptor one part may have, of those that are wanted. There are as many parts as
/// listeners for traffic, and one for servers, children, administration and files.
pub fn at_most(wanted: usize, what: &'static str, listeners: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let max = share(wanted, limit, listeners);
    if max < wanted {
        tracing::warn!(
            what,
            max,
            wanted,
            open_files_max = limit,
            "as many as wanted would need more open files"
        );
    }
    max
}

fn share(wanted: usize, descriptors: Option<u64>, listeners: usize) -> usize {
    let Some(descriptors) = descriptors else { return wanted };
    let parts = listeners as u64 + 1;
    usize::try_from(descriptors / parts).map_or(wanted, |share| wanted.min(share.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(share(20_000, None, 2), 20_000);
        assert_eq!(share(20_000, Some(1_048_576), 2), 20_000);
        assert_eq!(share(20_000, Some(1024), 2), 341);
        assert_eq!(share(20_000, Some(1024), 1), 512);
        assert_eq!(share(20_000, Some(1024), 3), 256);
        assert_eq!(share(100, Some(1024), 2), 100);
        assert_eq!(share(20_000, Some(2), 2), 1);
    }
}
