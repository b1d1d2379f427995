//! Finished trainings, and the images that they are looked at with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::table::thousands;
use crate::backend::Host;
use crate::common::failure::Failure;
use crate::common::files::create_writable;
use crate::common::terminal::interrupted;
use crate::shell::{DataOptions, pool};
use crate::vqgan::config::Config;
use crate::vqgan::run::{Data, check_data};
use crate::vqgan::trained::Trained;

/// Which trainings, which images, and where results go.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// Directories of trainings (--out of train_vqgan), separated by commas.
    #[arg(long, required = true, value_delimiter = ',')]
    pub runs: Vec<PathBuf>,
    /// The images, as in the trainings.
    #[command(flatten)]
    pub data: DataOptions,
    /// Also take trainings on other images than these, which may have seen what is held out here.
    #[arg(long)]
    pub other_data: bool,
    /// Where results go.
    #[arg(long, default_value = "out/study")]
    pub out: PathBuf,
    /// Print the result as one line of JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// A training to look at.
pub struct Run {
    /// Its system, its number of codes and its directory.
    pub name: String,
    /// The model.
    pub trained: Trained<Host>,
    /// The images, in the training's own split.
    pub data: Arc<Data>,
}

/// Images that serve several trainings, and the crop sizes that they serve.
type Loaded = Option<((usize, f32), Arc<Data>)>;

impl RunOptions {
    /// Calls `with` for each training in order; only one is in memory at a time.
    ///
    /// # Errors
    /// A directory without a checkpoint, before anything else is done; a training on other images; Ctrl-C; as `with`.
    pub fn each(&self, mut with: impl FnMut(&Run) -> Result<(), Failure>) -> Result<(), Failure> {
        create_writable(&self.out)?;
        self.runs.iter().try_for_each(|dir| checkpoint(dir).map(|_| ()))?;
        let pool = pool()?;
        let mut loaded = None;
        for dir in &self.runs {
            if interrupted() {
                return Err(Failure::interrupted());
            }
            let path = checkpoint(dir)?;
            let trained = Trained::<Host>::open(&path, Some(Arc::clone(&pool)), Default::default())?;
            let data = self.data(&trained.config, &mut loaded)?;
            check_data(&path, &data, self.other_data)?;
            let codes = &trained.config.codes;
            let name = format!("{} {} ({})", codes.system.name(), thousands(codes.codes), self.short(dir));
            eprintln!("run           {name}, {} steps", trained.step);
            with(&Run { name, trained, data })?;
        }
        Ok(())
    }

    /// The images for a configuration, from the last one where it has the same crops.
    fn data(&self, config: &Config, loaded: &mut Loaded) -> Result<Arc<Data>, Failure> {
        let crops = (config.backbone.image_size(), config.augment.min_scale);
        if let Some((of, data)) = loaded
            && *of == crops
        {
            return Ok(Arc::clone(data));
        }
        let data = Arc::new(Data::open(&self.data, config)?);
        *loaded = Some((crops, Arc::clone(&data)));
        Ok(data)
    }

    /// A directory's own name, where no other has the same.
    fn short(&self, dir: &Path) -> String {
        let unique = self.runs.iter().filter(|other| other.file_name() == dir.file_name()).count() == 1;
        match dir.file_name() {
            Some(name) if unique => name.to_string_lossy().into_owned(),
            _ => dir.display().to_string(),
        }
    }
}

/// The checkpoint of a training's directory.
///
/// # Errors
/// Where there is none.
pub fn checkpoint(dir: &Path) -> Result<PathBuf, Failure> {
    let path = dir.join("checkpoint.safetensors");
    match path.is_file() {
        true => Ok(path),
        false => Err(Failure::new(format!(
            "there is no training in `{}`: expected `{}`; give the --out of a train_vqgan",
            dir.display(),
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vqgan::run::is_part_of;

    #[test]
    fn a_sample_belongs_to_its_whole_and_other_images_do_not() {
        let whole = "a.tar, training part (90 pictures, seed 0)";
        assert!(is_part_of(whole, whole));
        assert!(is_part_of(&format!("{whole}, 40 by lot (seed 1)"), whole));
        for other in ["", "a.tar", "b.tar, training part (90 pictures, seed 0)", &format!("{whole}2")] {
            assert!(!is_part_of(other, whole), "{other}");
        }
    }

    #[test]
    fn a_directory_without_a_checkpoint_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let refused = checkpoint(directory.path()).expect_err("no training").to_string();
        assert!(refused.contains(&directory.path().display().to_string()), "{refused}");
    }
}
