//! Shows how the mesh does, until it ends: as a table that is drawn over in place where there is a terminal, else as a
//! line for each change.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use weft_control_plane::clock;

use super::rows::{Row, Teller, rows, table};
use super::sides::Sides;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::terminal::Terminal;

/// How often it is looked for changes.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Shows changes for as long as there is somebody to see them. Never ends.
pub(crate) async fn show(sides: &Sides, terminal: &Terminal, screen: Option<&Arc<Screen>>) {
    let shown = match screen {
        Some(screen) => draw(sides, terminal, screen).await,
        None => tell(sides, terminal).await,
    };
    if let Err(Failure::Told(told)) = shown {
        tracing::warn!(error = told.what, "nothing more is shown");
    }
    std::future::pending().await
}

async fn draw(sides: &Sides, terminal: &Terminal, screen: &Screen) -> Result<(), Failure> {
    let (mut ticks, mut seen) = (ticks(), Vec::new());
    loop {
        ticks.tick().await;
        seen = look(sides, &seen);
        let table = table(&seen, &sides.tally.last(), clock::now(), terminal.color());
        let block = format!("\n{table}\nhttp://{}/servers/<server>/mcp for your client\n", sides.address());
        screen.draw(&block)?;
    }
}

async fn tell(sides: &Sides, terminal: &Terminal) -> Result<(), Failure> {
    let (mut ticks, mut seen, mut teller) = (ticks(), Vec::new(), Teller::default());
    loop {
        ticks.tick().await;
        seen = look(sides, &seen);
        let news = teller.news(&seen, |name| format!("http://{}/servers/{name}/mcp", sides.address()));
        if !news.is_empty() {
            terminal.print(&news.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        }
    }
}

fn look(sides: &Sides, before: &[Row]) -> Vec<Row> {
    rows(&sides.board.look(), &sides.tally, before)
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
