//! Do the rows of a volume agree with each other?

use super::*;

impl Volume {
    /// Walks every row and returns a sentence for each inconsistency, those
    /// of the tier included. Nobody should change the volume meanwhile: what
    /// changes while it is looked at may look wrong.
    pub fn check(&self) -> Result<Vec<String>> {
        Err(Error::NotSupported)
    }
}
