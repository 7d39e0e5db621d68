//! Measuring: repeated runs, their medians, and the table that shows them.
