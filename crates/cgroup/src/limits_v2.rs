//! Writes the limits of v2.
