//! Defences that tests switch off, to see that an attack would succeed without them.
//!
//! In whatever is shipped a defence stands, and the compiler knows it. Only with the feature `undefended`,
//! of which only a program for tests is built, the environment may name one that does not.

/// Whether a defence stands.
#[cfg(not(feature = "undefended"))]
#[inline(always)]
#[must_use]
pub const fn stands(_name: &str) -> bool {
    true
}

/// Tells a process that is started with an environment of its own what is switched off: here nothing.
#[cfg(not(feature = "undefended"))]
#[inline(always)]
pub fn hand_down(_command: &mut std::process::Command) {}

/// The variable that names what is switched off.
#[cfg(feature = "undefended")]
pub const SWITCH: &str = "WAYLINE_DEFENCE_OFF";

/// Whether a defence stands.
#[cfg(feature = "undefended")]
#[must_use]
pub fn stands(name: &str) -> bool {
    static OFF: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let off = OFF.get_or_init(|| std::env::var(SWITCH).ok());
    off.as_deref() != Some(name)
}

/// Tells a process that is started with an environment of its own what is switched off.
#[cfg(feature = "undefended")]
pub fn hand_down(command: &mut std::process::Command) {
    if let Ok(off) = std::env::var(SWITCH) {
        command.env(SWITCH, off);
    }
}
