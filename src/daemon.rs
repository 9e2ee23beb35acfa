//! What starts, in which order.
//!
//! Knows what has to be there before the first connection. Does not know what
//! happens on it.

use crate::config::{Config, ConfigError, places};
use crate::edge::secret::{Absent, Secrets};
use crate::edge::token::Verifier;

/// Prepares the state directory and opens keys and secrets.
///
/// # Errors
/// What cannot be used, by its path.
pub fn run(config: Config) -> Result<(), ConfigError> {
    places::create_directory(&config.state.directory)?;
    Verifier::new(&config.auth, &config.state.directory)?;
    Secrets::open(&config.auth, &config.state.directory, Absent::Generate)?;
    Ok(())
}
