//! Closed loop: each connection sends its next call when the last is answered.

use std::rc::Rc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::window::Window;
use super::{Args, Caller, Dialer, Outcome, PATIENCE};

/// Most connections that may break before the run is given up.
const BROKEN_MAX: u32 = 100;

pub(super) async fn run(args: &Args) -> anyhow::Result<Outcome> {
    let dialer = Dialer::new(args)?;
    let callers = dialer.proven(args).await?;
    let window = Rc::new(Window::new(args));
    let mut tasks = JoinSet::new();
    for (caller, request) in callers {
        let (window, dialer, churn) = (Rc::clone(&window), dialer.clone(), args.churn.unwrap_or(u32::MAX));
        tasks.spawn_local(async move { call(caller, &request, &window, &dialer, churn).await });
    }
    let outcome = window.measure(args).await?;
    // Whoever still waits for an answer waits in vain.
    let _ = tokio::time::timeout(PATIENCE, async { while tasks.join_next().await.is_some() {} }).await;
    Ok(outcome)
}

async fn call(mut caller: Caller, request: &[u8], window: &Window, dialer: &Dialer, churn: u32) {
    let (mut calls, mut broken) = (0, 0);
    let mut begun = Instant::now();
    while begun < window.closes && broken < BROKEN_MAX {
        let good = matches!(caller.exchange(request).await, Ok((200, _)));
        let now = Instant::now();
        match good {
            true => window.note(begun, now),
            false => window.error(),
        }
        calls += 1;
        if !good || calls % churn == 0 {
            broken += u32::from(!good);
            match dialer.connect().await {
                Ok(next) => caller = next,
                Err(_) => return window.error(),
            }
        }
        begun = Instant::now();
    }
}
