//! Writes the limits of v1.
