//! The messages of the Model Context Protocol as a proxy reads them: one bounded parse that finds what decisions need
//! and leaves the bytes alone.
//!
//! Not here: transports, and what to do about a message.
