//! Precedence among matches.
