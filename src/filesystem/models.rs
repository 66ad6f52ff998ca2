//! The models of an open store, and coding again with them.

use serde::{Deserialize, Serialize};

use super::*;
use crate::codec::ModelId;
use crate::error::Error;
use crate::tier::RecodeProgress;
use crate::usage::{self, Query, Sizes, Survey, Target, Usage};

/// A model of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreModel {
    pub name: String,
    /// BLAKE3 of its file, in hexadecimal.
    pub hash: String,
    pub parameters: u64,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// New chunks are coded with it.
    pub default: bool,
    /// Chunks need it to be read.
    pub in_use: bool,
}

/// Everything that a report shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WholeReport {
    /// Seconds since 1970.
    pub time: i64,
    pub stat: Report,
    pub survey: Survey,
    pub history: Vec<Day>,
}

/// A model of the store, as far as the functions here need it.
struct Known {
    hash: blake3::Hash,
    id: ModelId,
    model: Model,
    bytes: u64,
}

impl FileSystem {
    fn known(&self) -> Result<Vec<Known>> {
        let dir = self.dir.lock();
        let mut known = Vec::new();
        for (hash, bytes) in dir.models()? {
            known.push(Known {
                hash,
                id: codec::model_id(hash.as_bytes()),
                model: Model::parse(dir.model(&hash)?)?,
                bytes,
            });
        }
        Ok(known)
    }

    fn describe(&self, known: &Known, used: &std::collections::HashSet<ModelId>) -> StoreModel {
        let info = known.model.info();
        StoreModel {
            name: info.name,
            hash: known.hash.to_hex().to_string(),
            parameters: info.parameters,
            file_bytes: known.bytes,
            default: self.codec.model_id() == Some(known.id),
            in_use: used.contains(&known.id),
        }
    }

    /// The models that the store holds. Looks at every chunk's row.
    pub fn models(&self) -> Result<Vec<StoreModel>> {
        let used = self.tier.models_in_use()?;
        let known = self.known()?;
        Ok(known.iter().map(|k| self.describe(k, &used)).collect())
    }

    /// The one model that `text` names: its name, or the beginning of its hash.
    fn find_model(&self, text: &str) -> Result<Known> {
        let mut fits: Vec<Known> = self
            .known()?
            .into_iter()
            .filter(|known| {
                let hash = known.hash.to_hex();
                known.model.info().name == text || text.len() >= 4 && hash.starts_with(text)
            })
            .collect();
        match (fits.pop(), fits.is_empty()) {
            (Some(known), true) => Ok(known),
            (None, _) => Err(Error::Model(format!(
                "the store holds no model `{text}`: `laconicfs model list STORE` shows those that \
                 it holds, `laconicfs model add` adds one"
            ))),
            _ => Err(Error::Model(format!(
                "several models of the store are named `{text}`: name one by the beginning of its \
                 hash"
            ))),
        }
    }

    /// Adds a model to the store; chunks can be coded again with it at once.
    pub fn add_model(&self, bytes: Vec<u8>) -> Result<StoreModel> {
        let model = Model::parse(bytes.clone())?;
        // First, so that one that cannot be used does not get into the store.
        self.codec.add_model(Arc::new(model))?;
        let hash = self.dir.lock().put_model(&bytes)?;
        let known = self.find_model(&hash.to_hex())?;
        Ok(self.describe(&known, &self.tier.models_in_use()?))
    }

    /// Has a model of the store code new chunks, from now on and at the next
    /// mount.
    pub fn set_default_model(&self, text: &str) -> Result<StoreModel> {
        let known = self.find_model(text)?;
        self.dir.lock().set_default_model(&known.hash)?;
        self.codec.set_default_model(known.id);
        Ok(self.describe(&known, &self.tier.models_in_use()?))
    }

    /// Removes the models that no chunk needs and that are not the default.
    pub fn collect_models(&self) -> Result<Vec<StoreModel>> {
        let Some(_alone) = self.models_held.try_write() else {
            return Err(Error::Other(
                "chunks are being received just now: wait for that".into(),
            ));
        };
        let known = self.known()?;
        let candidates: Vec<ModelId> = known
            .iter()
            .map(|known| known.id)
            .filter(|id| self.codec.model_id() != Some(*id))
            .collect();
        let mut removed = Vec::new();
        self.tier.drop_models(&candidates, &mut |id| {
            if let Some(known) = known.iter().find(|known| known.id == id) {
                self.dir.lock().remove_model(&known.hash)?;
                removed.push(self.describe(known, &Default::default()));
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// Codes what `targets` hold as their policies say, with the store's model
    /// or the one that `model` names. See [`Tier::recode`].
    pub fn recode(
        &self,
        targets: &[Target],
        model: Option<&str>,
        progress: &mut dyn FnMut(&RecodeProgress) -> bool,
    ) -> Result<RecodeProgress> {
        let model = model.map(|text| self.find_model(text)).transpose()?;
        self.volume.sync()?;
        let files = usage::files(&self.volume, targets)?;
        self.tier
            .recode(&files, model.map(|known| known.id), progress)
    }

    /// Everything that a report shows. Looks at every file.
    pub fn whole_report(&self, go_on: &mut dyn FnMut(&Sizes) -> bool) -> Result<WholeReport> {
        self.volume.sync()?;
        let survey = usage::survey(&self.volume, go_on)?;
        Ok(WholeReport {
            time: jiff::Timestamp::now().as_second(),
            stat: self.report()?,
            survey,
            history: self.history()?,
        })
    }

    /// What `query` names takes. What waits for a commit is committed first.
    pub fn usage(&self, query: &Query, go_on: &mut dyn FnMut(&Sizes) -> bool) -> Result<Usage> {
        self.volume.sync()?;
        usage::measure(&self.volume, query, go_on)
    }
}
