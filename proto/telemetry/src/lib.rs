//! What both programs show of themselves, whatever they are for. Not here: what either of them counts.

pub mod process;
pub mod recent;
