//! Routes: which topic, key and headers a record gets. Patterns and templates are compiled when
//! the configuration is read; routing a record only fills buffers.

/// One compiled `[[routes]]` entry.
#[derive(Clone, Debug)]
pub struct Route {}
