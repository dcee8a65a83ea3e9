//! wip
use crate::process::Error;
pub(crate) fn prepare() -> Result<(), Error> {
    Ok(())
}
