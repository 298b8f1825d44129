//! Open loop: calls are due at a fixed rate, whether or not those before them are answered, and their latency counts
//! from when they were due. A call that finds every connection busy waits its turn, as a caller would.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::window::Window;
use super::{Args, Caller, Dialer, Outcome, PATIENCE};

/// Most calls that wait for a connection; more of them are refused and counted as errors.
const WAITING_MAX: usize = 100_000;

#[derive(Default)]
struct Queue {
    due: RefCell<VecDeque<Instant>>,
    news: Notify,
}

pub(super) async fn run(args: &Args, rate: f64) -> anyhow::Result<Outcome> {
    ensure!((1.0..=1e6).contains(&rate), "a rate of {rate} requests per second is out of range");
    let callers = Dialer::new(args)?.proven(args).await?;
    let window = Rc::new(Window::new(args));
    let queue = Rc::new(Queue::default());
    let mut tasks = JoinSet::new();
    for (caller, request) in callers {
        let (window, queue) = (Rc::clone(&window), Rc::clone(&queue));
        tasks.spawn_local(async move { call(caller, &request, &window, &queue).await });
    }
    let clock = tokio::task::spawn_local({
        let (window, queue) = (Rc::clone(&window), Rc::clone(&queue));
        async move { tick(Duration::from_secs_f64(1.0 / rate), &window, &queue).await }
    });
    let outcome = window.measure(args).await?;
    tokio::time::timeout(PATIENCE, clock).await???;
    tasks.shutdown().await;
    Ok(outcome)
}

async fn call(mut caller: Caller, request: &[u8], window: &Window, queue: &Queue) {
    loop {
        let next = queue.due.borrow_mut().pop_front();
        let Some(due) = next else {
            queue.news.notified().await;
            continue;
        };
        match caller.exchange(request).await {
            Ok((200, _)) => window.note(due, Instant::now()),
            Ok(_) => window.error(),
            Err(_) => return window.error(),
        }
    }
}

/// Lets calls fall due. The runtime's own timers are a millisecond coarse, which would be a burst at these rates.
async fn tick(every: Duration, window: &Window, queue: &Queue) -> anyhow::Result<()> {
    let timer = timer(every)?;
    let mut due = Instant::now();
    while due < window.closes {
        timer
            .async_io(Interest::READABLE, |timer| {
                let mut expirations = [0; 8];
                rustix::io::read(timer, &mut expirations).map_err(Into::into)
            })
            .await?;
        let now = Instant::now();
        while due <= now {
            if queue.due.borrow().len() < WAITING_MAX {
                queue.due.borrow_mut().push_back(due);
                queue.news.notify_one();
            } else {
                window.error();
            }
            due += every;
        }
    }
    Ok(())
}

#[allow(deprecated, reason = "its replacement is unsafe; an `OwnedFd` that is moved in is what it asks for")]
fn timer(every: Duration) -> anyhow::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let every = Timespec { tv_sec: every.as_secs().try_into()?, tv_nsec: every.subsec_nanos().into() };
    let setting = Itimerspec { it_interval: every, it_value: every };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    Ok(AsyncFd::with_interest(timer, Interest::READABLE)?)
}
