//! The operator API over a real store: requests go into the router as a server would pass them on.

mod support;

mod access;
mod catalogue;
mod changes;
mod checks;
mod listing;
mod policy;
mod quotas;
mod the_door;
mod the_past;
mod tools;
mod watching;
mod what_is_shown;

use std::time::Duration;

use serde_json::{Value, json};
use support::*;
