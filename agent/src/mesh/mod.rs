//! CORE: meshes as data. Which pods belong to one, and what must be captured.
//!
//! No mesh is named in code: a profile is a TOML file in `profiles/`, and a new mesh is
//! a new file. Pure: a pod and the profiles in, an [`Intent`] out.

mod intent;

pub use intent::{Exemption, Expectation, Intent, IntentSource};
