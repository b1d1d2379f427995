//! What was asked for, and the folder of unfinished work that must agree with it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::groups::Grouping;
use crate::common::failure::{At, Context, Failure};
use crate::common::files::write_atomic;

/// What determines the feature vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureSettings {
    /// The encoder's name.
    pub encoder: String,
    /// Tells the encoder's weights from others.
    pub encoder_hash: String,
    /// The pictures' name.
    pub data: String,
    /// Tells the pictures from others.
    pub data_hash: String,
    /// How many pictures.
    pub pictures: usize,
    /// Views of each picture.
    pub crops: usize,
    /// Seed of the views.
    pub seed: u64,
    /// Side of a view in pixels.
    pub input_size: usize,
    /// Side of the square of patches that is averaged; 1 averages nothing.
    pub pool: usize,
    /// Vectors of a view: rows and columns of patches after averaging.
    pub grid: [usize; 2],
    /// Features of a vector.
    pub width: usize,
}

/// What determines a codebook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What it is made of.
    pub features: FeatureSettings,
    /// Number of codes.
    pub codes: usize,
    /// What is clustered apart.
    pub group: Grouping,
    /// Most passes of k-means over a group.
    pub iterations: usize,
    /// Seed of the first centres.
    pub seed: u64,
}

/// A folder of working files. Those that this program makes begin with one of [`PREFIXES`].
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

const PREFIXES: [&str; 4] = ["features", "survey", "codebook", "centres"];

impl Folder {
    /// A folder that exists from now on.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(path).at("create the working folder", path)?;
        Ok(Self(path.to_owned()))
    }

    /// Removes a working folder of an earlier run, if there is one; files that are not this program's stay, and so does the folder then.
    pub fn remove(path: &Path) -> Result<(), Failure> {
        let folder = Self(path.to_owned());
        if !fs::exists(path).at("read", path)? {
            return Ok(());
        }
        folder.remove_files(|_| true)?;
        if fs::read_dir(path).at("read", path)?.next().is_none() {
            fs::remove_dir(path).at("remove the working folder", path)?;
        }
        Ok(())
    }

    /// Removes what a killed run left half-written.
    pub fn remove_unfinished(&self) -> Result<(), Failure> {
        self.remove_files(|name| name.ends_with(".part"))
    }

    fn remove_files(&self, which: impl Fn(&str) -> bool) -> Result<(), Failure> {
        for entry in fs::read_dir(&self.0).at("read", &self.0)? {
            let path = entry.at("read", &self.0)?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let ours = PREFIXES.iter().any(|prefix| name.trim_start_matches('.').starts_with(prefix));
            if ours && which(&name) && path.is_file() {
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        Ok(())
    }

    /// A file inside.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a description, atomically.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let path = self.file(name);
        let text = serde_json::to_string_pretty(value).context(|| format!("cannot write `{}`", path.display()))?;
        write_atomic(&path, |file| file.write_all(text.as_bytes()).at("write", &path))
    }

    /// Reads a description; `None` where there is none.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let path = self.file(name);
        if !fs::exists(&path).at("read", &path)? {
            return Ok(None);
        }
        let text = fs::read(&path).at("read", &path)?;
        let hint = || format!("`{}` is damaged; remove its folder and start again", path.display());
        serde_json::from_slice(&text).map(Some).context(hint)
    }

    /// Binds the folder to `settings`: writes them where there are none, and refuses others. Tells whether they were there.
    pub fn bind<T: Serialize>(&self, name: &str, settings: &T, cure: &str) -> Result<bool, Failure> {
        let Some(found) = self.read::<Value>(name)? else {
            self.write(name, settings)?;
            return Ok(false);
        };
        let expected = serde_json::to_value(settings).context(|| "cannot compare settings".into())?;
        match difference(&found, &expected, "") {
            None => Ok(true),
            Some(what) => {
                Err(Failure::new(format!("`{}` holds work of other settings: {what}; {cure}", self.0.display())))
            }
        }
    }
}

/// The first setting in which two descriptions differ.
fn difference(found: &Value, expected: &Value, name: &str) -> Option<String> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let mut keys: Vec<&String> = found.keys().chain(expected.keys()).collect();
            keys.sort();
            keys.dedup();
            let value = |map: &serde_json::Map<String, Value>, key: &String| map.get(key).cloned().unwrap_or_default();
            keys.into_iter().find_map(|key| difference(&value(found, key), &value(expected, key), key))
        }
        _ => (found != expected).then(|| format!("its {name} is {found}, not {expected}")),
    }
}
