//! How many connections of a listener are open, for whoever waits until there are none.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The connections of a listener. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Open(Arc<watch::Sender<usize>>);

/// One of them, as long as it is there.
#[derive(Debug)]
pub(super) struct One(Open);

impl Open {
    pub(super) fn one(&self) -> One {
        self.0.send_modify(|count| *count += 1);
        One(self.clone())
    }

    /// Waits until for so long none was open; not at all if that is no time.
    pub async fn none_for(&self, quiet: Duration) {
        let mut open = self.0.subscribe();
        while !quiet.is_zero() {
            // The sender is here, so that neither wait ends with it.
            let _ = open.wait_for(|count| *count == 0).await;
            // Also one that is gone again by the time that this looks.
            if timeout(quiet, open.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const QUIET: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn quiet_begins_anew_with_every_connection() {
        let open = Open::default();
        let began = Instant::now();
        let passed = |secs| timeout(Duration::from_secs(secs), std::future::pending::<()>());
        let agent = async {
            let first = open.one();
            let _ = passed(7).await;
            drop(first);
            let _ = passed(4).await;
            drop(open.one());
        };
        tokio::join!(agent, open.none_for(QUIET));
        assert_eq!(began.elapsed(), Duration::from_secs(7 + 4 + 5));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_no_time() {
        let open = Open::default();
        let _one = open.one();
        let began = Instant::now();
        open.none_for(Duration::ZERO).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
