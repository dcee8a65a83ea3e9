//! Wayline's TLS seen from outside: who gets in, what a certificate folder must hold.

mod credentials;
mod handshake;
mod support;
