//! Sidestep.
