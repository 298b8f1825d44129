//! The commands: for each its arguments, and what it does with them.

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod delete;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod outcome;
pub(crate) mod policy;
pub(crate) mod quota;
pub(crate) mod rollback;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod support_bundle;
pub(crate) mod tap;
pub(crate) mod token;
pub(crate) mod tools;
pub(crate) mod trust;
pub(crate) mod version;
pub(crate) mod who_can;
